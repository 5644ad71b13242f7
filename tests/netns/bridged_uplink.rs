//! A host whose uplink is a bridge of its own (br0, with the NIC in it), and whose rules see what is bridged
//! (br_netfilter, which Docker and Kubernetes load): there the kernel knows packets before netd does.

use anyhow::{Context, Result};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::both;
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Network};

use crate::host_dnat::br_netfilter;
use crate::shaping::UNNOTICED;

const PORT: u16 = 7000;
const PUBLISHED: u16 = 5000;
/// By state, so that an answer which the kernel takes for a packet of no connection is lost.
const RULES: &str =
    "table inet t { chain c { type filter hook forward priority filter; policy drop;
     ct state invalid drop
     ct state established,related accept
     iifname virbr1 ct state new accept
     oifname virbr1 th dport 7000 ct state new accept
     }\n}";

/// Puts the uplink into a bridge, which has its address then.
fn bridge_the_uplink(lab: &Lab) -> Result<()> {
    for line in [
        "ip link add br0 type bridge",
        "ip -4 addr flush dev uplink",
        "ip link set uplink master br0",
        "ip link set br0 up",
    ] {
        lab.hv.run(line.split(' '))?;
    }
    lab.hv.address("br0", &format!("{HOST}/24"))?;
    let gateway = OUTSIDE.to_string();
    lab.hv
        .run(["ip", "route", "replace", "default", "via", &gateway])?;
    Ok(())
}

/// As it was.
fn unbridge(lab: &Lab) -> Result<()> {
    lab.hv.run(["nft", "flush", "ruleset"])?;
    lab.hv.run(["ip", "link", "del", "br0"])?;
    lab.hv.address("uplink", &format!("{HOST}/24"))?;
    let gateway = OUTSIDE.to_string();
    lab.hv
        .run(["ip", "route", "replace", "default", "via", &gateway])?;
    Ok(())
}

/// Outwards and to a published port, by UDP and TCP.
fn talks(lab: &Lab, guest: &Guest) -> Result<()> {
    for (from, to) in [
        (guest.netns(), at(OUTSIDE, PORT)),
        (&lab.wan, at(HOST, PUBLISHED)),
    ] {
        traffic::answered(from, to).context("by UDP")?;
        traffic::transfer(from, to, 300_000).with_context(|| format!("{to} by TCP"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rules_by_state_hold_behind_a_bridge() {
    rules_by_state_hold("");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rules_by_state_hold_behind_a_bridge_for_what_waits() {
    rules_by_state_hold(UNNOTICED);
}

fn rules_by_state_hold(rates: &str) {
    check(|lab| {
        bridge_the_uplink(lab)?;
        let before = br_netfilter(lab, true)?;
        lab.agent.start()?;
        let network = Network::default().with(rates);
        let published = both("", &network.address(11).to_string(), PUBLISHED, PORT);
        let network = network.with(&format!(
            "<metadata><netd:network xmlns:netd='urn:netd:network:1'>\
             <netd:host firewall='respect'/><netd:forwards>{published}</netd:forwards>\
             </netd:network></metadata>"
        ));
        lab.up(&network)?;
        let file = lab.agent.file("state.nft", RULES)?;
        lab.hv.run(["nft", "-f", &file])?;
        let guest = lab.member(1, &network)?;
        let _servers = [
            Server::udp(&lab.wan, at(OUTSIDE, PORT))?,
            Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?,
            Server::udp(guest.netns(), at(network.address(11), PORT))?,
            Server::tcp_echo(guest.netns(), at(network.address(11), PORT))?,
        ];
        for on in [true, false] {
            br_netfilter(lab, on)?;
            talks(lab, &guest).with_context(|| format!("br_netfilter {on}"))?;
        }
        br_netfilter(lab, before)?;
        unbridge(lab)
    });
}
