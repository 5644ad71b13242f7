//! What the host's stack does better: the packet is left to it, translated where it must be.

use crate::fixture::Fixture;
use crate::flows::{BY_ROUTER, End, guest_to_server};
use crate::lab::lab;
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, SYN, TCP, UDP, tcp, udp};

/// A packet from outside as the stack gets it: addressed to the guest, one hop not yet taken.
fn translated_only(packet: crate::packet::Packet, port: u16) -> Vec<u8> {
    packet.dst(GUEST).dport(port).bytes()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p34_the_last_hop_is_the_stacks() {
    let mut lab = lab();
    for ttl in [0, 1] {
        let packet = up(udp(GUEST, 40000, SERVER, 80)).ttl(ttl);
        let flows = guest_to_server(UDP, 40000, 80).after_first(&lab, packet.bytes().len());
        lab.clear_flows();
        Fixture::new(
            format!("first, ttl {ttl}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .flows(flows)
        .run(&mut lab);
        Fixture::new(
            format!("next, ttl {ttl}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .run(&mut lab);
        // The bridge hands it up: the program there leaves it alone too.
        Fixture::new(
            format!("at the bridge, ttl {ttl}"),
            "bridge_ingress",
            "br-nat",
            packet.bytes(),
        )
        .run(&mut lab);
        let back = down(udp(SERVER, 80, UP0, 40000)).ttl(ttl);
        Fixture::new(
            format!("back, ttl {ttl}"),
            "uplink_ingress",
            "up0",
            back.bytes(),
        )
        .pass_as(translated_only(back, 40000))
        .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ip_options_are_the_stacks() {
    let mut lab = lab();
    let packet = up(tcp(GUEST, 40000, SERVER, 80, SYN)).with_options();
    let flows = guest_to_server(TCP, 40000, 80).after_first(&lab, packet.bytes().len());
    Fixture::new("out", "port_ingress", "nat1", packet.bytes())
        .flows(flows)
        .run(&mut lab);
    let back = down(tcp(SERVER, 80, UP0, 40000, SYN | ACK)).with_options();
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .pass_as(translated_only(back, 40000))
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p33_packets_larger_than_the_path_are_the_stacks() {
    let mut lab = lab();
    // The path to this host is 600 bytes wide: 20 + 8 + data.
    let of = |data: usize| up(udp(GUEST, 40000, NARROW, 80)).data(vec![7; data]);
    let mut flow = guest_to_server(UDP, 40000, 80);
    flow.peer.0 = NARROW;
    flow.far = End {
        mtu: 600,
        ..BY_ROUTER
    };
    let flows = flow.after_first(&lab, of(573).bytes().len());
    Fixture::new("601 bytes", "port_ingress", "nat1", of(573).bytes())
        .flows(flows)
        .run(&mut lab);
    Fixture::new("600 bytes", "port_ingress", "nat1", of(572).bytes())
        .redirect(out(of(572), 40000))
        .run(&mut lab);

    // To the guest: the bridge's MTU.
    let flow = guest_to_server(UDP, 40000, 81).established();
    flow.only(&mut lab);
    let of = |data: usize| down(udp(SERVER, 81, UP0, 40000)).data(vec![7; data]);
    Fixture::new("1501 bytes", "uplink_ingress", "up0", of(1473).bytes())
        .pass_as(translated_only(of(1473), 40000))
        .run(&mut lab);
    Fixture::new("1500 bytes", "uplink_ingress", "up0", of(1472).bytes())
        .redirect(home(of(1472), 40000))
        .run(&mut lab);
}

/// A segment train counts by its segments.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn gso_packets_are_as_large_as_their_segments() {
    let mut lab = lab();
    let flow = guest_to_server(TCP, 40000, 80).established();
    flow.only(&mut lab);
    let packet = up(tcp(GUEST, 40000, SERVER, 80, ACK)).data(vec![7; 2920]);
    Fixture::new("two of 1460", "port_ingress", "nat1", packet.bytes())
        .gso(1460)
        .redirect(out(packet.clone(), 40000))
        .run(&mut lab);
    Fixture::new("two of 1461", "port_ingress", "nat1", packet.bytes())
        .gso(1461)
        .run(&mut lab);
}

/// Nobody knows the next hop's MAC address: the stack asks, and netd looks again each time.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p54_unknown_neighbours_are_the_stacks_to_find() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, SILENT, 80));
    let mut flow = guest_to_server(UDP, 40000, 80);
    flow.peer.0 = SILENT;
    flow.far = End {
        device: "",
        macs: ([0; 6], [0; 6]),
        bridge: "",
        mtu: 0,
    };
    let flows = flow.after_first(&lab, packet.bytes().len());
    Fixture::new(
        "nobody answered yet",
        "port_ingress",
        "nat1",
        packet.bytes(),
    )
    .flows(flows)
    .run(&mut lab);
    let stored = lab.flow(&flow.key()).expect("the flow");
    assert_ne!(stored.epoch, lab.epoch(), "it must be looked at again");

    crate::lab::ip("neigh replace 198.51.100.99 lladdr 02:00:00:00:09:09 dev up0 nud permanent\n");
    let after = packet
        .clone()
        .src(UP0)
        .ttl(63)
        .macs([2, 0, 0, 0, 9, 9], UP0_MAC);
    Fixture::new("now it did", "port_ingress", "nat1", packet.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
    crate::lab::ip("neigh del 198.51.100.99 dev up0\n");
}

/// The way back to a guest that nobody has seen since the stack last spoke to it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_device_without_ethernet_is_the_stacks() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, PLAIN_PEER, 80));
    crate::lab::ip("neigh replace 100.64.0.9 lladdr 02:00:00:00:09:0a dev plain0 nud permanent\n");
    Fixture::new("to a tunnel", "port_ingress", "nat1", packet.bytes())
        .any_flows()
        .run(&mut lab);
    let mut flow = guest_to_server(UDP, 40000, 80);
    flow.peer.0 = PLAIN_PEER;
    let stored = lab.flow(&flow.key()).expect("a flow");
    assert_eq!((stored.new_src, stored.next_hop.ifindex), (PLAIN0, 0));
}
