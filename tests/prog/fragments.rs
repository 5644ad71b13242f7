//! Packets in fragments: only the first one has ports, and the others follow it.

use netd_common::Reason;
use netd_common::timeout::{DEFAULT_TIMEOUTS, Timeout};

use crate::fixture::{Fixture, Verdict, verdict};
use crate::flows::{guest_to_server, guest_to_server6};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{
    Body, ICMP, MORE_FRAGMENTS, Packet, SCTP, TCP, UDP, echo, raw, sctp, tcp, udp,
};
use crate::packet6::Packet6;

/// 8 kB, as NFS or a DNS resolver without limits sends.
fn data() -> Vec<u8> {
    (0..8192u32).map(|i| (i * 7) as u8).collect()
}

/// Room for a fragment behind the headers of IPv4 and of IPv6 on Ethernet.
const SIZE: usize = 1448;

fn whole(packet: Packet) -> Packet {
    packet.data(data()).fragment(0)
}

/// Run the fragments of a guest's packet, which are to leave as the fragments of `shown`.
fn out_in_order(lab: &mut Lab, name: &str, sent: &Packet, shown: &Packet) {
    let sent = up(sent.clone()).split(SIZE);
    let shown = shown.clone().ttl(63).macs(ROUTER_MAC, UP0_MAC).split(SIZE);
    for (i, (piece, after)) in sent.iter().zip(&shown).enumerate() {
        Fixture::new(format!("{name} {i}"), "port_ingress", "nat1", piece.bytes())
            .redirect(after.bytes())
            .any_flows()
            .run(lab);
    }
}

fn home_in_order(lab: &mut Lab, name: &str, sent: &Packet, translated: &Packet) {
    let sent = down(sent.clone()).split(SIZE);
    let translated = translated
        .clone()
        .ttl(63)
        .macs(GUEST_MAC, NAT_MAC)
        .split(SIZE);
    for (i, (piece, after)) in sent.iter().zip(&translated).enumerate() {
        Fixture::new(
            format!("{name} {i}"),
            "uplink_ingress",
            "up0",
            piece.bytes(),
        )
        .redirect(after.bytes())
        .any_flows()
        .run(lab);
    }
}

/// A datagram both ways, in order, opening its flow, with its own port and with another.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p25_a_large_datagram_passes_both_ways() {
    let mut lab = lab();
    let there = whole(udp(GUEST, 40000, SERVER, 80));
    let back = whole(udp(SERVER, 80, UP0, 40000));
    out_in_order(&mut lab, "out", &there, &there.clone().src(UP0));
    home_in_order(&mut lab, "back", &back, &back.clone().dst(GUEST));
    assert_eq!(lab.flows().len(), 2);
    let entry = lab.flow(&guest_to_server(UDP, 40000, 80).key());
    assert_eq!(entry.expect("the flow").packets, 6);

    // Another port is shown; the checksum in the first fragment is the whole datagram's.
    let mut flow = guest_to_server(UDP, 40000, 80).established();
    flow.shown = Some((UP0, 50000));
    flow.only(&mut lab);
    let shown = there.clone().src(UP0).sport(50000);
    out_in_order(&mut lab, "out, moved", &there, &shown);
    let back = back.dport(50000);
    let home = back.clone().dst(GUEST).dport(40000);
    home_in_order(&mut lab, "back, moved", &back, &home);

    // An echo request of a size that ping -s sends.
    lab.clear_flows();
    let there = whole(echo(GUEST, SERVER, 40000));
    out_in_order(&mut lab, "echo", &there, &there.clone().src(UP0));
    assert!(lab.flow(&guest_to_server(ICMP, 40000, 0).key()).is_some());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p25_a_large_datagram_passes_both_ways_in_ipv6() {
    let mut lab = lab();
    let mut flow = guest_to_server6(UDP, 40000, 80).established();
    flow.shown = Some((UP0_6, 50000));
    flow.only(&mut lab);
    let there = up(udp(GUEST6, 40000, SERVER6, 80)).data(data());
    let shown = there.clone().src(UP0_6).sport(50000);
    let shown = shown.ttl(63).macs(ROUTER_MAC, UP0_MAC);
    for (i, (piece, after)) in there
        .split(7, SIZE)
        .iter()
        .zip(shown.split(7, SIZE))
        .enumerate()
    {
        Fixture::new(format!("out {i}"), "port_ingress", "nat1", piece.bytes())
            .redirect(after.bytes())
            .run(&mut lab);
    }
    let back = down(udp(SERVER6, 80, UP0_6, 50000)).data(data());
    let home = back.clone().dst(GUEST6).dport(40000);
    let home = home.ttl(63).macs(GUEST_MAC, NAT_MAC);
    for (i, (piece, after)) in back
        .split(9, SIZE)
        .iter()
        .zip(home.split(9, SIZE))
        .enumerate()
    {
        Fixture::new(format!("back {i}"), "uplink_ingress", "up0", piece.bytes())
            .redirect(after.bytes())
            .run(&mut lab);
    }
    assert_eq!(lab.v6.fragments().len(), 2);
}

/// A packet that is all of its datagram may still have a fragment header (RFC 6946).
#[test]
#[ignore = "needs root: cargo xtask test"]
fn atomic_fragments_are_packets() {
    let mut lab = lab();
    guest_to_server6(UDP, 40000, 80)
        .established()
        .only(&mut lab);
    let packet = up(udp(GUEST6, 40000, SERVER6, 80)).piece(5, 0, false);
    let after = packet.clone().src(UP0_6).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("atomic", "port_ingress", "nat1", packet.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
    assert_eq!(lab.v6.fragments().len(), 0);
}

/// Where nobody holds them back, what comes before the first fragment is dropped by name from a guest.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p26_fragments_without_their_first_are_dropped_by_name() {
    let mut lab = lab();
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let pieces = whole(up(udp(GUEST, 40000, SERVER, 80))).split(SIZE);
    let shown = whole(udp(UP0, 40000, SERVER, 80)).ttl(63);
    let shown = shown.macs(ROUTER_MAC, UP0_MAC).split(SIZE);
    let last = pieces.len() - 1;
    for (program, device) in [("port_ingress", "nat1"), ("bridge_ingress", "br-nat")] {
        Fixture::new("last", program, device, pieces[last].bytes())
            .drop(Reason::FragWithoutFirst)
            .run(&mut lab);
    }
    // It is the first one that counts, not how many came before.
    for i in 0..last {
        Fixture::new("in order", "port_ingress", "nat1", pieces[i].bytes())
            .redirect(shown[i].bytes())
            .run(&mut lab);
    }
    Fixture::new("again", "port_ingress", "nat1", pieces[last].bytes())
        .redirect(shown[last].bytes())
        .run(&mut lab);
    // Another packet's.
    let mut other = pieces[last].clone();
    other.header.id += 1;
    Fixture::new("other packet", "port_ingress", "nat1", other.bytes())
        .drop(Reason::FragWithoutFirst)
        .run(&mut lab);

    guest_to_server6(UDP, 40000, 80)
        .established()
        .only(&mut lab);
    let later = up(raw(GUEST6, SERVER6, UDP)).piece(3, 100, false);
    Fixture::new("IPv6", "port_ingress", "nat1", later.bytes())
        .drop(Reason::FragWithoutFirst)
        .run(&mut lab);
}

/// From outside such a fragment may be the host's own; when the first one shows that it was a
/// guest's, it is counted.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p26_from_outside_the_host_gets_what_nobody_knows() {
    let mut lab = lab();
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let pieces = whole(down(udp(SERVER, 80, UP0, 40000))).split(SIZE);
    let home = whole(udp(SERVER, 80, GUEST, 40000)).ttl(63);
    let home = home.macs(GUEST_MAC, NAT_MAC).split(SIZE);
    Fixture::new("last", "uplink_ingress", "up0", pieces[5].bytes()).run(&mut lab);
    let before = lab.drops()[Reason::FragWithoutFirst.name()];
    let device = lab.ifindex("up0");
    let outcome = crate::fixture::run(
        &lab,
        "uplink_ingress",
        device,
        device,
        0,
        1,
        &pieces[0].bytes(),
    );
    assert_eq!(outcome.packet, home[0].bytes());
    assert_eq!(lab.drops()[Reason::FragWithoutFirst.name()], before + 1);
    Fixture::new("second", "uplink_ingress", "up0", pieces[1].bytes())
        .redirect(home[1].bytes())
        .run(&mut lab);
}

/// What comes before the first fragment is handed to the agent, where there is one.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p26_fragments_without_their_first_are_held() {
    let mut lab = lab();
    lab.hold_frames();
    let before = lab.drops();
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let later = &whole(up(udp(GUEST, 40000, SERVER, 80))).split(SIZE)[1];
    for (program, device) in [("port_ingress", "nat1"), ("bridge_ingress", "br-nat")] {
        assert_eq!(
            verdict(&lab, program, device, &later.bytes()),
            Verdict::Drop
        );
        let held = lab.held();
        assert_eq!(held, [(lab.ifindex(device), later.bytes())], "at {device}");
    }
    let later6 = up(raw(GUEST6, SERVER6, UDP)).piece(3, 100, false);
    assert_eq!(
        verdict(&lab, "port_ingress", "nat1", &later6.bytes()),
        Verdict::Drop
    );
    // Routed packets are as well: they may be a flow's.
    let routed = raw(ROUTE_GUEST, SERVER, UDP)
        .fragment(9)
        .macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    assert_eq!(
        verdict(&lab, "port_ingress", "route1", &routed.bytes()),
        Verdict::Drop
    );
    assert_eq!(
        lab.held(),
        [
            (lab.ifindex("nat1"), later6.bytes()),
            (lab.ifindex("route1"), routed.bytes())
        ]
    );
    // None of them was lost, as far as anybody knows.
    assert_eq!(lab.drops(), before);
    // What is longer than a test run would take back is not held.
    let large = up(raw(GUEST, SERVER, UDP))
        .data(vec![1; 3600])
        .fragment(200);
    Fixture::new("too large", "port_ingress", "nat1", large.bytes())
        .drop(Reason::FragWithoutFirst)
        .run(&mut lab);
    assert_eq!(lab.held(), []);
}

/// The host's stack gets what is addressed to the host at once; a copy is held while the first one may
/// still show that it is a guest's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p26_of_what_is_addressed_to_the_host_a_copy_is_held() {
    let mut lab = lab();
    lab.hold_frames();
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let pieces = whole(down(udp(SERVER, 80, UP0, 40000))).split(SIZE);
    Fixture::new("last", "uplink_ingress", "up0", pieces[5].bytes()).run(&mut lab);
    assert_eq!(lab.held(), [(lab.ifindex("up0"), pieces[5].bytes())]);
    // Its first one counts nothing as lost.
    let before = lab.drops();
    let first = verdict(&lab, "uplink_ingress", "up0", &pieces[0].bytes());
    assert_eq!((first, lab.drops()), (Verdict::Redirect, before));
    // From a guest, its bridge's hook sees to that.
    let guests = up(raw(GUEST, NAT_GW, UDP)).fragment(9);
    Fixture::new("port", "port_ingress", "nat1", guests.bytes()).run(&mut lab);
    assert_eq!(lab.held(), []);
    Fixture::new("bridge", "bridge_ingress", "br-nat", guests.bytes()).run(&mut lab);
    assert_eq!(lab.held(), [(lab.ifindex("br-nat"), guests.bytes())]);
    // What turned out to be the host's own is not looked at again.
    let own = whole(down(udp(SERVER, 80, UP0, 99)));
    let own: Vec<_> = own
        .split(SIZE)
        .into_iter()
        .map(|mut piece| {
            piece.header.id = 77;
            piece
        })
        .collect();
    for i in [0, 2, 1] {
        Fixture::new("own", "uplink_ingress", "up0", own[i].bytes()).run(&mut lab);
    }
    assert_eq!(lab.held(), []);
}

/// A first fragment is remembered for as long as the timeout says.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_first_fragment_is_forgotten() {
    let mut lab = lab();
    let timeout = DEFAULT_TIMEOUTS[Timeout::Fragment as usize];
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let pieces = whole(up(udp(GUEST, 40000, SERVER, 80))).split(SIZE);
    let shown = whole(udp(UP0, 40000, SERVER, 80)).ttl(63);
    let shown = shown.macs(ROUTER_MAC, UP0_MAC).split(SIZE);
    Fixture::new("first", "port_ingress", "nat1", pieces[0].bytes())
        .redirect(shown[0].bytes())
        .run(&mut lab);
    lab.start_of_tick();
    lab.v4.age_fragments(timeout - 1);
    Fixture::new("in time", "port_ingress", "nat1", pieces[1].bytes())
        .redirect(shown[1].bytes())
        .run(&mut lab);
    lab.v4.age_fragments(timeout + 1);
    Fixture::new("too late", "port_ingress", "nat1", pieces[2].bytes())
        .drop(Reason::FragWithoutFirst)
        .run(&mut lab);
}

/// The bytes behind the IP header of a later fragment look like the ports of a flow, or like a
/// RST: nothing is read there, nothing written.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p27_later_fragments_are_never_read_as_transport_headers() {
    let mut lab = lab();
    let decoy = |control| Body::Raw {
        protocol: TCP,
        bytes: tcp(GUEST, 40000, SERVER, 80, control).segment(),
    };
    for control in [0x02, 0x04, 0x10] {
        guest_to_server(TCP, 40000, 80).established().only(&mut lab);
        let flows = lab.flows();
        // Without a first fragment.
        let mut later = up(Packet::new(GUEST, SERVER, decoy(control))).fragment(100);
        Fixture::new("alone", "port_ingress", "nat1", later.bytes())
            .drop(Reason::FragWithoutFirst)
            .flows(flows.clone())
            .run(&mut lab);
        // As part of another flow's packet.
        let mut other = guest_to_server(TCP, 41000, 80).established();
        other.shown = Some((UP0, 51000));
        for entry in other.entries(&lab) {
            lab.set_flow(entry);
        }
        let first = up(tcp(GUEST, 41000, SERVER, 80, 0x10))
            .data(vec![5; 80])
            .fragment(MORE_FRAGMENTS);
        later.header.fragment = 100 / 8 + 1;
        for (name, packet, after) in [
            ("first", &first, first.clone().src(UP0).sport(51000)),
            ("later", &later, later.clone().src(UP0)),
        ] {
            let after = after.ttl(63).macs(ROUTER_MAC, UP0_MAC);
            Fixture::new(name, "port_ingress", "nat1", packet.bytes())
                .redirect(after.bytes())
                .run(&mut lab);
        }
        let decoyed = guest_to_server(TCP, 40000, 80);
        let entry = lab.flow(&decoyed.key()).expect("the flow");
        assert_eq!((entry.packets, entry.state), (0, 2), "not touched");
        let entry = lab.flow(&other.key()).expect("the flow");
        assert_eq!((entry.packets, entry.state), (2, 2), "not closed");
    }
}

/// SCTP's checksum covers the whole packet, of which the first fragment is only a part: with its own
/// port it passes, with another it is dropped by name. (SCTP finds the path's MTU; RFC 9260,
/// section 6.9.)
#[test]
#[ignore = "needs root: cargo xtask test"]
fn sctp_in_fragments_keeps_its_checksum() {
    let mut lab = lab();
    let there = whole(sctp(GUEST, 40000, SERVER, 80, 0));
    out_in_order(&mut lab, "own port", &there, &there.clone().src(UP0));
    let mut flow = guest_to_server(SCTP, 40000, 80).established();
    flow.shown = Some((UP0, 50000));
    flow.only(&mut lab);
    let first = &up(there).split(SIZE)[0];
    Fixture::new("another port", "port_ingress", "nat1", first.bytes())
        .drop(Reason::Rewrite)
        .run(&mut lab);
}

/// A first fragment too short for its transport header is nobody's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_first_fragment_without_a_transport_header_does_not_leave() {
    let mut lab = lab();
    let cut = |len: usize| {
        let mut bytes = tcp(GUEST, 40000, SERVER, 80, 2).segment();
        bytes.truncate(len);
        let body = Body::Raw {
            protocol: TCP,
            bytes,
        };
        up(Packet::new(GUEST, SERVER, body)).fragment(MORE_FRAGMENTS)
    };
    for len in [0, 8, 16] {
        Fixture::new(
            format!("{len} bytes"),
            "port_ingress",
            "nat1",
            cut(len).bytes(),
        )
        .drop(Reason::Malformed)
        .flows([])
        .run(&mut lab);
    }
}

/// Routed, fragments need no flow and no order.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn routed_fragments_pass_in_any_order() {
    let mut lab = lab();
    let later = raw(ROUTE_GUEST, SERVER, UDP)
        .fragment(9)
        .macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new("later", "port_ingress", "route1", later.bytes())
        .flows([])
        .run(&mut lab);
    let later: Packet6 = raw(ROUTE_GUEST6, SERVER6, UDP)
        .piece(1, 9, false)
        .macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new("later, IPv6", "port_ingress", "route1", later.bytes())
        .flows6([])
        .run(&mut lab);
}

/// What the stack routes (a path that it knows alone) is translated where it leaves, in order.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn fragments_are_translated_at_egress() {
    let mut lab = lab();
    let mut flow = guest_to_server(UDP, 40000, 80).established();
    flow.shown = Some((UP0, 50000));
    flow.only(&mut lab);
    let leaving = |packet: Packet| whole(packet).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    let pieces = leaving(udp(GUEST, 40000, SERVER, 80)).split(SIZE);
    let shown = leaving(udp(UP0, 50000, SERVER, 80)).split(SIZE);
    Fixture::new("last", "uplink_egress", "up0", pieces[5].bytes())
        .came_from("br-nat")
        .drop(Reason::FragWithoutFirst)
        .run(&mut lab);
    for (i, (piece, after)) in pieces.iter().zip(&shown).enumerate() {
        Fixture::new(format!("{i}"), "uplink_egress", "up0", piece.bytes())
            .came_from("br-nat")
            .pass_as(after.bytes())
            .run(&mut lab);
    }
}

/// What was held is given back by the port that it came in by, and its guest may be elsewhere by then, or
/// another one.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p64_a_later_fragment_moves_nobody() {
    let mut lab = lab();
    let whole = whole(udp(GUEST, 40000, SERVER, 80));
    let pieces = up(whole.clone()).split(SIZE);
    let shown = whole.src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC).split(SIZE);
    let piece = |at: usize| {
        Fixture::new(format!("{at}"), "port_ingress", "nat1", pieces[at].bytes())
            .redirect(shown[at].bytes())
            .any_flows()
    };
    piece(0).run(&mut lab);
    lab.change_control(|control| control.epoch += 1);
    let moved = udp(GUEST, 40000, SERVER, 80).macs(NAT_MAC, GUEST2_MAC);
    let out = moved.clone().src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("from elsewhere", "port_ingress", "nat2", moved.bytes())
        .redirect(out.bytes())
        .any_flows()
        .run(&mut lab);
    lab.change_control(|control| control.epoch += 1);
    piece(1).run(&mut lab);
    let endpoint = lab.endpoint(GUEST).expect("an endpoint");
    let at = (endpoint.ifindex, endpoint.mac);
    assert_eq!(at, (lab.ifindex("nat2"), GUEST2_MAC));
    let back = down(udp(SERVER, 80, UP0, 40000));
    let home = back.clone().dst(GUEST).ttl(63).macs(GUEST2_MAC, NAT_MAC);
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .redirect(home.bytes())
        .any_flows()
        .run(&mut lab);
}
