//! What does not go straight from one device to the other: what the host's stack does better is left to
//! it, translated where it must be; what cannot go on is told of.

use netd_common::Reason;
use netd_common::abi::{DEVICE_ETHERNET, DEVICE_FILTERED};

use crate::fixture::Fixture;
use crate::flows::{BY_ROUTER, End, guest_to_server};
use crate::lab::lab;
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, SYN, TCP, UDP, answer, fragmentation_needed, hops_used_up, tcp, udp};

/// A packet from outside as the stack gets it: addressed to the guest, one hop not yet taken.
fn translated_only(packet: crate::packet::Packet, port: u16) -> Vec<u8> {
    packet.dst(GUEST).dport(port).bytes()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p34_the_last_hop_is_told_of() {
    let mut lab = lab();
    for ttl in [0, 1] {
        let packet = up(udp(GUEST, 40000, SERVER, 80)).ttl(ttl);
        let told = hops_used_up(NAT_GW, &packet).bytes();
        for name in ["first", "next"] {
            Fixture::new(
                format!("{name}, ttl {ttl}"),
                "port_ingress",
                "nat1",
                packet.bytes(),
            )
            .reject(Reason::HopLimit, told.clone())
            .any_flows()
            .run(&mut lab);
        }
        let back = down(udp(SERVER, 80, UP0, 40000)).ttl(ttl);
        Fixture::new(
            format!("back, ttl {ttl}"),
            "uplink_ingress",
            "up0",
            back.bytes(),
        )
        .reject(Reason::HopLimit, hops_used_up(UP0, &back).bytes())
        .run(&mut lab);
    }
}

/// Where somebody has filters at an uplink, they see each packet behind the program, and the stack has it
/// then.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_comes_by_an_uplink_with_filters_is_the_stacks() {
    let mut lab = lab();
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    lab.set_device("up0", UP0, UP0_6, DEVICE_ETHERNET | DEVICE_FILTERED);
    lab.change_control(|control| control.epoch += 1);
    let back = down(udp(SERVER, 80, UP0, 40000));
    let comes = |name: &str| {
        Fixture::new(name, "uplink_ingress", "up0", back.bytes())
            .pass_as(translated_only(back.clone(), 40000))
            .any_flows()
    };
    comes("first").run(&mut lab);
    // The first has not come out again.
    comes("second").counts(Reason::LostInStack).run(&mut lab);
    let home = back.clone().dst(GUEST).dport(40000).ttl(63);
    let home = home.macs(GUEST_MAC, NAT_MAC).bytes();
    Fixture::new("out of the stack", "bridge_egress", "br-nat", home)
        .came_from("up0")
        .any_flows()
        .run(&mut lab);
    comes("third").run(&mut lab);
    // What leaves does not come by it.
    let there = up(udp(GUEST, 40000, SERVER, 80));
    let shown = there.clone().src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("out", "port_ingress", "nat1", there.bytes())
        .redirect(shown.bytes())
        .any_flows()
        .run(&mut lab);
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
fn p33_packets_larger_than_the_path_are_told_of_or_the_stacks_to_cut() {
    let mut lab = lab();
    // The path to this host is 600 bytes wide: 20 + 8 + data.
    let of = |data: usize| up(udp(GUEST, 40000, NARROW, 80).fragment(0)).data(vec![7; data]);
    let whole = up(udp(GUEST, 40001, NARROW, 80)).data(vec![7; 573]);
    let told = fragmentation_needed(NAT_GW, GUEST, 600, whole.quote(8));
    Fixture::new("601 bytes, DF", "port_ingress", "nat1", whole.bytes())
        .reject(Reason::TooLarge, answer(told, &whole).bytes())
        .any_flows()
        .run(&mut lab);
    lab.clear_flows();
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
    let large = of(1473);
    let told = fragmentation_needed(UP0, SERVER, 1500, large.quote(8));
    Fixture::new("1501 bytes", "uplink_ingress", "up0", large.bytes())
        .reject(Reason::TooLarge, answer(told, &large).bytes())
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
    let told = fragmentation_needed(NAT_GW, GUEST, 1500, packet.quote(8));
    Fixture::new("two of 1461", "port_ingress", "nat1", packet.bytes())
        .gso(1461)
        .reject(Reason::TooLarge, answer(told, &packet).bytes())
        .run(&mut lab);
}

/// Nobody knows the next hop's MAC address: the kernel's neighbour code asks with the packet in hand, and
/// netd looks again each time.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p54_unknown_neighbours_are_asked_for() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, SILENT, 80));
    let mut flow = guest_to_server(UDP, 40000, 80);
    flow.peer.0 = SILENT;
    let asked = packet.clone().src(UP0).ttl(63);
    Fixture::new(
        "nobody answered yet",
        "port_ingress",
        "nat1",
        packet.bytes(),
    )
    .redirect(asked.macs([0; 6], [0; 6]).bytes())
    .any_flows()
    .run(&mut lab);
    let stored = lab.flow(&flow.key()).expect("the flow");
    assert_ne!(stored.epoch, lab.epoch(), "it must be looked at again");
    assert_eq!(stored.next_hop.mtu, 1500, "the device's");

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

/// No header is looked for where frames have none: the kernel takes off what is there.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p54_a_device_without_ethernet_is_sent_to() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, PLAIN_PEER, 80));
    crate::lab::ip("neigh replace 100.64.0.9 lladdr 02:00:00:00:09:0a dev plain0 nud permanent\n");
    let after = packet.clone().src(PLAIN0).ttl(63);
    Fixture::new("to a tunnel", "port_ingress", "nat1", packet.bytes())
        .redirect(after.macs([2, 0, 0, 0, 0, 0], PLAIN0_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    let mut flow = guest_to_server(UDP, 40000, 80);
    flow.peer.0 = PLAIN_PEER;
    let stored = lab.flow(&flow.key()).expect("a flow");
    assert_eq!(stored.new_src, PLAIN0);
    assert_eq!(stored.next_hop.ifindex, lab.ifindex("plain0"));
}
