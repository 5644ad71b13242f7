//! The agent's own times and memory.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::at;
use netd_tests::{Guest, Lab, Network};

use super::others::write_definitions;
use super::report::{Case, Metric, Report};
use super::{Choice, progress};

/// The only peer there is for these.
const NETD: &str = "netd";
/// What dnsmasq answers without asking anybody: its version (RFC 1035, section 4; class CHAOS).
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07version\x04bind\0\0\x10\0\x03";

/// Starts of a network and of the agent, and changes of a network that runs.
///
/// # Errors
/// The agent refuses, or does not answer.
pub fn measure(choice: &Choice, report: &mut Report) -> Result<()> {
    let mut lab = Lab::new()?;
    lab.agent.start()?;
    let network = Network::nat("default", 1).dhcp("");
    lab.up(&network)?;
    // A network that starts again takes its guests back.
    let guest = lab.member(1, &network)?;
    lab.agent.ok(["net-destroy", "default"])?;
    for round in 0..choice.effort.rounds {
        choice.go_on()?;
        let took = until(|| {
            lab.agent.ok(["net-start", "default"])?;
            answered(&guest, &network)
        })?;
        note(report, Case::NetStart, 1, took);

        for (case, first) in [(Case::FirstForward, 20_000), (Case::ForwardAdd, 30_000)] {
            let port = first + round;
            let add = format!("forward add default tcp {port} 10.10.1.11:80 --live");
            note(report, case, 1, until(|| call(&lab, &add))?);
        }
        let host = format!(
            "<host mac='52:54:00:00:01:{round:02x}' ip='10.10.1.{}'/>",
            20 + round
        );
        let file = lab.agent.file("host.xml", &host)?;
        match until(|| update(&lab, &file)) {
            Ok(took) => note(report, Case::HostAdd, 1, took),
            Err(error) => report.not_measured(NETD, Case::HostAdd.name(), &format!("{error:#}")),
        }

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
    lab.agent.ok(words.split(' '))?;
    Ok(())
}

/// Adds a DHCP host to the network that runs, by virsh.
fn update(lab: &Lab, host: &str) -> Result<()> {
    let words = [
        "net-update",
        "default",
        "add",
        "ip-dhcp-host",
        host,
        "--live",
    ];
    let output = lab.agent.virsh(words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "virsh: {}", said.trim());
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

/// Waits until the network's dnsmasq answers the guest.
fn answered(guest: &Guest, network: &Network) -> Result<()> {
    guest.netns().enter(|| {
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
