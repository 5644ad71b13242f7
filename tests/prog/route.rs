//! Routed networks: addresses stay, both sides may begin.

use netd_common::abi::{Addr4, FLOW_REPLY};
use netd_common::state::State;

use crate::family::Address;
use crate::fixture::Fixture;
use crate::flows::{AT_ROUTE1, BY_ROUTER, FromGuest};
use crate::lab::lab;
use crate::names::*;
use crate::nat::down;
use crate::packet::{
    ACK, FIN, MORE_FRAGMENTS, Packet, RST, SYN, TCP, UDP, Version, echo, echo_reply, raw, tcp, udp,
};

pub fn routed<A: Address>(proto: u8) -> FromGuest<A> {
    FromGuest {
        proto,
        guest: (A::ROUTE_GUEST, 40000),
        peer: (A::SERVER, 80),
        shown: None,
        near: AT_ROUTE1,
        far: BY_ROUTER,
        state: State::New,
    }
}

pub fn up<A: Version>(packet: Packet<A>) -> Packet<A> {
    packet.macs(ROUTE_MAC, ROUTE_GUEST_MAC)
}

pub fn out<A: Version>(packet: Packet<A>) -> Vec<u8> {
    let ttl = packet.ttl - 1;
    packet.ttl(ttl).macs(ROUTER_MAC, UP0_MAC).bytes()
}

pub fn home<A: Version>(packet: Packet<A>) -> Vec<u8> {
    let ttl = packet.ttl - 1;
    packet.ttl(ttl).macs(ROUTE_GUEST_MAC, ROUTE_MAC).bytes()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_guest_begins() {
    let mut lab = lab();
    let packet = up(tcp(ROUTE_GUEST, 40000, SERVER, 80, SYN));
    let flows = routed::<Addr4>(TCP).after_first(&lab, packet.bytes().len());
    Fixture::new("SYN", "port_ingress", "route1", packet.bytes())
        .redirect(out(packet))
        .flows(flows)
        .run(&mut lab);
    let back = down(tcp(SERVER, 80, ROUTE_GUEST, 40000, SYN | ACK));
    Fixture::new("SYN-ACK", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back))
        .run(&mut lab);
}

/// Other protocols, and packets in fragments.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn everything_else_is_routed_too() {
    let mut lab = lab();
    lab.set_endpoint(ROUTE_GUEST, "route1", ROUTE_GUEST_MAC);
    for (name, there, back) in [
        (
            "GRE",
            raw(ROUTE_GUEST, SERVER, 47),
            raw(SERVER, ROUTE_GUEST, 47),
        ),
        (
            "first fragment",
            udp(ROUTE_GUEST, 1, SERVER, 2).fragment(MORE_FRAGMENTS),
            udp(SERVER, 2, ROUTE_GUEST, 1).fragment(MORE_FRAGMENTS),
        ),
        (
            "later fragment",
            raw(ROUTE_GUEST, SERVER, UDP).fragment(9),
            raw(SERVER, ROUTE_GUEST, UDP).fragment(9),
        ),
    ] {
        let there = up(there);
        Fixture::new(name, "port_ingress", "route1", there.bytes())
            .redirect(out(there))
            .any_flows()
            .run(&mut lab);
        let back = down(back);
        Fixture::new(name, "uplink_ingress", "up0", back.bytes())
            .redirect(home(back))
            .any_flows()
            .run(&mut lab);
    }
}

/// What opens no flow is the stack's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_opens_no_flow_is_the_stacks() {
    let mut lab = lab();
    for (name, packet) in [
        ("later fragment", raw(ROUTE_GUEST, SERVER, UDP).fragment(9)),
        ("RST", tcp(ROUTE_GUEST, 1, SERVER, 2, RST)),
        ("FIN", tcp(ROUTE_GUEST, 1, SERVER, 2, FIN | ACK)),
        ("SYN-ACK", tcp(ROUTE_GUEST, 1, SERVER, 2, SYN | ACK)),
        ("echo reply", echo_reply(ROUTE_GUEST, SERVER, 3)),
    ] {
        Fixture::new(name, "port_ingress", "route1", up(packet).bytes())
            .flows([])
            .run(&mut lab);
    }
    for (name, packet) in [
        ("later fragment", raw(SERVER, ROUTE_GUEST, UDP).fragment(9)),
        ("RST", tcp(SERVER, 1, ROUTE_GUEST, 2, RST)),
    ] {
        Fixture::new(name, "uplink_ingress", "up0", down(packet).bytes())
            .flows([])
            .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_begins_towards_a_guest_whose_port_is_known() {
    let mut lab = lab();
    lab.set_endpoint(ROUTE_GUEST, "route1", ROUTE_GUEST_MAC);
    for packet in [
        tcp(SERVER, 999, ROUTE_GUEST, 22, SYN),
        udp(SERVER, 999, ROUTE_GUEST, 22),
        echo(SERVER, ROUTE_GUEST, 22),
    ] {
        let packet = down(packet);
        Fixture::new("first", "uplink_ingress", "up0", packet.bytes())
            .redirect(home(packet))
            .any_flows()
            .run(&mut lab);
    }
    assert_eq!(lab.flows().len(), 6);
    for (key, flow) in lab.flows() {
        let partner = lab.flow(&flow.partner(key.proto)).expect("a partner");
        assert_eq!(partner.flags ^ flow.flags, FLOW_REPLY, "{key:?}");
        let from_guest = key.src == ROUTE_GUEST;
        let bridge = lab.ifindex("br-route");
        assert_eq!(flow.in_bridge, if from_guest { bridge } else { 0 });
        assert_eq!(flow.out_bridge, if from_guest { 0 } else { bridge });
    }
    // The guest answers by its port.
    let back = up(tcp(ROUTE_GUEST, 22, SERVER, 999, SYN | ACK));
    Fixture::new("answer", "port_ingress", "route1", back.bytes())
        .redirect(out(back.clone()))
        .run(&mut lab);
    let key = FromGuest {
        guest: (ROUTE_GUEST, 22),
        peer: (SERVER, 999),
        ..routed(TCP)
    }
    .key();
    let flow = lab.flow(&key).expect("the answering entry");
    assert_eq!(flow.in_ifindex, lab.ifindex("route1"), "learned");
    assert_eq!(flow.in_dmac, ROUTE_MAC);
    assert_eq!(State::from_u8(flow.state), State::Answered);
}

/// As the neighbour code gets it.
fn asked_for(packet: Packet) -> Vec<u8> {
    let ttl = packet.ttl - 1;
    packet.ttl(ttl).macs([0; 6], ROUTE_MAC).bytes()
}

/// Nobody has seen the guest: the kernel's neighbour code asks for it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_begins_towards_a_guest_that_nobody_knows() {
    let mut lab = lab();
    let packet = down(udp(SERVER, 999, ROUTE_GUEST, 22));
    Fixture::new("unknown", "uplink_ingress", "up0", packet.bytes())
        .redirect(asked_for(packet.clone()))
        .any_flows()
        .run(&mut lab);
    assert_eq!(lab.flows().len(), 2);
    // Once the guest has spoken, the next packet goes straight to it.
    lab.set_endpoint(ROUTE_GUEST, "route1", ROUTE_GUEST_MAC);
    lab.set_epoch(2);
    Fixture::new("known", "uplink_ingress", "up0", packet.bytes())
        .redirect(home(packet))
        .run(&mut lab);
}

/// An endpoint that names a port of another bridge is not believed.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_endpoint_must_be_a_port_of_the_network() {
    let mut lab = lab();
    lab.set_endpoint(ROUTE_GUEST, "nat1", ROUTE_GUEST_MAC);
    let packet = down(udp(SERVER, 999, ROUTE_GUEST, 22));
    Fixture::new("a port of br-nat", "uplink_ingress", "up0", packet.bytes())
        .redirect(asked_for(packet.clone()))
        .any_flows()
        .run(&mut lab);
    assert!(
        lab.flows()
            .iter()
            .all(|(_, f)| f.next_hop.ifindex != lab.ifindex("nat1"))
    );
}
