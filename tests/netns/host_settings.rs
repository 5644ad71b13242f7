//! Kernel parameters that networks need: somebody changes them, and gets back what they wanted last.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::lab6::{OUTSIDE6, check6};
use netd_tests::traffic::{self, Server};
use netd_tests::{Frame6, Lab, Network, SOON, Wire, eventually};

const IPV4: &str = "net/ipv4/ip_forward";
const IPV6: &str = "net/ipv6/conf/all/forwarding";
const ACCEPT_RA: &str = "net/ipv6/conf/uplink/accept_ra";

/// Waits until a parameter has a value.
fn becomes(lab: &Lab, key: &str, value: &str) -> Result<()> {
    eventually(SOON, || {
        let now = lab.hv.read_sysctl(key)?;
        ensure!(now == value, "{key} is {now}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_somebody_switches_off_is_on_again_and_given_back_as_they_left_it() {
    check6(|lab| {
        // The host is a router of its own accord.
        for key in [IPV4, IPV6] {
            lab.hv.sysctl(key, "1")?;
        }
        lab.agent.start()?;
        let network = Network::default().ipv6();
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        guest.ping(&OUTSIDE.to_string())?;
        let bridge = network.bridge();
        let of_bridge = |family: &str, name: &str| format!("net/{family}/conf/{bridge}/{name}");
        for (key, wrong, right) in [
            (IPV4.to_owned(), "0", "1"),
            (IPV6.to_owned(), "0", "1"),
            (of_bridge("ipv4", "forwarding"), "0", "1"),
            (of_bridge("ipv6", "forwarding"), "0", "1"),
            (of_bridge("ipv6", "disable_ipv6"), "1", "0"),
        ] {
            lab.hv.sysctl(&key, wrong)?;
            becomes(lab, &key, right)?;
        }
        // Of these two the kernel tells nobody: they are seen when anything else is looked at.
        for name in ["accept_ra", "autoconf"] {
            let key = of_bridge("ipv6", name);
            lab.hv.sysctl(&key, "1")?;
            lab.hv
                .run(["ip", "link", "add", "other", "type", "bridge"])?;
            becomes(lab, &key, "0")?;
            lab.hv.run(["ip", "link", "del", "other"])?;
        }
        eventually(SOON, || guest.ping(&network.address6(1).to_string()))?;
        lab.route6(&network)?;
        guest.ping(&OUTSIDE6.to_string())?;

        // A device of the host's own that is not to forward is the administrator's business, and
        // guests' packets pass it all the same.
        lab.hv.sysctl("net/ipv4/conf/uplink/forwarding", "0")?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
        traffic::answered(guest.netns(), at(OUTSIDE, 7))?;
        let plan = lab.agent.ok(["plan"])?;
        ensure!(!plan.contains("forwarding"), "{plan}");
        let uplink = lab.hv.read_sysctl("net/ipv4/conf/uplink/forwarding")?;
        ensure!(uplink == "0", "netd changed the uplink");
        lab.hv.sysctl("net/ipv4/conf/uplink/forwarding", "1")?;

        lab.agent.ok(["net-destroy", "default"])?;
        for key in [IPV4, IPV6] {
            let now = lab.hv.read_sysctl(key)?;
            ensure!(now == "0", "{key} is {now}: 0 is what was wanted last");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_host_that_becomes_a_router_between_its_own_devices_is_told() {
    check(|lab| {
        lab.agent.start()?;
        lab.agent.define(&Network::default().xml())?;
        let set = "set net.ipv4.ip_forward to 1";
        let plan = lab.agent.ok(["plan", "default"])?;
        ensure!(plan.lines().any(|line| line.trim() == set), "{plan}");
        let _lan = lab.second_nic()?;
        let told = "forwards between uplink, lan";
        let plan = lab.agent.ok(["plan", "default"])?;
        ensure!(plan.contains(set) && plan.contains(told), "{plan}");
        ensure!(!lab.agent.log().contains(told), "nothing forwards yet");
        lab.agent.ok(["net-start", "default"])?;
        ensure!(lab.agent.log().contains(told), "{}", lab.agent.log());
        lab.agent.ok(["net-destroy", "default"])?;

        // They forward already.
        lab.hv.sysctl(IPV4, "1")?;
        let plan = lab.agent.ok(["plan", "default"])?;
        ensure!(!plan.contains(told), "{plan}");
        lab.hv.sysctl(IPV4, "0")?;
        Ok(())
    });
}

/// What a router says once: it is one, for half an hour.
fn advertise(lab: &Lab) -> Result<()> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut frame = Frame6::icmp(router, all_nodes, message)
        .between(lab.wan.mac("wan0")?, [0x33, 0x33, 0, 0, 0, 1]);
    frame.hop_limit = 255;
    Wire::new(&lab.wan, "wan0")?.send_bytes(&frame.bytes())
}

/// The host's default route that a router advertised.
fn advertised(lab: &Lab) -> Result<()> {
    let routes = lab.hv.run(["ip", "-6", "route", "show", "proto", "ra"])?;
    ensure!(
        routes.contains("default via fe80::1 dev uplink"),
        "{routes}"
    );
    Ok(())
}

fn learns(lab: &Lab) -> Result<()> {
    eventually(SOON, || {
        advertise(lab)?;
        advertised(lab)
    })
}

fn forgets(lab: &Lab) -> Result<()> {
    let router = ["default", "via", "fe80::1", "dev", "uplink", "proto", "ra"];
    let words = ["ip", "-6", "route", "del"];
    lab.hv.run(words.iter().chain(&router).copied())?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_host_keeps_the_routes_that_routers_advertise() {
    check(|lab| {
        let before = lab.hv.read_sysctl(ACCEPT_RA)?;
        lab.hv.sysctl(ACCEPT_RA, "1")?;
        learns(lab)?;
        lab.agent.start()?;
        let network = Network::default().ipv6();
        lab.up(&network)?;
        ensure!(lab.hv.read_sysctl(IPV6)? == "1");
        advertised(lab)?;
        ensure!(lab.hv.read_sysctl(ACCEPT_RA)? == "2");
        // What a router says later counts as well.
        forgets(lab)?;
        learns(lab)?;
        // An agent that is started anew knows what to give back.
        lab.agent.stop()?;
        lab.agent.start()?;
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(lab.hv.read_sysctl(IPV6)? == "0");
        ensure!(
            lab.hv.read_sysctl(ACCEPT_RA)? == "1",
            "it was not given back"
        );
        advertised(lab)?;
        forgets(lab)?;

        // Without a route so far, and the device gets its setting while the network runs.
        lab.hv.sysctl(ACCEPT_RA, "0")?;
        lab.agent.ok(["net-start", "default"])?;
        ensure!(lab.hv.read_sysctl(ACCEPT_RA)? == "0", "it listens to none");
        lab.hv.sysctl(ACCEPT_RA, "1")?;
        lab.hv
            .run(["ip", "link", "add", "other", "type", "bridge"])?;
        becomes(lab, ACCEPT_RA, "2")?;
        lab.hv.run(["ip", "link", "del", "other"])?;
        learns(lab)?;
        // Who does not want that any more is obeyed.
        lab.hv.sysctl(ACCEPT_RA, "0")?;
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(lab.hv.read_sysctl(ACCEPT_RA)? == "0");
        forgets(lab)?;

        // A host that forwards of its own accord does not listen, and netd does not change that.
        lab.hv.sysctl(ACCEPT_RA, "1")?;
        lab.hv.sysctl(IPV6, "1")?;
        lab.agent.ok(["net-start", "default"])?;
        ensure!(lab.hv.read_sysctl(ACCEPT_RA)? == "1");
        lab.agent.ok(["net-destroy", "default"])?;
        lab.hv.sysctl(IPV6, "0")?;
        lab.hv.sysctl(ACCEPT_RA, &before)
    });
}
