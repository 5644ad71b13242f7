//! TCP streams, by iperf3. Both ends share one processor, as its scheduler would otherwise decide
//! by chance what a segment costs.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::{Netns, Relay};

use super::kind::Cable;
use super::peer::Peer;
use super::report::{Case, Metric, Report};
use super::{Choice, cpu, progress};

/// Streams side by side.
const STREAMS: [u32; 2] = [1, 8];
/// iperf3's own port.
const PORT: u16 = 5201;

/// Both directions, one stream and several.
///
/// # Errors
/// iperf3 is missing or fails.
pub fn measure(
    choice: &Choice,
    cable: Cable,
    peers: &mut [Peer],
    report: &mut Report,
) -> Result<()> {
    for streams in STREAMS {
        for (case, down) in [
            (Case::StreamsUp(cable), false),
            (Case::StreamsDown(cable), true),
        ] {
            progress(&format!("{}, streams: {streams}", case.name()));
            choice.rounds(peers, |peer| {
                if !peer.kind.carries_tcp() {
                    return Ok(());
                }
                let both = stream(peer, streams, down, choice.effort.seconds)?;
                for (metric, gigabits) in [Metric::Gigabits, Metric::GigabitsOfOne]
                    .into_iter()
                    .zip(both)
                {
                    report.add(case, streams.into(), peer.name(), metric, gigabits);
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// A server for one measurement; dropping it ends it.
struct Server(Child);

impl Server {
    fn start(netns: &Netns) -> Result<Self> {
        let mut command = netns.command("iperf3");
        command.args(["-s", "-1", "-p", &PORT.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().context("starting iperf3")?);
        let listening = format!(":{PORT:04X} 0000");
        netd_tests::eventually(Duration::from_secs(5), || {
            let tables = netns.enter(|| {
                ["tcp", "tcp6"]
                    .map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")))
            })?;
            let there = tables
                .iter()
                .flatten()
                .any(|text| text.contains(&listening));
            ensure!(there, "iperf3 does not listen");
            Ok(())
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gigabits a second that arrived: of time that passed, and of time that both ends and what helps
/// them had the processor.
fn stream(peer: &Peer, streams: u32, down: bool, seconds: u32) -> Result<[f64; 2]> {
    let _server = Server::start(&peer.lab.wan)?;
    let (to, port) = (OUTSIDE.to_string(), PORT.to_string());
    let (seconds, streams) = (seconds.to_string(), streams.to_string());
    let mut words = vec!["iperf3", "-J", "-c", &to, "-p", &port, "-t", &seconds];
    let both = cpu::measured().map(|cpu| format!("{cpu},{cpu}"))?;
    words.extend(["-P", &streams, "-A", &both]);
    if down {
        words.push("-R");
    }
    let relay = peer.guest.relay().map(Relay::thread);
    let (text, helped) = cpu::helped(relay, || peer.guest.netns().run(words))?;
    let result: serde_json::Value = serde_json::from_str(&text)?;
    let number = |part: &str, name: &str| {
        let number = result["end"][part][name].as_f64();
        number.with_context(|| format!("iperf3 says no {part} {name}:\n{text}"))
    };
    let gigabits = number("sum_received", "bits_per_second")? / 1e9;
    let ends = ["host_total", "remote_total"].map(|end| number("cpu_utilization_percent", end));
    let [here, there] = ends;
    let helpers = helped.as_secs_f64() / number("sum_received", "seconds")?;
    Ok([gigabits, gigabits / ((here? + there?) / 100.0 + helpers)])
}
