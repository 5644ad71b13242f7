//! Subnets and names that the host has already, and networks that wait for them.

use anyhow::{Result, ensure};
use netd_tests::lab::{OUTSIDE, check};
use netd_tests::{Lab, Network, SOON, eventually};

fn ip(lab: &Lab, words: &str) -> Result<()> {
    lab.hv.run(std::iter::once("ip").chain(words.split(' ')))?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_part_of_a_wider_subnet_is_a_networks_with_one_warning() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        // A company's network by a VPN, or a LAN of that size.
        for (add, delete, told) in [
            (
                "route add 10.0.0.0/8 dev uplink",
                "route del 10.0.0.0/8 dev uplink",
                "part of 10.0.0.0/8, which the host reaches by uplink",
            ),
            (
                "addr add 10.10.200.4/16 dev uplink",
                "addr del 10.10.200.4/16 dev uplink",
                "part of 10.10.0.0/16, which the host reaches by uplink",
            ),
        ] {
            ip(lab, add)?;
            lab.up(&network)?;
            let log = lab.agent.log();
            ensure!(log.matches(told).count() == 1, "{log}");
            let guest = lab.member(1, &network)?;
            guest.ping(&network.gateway().to_string())?;
            guest.ping(&OUTSIDE.to_string())?;
            eventually(SOON, || lab.hv.run(["ping", "-c1", "-W2", "10.10.1.11"]))?;
            lab.agent.ok(["net-destroy", "default"])?;
            lab.agent.ok(["net-undefine", "default"])?;
            ip(lab, delete)?;
        }
        // Another table is none of the networks' business.
        ip(lab, "route add 10.10.1.0/24 dev uplink table 1000")?;
        lab.up(&network)?;
        ensure!(!lab.agent.log().contains("part of 10.10.1."), "a warning");
        lab.agent.ok(["net-destroy", "default"])?;
        ip(lab, "route del 10.10.1.0/24 dev uplink table 1000")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_subnet_in_use_is_refused_with_one_that_is_free() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.agent.define(&network.xml())?;
        for (add, delete, words) in [
            (
                "addr add 10.10.1.9/24 dev uplink",
                "addr del 10.10.1.9/24 dev uplink",
                "uplink (10.10.1.0/24); 192.168.122.0/24 is free",
            ),
            (
                "addr add 10.10.1.9/16 dev uplink",
                "addr del 10.10.1.9/16 dev uplink",
                "uplink (its address 10.10.1.9/16); 192.168.122.0/24 is free",
            ),
            (
                "route add 203.0.113.0/24 via 10.10.1.254 dev uplink onlink",
                "route del 203.0.113.0/24",
                "uplink (its router 10.10.1.254)",
            ),
        ] {
            ip(lab, add)?;
            let error = lab.agent.fails(["net-start", "default"])?;
            ensure!(error.contains(words), "{error}");
            ip(lab, delete)?;
        }
        // A network of netd's own leaves no part of its subnet to another one.
        let wide = Network::nat("wide", 9)
            .xml()
            .replace("10.10.9.1", "10.10.0.1")
            .replace("255.255.255.0", "255.255.0.0");
        lab.agent.up("wide", &wide)?;
        let error = lab.agent.fails(["net-start", "default"])?;
        ensure!(error.contains("in use by interface virbr9"), "{error}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_network_that_could_not_start_says_why_and_comes_by_itself() {
    check(|lab| {
        lab.agent.start()?;
        for network in [
            Network::default(),
            Network::nat("second", 2),
            Network::nat("third", 3),
        ] {
            lab.agent.define(&network.xml())?;
            lab.agent.ok(["net-autostart", &network.name])?;
        }
        lab.agent.stop()?;
        // A bridge that somebody left, and an address of the LAN's.
        for change in [
            "link add virbr1 type bridge",
            "addr add 192.0.2.7/24 dev virbr1",
            "link add somebody type veth peer name nobody",
            "link set somebody master virbr1",
            "addr add 10.10.2.9/24 dev uplink",
        ] {
            ip(lab, change)?;
        }
        lab.agent.start()?;
        let list = lab.agent.ok(["net-list", "--all"])?;
        for words in [
            "default waits to start: bridge name 'virbr1' already in use",
            "(a bridge with ports somebody and addresses 192.0.2.7/24)",
            "second waits to start: Network is already in use by interface uplink (10.10.2.0/24)",
        ] {
            ensure!(list.contains(words), "{list}");
        }
        ensure!(!list.contains("third waits"), "{list}");
        let info = lab.agent.ok(["net-info", "second"])?;
        let line = "Waits to start: Network is already in use by interface uplink";
        ensure!(info.contains(line), "{info}");
        let said = lab.agent.log().matches("autostart failed").count();
        ensure!(said == 2, "said {said} times");

        ip(lab, "addr del 10.10.2.9/24 dev uplink")?;
        ip(lab, "link del somebody")?;
        ip(lab, "link del virbr1")?;
        for network in ["default", "second"] {
            eventually(SOON, || {
                let info = lab.agent.ok(["net-info", network])?;
                ensure!(info.contains("Active:         yes"), "{info}");
                ensure!(!info.contains("Waits"), "{info}");
                Ok(())
            })?;
        }
        let list = lab.agent.ok(["net-list", "--all"])?;
        ensure!(!list.contains("waits to start"), "{list}");

        // Who takes the mark away waits no more.
        lab.agent.define(&Network::nat("fourth", 4).xml())?;
        lab.agent.ok(["net-autostart", "fourth"])?;
        lab.agent.stop()?;
        ip(lab, "addr add 10.10.4.9/24 dev uplink")?;
        lab.agent.start()?;
        let waits = |lab: &Lab| -> Result<bool> {
            Ok(lab.agent.ok(["net-info", "fourth"])?.contains("Waits"))
        };
        ensure!(waits(lab)?);
        lab.agent.ok(["net-autostart", "fourth", "--disable"])?;
        ensure!(!waits(lab)?);
        ip(lab, "addr del 10.10.4.9/24 dev uplink")
    });
}
