//! Why packets were lost, as the administrator is told.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::traffic;
use netd_tests::{Network, SOON, eventually};

const PORT: u16 = 7000;

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_refused_packet_is_explained() {
    check(|lab| {
        lab.agent.start()?;
        ensure!(
            lab.agent.ok(["drops"])?.contains("No packet"),
            "nothing yet"
        );
        let network = Network::isolated("quiet", 1);
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        // Until its port is known the bridge drops what comes from there.
        lab.settled()?;
        traffic::refused(guest.netns(), at(OUTSIDE, PORT))?;
        let told = lab.agent.ok(["drops"])?;
        for words in [
            "quiet",
            &guest.port,
            "isolated",
            "udp",
            "10.10.1.11:",
            "198.51.100.1:7000",
            "isolated: the guest's network is isolated",
        ] {
            ensure!(told.contains(words), "{words} is not in:\n{told}");
        }
        let other = Network::nat("other", 2);
        lab.up(&other)?;
        let told = lab.agent.ok(["drops", "other"])?;
        ensure!(!told.contains("10.10.1.11"), "of another network:\n{told}");
        let json: serde_json::Value = serde_json::from_str(&lab.agent.ok(["drops", "--json"])?)?;
        let record = &json["records"][0];
        ensure!(
            record["network"] == "quiet" && record["reason"] == "isolated",
            "{record}"
        );
        // A restart forgets none of what nobody has read.
        lab.agent.kill()?;
        traffic::ask_udp(guest.netns(), at(OUTSIDE, PORT + 1))?;
        lab.agent.start()?;
        let told = lab.agent.ok(["drops"])?;
        ensure!(told.contains("198.51.100.1:7001"), "{told}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn new_drops_are_told_as_they_come() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::isolated("quiet", 1);
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        lab.settled()?;
        let mut follower = Command::new(netd_tests::agent::binary()?)
            .args(["--socket", &lab.agent.socket().display().to_string()])
            .args(["drops", "--follow"])
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(follower.stdout.take().context("its output")?);
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(std::io::Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        // It may not listen yet: ask again until it speaks.
        let outcome = eventually(2 * SOON, || {
            traffic::ask_udp(guest.netns(), at(OUTSIDE, PORT))?;
            Ok(receive.recv_timeout(Duration::from_secs(1))?)
        });
        follower.kill()?;
        follower.wait()?;
        let line = outcome?;
        for words in [
            "quiet",
            &guest.port,
            "10.10.1.11:",
            "isolated: the guest's network",
        ] {
            ensure!(line.contains(words), "{words} is not in: {line}");
        }
        Ok(())
    });
}
