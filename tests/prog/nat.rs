//! Masquerade: first packets and established flows, both directions.

use netd_common::Reason;
use netd_common::state::State;

use crate::family::Address;
use crate::fixture::Fixture;
use crate::flows::{AT_NAT1, guest_to_server};
use crate::lab::lab;
use crate::names::*;
use crate::packet::{
    ACK, ICMP, Packet, SCTP, SYN, TCP, UDP, Version, echo, echo_reply, icmp, raw, sctp, tcp, udp,
    udp_without_checksum,
};

/// From the guest's port to its gateway.
pub fn up<A: Version>(packet: Packet<A>) -> Packet<A> {
    packet.macs(NAT_MAC, GUEST_MAC)
}

/// The same as it leaves by the router.
pub fn out<A: Address>(packet: Packet<A>, port: u16) -> Vec<u8> {
    let ttl = packet.ttl - 1;
    packet
        .src(A::UP0)
        .sport(port)
        .ttl(ttl)
        .macs(ROUTER_MAC, UP0_MAC)
        .bytes()
}

/// From the router to the host.
pub fn down<A: Version>(packet: Packet<A>) -> Packet<A> {
    packet.macs(UP0_MAC, ROUTER_MAC)
}

/// The same as the guest gets it.
pub fn home<A: Address>(packet: Packet<A>, port: u16) -> Vec<u8> {
    let ttl = packet.ttl - 1;
    packet
        .dst(A::GUEST)
        .dport(port)
        .ttl(ttl)
        .macs(GUEST_MAC, NAT_MAC)
        .bytes()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn first_packets_leave_masqueraded_with_their_own_port() {
    let mut lab = lab();
    for (name, proto, packet) in [
        ("TCP", TCP, tcp(GUEST, 40000, SERVER, 80, SYN)),
        ("UDP", UDP, udp(GUEST, 40000, SERVER, 80)),
        ("UDP 0", UDP, udp_without_checksum(GUEST, 41000, SERVER, 80)),
        ("echo", ICMP, echo(GUEST, SERVER, 40000)),
        ("low echo id", ICMP, echo(GUEST, SERVER, 7)),
    ] {
        let port = match name {
            "UDP 0" => 41000,
            "low echo id" => 7,
            _ => 40000,
        };
        let packet = up(packet);
        let flow = guest_to_server(proto, port, 80);
        let flows = flow.after_first(&lab, packet.bytes().len());
        lab.clear_flows();
        Fixture::new(name, "port_ingress", "nat1", packet.bytes())
            .redirect(out(packet, port))
            .flows(flows)
            .run(&mut lab);
    }
}

/// What the bridge hands up itself: the same, but answers go by the bridge until a port is known.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_bridge_does_the_same_as_its_port() {
    let mut lab = lab();
    let packet = up(tcp(GUEST, 40000, SERVER, 80, SYN));
    let mut flow = guest_to_server(TCP, 40000, 80);
    flow.near.device = "br-nat";
    let flows = flow.after_first(&lab, packet.bytes().len());
    Fixture::new(
        "TCP by the bridge",
        "bridge_ingress",
        "br-nat",
        packet.bytes(),
    )
    .redirect(out(packet, 40000))
    .flows(flows)
    .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_guest_is_learned_with_its_port() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("any packet", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .any_flows()
        .run(&mut lab);
    let endpoint = lab.endpoint(GUEST).expect("an endpoint");
    assert_eq!(endpoint.ifindex, lab.ifindex("nat1"));
    assert_eq!(endpoint.mac, GUEST_MAC);
}

/// One lookup: with every other map empty, an established flow goes on.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn established_flows_need_their_own_entry_only() {
    let mut lab = lab();
    for (name, proto, there, back) in [
        (
            "TCP",
            TCP,
            tcp(GUEST, 40000, SERVER, 80, ACK),
            tcp(SERVER, 80, UP0, 50000, ACK),
        ),
        (
            "UDP",
            UDP,
            udp(GUEST, 40000, SERVER, 80),
            udp(SERVER, 80, UP0, 50000),
        ),
        (
            "UDP without checksum",
            UDP,
            udp_without_checksum(GUEST, 40000, SERVER, 80),
            udp_without_checksum(SERVER, 80, UP0, 50000),
        ),
        (
            "echo",
            ICMP,
            echo(GUEST, SERVER, 40000),
            echo_reply(SERVER, UP0, 50000),
        ),
    ] {
        lab.start_of_tick();
        let mut flow = guest_to_server(proto, 40000, 80).established();
        flow.shown = Some((UP0, 50000));
        let mut flows = flow.entries(&lab);
        lab.set_flows(&flows);
        lab.clear_records();
        let (there, back) = (up(there), down(back));

        flows[0].1.packets = 1;
        flows[0].1.bytes = there.bytes().len() as u64;
        Fixture::new(format!("{name} out"), "port_ingress", "nat1", there.bytes())
            .redirect(out(there, 50000))
            .flows(flows.clone())
            .run(&mut lab);

        flows[1].1.packets = 1;
        flows[1].1.bytes = back.bytes().len() as u64;
        Fixture::new(
            format!("{name} back"),
            "uplink_ingress",
            "up0",
            back.bytes(),
        )
        .redirect(home(back, 40000))
        .flows(flows)
        .run(&mut lab);
    }
}

/// Keys and values that the programs write and those that the agent would are the same bytes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p58_keys_of_either_side_hit() {
    let mut lab = lab();
    for (name, proto, there) in [
        ("TCP", TCP, tcp(GUEST, 40000, SERVER, 80, ACK)),
        ("UDP", UDP, udp(GUEST, 40000, SERVER, 80)),
        ("SCTP", SCTP, sctp(GUEST, 40000, SERVER, 80, 0)),
        ("echo", ICMP, echo(GUEST, SERVER, 40000)),
    ] {
        let flow = guest_to_server(proto, 40000, 80).established();
        flow.only(&mut lab);
        let there = up(there);
        Fixture::new(name, "port_ingress", "nat1", there.bytes())
            .redirect(out(there, 40000))
            .run(&mut lab);
        let packets = lab.flow(&flow.key()).expect("the flow").packets;
        assert_eq!(packets, 1, "{name}");
    }
}

/// RFC 768: a checksum that comes out as zero is sent as all ones, in both directions.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p28_a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    let mut lab = lab();
    let flow = guest_to_server(UDP, 40000, 80).established();
    flow.only(&mut lab);
    let field = |frame: &[u8]| [frame[40], frame[41]];
    // The data's first word is what the checksum of the translated packet is without it.
    let with_zero_sum = |packet: Packet, translate: &dyn Fn(Packet) -> Vec<u8>| {
        let frame = translate(packet.clone().data(vec![0, 0]));
        let packet = packet.data(field(&frame).to_vec());
        assert_eq!(field(&translate(packet.clone())), [0xff, 0xff]);
        packet
    };
    let there = with_zero_sum(up(udp(GUEST, 40000, SERVER, 80)), &|p| out(p, 40000));
    Fixture::new("out", "port_ingress", "nat1", there.bytes())
        .redirect(out(there, 40000))
        .run(&mut lab);
    let back = with_zero_sum(down(udp(SERVER, 80, UP0, 40000)), &|p| home(p, 40000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back, 40000))
        .run(&mut lab);
}

/// The answer to a first packet finds the guest's port, and makes the flow established.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_first_answer_establishes() {
    let mut lab = lab();
    lab.start_of_tick();
    let flow = guest_to_server(UDP, 40000, 53);
    flow.only(&mut lab);
    let back = down(udp(SERVER, 53, UP0, 40000));
    let mut flows = flow.entries(&lab);
    for (_, flow) in &mut flows {
        flow.state = State::Answered as u8;
    }
    flows[1].1.packets = 1;
    flows[1].1.bytes = back.bytes().len() as u64;
    Fixture::new("answer", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back, 40000))
        .flows(flows)
        .run(&mut lab);
}

/// An answer may come by another device than the request left by.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn answers_may_come_by_any_uplink() {
    let mut lab = lab();
    let flow = guest_to_server(UDP, 40000, 53).established();
    flow.only(&mut lab);
    let back = udp(SERVER, 53, UP0, 40000).macs(UP1_MAC, PEER1_MAC);
    Fixture::new("answer", "uplink_ingress", "up1", back.bytes())
        .redirect(home(back, 40000))
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_cannot_be_masqueraded_is_dropped_by_name() {
    let mut lab = lab();
    let later = up(raw(GUEST, SERVER, UDP)).fragment(100);
    Fixture::new("later fragment", "port_ingress", "nat1", later.bytes())
        .drop(Reason::FragWithoutFirst)
        .flows([])
        .run(&mut lab);
    // An echo reply that nobody asked for.
    let packet = up(echo_reply(GUEST, SERVER, 5));
    Fixture::new("lone echo reply", "port_ingress", "nat1", packet.bytes())
        .drop(Reason::NoFlow)
        .flows([])
        .run(&mut lab);
    // Router discovery (RFC 1256): neither query nor error.
    let packet = up(icmp(GUEST, SERVER, 10, 0, [0; 4], vec![]));
    Fixture::new(
        "router solicitation",
        "port_ingress",
        "nat1",
        packet.bytes(),
    )
    .drop(Reason::IcmpType)
    .flows([])
    .run(&mut lab);
}

/// Nothing is masqueraded by a device whose egress has no program yet; the guest is told.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_device_that_nobody_guards_refuses() {
    let mut lab = lab();
    lab.remove_device("up0");
    let packet = up(tcp(GUEST, 40000, SERVER, 80, SYN));
    Fixture::new("no address", "port_ingress", "nat1", packet.bytes())
        .reject(
            Reason::NoAddress,
            crate::packet::prohibited(NAT_GW, &packet).bytes(),
        )
        .run(&mut lab);
}

/// From one guest of a NAT network to the guest of a routed one, by its bridge's address.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn nat_to_an_open_network_hides_behind_its_bridge() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, OPEN_GUEST, 9));
    let bridge = [10, 30, 0, 1];
    let mut flow = guest_to_server(UDP, 40000, 9);
    flow.peer = (OPEN_GUEST, 9);
    flow.shown = Some((bridge, 40000));
    flow.near = AT_NAT1;
    flow.far = crate::flows::End {
        bridge: "br-open",
        device: "br-open",
        macs: (OPEN_GUEST_MAC, OPEN_MAC),
        mtu: 1500,
    };
    let mut flows = flow.after_first(&lab, packet.bytes().len());
    // An open network's guests are not watched: their answers come by the bridge.
    flows[1].1.epoch = lab.epoch();
    let after = packet
        .clone()
        .src(bridge)
        .ttl(63)
        .macs(OPEN_GUEST_MAC, OPEN_MAC);
    Fixture::new("to open", "port_ingress", "nat1", packet.bytes())
        .redirect(after.bytes())
        .flows(flows)
        .run(&mut lab);
    let back = udp(OPEN_GUEST, 9, bridge, 40000).macs(OPEN_MAC, OPEN_GUEST_MAC);
    Fixture::new("and back", "bridge_ingress", "br-open", back.bytes())
        .redirect(home(back, 40000))
        .run(&mut lab);
}
