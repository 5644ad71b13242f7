//! What a manager of networks, a script or a hand takes from a bridge comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab6::check6;
use netd_tests::{Guest, Lab, Network, SOON, eventually};

/// The bridge as `ip` shows it, or its addresses or routes.
fn show(lab: &Lab, what: &str) -> Result<String> {
    lab.hv.run(what.split(' '))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_somebody_takes_from_a_bridge_comes_back() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::default().ipv6();
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        let bridge = network.bridge();
        let looks = [
            format!("ip -4 addr show dev {bridge}"),
            format!("ip -6 addr show dev {bridge} scope global"),
            format!("ip -4 route show table all dev {bridge}"),
            format!("ip -6 route show dev {bridge} proto kernel"),
            format!("ip -o link show dev {bridge}"),
        ];
        let all = |lab: &Lab| -> Result<Vec<String>> {
            let looks = looks.iter().map(|look| show(lab, look));
            let texts = looks.collect::<Result<Vec<String>>>()?;
            Ok(texts.iter().map(|text| text.trim().to_owned()).collect())
        };
        let before = all(lab)?;
        for change in [
            format!("ip -4 addr flush dev {bridge}"),
            format!("ip -6 addr flush dev {bridge} scope global"),
            format!("ip route flush dev {bridge}"),
            format!("ip -6 route del fd00:10:1::/64 dev {bridge}"),
            format!("ip link set {bridge} down"),
            format!("ip link set {bridge} mtu 1280"),
            format!("ip link set {bridge} address 02:00:00:00:00:77"),
        ] {
            let started = Instant::now();
            lab.hv.run(change.split(' '))?;
            eventually(SOON, || {
                let now = all(lab)?;
                ensure!(
                    now == before,
                    "after {change}:\n{now:#?}\nbefore:\n{before:#?}"
                );
                Ok(())
            })?;
            eprintln!("mended {:?} after {change}", started.elapsed());
        }
        guest.ping(&network.gateway().to_string())?;
        guest.ping(&network.address6(1).to_string())?;
        eventually(SOON, || {
            let plan = lab.agent.ok(["plan"])?;
            ensure!(plan.contains("Nothing to do"), "{plan}");
            Ok(())
        })
    });
}

fn is_port(lab: &Lab, guest: &Guest, bridge: &str) -> Result<bool> {
    let link = show(lab, &format!("ip -o link show dev {}", guest.port))?;
    Ok(link.contains(&format!("master {bridge}")))
}

/// One directly after the other: the agent takes those for one deed that are less than a second apart.
fn take_out(lab: &Lab, guests: &[Guest]) -> Result<()> {
    let line = |guest: &Guest| format!("link set {} nomaster\n", guest.port);
    let lines: String = guests.iter().map(line).collect();
    let batch = lab.agent.file("take-out", &lines)?;
    lab.hv.run(["ip", "-batch", &batch])?;
    Ok(())
}

fn comes_back(lab: &Lab, guest: &Guest, bridge: &str) -> Result<()> {
    eventually(SOON, || {
        ensure!(is_port(lab, guest, bridge)?, "{} is out", guest.port);
        Ok(())
    })
}

/// Waits until the agent says so often that it leaves a port out.
fn left_out(lab: &Lab, times: usize) -> Result<()> {
    eventually(SOON, || {
        let log = lab.agent.log();
        let said = log.matches("taken out of the bridge; left out").count();
        ensure!(said == times, "said {said} times: {log}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_bridge_gets_back_its_ports_when_all_were_taken_and_not_the_one_that_was() {
    netd_tests::lab::check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let bridge = network.bridge();
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        let gateway = network.gateway().to_string();
        for guest in &guests {
            guest.ping(&gateway)?;
        }
        let noted = |lab: &Lab, ports: usize| {
            eventually(SOON, || {
                let record = lab.directory().join("run/networks/default.json");
                let text = std::fs::read_to_string(&record).context("the record")?;
                let seen = guests.iter().filter(|g| text.contains(&g.port)).count();
                ensure!(seen == ports, "{seen} ports noted: {text}");
                Ok(())
            })
        };
        noted(lab, 2)?;

        // One alone.
        take_out(lab, &guests[..1])?;
        left_out(lab, 1)?;
        noted(lab, 1)?;
        ensure!(!is_port(lab, &guests[0], &bridge)?, "it was meant");
        lab.plug(&guests[0], &bridge)?;
        noted(lab, 2)?;

        // All, as networkd and NetworkManager do.
        let started = Instant::now();
        take_out(lab, &guests)?;
        for guest in &guests {
            comes_back(lab, guest, &bridge)?;
        }
        let took = started.elapsed();
        ensure!(took > Duration::from_millis(900), "at once: {took:?}");
        for guest in &guests {
            guest.ping(&gateway)?;
        }
        noted(lab, 2)?;

        // Again, and at once: somebody means it.
        take_out(lab, &guests)?;
        left_out(lab, 2)?;
        noted(lab, 0)?;
        for guest in &guests {
            ensure!(!is_port(lab, guest, &bridge)?, "{} is back", guest.port);
        }
        Ok(())
    });
}
