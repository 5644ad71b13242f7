//! The agent's own times and memory.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::at;
use netd_tests::{Lab, Network};

use super::peer::write_definitions;
use super::report::{Case, Metric, Report};
use super::{Choice, progress};

/// The only peer there is for these.
const NETD: &str = "netd";
/// A question for the addresses of `bench.test` (RFC 1035, section 4): any answer will do.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05bench\x04test\0\0\x01\0\x01";

/// Starts of a network and of the agent, and changes of a network that runs.
///
/// # Errors
/// The agent refuses, or does not answer.
pub fn measure(choice: &Choice, report: &mut Report) -> Result<()> {
    let mut lab = Lab::new()?;
    lab.agent.start()?;
    let network = Network::nat("default", 1).dhcp("");
    lab.agent.define(&network.xml())?;
    for round in 0..choice.effort.rounds {
        choice.go_on()?;
        let took = until(|| {
            lab.agent.ok(["net-start", "default"])?;
            answered(&lab, &network)
        })?;
        note(report, Case::NetStart, 1, took);

        let port = 20_000 + round;
        let add = format!("forward add default tcp {port} 10.10.1.11:80 --live");
        note(report, Case::ForwardAdd, 1, until(|| call(&lab, &add))?);
        let host = format!(
            "<host mac='52:54:00:00:01:{round:02x}' ip='10.10.1.{}'/>",
            20 + round
        );
        let file = lab.agent.file("host.xml", &host)?;
        let add = format!("net-update default add ip-dhcp-host {file} --live");
        note(report, Case::HostAdd, 1, until(|| call(&lab, &add))?);

        lab.agent.ok(["net-destroy", "default"])?;
    }
    let networks = choice.effort.restarted;
    progress(&format!("an agent with {networks} networks"));
    lab.agent.stop()?;
    write_definitions(&lab, 0..networks)?;
    // Its first start makes the networks, the others find them.
    let took = until(|| lab.agent.start())?;
    note(report, Case::FirstStart, networks.into(), took);
    for _ in 0..choice.effort.rounds {
        choice.go_on()?;
        lab.agent.stop()?;
        let took = until(|| lab.agent.start())?;
        note(report, Case::Restart, networks.into(), took);
    }
    let list = lab.agent.ok(["net-list"])?;
    let active = list
        .lines()
        .filter(|line| line.contains(" active "))
        .count();
    ensure!(
        active >= networks as usize,
        "{active} of {networks} networks are active:\n{}",
        lab.agent.log()
    );
    let memory = resident(&lab)?;
    report.add(
        Case::IdleMemory,
        networks.into(),
        NETD,
        Metric::Mebibytes,
        memory,
    );
    Ok(())
}

fn call(lab: &Lab, words: &str) -> Result<()> {
    lab.agent
        .ok(words.split(' ').filter(|word| !word.is_empty()))?;
    Ok(())
}

fn until(act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    act()?;
    Ok(start.elapsed())
}

fn note(report: &mut Report, case: Case, at: u64, took: Duration) {
    let milliseconds = took.as_secs_f64() * 1000.0;
    report.add(case, at, NETD, Metric::Milliseconds, milliseconds);
}

/// Waits until the network's dnsmasq answers.
fn answered(lab: &Lab, network: &Network) -> Result<()> {
    lab.hv.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(2)))?;
        let start = Instant::now();
        loop {
            // Errors are those of a port at which nobody listens yet.
            let sent = socket.send_to(QUESTION, at(network.gateway(), 53));
            if sent.is_ok() && socket.recv(&mut [0; 512]).is_ok() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "dnsmasq is silent"
            );
        }
    })?
}

/// Resident memory of the agent, in MiB. Maps are the kernel's and not part of it.
///
/// # Errors
/// It does not run.
pub fn resident(lab: &Lab) -> Result<f64> {
    let pid = lab.agent.pid().context("the agent does not run")?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: f64 = number.context("no VmRSS")?.parse()?;
    Ok(kibibytes / 1024.0)
}
