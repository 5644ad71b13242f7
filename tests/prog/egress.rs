//! The last place where a packet that the stack routed can be translated, and what must not be
//! touched there.

use netd_common::Reason;

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::{FromGuest, guest_to_server, guest_to_server6};
use crate::lab::lab;
use crate::names::*;
use crate::packet::{
    ACK, Packet, RST, SYN, TCP, UDP, echo, fragmentation_needed, raw, tcp, time_exceeded, udp,
};

/// As the stack sends it: the TTL is lower already, the MAC addresses are right.
fn leaving(packet: Packet) -> Packet {
    packet.ttl(63).macs(ROUTER_MAC, UP0_MAC)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_stack_forwards_is_translated_by_its_flow() {
    let mut lab = lab();
    let mut flow = guest_to_server(TCP, 40000, 80).established();
    flow.shown = Some((UP0, 50000));
    let flows = flow.entries(&lab);
    lab.set_flows(&flows);
    for packet in [
        tcp(GUEST, 40000, SERVER, 80, ACK),
        tcp(GUEST, 40000, SERVER, 80, ACK).with_options(),
    ] {
        let packet = leaving(packet);
        let after = packet.clone().src(UP0).sport(50000);
        Fixture::new("forwarded", "uplink_egress", "up0", packet.bytes())
            .came_from("br-nat")
            .pass_as(after.bytes())
            .flows(flows.clone())
            .run(&mut lab);
    }
}

/// The host itself sends with its bridge's address, or a packet got past the port's program: a
/// flow is opened whose answers go up the stack.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_private_source_without_flow_gets_one() {
    let mut lab = lab();
    let packet = leaving(udp(NAT_GW, 40000, SERVER, 80));
    let after = packet.clone().src(UP0);
    Fixture::new(
        "the bridge's own address",
        "uplink_egress",
        "up0",
        packet.bytes(),
    )
    .pass_as(after.bytes())
    .any_flows()
    .run(&mut lab);
    let flow = FromGuest {
        guest: (NAT_GW, 40000),
        ..guest_to_server(UDP, 40000, 80)
    };
    let stored = lab.flow(&flow.key()).expect("a flow");
    assert_eq!(stored.new_src, UP0);
    let back = udp(SERVER, 80, UP0, 40000).macs(UP0_MAC, ROUTER_MAC);
    let after = back.clone().dst(NAT_GW);
    Fixture::new("its answer", "uplink_ingress", "up0", back.bytes())
        .pass_as(after.bytes())
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_cannot_be_translated_does_not_leave() {
    let mut lab = lab();
    for (name, packet, reason) in [
        (
            "later fragment",
            raw(GUEST, SERVER, UDP).fragment(9),
            Reason::FragWithoutFirst,
        ),
        ("RST", tcp(GUEST, 1, SERVER, 2, RST), Reason::NoFlow),
        (
            "SYN-ACK",
            tcp(GUEST, 1, SERVER, 2, SYN | ACK),
            Reason::NoFlow,
        ),
        (
            "ICMP error",
            time_exceeded(GUEST, SERVER, udp(SERVER, 1, GUEST, 2).quote(8)),
            Reason::IcmpUnknown,
        ),
    ] {
        Fixture::new(name, "uplink_egress", "up0", leaving(packet).bytes())
            .came_from("br-nat")
            .drop(reason)
            .flows([])
            .run(&mut lab);
    }
    let mut cut = leaving(udp(GUEST, 1, SERVER, 2)).bytes();
    cut.truncate(14 + 20 + 4);
    Fixture::new("cut short", "uplink_egress", "up0", cut)
        .came_from("br-nat")
        .drop(Reason::Malformed)
        .run(&mut lab);
    // A network bound to up0 that the host's routing sends by up1.
    let packet = udp(DEV_GUEST, 1, PEER1, 2).macs(PEER1_MAC, UP1_MAC);
    Fixture::new("wrong uplink", "uplink_egress", "up1", packet.bytes())
        .came_from("br-dev")
        .drop(Reason::WrongUplink)
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_hosts_own_traffic_is_not_touched() {
    let mut lab = lab();
    for (name, packet) in [
        ("TCP", tcp(UP0, 40000, SERVER, 80, SYN)),
        ("UDP", udp(UP0, 40000, SERVER, 80)),
        ("fragment", raw(UP0, SERVER, UDP).fragment(9)),
        (
            "its error about a host's packet",
            time_exceeded(UP0, SERVER, udp(SERVER, 1, PEER1, 2).quote(8)),
        ),
        ("forwarded for others", udp(PEER1, 1, SERVER, 2)),
        ("a routed guest's", udp(ROUTE_GUEST, 1, SERVER, 2)),
        ("an open guest's", udp(OPEN_GUEST, 1, SERVER, 2)),
    ] {
        Fixture::new(name, "uplink_egress", "up0", leaving(packet).bytes())
            .flows([])
            .run(&mut lab);
    }
    // What no socket tells of is noted, so that no guest gets its answers.
    for (name, packet) in [
        ("echo", echo(UP0, SERVER, 9)),
        ("GRE", raw(UP0, SERVER, 47)),
    ] {
        Fixture::new(name, "uplink_egress", "up0", leaving(packet).bytes())
            .any_flows()
            .run(&mut lab);
    }
    assert_eq!(lab.flows().len(), 4);
    // To its own guests.
    let packet = udp(NAT_GW, 53, GUEST, 40000).macs(GUEST_MAC, NAT_MAC);
    Fixture::new(
        "gateway to guest",
        "bridge_egress",
        "br-nat",
        packet.bytes(),
    )
    .run(&mut lab);
}

/// A guest of another network asks for something published, by a port that has no program (yet): the
/// bridge's hook has judged it, translated it and sent it here.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_another_networks_bridge_has_sent_is_not_judged_again() {
    let mut lab = lab();
    let packet = tcp([10, 30, 0, 9], 4000, GUEST, 80, SYN).macs(GUEST_MAC, NAT_MAC);
    Fixture::new("from br-open", "bridge_egress", "br-nat", packet.bytes())
        .came_from("br-open")
        .run(&mut lab);
    // From a device without a program nobody has judged anything.
    Fixture::new("from nowhere", "bridge_egress", "br-nat", packet.bytes())
        .came_from("lo")
        .drop(Reason::IntoNat)
        .run(&mut lab);
}

/// The host, or another program's masquerade, takes a port that a guest's flow has: it gets
/// another one, and its answers come back to it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p07_a_port_that_a_guest_has_is_not_the_hosts_as_well() {
    let mut lab = lab();
    for came_from in [None, Some("up1")] {
        lab.clear_flows();
        guest_to_server(UDP, 40000, 80).established().only(&mut lab);
        let packet = leaving(udp(UP0, 40000, SERVER, 80));
        let (up0, from) = (
            lab.ifindex("up0"),
            came_from.map_or(0, |device| lab.ifindex(device)),
        );
        let outcome = run(&lab, "uplink_egress", up0, from, 0, 1, &packet.bytes());
        assert_eq!(outcome.verdict, Verdict::Pass);
        let flow = FromGuest {
            guest: (UP0, 40000),
            ..guest_to_server(UDP, 40000, 80)
        };
        let moved = lab.flow(&flow.key()).expect("a flow").new_sport;
        let moved = u16::from_be_bytes(moved);
        assert_ne!(moved, 40000);
        assert_eq!(outcome.packet, packet.sport(moved).bytes());
        let back = udp(SERVER, 80, UP0, moved).macs(UP0_MAC, ROUTER_MAC);
        Fixture::new("its answer", "uplink_ingress", "up0", back.bytes())
            .pass_as(back.dport(40000).bytes())
            .run(&mut lab);
        // The guest's own.
        let back = udp(SERVER, 80, UP0, 40000).macs(UP0_MAC, ROUTER_MAC);
        let home = back.clone().dst(GUEST).ttl(63).macs(GUEST_MAC, NAT_MAC);
        Fixture::new("the guest's answer", "uplink_ingress", "up0", back.bytes())
            .redirect(home.bytes())
            .run(&mut lab);
    }
}

/// A network that netd has let go of: the kernel goes on with the connections of its guests, by the ports
/// that they had.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_of_a_network_that_is_gone_has_no_port_any_more() {
    let mut lab = lab();
    let mut flows = guest_to_server(TCP, 40000, 80).established().entries(&lab);
    // What a bridge that is gone had for a number.
    flows[0].1.counted_for = 0x7fff_ffff;
    lab.set_flows(&flows);
    let packet = leaving(tcp(UP0, 40000, SERVER, 80, ACK));
    Fixture::new("masqueraded", "uplink_egress", "up0", packet.bytes())
        .came_from("up1")
        .any_flows()
        .run(&mut lab);
    assert!(lab.flows().is_empty(), "the flow is left");
}

/// A packet that a port's program sent is finished, whatever its addresses.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn redirected_packets_are_not_touched() {
    let mut lab = lab();
    guest_to_server(UDP, 40000, 80).only(&mut lab);
    let packet = leaving(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("from a port", "uplink_egress", "up0", packet.bytes())
        .came_from("nat1")
        .run(&mut lab);
    let packet = leaving(udp(UP0, 40000, SERVER, 80));
    for from in ["nat1", "br-nat"] {
        Fixture::new("translated", "uplink_egress", "up0", packet.bytes())
            .came_from(from)
            .run(&mut lab);
    }
    lab.clear_flows();
    guest_to_server6(UDP, 40000, 80).only(&mut lab);
    let packet = udp(UP0_6, 40000, SERVER6, 80)
        .ttl(63)
        .macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("translated, IPv6", "uplink_egress", "up0", packet.bytes())
        .came_from("br-nat")
        .run(&mut lab);
}

/// The host's stack answers a server's packet that it could not forward to the guest: outside,
/// only the shown address is known.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_hosts_own_errors_do_not_show_the_guests_address() {
    let mut lab = lab();
    let mut flow = guest_to_server(UDP, 40000, 80).established();
    flow.shown = Some((UP0, 50000));
    flow.only(&mut lab);
    let inner = udp(SERVER, 80, GUEST, 40000);
    for bytes in [8, 1000] {
        let error = leaving(fragmentation_needed(UP0, SERVER, 1400, inner.quote(bytes)));
        let shown = inner.clone().dst(UP0).dport(50000);
        let after = leaving(fragmentation_needed(UP0, SERVER, 1400, shown.quote(bytes)));
        Fixture::new("to the server", "uplink_egress", "up0", error.bytes())
            .pass_as(after.bytes())
            .run(&mut lab);
    }
    // To the guest itself, about its own packet: as it sent it.
    let inner = udp(GUEST, 40000, SERVER, 80);
    let error = fragmentation_needed(NAT_GW, GUEST, 1400, inner.quote(8)).macs(GUEST_MAC, NAT_MAC);
    Fixture::new("to the guest", "bridge_egress", "br-nat", error.bytes()).run(&mut lab);
}

/// A frame of a device without Ethernet header. A test run always takes the bytes 12 and 13 of
/// its input for the type of a frame, which here are the first of the source address: 8.0 is the
/// number of IPv4.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn tunnels_are_translated_without_a_frame() {
    let mut lab = lab();
    let bridge = lab.ifindex("br-nat");
    let guest = [8, 0, 0, 11];
    lab.add_subnet(guest, 24, bridge);
    let packet = udp(guest, 40000, SERVER, 80).ttl(63);
    let after = packet.clone().src(PLAIN0);
    let flow = FromGuest {
        guest: (guest, 40000),
        shown: Some((PLAIN0, 40000)),
        ..guest_to_server(UDP, 40000, 80)
    };
    Fixture::new("without flow", "tunnel_egress", "plain0", packet.ip())
        .came_from("br-nat")
        .pass_as(after.ip())
        .any_flows()
        .run(&mut lab);
    let stored = lab.flow(&flow.key()).expect("a flow");
    assert_eq!(stored.new_src, PLAIN0);
    Fixture::new("with flow", "tunnel_egress", "plain0", packet.ip())
        .came_from("br-nat")
        .pass_as(after.ip())
        .run(&mut lab);
    let packet = raw(guest, SERVER, 47).ttl(63);
    Fixture::new("GRE", "tunnel_egress", "plain0", packet.ip())
        .came_from("br-nat")
        .pass_as(packet.clone().src(PLAIN0).ip())
        .any_flows()
        .run(&mut lab);
    // The host's own.
    let packet = udp([8, 0, 9, 9], 1, SERVER, 2);
    Fixture::new("own", "tunnel_egress", "plain0", packet.ip()).run(&mut lab);
}

/// IPv6's number is 86dd, which here stands in the source address.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn tunnels_are_translated_in_ipv6() {
    let mut lab = lab();
    let bridge = lab.ifindex("br-nat");
    let mut guest = GUEST6;
    (guest[4], guest[5]) = (0x86, 0xdd);
    lab.add_subnet(guest, 64, bridge);
    lab.set_device("plain0", PLAIN0, UP1_6, 0);
    for (name, packet) in [
        ("UDP", udp(guest, 40000, SERVER6, 80)),
        ("echo", echo(guest, SERVER6, 40000)),
    ] {
        let packet = packet.ttl(63);
        Fixture::new(name, "tunnel_egress", "plain0", packet.ip())
            .came_from("br-nat")
            .pass_as(packet.clone().src(UP1_6).ip())
            .any_flows()
            .run(&mut lab);
    }
    assert_eq!(lab.v6.flows().len(), 4);
}

/// The same trick for what comes in. The kernel takes the first six bytes for the frame's
/// destination: with options they make a MAC address that a device can have.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn tunnels_are_translated_back() {
    let mut lab = lab();
    let server = [8, 0, 7, 7];
    let flow = FromGuest {
        peer: (server, 80),
        shown: Some((PLAIN0, 50000)),
        ..guest_to_server(UDP, 40000, 80)
    }
    .established();
    flow.only(&mut lab);
    let packet = udp(server, 80, PLAIN0, 50000).with_options();
    let bytes = packet.ip();
    let mac: Vec<String> = bytes[..6].iter().map(|b| format!("{b:02x}")).collect();
    crate::lab::ip(&format!("link set plain0 address {}\n", mac.join(":")));
    let after = packet.dst(GUEST).dport(40000);
    Fixture::new("answer", "tunnel_ingress", "plain0", bytes)
        .pass_as(after.ip())
        .run(&mut lab);
    // Into a NAT network: dropped, without a frame there is no answer.
    let packet = udp(server, 80, GUEST, 9).with_options();
    let bytes = packet.ip();
    Fixture::new("into nat", "tunnel_ingress", "plain0", bytes)
        .drop(Reason::IntoNat)
        .run(&mut lab);
    crate::lab::ip("link set plain0 address 52:54:00:00:00:82\n");
}

/// What a NAT guest sends to a routed network by the stack, as packets with options go, is translated at
/// that network's bridge: nobody there may see the guest's own address.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_stack_sends_to_a_routed_network_is_translated() {
    let lab = lab();
    let packet = udp(GUEST, 4000, ROUTE_GUEST, 80).ttl(63);
    let outcome = run(
        &lab,
        "bridge_egress",
        lab.ifindex("br-route"),
        lab.ifindex("br-nat"),
        0,
        1,
        &packet.bytes(),
    );
    assert_eq!(outcome.verdict, Verdict::Pass);
    assert_ne!(outcome.packet[26..30], GUEST, "the source stands as it was");
}
