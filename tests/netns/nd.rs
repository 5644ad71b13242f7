//! Published IPv6 addresses that no device has: neighbours find them.

use std::net::Ipv6Addr;

use anyhow::{Context, Result, ensure};
use netd_tests::lab6::{OUTSIDE6, at6, check6};
use netd_tests::published::{forward, forwards, range};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Lab, Network, SOON, eventually};

/// In the uplink's subnet.
const PUBLISHED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x99);
const WHOLE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x98);
const NOBODY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x97);
const PORT: u16 = 8080;

fn answers(lab: &Lab, address: Ipv6Addr, port: u16) -> Result<bool> {
    lab.wan
        .run(["ip", "-6", "neigh", "flush", "dev", "wan0", "nud", "all"])?;
    let verdict = traffic::ask_udp(&lab.wan, at6(address, port))?;
    if let Verdict::Answered(seen) = verdict {
        ensure!(seen.ip() == OUTSIDE6, "the guest sees {seen}");
    }
    Ok(matches!(verdict, Verdict::Answered(_)))
}

fn must_answer(lab: &Lab, address: Ipv6Addr, port: u16) -> Result<()> {
    eventually(SOON, || {
        ensure!(answers(lab, address, port)?, "{address} does not answer");
        Ok(())
    })
}

/// The addresses that devices listen to solicitations for.
fn listened(lab: &Lab) -> Result<usize> {
    Ok(lab
        .hv
        .run(["ip", "-6", "neigh", "show", "proxy"])?
        .lines()
        .count())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn solicitations_for_published_addresses_are_answered() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::default().ipv6();
        let guest_address = network.address6(11);
        let guest_text = guest_address.to_string();
        let everything = forward(
            "udp",
            &format!("address='{PUBLISHED}'"),
            &guest_text,
            &range(PORT, PORT, 80),
        ) + &forward("all", &format!("address='{WHOLE}'"), &guest_text, "");
        let published = network.clone().with(&forwards(&everything));
        lab.up(&published)?;
        let guest = lab.member6(1, &network)?;
        let _server = Server::udp(guest.netns(), at6(guest_address, 80))?;
        let all = |lab: &Lab| -> Result<()> {
            must_answer(lab, PUBLISHED, PORT).context("a port's address")?;
            must_answer(lab, WHOLE, 80).context("an address of the guest's own")?;
            ensure!(!answers(lab, NOBODY, 80)?, "nobody's address");
            Ok(())
        };
        all(lab)?;
        ensure!(listened(lab)? == 2, "{}", listened(lab)?);
        // Neighbours ask again whether somebody is still there, by unicast.
        let before = lab.agent.dropped("no_mapping")?;
        must_answer(lab, WHOLE, 80)?;
        let probe = format!("ip -6 neigh change {WHOLE} dev wan0 nud probe");
        lab.wan.run(probe.split(' '))?;
        eventually(SOON, || {
            let entry = lab
                .wan
                .run(["ip", "-6", "neigh", "show", &WHOLE.to_string()])?;
            ensure!(entry.contains("REACHABLE"), "{entry}");
            Ok(())
        })?;
        ensure!(lab.agent.dropped("no_mapping")? == before, "it was dropped");
        // With no agent, and with the next one.
        lab.agent.kill()?;
        all(lab)?;
        lab.agent.start()?;
        all(lab)?;
        lab.agent
            .ok(format!("forward delete default udp {PORT} --address {PUBLISHED}").split(' '))?;
        ensure!(!answers(lab, PUBLISHED, PORT)?, "it is published no more");
        ensure!(listened(lab)? == 1, "{}", listened(lab)?);
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(listened(lab)? == 0, "{}", listened(lab)?);
        lab.agent.ok(["net-start", "default"])?;
        ensure!(listened(lab)? == 2, "{}", listened(lab)?);
        lab.agent.stop()?;
        lab.agent.teardown()?;
        ensure!(listened(lab)? == 0, "teardown leaves {}", listened(lab)?);
        Ok(())
    });
}
