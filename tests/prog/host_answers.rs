//! What the host answers by addresses that networks have, and what programs answer in its name.

use netd_common::Reason;

use crate::fixture::Fixture;
use crate::flows::guest_to_server;
use crate::lab::lab;
use crate::names::*;
use crate::packet::{
    ACK, Packet, RST, SYN, echo, echo_reply, icmp, port_unreachable, raw, tcp, time_exceeded, udp,
};

/// Protocol number of ESP, which has no ports.
const ESP: u8 = 50;

/// A guest of another network has asked a NAT network's gateway address.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_networks_gateway_address_answers_guests() {
    let mut lab = lab();
    for (name, packet) in [
        ("SYN-ACK", tcp(NAT_GW, 80, ROUTE_GUEST, 40000, SYN | ACK)),
        ("data", tcp(NAT_GW, 80, ROUTE_GUEST, 40000, ACK)),
        ("UDP", udp(NAT_GW, 53, ROUTE_GUEST, 40000)),
        ("echo reply", echo_reply(NAT_GW, ROUTE_GUEST, 9)),
        ("ESP", raw(NAT_GW, ROUTE_GUEST, ESP)),
        ("port unreachable", refusal(NAT_GW, ROUTE_GUEST)),
    ] {
        let packet = packet.macs(ROUTE_GUEST_MAC, ROUTE_MAC);
        Fixture::new(name, "bridge_egress", "br-route", packet.bytes())
            .flows([])
            .run(&mut lab);
    }
}

/// Somebody outside, who has a route to it, has asked a NAT network's gateway address. Only what
/// the host itself begins is masqueraded.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_gateway_address_answers_outside() {
    let mut lab = lab();
    let sent = |packet: Packet| packet.macs(ROUTER_MAC, UP0_MAC);
    for (name, packet) in [
        ("SYN-ACK", tcp(NAT_GW, 80, SERVER, 40000, SYN | ACK)),
        ("data", tcp(NAT_GW, 80, SERVER, 40000, ACK)),
        ("RST", tcp(NAT_GW, 80, SERVER, 40000, RST)),
        ("echo reply", echo_reply(NAT_GW, SERVER, 9)),
        ("port unreachable", refusal(NAT_GW, SERVER)),
    ] {
        Fixture::new(name, "uplink_egress", "up0", sent(packet).bytes())
            .flows([])
            .run(&mut lab);
    }
    // No guest's.
    for (name, packet, reason) in [
        (
            "SYN-ACK",
            tcp(GUEST, 80, SERVER, 40000, SYN | ACK),
            Reason::NoFlow,
        ),
        (
            "port unreachable",
            refusal(GUEST, SERVER),
            Reason::IcmpUnknown,
        ),
    ] {
        Fixture::new(name, "uplink_egress", "up0", sent(packet).bytes())
            .drop(reason)
            .flows([])
            .run(&mut lab);
    }
    for (name, packet) in [
        ("SYN", tcp(NAT_GW, 40000, SERVER, 80, SYN)),
        ("echo request", echo(NAT_GW, SERVER, 9)),
    ] {
        let packet = sent(packet);
        let after = packet.clone().src(UP0);
        Fixture::new(name, "uplink_egress", "up0", packet.bytes())
            .pass_as(after.bytes())
            .any_flows()
            .run(&mut lab);
    }
}

/// A program's refusal goes out by a device with a program of its own, which must not take it for
/// an error about the flow with the same addresses.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refusal_is_not_translated() {
    let mut lab = lab();
    let flow = guest_to_server(ESP, 0, 0).established();
    let flows = flow.entries(&lab);
    lab.set_flows(&flows);
    // The server has addressed the guest itself.
    let refused = raw(SERVER, GUEST, ESP).macs(UP0_MAC, ROUTER_MAC);
    let answer = port_unreachable(UP0, &refused);
    Fixture::new("refusal", "uplink_egress", "up0", answer.bytes())
        .came_from("up0")
        .flows(flows.clone())
        .run(&mut lab);
    // The host's own error about a packet that it had translated for the guest.
    let error = |dst| time_exceeded(UP0, SERVER, raw(SERVER, dst, ESP).quote(8));
    let (packet, after) = (error(GUEST), error(UP0));
    Fixture::new("the host's error", "uplink_egress", "up0", packet.bytes())
        .pass_as(after.bytes())
        .flows(flows)
        .run(&mut lab);
}

/// The stack's answer where nobody listens.
fn refusal(own: [u8; 4], to: [u8; 4]) -> Packet {
    icmp(own, to, 3, 3, [0; 4], udp(to, 40000, own, 53).quote(8))
}
