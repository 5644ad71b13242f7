//! The host's own netfilter rules and guests' traffic: the table of `docs/explanation/host-firewall.md`,
//! each row beside the kernel's own path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::both;
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Guest, Lab, Losses, Netns, Network, SOON, Sniffer, TcpPool, eventually};

/// How long an answer may take that is to come.
const ANSWER: Duration = Duration::from_millis(100);
/// A changed rule counts for running flows within this time. It is 2 s by the documents; a busy machine may take
/// longer, but not the 30 s after which flows are looked at again for their own sake.
pub const COUNTS: Duration = Duration::from_secs(15);

/// Who drops, in nft's words. `{ports}` are the bridges, `{nets}` their subnets.
const RULES: &[(&str, &str)] = &[
    (
        "forward, by device",
        "table inet t { chain c { type filter hook forward priority 0; iifname { BRIDGES } drop; oifname { BRIDGES } drop; } }",
    ),
    (
        "forward, by subnet",
        "table inet t { chain c { type filter hook forward priority -10; ip saddr { SUBNETS } drop; ip daddr { SUBNETS } drop; } }",
    ),
    (
        "forward, by the peer's address",
        "table ip t { set ban { type ipv4_addr; elements = { 198.51.100.1 } }\n chain c { type filter hook forward priority 0; ip saddr @ban drop; } }",
    ),
    (
        "forward, policy drop",
        "table ip t { chain c { type filter hook forward priority 0; policy drop; } }",
    ),
    (
        "prerouting",
        "table ip t { chain c { type filter hook prerouting priority raw; iifname \"uplink\" ip saddr 198.51.100.1 udp dport != 9 drop; iifname { BRIDGES } ip daddr 198.51.100.1 drop; } }",
    ),
    (
        "postrouting",
        "table ip t { chain c { type filter hook postrouting priority 0; ip daddr 198.51.100.1 oifname \"uplink\" drop; oifname { BRIDGES } drop; } }",
    ),
    (
        "netdev, ingress of the uplink",
        "table netdev t { chain c { type filter hook ingress device uplink priority 0; ip saddr 198.51.100.1 drop; } }",
    ),
];

/// A guest and its two conversations: with a server outside, and as a published server.
struct Place {
    name: &'static str,
    guest: Guest,
    port: u16,
    /// Do the host's rules hold for it?
    holds: bool,
    outbound: Talk,
    inbound: Talk,
    _server: Server,
}

/// A client's socket, connected, and one that asks again and again.
pub struct Talk(UdpSocket);

impl Talk {
    pub fn new(netns: &Netns, to: impl Into<SocketAddr>) -> Result<Self> {
        let to = to.into();
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = netns.udp((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self(socket))
    }

    /// Does an answer come?
    pub fn is_answered(&self) -> bool {
        // A refusal (ICMP) is no answer, and may lie in the socket from before.
        let _ = self.0.send(b"?");
        for _ in 0..2 {
            if self.0.recv(&mut [0; 64]).is_ok() {
                return true;
            }
            let _ = self.0.send(b"?");
        }
        false
    }
}

impl Place {
    fn new(
        lab: &Lab,
        name: &'static str,
        guest: Guest,
        own: Ipv4Addr,
        port: u16,
        holds: bool,
    ) -> Result<Self> {
        Ok(Self {
            name,
            _server: Server::udp(guest.netns(), at(own, 7))?,
            outbound: Talk::new(guest.netns(), at(OUTSIDE, 7))?,
            inbound: Talk::new(&lab.wan, at(HOST, port))?,
            guest,
            port,
            holds,
        })
    }

    /// Running and new flows, both ways.
    fn all_pass(&self, lab: &Lab, passes: bool, rule: &str) -> Result<()> {
        let new_outbound = Talk::new(self.guest.netns(), at(OUTSIDE, 7))?;
        let new_inbound = Talk::new(&lab.wan, at(HOST, self.port))?;
        for (what, talk) in [
            ("running, outbound", &self.outbound),
            ("running, published", &self.inbound),
            ("new, outbound", &new_outbound),
            ("new, published", &new_inbound),
        ] {
            // Running flows have some time to learn of it.
            eventually(COUNTS, || {
                ensure!(
                    talk.is_answered() == passes,
                    "{}: {what}, {rule}: should be {}",
                    self.name,
                    if passes { "answered" } else { "dropped" }
                );
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn metadata(setting: &str, guest: &str, port: u16) -> String {
    format!(
        "<metadata><netd:network xmlns:netd='urn:netd:network:1'>\
         <netd:host firewall='{setting}'/><netd:forwards>{}</netd:forwards>\
         </netd:network></metadata>",
        both("", guest, port, 7)
    )
}

fn member(lab: &Lab, number: u8, setting: &str) -> Result<(Network, Guest)> {
    let network = Network::nat(setting, number);
    let own = network.address(10 + number).to_string();
    let network = network.with(&metadata(setting, &own, 5000 + u16::from(number)));
    lab.up(&network)?;
    let guest = lab.member(number, &network)?;
    Ok((network, guest))
}

/// A guest whose traffic the kernel routes and translates by itself.
fn kernels(lab: &Lab) -> Result<Guest> {
    lab.hv.run(["ip", "link", "add", "br3", "type", "bridge"])?;
    lab.hv.address("br3", "10.10.3.1/24")?;
    let guest = lab.plugged(3, "br3")?;
    guest.address("10.10.3.13/24", Some("10.10.3.1"))?;
    rules(
        lab,
        "table ip kernel { chain post { type nat hook postrouting priority srcnat; \
         ip saddr 10.10.3.0/24 oifname uplink masquerade; }\n \
         chain pre { type nat hook prerouting priority dstnat; \
         udp dport 5003 dnat to 10.10.3.13:7; tcp dport 5003 dnat to 10.10.3.13:7; } }",
    )?;
    Ok(guest)
}

pub fn rules(lab: &Lab, text: &str) -> Result<()> {
    // A block's end wants a line of its own.
    let file = lab.agent.file("rules.nft", &text.replace("} }", "}\n}"))?;
    lab.hv
        .run(["nft", "-f", &file])
        .with_context(|| text.to_owned())?;
    Ok(())
}

/// The hypervisor with a network that respects its rules, one that does not, and the kernel's own.
fn places(lab: &mut Lab) -> Result<Vec<Place>> {
    lab.agent.start()?;
    let (respecting, respects) = member(lab, 1, "respect")?;
    let (bypassing, bypasses) = member(lab, 2, "bypass")?;
    let control = kernels(lab)?;
    let own = [
        respecting.address(11),
        bypassing.address(12),
        "10.10.3.13".parse()?,
    ];
    Ok(vec![
        Place::new(lab, "respect", respects, own[0], 5001, true)?,
        Place::new(lab, "bypass", bypasses, own[1], 5002, false)?,
        Place::new(lab, "the kernel's own path", control, own[2], 5003, true)?,
    ])
}

fn end(lab: &Lab) -> Result<()> {
    lab.hv.run(["nft", "flush", "ruleset"])?;
    lab.hv.run(["ip", "link", "del", "br3"])?;
    Ok(())
}

fn rows(lab: &mut Lab, rows: &[(&str, &str)]) -> Result<()> {
    let _outside = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
    let places = places(lab)?;
    for place in &places {
        place.all_pass(lab, true, "no rule")?;
    }
    for (name, rule) in rows {
        let rule = rule
            .replace("BRIDGES", "\"virbr1\", \"virbr2\", \"br3\"")
            .replace("SUBNETS", "10.10.1.0/24, 10.10.2.0/24, 10.10.3.0/24");
        let family = rule.split(' ').nth(1).unwrap_or_default();
        rules(lab, &rule)?;
        for place in &places {
            place.all_pass(lab, !place.holds, name)?;
        }
        lab.hv.run(["nft", "delete", "table", family, "t"])?;
        for place in &places {
            place.all_pass(lab, true, "the rule is gone")?;
        }
    }
    end(lab)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rules_of_forward_hold_where_they_are_respected() {
    check(|lab| rows(lab, &RULES[..2]));
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn bans_and_policies_of_forward_hold_where_they_are_respected() {
    check(|lab| rows(lab, &RULES[2..4]));
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rules_of_other_hooks_hold_where_they_are_respected() {
    check(|lab| rows(lab, &RULES[4..]));
}

/// A hypervisor with a respecting network, its guest, and these rules.
fn respecting(rules_text: &str, test: impl FnOnce(&mut Lab, &Guest) -> Result<()>) {
    check(|lab| {
        lab.agent.start()?;
        let (_, guest) = member(lab, 1, "respect")?;
        rules(lab, rules_text)?;
        test(lab, &guest)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        Ok(())
    });
}

/// As firewalld and ufw have them, with what old guides add: only what begins may be new.
const STATEFUL: &str = "flush ruleset
    table inet t {
      chain c {
        type filter hook forward priority 0; policy drop;
        ct state invalid counter drop
        ct state established,related accept
        tcp flags & (fin|syn|rst|ack) != syn ct state new counter drop
        iifname \"virbr1\" accept
        udp dport 7 accept
        tcp dport 7 accept
      }
    }";

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p46_connections_survive_reloads_of_rules_by_state() {
    respecting(STATEFUL, |lab, guest| {
        let outbound = TcpPool::start(guest.netns(), &lab.wan, at(OUTSIDE, 7), 50)?;
        let own: Ipv4Addr = "10.10.1.11".parse()?;
        let published =
            TcpPool::published(&lab.wan, at(HOST, 5001), (guest.netns(), at(own, 7)), 50)?;
        for _ in 0..3 {
            let before = outbound.exchanges() + published.exchanges();
            rules(lab, STATEFUL)?;
            eventually(SOON, || {
                let now = outbound.exchanges() + published.exchanges();
                ensure!(now > before + 2000, "{now} of {before}");
                Ok(())
            })?;
        }
        outbound.finish()?.ensure_whole()?;
        published.finish()?.ensure_whole()?;
        let counters = lab.hv.run(["nft", "list", "ruleset"])?;
        ensure!(counters.matches("packets 0 ").count() == 2, "{counters}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn established_connections_do_not_pass_the_rules() {
    let count = "table ip t { chain c { type filter hook forward priority 0; counter; } }";
    respecting(count, |lab, guest| {
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, 8))?;
        traffic::transfer(guest.netns(), at(OUTSIDE, 8), 32 << 20)?;
        let text = lab.hv.run(["nft", "list", "ruleset"])?;
        let packets = text.split("packets ").nth(1).context("a counter")?;
        let packets: u64 = packets.split(' ').next().unwrap_or_default().parse()?;
        let card = guest.netns().counters("eth0")?;
        let all = card.sent_packets + card.received_packets;
        // On a busy machine more are on their way when the first has passed.
        ensure!(
            packets >= 2 && packets * 10 < all,
            "{packets} packets of {all} passed them"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn clamps_of_segments_hold() {
    let clamp = "table ip t { chain c { type filter hook forward priority 0; \
        tcp flags & (syn|rst) == syn tcp option maxseg size set 900; } }";
    respecting(clamp, |lab, guest| {
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, 8))?;
        let longest = Sniffer::start(&lab.wan)?;
        // Without segmentation the wire shows what the clamp makes of them.
        for (netns, device) in [(guest.netns(), "eth0"), (&lab.wan, "wan0")] {
            netns.run([
                "ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off",
            ])?;
        }
        traffic::transfer(guest.netns(), at(OUTSIDE, 8), 1 << 20)?;
        let packets = longest.finish()?;
        let longest = packets.iter().map(|packet| packet.length).max();
        // 900 bytes and two headers.
        ensure!(
            longest.is_some_and(|length| (500..=940).contains(&length)),
            "{longest:?}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn redirects_to_a_proxy_of_the_hosts_hold() {
    let redirect = "table ip t { chain c { type nat hook prerouting priority dstnat; \
        iifname \"virbr1\" tcp dport 80 redirect to :9040; } }";
    respecting(redirect, |lab, guest| {
        let _real = Server::http(&lab.wan, at(OUTSIDE, 80), "the real one")?;
        let _proxy = Server::http(&lab.hv, "0.0.0.0:9040".parse::<SocketAddr>()?, "the proxy")?;
        for _ in 0..2 {
            let page = guest
                .netns()
                .run(["busybox", "wget", "-qO-", "http://198.51.100.1/"])?;
            ensure!(page.contains("the proxy"), "{page}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p55_routing_by_marks_holds() {
    let mark = "table ip t { chain c { type filter hook prerouting priority mangle; \
        iifname \"virbr1\" meta mark set 7; } }";
    respecting(mark, |lab, guest| {
        let _server = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
        lab.hv.veth("uplink2", &lab.wan, "wan2")?;
        lab.hv.address("uplink2", "203.0.113.2/24")?;
        lab.wan.address("wan2", "203.0.113.1/24")?;
        let talk = Talk::new(guest.netns(), at(OUTSIDE, 7))?;
        eventually(SOON, || {
            ensure!(talk.is_answered(), "without a rule");
            Ok(())
        })?;
        lab.hv.run([
            "ip",
            "route",
            "add",
            "default",
            "via",
            "203.0.113.1",
            "table",
            "7",
        ])?;
        lab.hv
            .run(["ip", "rule", "add", "fwmark", "7", "lookup", "7"])?;
        let marked = || -> Result<()> {
            let who = traffic::answered(guest.netns(), at(OUTSIDE, 7))?;
            ensure!(who.ip() == Ipv4Addr::new(203, 0, 113, 2), "{who}");
            Ok(())
        };
        // The agent has to hear of the route.
        eventually(SOON, marked)?;
        for _ in 0..3 {
            marked()?;
        }
        lab.hv.run(["ip", "rule", "del", "fwmark", "7"])?;
        lab.hv.run(["ip", "link", "del", "uplink2"])?;
        Ok(())
    });
}

/// libvirt polices `<outbound>` of a guest's `<bandwidth>` this way; any filter shows whether it is passed.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn filters_at_a_guests_port_hold() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
        let running = Talk::new(guest.netns(), at(OUTSIDE, 7))?;
        let all_pass = |passes: bool, when: &str| -> Result<()> {
            let new = Talk::new(guest.netns(), at(OUTSIDE, 7))?;
            for talk in [&running, &new] {
                eventually(COUNTS, || {
                    ensure!(talk.is_answered() == passes, "{when}");
                    Ok(())
                })?;
            }
            Ok(())
        };
        all_pass(true, "no filter")?;
        let port = &guest.port;
        // Nobody is at its other end.
        lab.hv.run([
            "ip", "link", "add", "sink", "type", "veth", "peer", "name", "sink2",
        ])?;
        lab.hv.run(["ip", "link", "set", "sink", "up"])?;
        lab.hv.run([
            "tc", "qdisc", "add", "dev", port, "handle", "ffff:", "ingress",
        ])?;
        let filter = |change: &str, destination: &str| -> Result<()> {
            let text = format!(
                "tc filter {change} dev {port} parent ffff: prio 1 protocol ip u32 match ip dst \
                 {destination} action mirred egress redirect dev sink"
            );
            lab.hv.run(text.split(' '))?;
            Ok(())
        };
        filter("add", "192.0.2.1/32")?;
        all_pass(true, "a filter for others")?;
        lab.hv
            .run(["tc", "filter", "del", "dev", port, "parent", "ffff:"])?;
        filter("add", &format!("{OUTSIDE}/32"))?;
        all_pass(false, "a filter that takes the packets")?;
        lab.hv.run(["tc", "qdisc", "del", "dev", port, "ingress"])?;
        all_pass(true, "the filter is gone")?;
        lab.hv.run(["ip", "link", "del", "sink"])?;
        Ok(())
    });
}

/// The same at the uplink, for answers and what comes to a published port: a filter there sees each packet,
/// one that takes it is not passed by, and behind one that lets it pass it reaches its guest.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn filters_at_an_uplink_hold() {
    check(|lab| {
        lab.agent.start()?;
        let (network, guest) = member(lab, 1, "bypass")?;
        let own = network.address(11);
        let _servers = [
            Server::udp(&lab.wan, at(OUTSIDE, 7))?,
            Server::udp(guest.netns(), at(own, 7))?,
        ];
        let talks = || -> Result<[Talk; 2]> {
            Ok([
                Talk::new(guest.netns(), at(OUTSIDE, 7))?,
                Talk::new(&lab.wan, at(HOST, 5001))?,
            ])
        };
        let running = talks()?;
        let all_pass = |passes: bool, when: &str| -> Result<()> {
            for (place, talk) in running.iter().chain(&talks()?).enumerate() {
                eventually(COUNTS, || {
                    ensure!(talk.is_answered() == passes, "{when}, conversation {place}");
                    Ok(())
                })?;
            }
            Ok(())
        };
        all_pass(true, "no filter")?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        // Nobody is at its other end.
        let sink = "ip link add sink type veth peer name sink2";
        lab.hv.run(sink.split(' '))?;
        lab.hv.run(["ip", "link", "set", "sink", "up"])?;
        for qdisc in ["handle ffff: ingress", "clsact"] {
            let tc = |words: &str| lab.hv.run(format!("tc {words}").split_whitespace());
            tc(&format!("qdisc add dev uplink {qdisc}"))?;
            let parent = match qdisc {
                "clsact" => "ingress",
                _ => "parent ffff:",
            };
            let filter =
                format!("filter add dev uplink {parent} prio 1 protocol ip u32 match ip src");
            let away = "action mirred egress redirect dev sink";
            tc(&format!("{filter} 192.0.2.1/32 {away}"))?;
            all_pass(true, "a filter for others")?;
            // It ends the chain, as a policer does for what conforms.
            tc(&format!("filter del dev uplink {parent}"))?;
            tc(&format!("{filter} {OUTSIDE}/32 flowid :1"))?;
            all_pass(true, "a filter that lets pass")?;
            let before = Losses::look(&all)?;
            let load = Load::udp(guest.netns(), at(OUTSIDE, 7))?;
            load.reach(200)?;
            before.account_for(&load.finish()?, &all)?;
            tc(&format!("filter del dev uplink {parent}"))?;
            tc(&format!("{filter} {OUTSIDE}/32 {away}"))?;
            all_pass(false, "a filter that takes the packets")?;
            tc(&format!(
                "qdisc del dev uplink {}",
                qdisc.split(' ').next_back().unwrap_or_default()
            ))?;
            all_pass(true, "the filter is gone")?;
        }
        lab.hv.run(["ip", "link", "del", "sink"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn routed_networks_respect_rules_too() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::route("routed", 1).with(
            "<metadata><netd:host xmlns:netd='urn:netd:network:1' firewall='respect'/></metadata>",
        );
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let (own, host) = (network.address(11), HOST.to_string());
        lab.wan
            .run(["ip", "route", "add", "10.10.1.0/24", "via", &host])?;
        let _servers = [
            Server::udp(&lab.wan, at(OUTSIDE, 7))?,
            Server::udp(guest.netns(), at(own, 7))?,
        ];
        let running = [
            Talk::new(guest.netns(), at(OUTSIDE, 7))?,
            Talk::new(&lab.wan, at(own, 7))?,
        ];
        let all_pass = |passes: bool, when: &str| -> Result<()> {
            let new = [
                Talk::new(guest.netns(), at(OUTSIDE, 7))?,
                Talk::new(&lab.wan, at(own, 7))?,
            ];
            for (place, talk) in running.iter().chain(&new).enumerate() {
                eventually(COUNTS, || {
                    ensure!(talk.is_answered() == passes, "{when}, conversation {place}");
                    Ok(())
                })?;
            }
            Ok(())
        };
        all_pass(true, "no rule")?;
        rules(
            lab,
            "table ip t { chain c { type filter hook forward priority 0; counter; } }",
        )?;
        all_pass(true, "a rule that counts")?;
        let met = lab.hv.run(["nft", "list", "ruleset"])?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, 7))?;
        load.reach(5000)?;
        let report = load.finish()?;
        before.account_for(&report, &all)?;
        let packets = |text: &str| -> Result<u64> {
            let count = text.split("packets ").nth(1).context("a counter")?;
            Ok(count.split(' ').next().unwrap_or_default().parse()?)
        };
        let now = lab.hv.run(["nft", "list", "ruleset"])?;
        let (met, now) = (packets(&met)?, packets(&now)?);
        // On a busy machine more are on their way when the first has passed.
        ensure!(
            met > 0 && (now - met) * 20 < report.sent,
            "{met} packets met it, then {now} with {} more",
            report.sent
        );
        rules(
            lab,
            "flush ruleset\n table ip t { chain c { type filter hook forward priority 0; \
             ip saddr 10.10.1.0/24 drop; } }",
        )?;
        all_pass(false, "a rule for the subnet")?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        all_pass(true, "the rule is gone")
    });
}
