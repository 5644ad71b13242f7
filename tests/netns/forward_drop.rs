//! A host whose FORWARD chain drops everything, as Docker leaves it: what bypasses the host's rules
//! passes, also by the ways that used to be the stack's.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::{both, forwards, reached};
use netd_tests::traffic::{self, Load, Server, Verdict};
use netd_tests::{
    Frame, Guest, Lab, Losses, Netns, Network, SOON, Sniffer, Tunnel, Wire, eventually,
};
use rustix::process::Signal;

use crate::host_dnat::br_netfilter;

/// Of guest 1.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 11);
const PORT: u16 = 7;
/// Time within which netd follows.
const FOLLOWED: Duration = Duration::from_secs(2);
/// All that is forwarded is dropped.
const BARE_DROP: &str =
    "table inet t { chain c { type filter hook forward priority 0; policy drop; }\n}";

/// A guest behind a host that forwards nothing, and a published port of it.
fn under_drop(test: impl FnOnce(&mut Lab, &Guest) -> Result<()>) {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().with(&forwards(&both("", &GUEST.to_string(), 5000, PORT)));
        lab.up(&network)?;
        let drop = "table inet t { chain c { type filter hook forward priority 0; policy drop; counter; }\n}";
        let file = lab.agent.file("drop.nft", drop)?;
        lab.hv.run(["nft", "-f", &file])?;
        let guest = lab.member(1, &network)?;
        test(lab, &guest)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        Ok(())
    });
}

fn is_answered(guest: &Guest) -> Result<()> {
    traffic::answered(guest.netns(), at(OUTSIDE, PORT))?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p54_a_next_hop_that_the_host_forgot_is_asked_for() {
    under_drop(|lab, guest| {
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        // The host has not spoken to it yet, nor to the guest.
        is_answered(guest)?;
        // The kernel keeps 0.1 s of it while it asks for a neighbour, for whose answer a busy machine needs more.
        lab.hv
            .sysctl("net/ipv4/neigh/uplink/unres_qlen_bytes", "67108864")?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, PORT))?;
        load.reach(100)?;
        for _ in 0..3 {
            lab.hv.forget_neighbours("uplink")?;
            is_answered(guest)?;
        }
        load.reach(400)?;
        let (lost, counted) = (
            load.finish()?.lost.len(),
            Losses::look(&all)?.since(&before),
        );
        ensure!(
            (lost as u64) < 20 + counted.to_overload(),
            "{lost} lost\n{counted}"
        );
        lab.hv.run(["ip", "link", "set", "uplink", "down"])?;
        lab.hv.run(["ip", "link", "set", "uplink", "up"])?;
        lab.hv.run([
            "ip",
            "route",
            "replace",
            "default",
            "via",
            &OUTSIDE.to_string(),
        ])?;
        is_answered(guest)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p54_a_guest_that_nobody_has_seen_is_asked_for() {
    under_drop(|lab, guest| {
        let _server = Server::udp(guest.netns(), at(GUEST, PORT))?;
        reached(&lab.wan, "udp", at(HOST, 5000))?;
        lab.hv.forget_neighbours("virbr1")?;
        reached(&lab.wan, "udp", at(HOST, 5000)).context("later")?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p33_p34_hops_and_sizes_are_answered_for() {
    under_drop(|lab, guest| {
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        is_answered(guest)?;
        let gateway = Network::default().gateway();
        let wire = Wire::new(guest.netns(), "eth0")?;
        let macs = (guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
        let sniffer = Sniffer::start(guest.netns())?;
        let mut last_hop = Frame::udp((GUEST, 4000), (OUTSIDE, PORT), b"x").between(macs.0, macs.1);
        last_hop.ttl = 1;
        wire.send(&last_hop)?;
        lab.hv.run(["ip", "link", "set", "uplink", "mtu", "1300"])?;
        let mut large =
            Frame::udp((GUEST, 4001), (OUTSIDE, PORT), &[0; 1400]).between(macs.0, macs.1);
        // Do not fragment.
        large.fragment = 0x4000;
        let answers = eventually(SOON, || {
            wire.send(&large)?;
            let dropped = lab.agent.drops()?;
            ensure!(dropped.contains_key("too_large"), "{dropped:?}");
            Ok(dropped)
        })?;
        ensure!(answers.get("hop_limit") == Some(&1), "{answers:?}");
        let kinds = [((11, 0), 4000), ((3, 4), 4001)];
        let packets = sniffer.finish_when(|packets| {
            let mut kinds = kinds.iter();
            kinds.all(|(kind, _)| packets.iter().any(|packet| packet.icmp() == Some(*kind)))
        })?;
        lab.hv.run(["ip", "link", "set", "uplink", "mtu", "1500"])?;
        for (kind, port) in kinds {
            let answer = packets.iter().find(|packet| packet.icmp() == Some(kind));
            let answer = answer.with_context(|| format!("no {kind:?} among {packets:?}"))?;
            ensure!(
                answer.source == gateway && answer.icmp_checksum_is_right(),
                "{answer:?}"
            );
            let quoted = answer.quoted().context("a quote")?;
            ensure!(quoted.source_port() == Some(port), "{quoted:?}");
            if kind == (3, 4) {
                ensure!(answer.payload[6..8] == [0x05, 0x14], "the MTU: {answer:?}");
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_the_stack_alone_can_carry_is_counted_when_it_is_lost() {
    under_drop(|lab, guest| {
        let server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        is_answered(guest)?;
        let wire = Wire::new(guest.netns(), "eth0")?;
        let mut frame = Frame::udp((GUEST, 4000), (OUTSIDE, PORT), b"x")
            .between(guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
        // Record route, of no use to anybody (RFC 791, section 3.1).
        frame.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
        for _ in 0..3 {
            wire.send(&frame)?;
        }
        eventually(SOON, || {
            let lost = lab.agent.dropped("lost_in_stack")?;
            ensure!(lost == 2, "{lost}: the last is not known to be lost yet");
            Ok(())
        })?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        for _ in 0..3 {
            let before = server.received();
            wire.send(&frame)?;
            eventually(SOON, || {
                ensure!(server.received() > before, "it does not arrive");
                Ok(())
            })?;
        }
        is_answered(guest)?;
        let lost = lab.agent.dropped("lost_in_stack")?;
        ensure!(lost == 3, "{lost}: what comes out is not lost");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p54_a_tunnel_without_ethernet_may_be_the_only_uplink() {
    under_drop(|lab, guest| {
        let road = Netns::new("road")?;
        let _tunnel = Tunnel::new(&lab.hv, &road, "tun0")?;
        let (near, far) = ("192.0.2.65".parse()?, "192.0.2.66".parse::<Ipv4Addr>()?);
        for (netns, end) in [(&lab.hv, near), (&road, far)] {
            netns.address("tun0", &format!("{end}/30"))?;
        }
        lab.hv
            .run(["ip", "route", "replace", "default", "dev", "tun0"])?;
        let _server = Server::udp(&road, at(far, PORT))?;
        let _tcp = Server::tcp_echo(&road, at(far, PORT + 1))?;
        eventually(SOON, || {
            let verdict = traffic::ask_udp(guest.netns(), at(far, PORT))?;
            ensure!(
                matches!(verdict, Verdict::Answered(who) if who.ip() == near),
                "{verdict:?}"
            );
            Ok(())
        })?;
        traffic::transfer(guest.netns(), at(far, PORT + 1), 1 << 20)?;
        let counted = lab.hv.run(["nft", "list", "ruleset"])?;
        ensure!(
            counted.contains("packets 0 "),
            "some met FORWARD: {counted}"
        );
        road.run(["ip", "route", "add", "default", "dev", "tun0"])?;
        let _published = Server::udp(guest.netns(), at(GUEST, PORT))?;
        let who = reached(&road, "udp", at(near, 5000))?;
        ensure!(who == far, "{who}");
        let usual = ["ip", "route", "replace", "default", "via", "198.51.100.1"];
        lab.hv.run(usual)?;
        Ok(())
    });
}

/// Docker, or a hand, has bridged frames pass FORWARD while guests talk: nobody tells an agent.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn siblings_go_on_when_br_netfilter_comes() {
    check(|lab| {
        let key = "net/bridge/bridge-nf-call-iptables";
        if lab.hv.read_sysctl(key).is_err() {
            eprintln!("SKIPPED: this kernel has no br_netfilter");
            return Ok(());
        }
        let before = br_netfilter(lab, false)?;
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        let file = lab.agent.file("drop.nft", BARE_DROP)?;
        lab.hv.run(["nft", "-f", &file])?;
        let reaches = || -> Result<()> {
            let to = network.address(12).to_string();
            let ping = ["ping", "-c1", "-W0.1", &to];
            ensure!(
                guests[0].netns().output(ping)?.status.success(),
                "they do not talk"
            );
            Ok(())
        };
        eventually(SOON, reaches)?;
        for round in 0..3 {
            lab.agent.signal(Signal::STOP)?;
            br_netfilter(lab, true)?;
            let alone = reaches();
            lab.agent.signal(Signal::CONT)?;
            ensure!(alone.is_err(), "br_netfilter does nothing here");
            eventually(FOLLOWED, reaches).with_context(|| format!("round {round}"))?;
            br_netfilter(lab, false)?;
            // What an agent that has not seen that yet does goes on as well.
            std::thread::sleep(FOLLOWED);
            reaches().with_context(|| format!("round {round}, off"))?;
        }
        br_netfilter(lab, before)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        Ok(())
    });
}

/// br_netfilter hands bridged frames to FORWARD as well.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn siblings_talk_whatever_br_netfilter_does() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().ipv6();
        let apart = Network::nat("apart", 2).with("<port isolated='yes'/>");
        lab.up(&network)?;
        lab.up(&apart)?;
        if lab
            .hv
            .read_sysctl("net/bridge/bridge-nf-call-iptables")
            .is_err()
        {
            eprintln!("SKIPPED: this kernel has no br_netfilter");
            return Ok(());
        }
        // A bridge without netd shows that the rules are asked.
        lab.hv.run(["ip", "link", "add", "br9", "type", "bridge"])?;
        lab.hv.run(["ip", "link", "set", "br9", "up"])?;
        for key in ["iptables", "ip6tables", "arptables"] {
            lab.hv
                .sysctl(&format!("net/bridge/bridge-nf-call-{key}"), "1")?;
        }
        let file = lab.agent.file("drop.nft", BARE_DROP)?;
        lab.hv.run(["nft", "-f", &file])?;
        let pair = |network: &Network, first: u8| -> Result<[Guest; 2]> {
            Ok([lab.member(first, network)?, lab.member(first + 1, network)?])
        };
        let siblings = pair(&network, 1)?;
        let isolated = pair(&apart, 3)?;
        let control = [5, 6].map(|number| lab.plugged(number, "br9"));
        let [one, other] = control;
        let (one, other) = (one?, other?);
        one.address("10.10.9.15/24", None)?;
        other.address("10.10.9.16/24", None)?;
        for (place, guest) in siblings.iter().enumerate() {
            let own = network.address6(11 + place as u16);
            guest.netns().address("eth0", &format!("{own}/64"))?;
            guest.netns().wait_for_addresses("eth0")?;
        }
        let reaches =
            |guest: &Guest, to: &str| -> Result<bool> { Ok(guest.try_ping(to)?.status.success()) };
        ensure!(
            !reaches(&one, "10.10.9.16")?,
            "br_netfilter does nothing here"
        );
        for (from, to) in [(0, 1), (1, 0)] {
            for address in [
                network.address(11 + to).to_string(),
                network.address6(11 + u16::from(to)).to_string(),
            ] {
                eventually(SOON, || {
                    ensure!(reaches(&siblings[from], &address)?, "{from} to {address}");
                    Ok(())
                })?;
            }
        }
        let to = apart.address(14).to_string();
        ensure!(!reaches(&isolated[0], &to)?, "isolated guests talk");
        lab.hv.run(["nft", "flush", "ruleset"])?;
        lab.hv.run(["ip", "link", "del", "br9"])?;
        Ok(())
    });
}
