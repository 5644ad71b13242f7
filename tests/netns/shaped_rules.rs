//! `<bandwidth>` beside the host's own rules: what guests send waits for its turn before the host's connection
//! tracking knows of it. So rules judge, lead and count it as if it had not waited, also where they see what is
//! bridged (br_netfilter).

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::both;
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Network};

use crate::host_dnat::br_netfilter;
use crate::shaping::UNNOTICED;

/// Where guests and the server outside listen, and where the host leads those that ask for [`ASKED`].
const PORT: u16 = 7000;
const ASKED: u16 = 5353;
/// Published for the guest of network 1; the others follow.
const PUBLISHED: u16 = 5000;

/// The host confines guests by the state of connections and by a mark that one has from its beginning, leads
/// them elsewhere, and counts what they begin.
const RULES: &str = "table ip t {
     chain marks { type filter hook prerouting priority mangle;
         iifname \"virbr*\" ct state new ct mark set 7
         iifname \"virbr*\" udp dport 7000 ct state new counter
     }
     chain leads { type nat hook prerouting priority dstnat;
         iifname \"virbr*\" ip daddr 198.51.100.1 meta l4proto { tcp, udp } th dport 5353 dnat to 198.51.100.1:7000
     }
     chain judges { type filter hook forward priority filter; policy drop;
         ct state invalid drop
         ct state established,related accept
         iifname \"virbr*\" ct state new ct mark 7 accept
         iifname uplink th dport 7000 ct state new accept
     }\n}";

/// A guest, and what its network is.
struct Place {
    number: u8,
    network: Network,
    mode: &'static str,
    guest: Guest,
    _servers: [Server; 2],
}

impl Place {
    fn own(&self) -> SocketAddrV4 {
        at(self.network.address(10 + self.number), PORT)
    }

    /// Do the host's rules hold for its packets? Those of an open network are the host's in any case.
    fn respects(&self, firewall: &str) -> bool {
        firewall == "respect" || self.mode == "open"
    }
}

fn places(lab: &Lab, firewall: &str) -> Result<Vec<Place>> {
    let networks = [
        (Network::nat("nat", 1), "nat"),
        (Network::route("routed", 2), "route"),
        (Network::open("open", 3), "open"),
        (Network::isolated("isolated", 4), "isolated"),
    ];
    let mut places = Vec::new();
    for (number, (network, mode)) in (1..).zip(networks) {
        let own = network.address(10 + number);
        let relation = format!("<netd:host firewall='{firewall}'/>");
        let relation = match mode {
            "nat" | "route" => {
                let port = PUBLISHED + u16::from(number);
                let published = both("", &own.to_string(), port, PORT);
                format!("{relation}<netd:forwards>{published}</netd:forwards>")
            }
            "open" => String::new(),
            _ => relation,
        };
        let network = network.with(UNNOTICED).with(&format!(
            "<metadata><netd:network xmlns:netd='urn:netd:network:1'>{relation}</netd:network></metadata>"
        ));
        lab.up(&network)?;
        let route = format!("ip route add {} via {HOST}", network.subnet());
        lab.wan.run(route.split(' '))?;
        let guest = lab.member(number, &network)?;
        places.push(Place {
            number,
            _servers: [
                Server::udp(guest.netns(), at(own, PORT))?,
                Server::tcp_echo(guest.netns(), at(own, PORT))?,
            ],
            network,
            mode,
            guest,
        });
    }
    Ok(places)
}

/// By UDP and by TCP, long enough for the way of a connection to settle.
fn talks(from: &netd_tests::Netns, to: SocketAddrV4) -> Result<()> {
    for _ in 0..3 {
        traffic::answered(from, to).with_context(|| format!("{to} by UDP"))?;
    }
    traffic::transfer(from, to, 300_000).with_context(|| format!("{to} by TCP"))
}

/// What the servers outside have heard so far.
fn heard(servers: &[Server; 2]) -> u64 {
    servers.iter().map(Server::received).sum()
}

/// Packets by which guests began something, as the host's rules have counted.
fn begun(lab: &Lab) -> Result<u64> {
    let rules = lab.hv.run(["nft", "list", "chain", "ip", "t", "marks"])?;
    let count = rules.split("counter packets ").nth(1);
    let count = count.and_then(|rest| rest.split(' ').next());
    Ok(count.context("no counter")?.parse()?)
}

fn all_talk(lab: &Lab, places: &[Place], firewall: &str) -> Result<()> {
    let serve = |port| -> Result<[Server; 2]> {
        Ok([
            Server::udp(&lab.wan, at(OUTSIDE, port))?,
            Server::tcp_echo(&lab.wan, at(OUTSIDE, port))?,
        ])
    };
    let (elsewhere, asked) = (serve(PORT)?, serve(ASKED)?);
    for place in places {
        let (mode, netns) = (place.mode, place.guest.netns());
        if mode == "isolated" {
            for port in [PORT, ASKED] {
                traffic::refused(netns, at(OUTSIDE, port)).context(mode)?;
            }
            continue;
        }
        let before = begun(lab)?;
        traffic::answered(netns, at(OUTSIDE, PORT)).context(mode)?;
        let counted = begun(lab)? - before;
        let counts = u64::from(place.respects(firewall));
        ensure!(
            counted == counts,
            "{mode}: counted {counted} times, not {counts}"
        );
        talks(netns, at(OUTSIDE, PORT)).context(mode)?;
        let before = [heard(&elsewhere), heard(&asked)];
        talks(netns, at(OUTSIDE, ASKED)).with_context(|| format!("{mode}, led elsewhere"))?;
        let led = [heard(&elsewhere) > before[0], heard(&asked) > before[1]];
        let is_led = place.respects(firewall);
        ensure!(led == [is_led, !is_led], "{mode}: led {led:?}");
        for to in places.iter().filter(|to| to.number != place.number) {
            if to.mode == "route" || to.mode == "open" {
                talks(netns, to.own()).with_context(|| format!("{mode} to {}", to.mode))?;
            }
        }
        if mode != "open" {
            let published = at(HOST, PUBLISHED + u16::from(place.number));
            talks(&lab.wan, published).with_context(|| format!("{mode}, published"))?;
        }
    }
    Ok(())
}

fn beside_rules(firewall: &str) {
    check(|lab| {
        let before = br_netfilter(lab, false)?;
        lab.agent.start()?;
        let places = places(lab, firewall)?;
        let file = lab.agent.file("rules.nft", RULES)?;
        lab.hv.run(["nft", "-f", &file])?;
        for on in [false, true] {
            br_netfilter(lab, on)?;
            lab.settled()?;
            all_talk(lab, &places, firewall).with_context(|| format!("br_netfilter {on}"))?;
        }
        br_netfilter(lab, before)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_waits_is_judged_once_by_rules_that_count() {
    beside_rules("respect");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_waits_passes_by_rules_that_do_not() {
    beside_rules("bypass");
}

/// Guests of one network talk to each other whatever the host's rules say of bridged frames, and are held to
/// nothing there.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn siblings_of_a_network_with_a_rate_talk_past_rules_that_see_bridged_frames() {
    use netd_tests::rate::{Bulk, Way};
    check(|lab| {
        let before = br_netfilter(lab, true)?;
        lab.agent.start()?;
        let network = crate::shaping::both_directions(Network::default());
        lab.up(&network)?;
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        let drop = "table ip t { chain c { type filter hook forward priority 0; policy drop; }\n}";
        let file = lab.agent.file("rules.nft", drop)?;
        lab.hv.run(["nft", "-f", &file])?;
        lab.settled()?;
        let to = at(network.address(12), 5001);
        let bulk = Bulk::tcp(guests[0].netns(), guests[1].netns(), to, Way::Up)?;
        crate::shaping::is_unheld(|| Ok(bulk.received()))?;
        br_netfilter(lab, before)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        Ok(())
    });
}
