//! Masquerade in IPv6 (`<nat ipv6='yes'/>`).

use netd_common::Reason;
use netd_common::abi::{Addr6, Flow, FlowKey};
use netd_common::state::State;

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::{FromGuest, guest_to_server6};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{
    ACK, ETH, ICMPV6, SCTP, SYN, TCP, UDP, answer, echo, echo_reply, hops_used_up, prohibited, raw,
    sctp, tcp, udp,
};
use crate::packet6::{AUTHENTICATION, DESTINATION, Packet6, extension, packet_too_big};

/// Packets of the flow of the guest's port 40000 to the server's port 80, there and back with the
/// shown port.
fn pairs(shown: u16) -> [(&'static str, u8, Packet6, Packet6); 4] {
    [
        (
            "TCP",
            TCP,
            tcp(GUEST6, 40000, SERVER6, 80, ACK),
            tcp(SERVER6, 80, UP0_6, shown, ACK),
        ),
        (
            "UDP",
            UDP,
            udp(GUEST6, 40000, SERVER6, 80),
            udp(SERVER6, 80, UP0_6, shown),
        ),
        (
            "SCTP",
            SCTP,
            sctp(GUEST6, 40000, SERVER6, 80, 0),
            sctp(SERVER6, 80, UP0_6, shown, 0),
        ),
        (
            "echo",
            ICMPV6,
            echo(GUEST6, SERVER6, 40000),
            echo_reply(SERVER6, UP0_6, shown),
        ),
    ]
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn first_packets_leave_masqueraded_with_their_own_port() {
    let mut lab = lab();
    for (name, proto, packet) in [
        ("TCP", TCP, tcp(GUEST6, 40000, SERVER6, 80, SYN)),
        ("UDP", UDP, udp(GUEST6, 40000, SERVER6, 80)),
        ("SCTP", SCTP, sctp(GUEST6, 40000, SERVER6, 80, 1)),
        ("echo", ICMPV6, echo(GUEST6, SERVER6, 40000)),
    ] {
        let packet = up(packet);
        let flows = guest_to_server6(proto, 40000, 80).after_first(&lab, packet.bytes().len());
        lab.clear_flows();
        Fixture::new(name, "port_ingress", "nat1", packet.bytes())
            .redirect(out(packet, 40000))
            .flows6(flows)
            .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_bridge_does_the_same_as_its_port() {
    let mut lab = lab();
    let packet = up(udp(GUEST6, 40000, SERVER6, 80));
    let mut flow = guest_to_server6(UDP, 40000, 80);
    flow.near.device = "br-nat";
    let flows = flow.after_first(&lab, packet.bytes().len());
    Fixture::new("by the bridge", "bridge_ingress", "br-nat", packet.bytes())
        .redirect(out(packet, 40000))
        .flows6(flows)
        .run(&mut lab);
}

/// One lookup: with every other map empty, an established flow goes on.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn established_flows_need_their_own_entry_only() {
    let mut lab = lab();
    for (name, proto, there, back) in pairs(50000) {
        lab.start_of_tick();
        let mut flow = guest_to_server6(proto, 40000, 80).established();
        flow.shown = Some((UP0_6, 50000));
        let mut flows = flow.entries(&lab);
        lab.set_flows(&flows);
        lab.clear_records();
        let (there, back) = (up(there), down(back));

        flows[0].1.packets = 1;
        flows[0].1.bytes = there.bytes().len() as u64;
        Fixture::new(format!("{name} out"), "port_ingress", "nat1", there.bytes())
            .redirect(out(there, 50000))
            .flows6(flows.clone())
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
        .flows6(flows)
        .run(&mut lab);
    }
}

/// What the stack forwards is translated where it leaves.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_stack_forwards_is_translated_by_its_flow() {
    let mut lab = lab();
    for (name, proto, there, _) in pairs(50000) {
        let mut flow = guest_to_server6(proto, 40000, 80).established();
        flow.shown = Some((UP0_6, 50000));
        flow.only(&mut lab);
        let packet = there.ttl(63).macs(ROUTER_MAC, UP0_MAC);
        Fixture::new(name, "uplink_egress", "up0", packet.bytes())
            .came_from("br-nat")
            .pass_as(packet.clone().src(UP0_6).sport(50000).bytes())
            .run(&mut lab);
    }
}

/// RFC 8200, section 8.1: a checksum that comes out as zero is sent as all ones.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p28_a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    let mut lab = lab();
    guest_to_server6(UDP, 40000, 80)
        .established()
        .only(&mut lab);
    let field = |frame: &[u8]| [frame[ETH + 46], frame[ETH + 47]];
    let with_zero_sum = |packet: Packet6, translate: &dyn Fn(Packet6) -> Vec<u8>| {
        let frame = translate(packet.clone().data(vec![0, 0]));
        let packet = packet.data(field(&frame).to_vec());
        assert_eq!(field(&translate(packet.clone())), [0xff, 0xff]);
        packet
    };
    let there = with_zero_sum(up(udp(GUEST6, 40000, SERVER6, 80)), &|p| out(p, 40000));
    Fixture::new("out", "port_ingress", "nat1", there.bytes())
        .redirect(out(there, 40000))
        .run(&mut lab);
    let back = with_zero_sum(down(udp(SERVER6, 80, UP0_6, 40000)), &|p| home(p, 40000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back, 40000))
        .run(&mut lab);

    // Without (RFC 6935, of tunnels): nothing to make right, so it stays; its receiver says no.
    let without = |packet: Packet6| {
        let mut bytes = packet.bytes();
        bytes[ETH + 46..ETH + 48].fill(0);
        bytes
    };
    let none = up(udp(GUEST6, 40000, SERVER6, 80));
    let after = none.clone().src(UP0_6).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("none", "port_ingress", "nat1", without(none))
        .redirect(without(after))
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p34_the_last_hop_is_told_of() {
    let mut lab = lab();
    for hops in [0, 1] {
        guest_to_server6(UDP, 40000, 80)
            .established()
            .only(&mut lab);
        let packet = up(udp(GUEST6, 40000, SERVER6, 80)).ttl(hops);
        Fixture::new(
            format!("out, {hops}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .reject(Reason::HopLimit, hops_used_up(NAT_GW6, &packet).bytes())
        .run(&mut lab);
        let back = down(udp(SERVER6, 80, UP0_6, 40000)).ttl(hops);
        Fixture::new(
            format!("back, {hops}"),
            "uplink_ingress",
            "up0",
            back.bytes(),
        )
        .reject(Reason::HopLimit, hops_used_up(UP0_6, &back).bytes())
        .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p33_packets_larger_than_the_path_are_told_of() {
    let mut lab = lab();
    // The path to this host is 1300 bytes wide: 40 + 8 + data.
    let of = |data: usize| up(udp(GUEST6, 40000, NARROW6, 80)).data(vec![7; data]);
    let large = of(1253);
    let told = packet_too_big(NAT_GW6, GUEST6, 1300, large.quote(8));
    Fixture::new("1301 bytes", "port_ingress", "nat1", large.bytes())
        .reject(Reason::TooLarge, answer(told, &large).bytes())
        .any_flows()
        .run(&mut lab);
    Fixture::new("1300 bytes", "port_ingress", "nat1", of(1252).bytes())
        .redirect(out(of(1252), 40000))
        .run(&mut lab);
    // Behind other headers the stack, which knows the path's MTU as well, tells of it.
    let large = of(1253).with(extension(DESTINATION, 1));
    Fixture::new("with options", "port_ingress", "nat1", large.bytes())
        .any_flows()
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p54_unknown_neighbours_are_asked_for() {
    let mut lab = lab();
    let packet = up(udp(GUEST6, 40000, SILENT6, 80));
    let asked = packet.clone().src(UP0_6).ttl(63);
    Fixture::new("unknown", "port_ingress", "nat1", packet.bytes())
        .redirect(asked.macs([0; 6], [0; 6]).bytes())
        .any_flows()
        .run(&mut lab);
    assert_eq!(lab.v6.flows().len(), 2);
    crate::lab::ip(
        "neigh replace 2001:db8:100::99 lladdr 02:00:00:00:09:09 dev up0 nud permanent\n",
    );
    let after = packet
        .clone()
        .src(UP0_6)
        .ttl(63)
        .macs([2, 0, 0, 0, 9, 9], UP0_MAC);
    Fixture::new("now known", "port_ingress", "nat1", packet.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
    crate::lab::ip("neigh del 2001:db8:100::99 dev up0\n");
}

/// The one flow of this client, and the port it shows.
fn shown(lab: &Lab, key: &FlowKey<Addr6>) -> (Flow<Addr6>, u16) {
    let flow = lab.flow(key).expect("a flow");
    (flow, u16::from_be_bytes(flow.new_sport))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_guests_with_the_same_port_get_two() {
    let mut lab = lab();
    for (proto, packet) in [
        (TCP, tcp(GUEST2_6, 40000, SERVER6, 80, SYN)),
        (UDP, udp(GUEST2_6, 40000, SERVER6, 80)),
        (SCTP, sctp(GUEST2_6, 40000, SERVER6, 80, 1)),
        (ICMPV6, echo(GUEST2_6, SERVER6, 40000)),
    ] {
        let first = guest_to_server6(proto, 40000, 80);
        first.only(&mut lab);
        let packet = packet.macs(NAT_MAC, GUEST2_MAC);
        let device = lab.ifindex("nat2");
        let outcome = run(&lab, "port_ingress", device, device, 0, 1, &packet.bytes());
        let second = FromGuest {
            guest: (GUEST2_6, 40000),
            ..first
        };
        let (_, moved) = shown(&lab, &second.key());
        assert!(moved != 40000 && moved >= 1024, "{moved}");
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(outcome.packet, out(packet, moved));
        assert_eq!(lab.v6.flows().len(), 4);
        assert_eq!(lab.faults(), Vec::<String>::new());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p16_exhausted_ports_are_answered() {
    let mut lab = lab();
    lab.change_network("br-nat", |network| {
        (network.first_port, network.last_port) = (5000, 5003);
    });
    for port in 5000..=5003 {
        let mut other = guest_to_server6(UDP, port, 9).established();
        other.guest.0 = GUEST2_6;
        for entry in other.entries(&lab) {
            lab.set_flow(entry);
        }
    }
    let packet = up(udp(GUEST6, 40000, SERVER6, 9));
    Fixture::new("none free", "port_ingress", "nat1", packet.bytes())
        .reject(Reason::PortsExhausted, prohibited(NAT_GW6, &packet).bytes())
        .run(&mut lab);
}

/// Protocols without ports, by address alone.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p44_other_protocols_are_masqueraded_by_address() {
    let mut lab = lab();
    for protocol in [4, 41, 47, 50] {
        lab.clear_flows();
        let packet = up(raw(GUEST6, SERVER6, protocol));
        let flows = guest_to_server6(protocol, 0, 0).after_first(&lab, packet.bytes().len());
        let after = packet.clone().src(UP0_6).ttl(63).macs(ROUTER_MAC, UP0_MAC);
        Fixture::new(
            format!("protocol {protocol}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .redirect(after.bytes())
        .flows6(flows)
        .run(&mut lab);
        let other = raw(GUEST2_6, SERVER6, protocol).macs(NAT_MAC, GUEST2_MAC);
        Fixture::new(
            format!("protocol {protocol} of another guest"),
            "port_ingress",
            "nat2",
            other.bytes(),
        )
        .reject(Reason::ProtocolTaken, prohibited(NAT_GW6, &other).bytes())
        .run(&mut lab);
    }
    // An authentication header covers the addresses: it cannot be translated.
    lab.clear_flows();
    let packet = up(udp(GUEST6, 1, SERVER6, 2)).with(extension(AUTHENTICATION, 2));
    let device = lab.ifindex("nat1");
    let outcome = run(&lab, "port_ingress", device, device, 0, 1, &packet.bytes());
    assert_ne!(outcome.verdict, Verdict::Pass);
}

/// Keys and values that the programs write and those that the agent would are the same bytes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p58_keys_of_either_side_hit() {
    let mut lab = lab();
    for (name, proto, there, _) in pairs(40000) {
        let flow = guest_to_server6(proto, 40000, 80).in_state(State::Established);
        flow.only(&mut lab);
        let there = up(there);
        Fixture::new(name, "port_ingress", "nat1", there.bytes())
            .redirect(out(there, 40000))
            .run(&mut lab);
        assert_eq!(
            lab.flow(&flow.key()).expect("the flow").packets,
            1,
            "{name}"
        );
    }
}
