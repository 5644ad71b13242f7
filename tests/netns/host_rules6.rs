//! The host's own rules and guests' traffic where it is IPv6, and where it goes from one network to another.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use netd_tests::lab6::{HOST6, OUTSIDE6, at6, check_guest6, check6};
use netd_tests::published::both;
use netd_tests::traffic::Server;
use netd_tests::{Guest, Lab, Network, eventually};

use crate::host_rules::{COUNTS, Talk, rules};

/// Rules that each stop what passes between the guest of network 1 and outside, either way.
const RULES: &[&str] = &[
    "table inet t { chain c { type filter hook forward priority 0; iifname virbr1 drop; oifname virbr1 drop; } }",
    "table ip6 t { chain c { type filter hook forward priority 0; ip6 saddr SUBNET drop; ip6 daddr SUBNET drop; } }",
    "table ip6 t { chain c { type filter hook forward priority 0; policy drop; } }",
    "table ip6 t { chain c { type filter hook prerouting priority raw; iifname uplink ip6 saddr OUTSIDE udp dport != 9 drop; iifname virbr1 ip6 daddr OUTSIDE drop; } }",
    "table ip6 t { chain c { type filter hook postrouting priority 0; ip6 daddr OUTSIDE oifname uplink drop; oifname virbr1 drop; } }",
];

fn respecting(network: Network, setting: &str, forwards: &str) -> Network {
    network.with(&format!(
        "<metadata><netd:network xmlns:netd='urn:netd:network:1'>\
         <netd:host firewall='{setting}'/><netd:forwards>{forwards}</netd:forwards>\
         </netd:network></metadata>"
    ))
}

/// Do running conversations go on, and new ones begin, or neither?
fn all_pass(running: &[Talk], new: &[Talk], passes: bool, when: &str) -> Result<()> {
    for (place, talk) in running.iter().chain(new).enumerate() {
        eventually(COUNTS, || {
            ensure!(
                talk.is_answered() == passes,
                "{when}: conversation {place} should be {}",
                if passes { "answered" } else { "dropped" }
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Every rule holds while it is there; `inbound` is where outside asks the guest.
fn every_rule_holds(
    lab: &Lab,
    guest: &Guest,
    network: &Network,
    inbound: SocketAddr,
) -> Result<()> {
    let own = network.address6(11);
    let _servers = [
        Server::udp(&lab.wan, at6(OUTSIDE6, 7))?,
        Server::udp(guest.netns(), at6(own, 7))?,
    ];
    let talks = || -> Result<[Talk; 2]> {
        Ok([
            Talk::new(guest.netns(), at6(OUTSIDE6, 7))?,
            Talk::new(&lab.wan, inbound)?,
        ])
    };
    let running = talks()?;
    all_pass(&running, &talks()?, true, "no rule")?;
    for rule in RULES {
        let rule = rule
            .replace("SUBNET", &format!("{}/64", network.address6(0)))
            .replace("OUTSIDE", &OUTSIDE6.to_string());
        rules(lab, &rule)?;
        all_pass(&running, &talks()?, false, &rule)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        all_pass(&running, &talks()?, true, &format!("without {rule}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ipv6_of_a_nat_network_and_its_published_ports_respect_rules() {
    let network = Network::nat6("default", 1);
    let forwards = both("", &network.address6(11).to_string(), 5001, 7);
    let network = respecting(network, "respect", &forwards);
    check_guest6(&network, |lab, guest| {
        every_rule_holds(lab, guest, &network, at6(HOST6, 5001).into())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ipv6_of_a_routed_network_respects_rules() {
    let network = respecting(Network::route("default", 1).ipv6(), "respect", "");
    check_guest6(&network, |lab, guest| {
        every_rule_holds(lab, guest, &network, at6(network.address6(11), 7).into())
    });
}

/// What passes between two networks is held to the rules where one of them respects these; between two that
/// do not, it is not.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rules_hold_between_networks() {
    check6(|lab| {
        lab.agent.start()?;
        let mut members = Vec::new();
        for (number, setting) in (1..).zip(["respect", "respect", "bypass", "bypass"]) {
            let network = Network::route(&format!("n{number}"), number).ipv6();
            let network = respecting(network, setting, "");
            lab.up(&network)?;
            let guest = lab.member6(number, &network)?;
            let host = 10 + number;
            let addresses: [IpAddr; 2] = [
                network.address(host).into(),
                network.address6(u16::from(host)).into(),
            ];
            members.push((guest, addresses));
        }
        let mut servers = Vec::new();
        for (guest, addresses) in &members {
            for address in addresses {
                servers.push(Server::udp(guest.netns(), (*address, 7))?);
            }
        }
        // Between two that respect rules, from one to one that does not and back; and where none does.
        for (from, to, holds) in [(0, 1, true), (0, 2, true), (3, 0, true), (2, 3, false)] {
            let talks = || -> Result<Vec<Talk>> {
                let (guest, _) = &members[from];
                let (_, addresses) = &members[to];
                let talks = addresses.iter();
                talks
                    .map(|address| Talk::new(guest.netns(), (*address, 7)))
                    .collect()
            };
            let running = talks()?;
            let when = format!("from network {} to {}", from + 1, to + 1);
            all_pass(&running, &talks()?, true, &when)?;
            rules(
                lab,
                &format!(
                    "table inet t {{ chain c {{ type filter hook forward priority 0; \
                     iifname virbr{} oifname virbr{} drop; }} }}",
                    from + 1,
                    to + 1
                ),
            )?;
            all_pass(&running, &talks()?, !holds, &format!("{when}, dropped"))?;
            lab.hv.run(["nft", "flush", "ruleset"])?;
            all_pass(&running, &talks()?, true, &format!("{when}, no longer"))?;
        }
        Ok(())
    });
}
