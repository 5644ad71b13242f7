//! Networks whose prefix is translated (NPTv6, RFC 6296).

use netd_common::Reason;
use netd_common::abi::{Addr6, NETWORK_PORTS_ISOLATED, NETWORK_RESPECT, PREFIX_SHARED, PrefixPair};

use crate::fixture::Fixture;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::down;
use crate::packet::{
    ACK, RST, SYN, UDP, answer, echo, echo_reply, hops_used_up, icmp, raw, sctp, tcp,
    time_exceeded, udp,
};
use crate::packet6::{Packet6, packet_too_big};
use crate::route::{home, out, up};

/// The prefix of `br-route`, whose guests are known by another one, and what that makes of a guest.
const INSIDE: &str = "2001:db8:10::";
const OUTSIDE: &str = "2001:db8:200::";
const SHOWN: &str = "2001:db8:200:fe0f::11";

fn six(address: &str) -> Addr6 {
    address
        .parse::<std::net::Ipv6Addr>()
        .expect("an address")
        .octets()
}

fn shown() -> Addr6 {
    six(SHOWN)
}

fn pair(inside: &str, outside: &str, len: u8) -> PrefixPair<Addr6> {
    PrefixPair::new(six(inside), six(outside), len)
}

/// The lab, with that translated.
fn translated() -> crate::lab::Turn {
    let mut lab = lab();
    lab.set_prefix("br-route", pair(INSIDE, OUTSIDE, 48), 48);
    lab
}

/// Packets of all kinds between two addresses, the ports such that they go there.
fn all_kinds(src: Addr6, dst: Addr6) -> [(&'static str, Packet6); 5] {
    [
        ("TCP", tcp(src, 40000, dst, 80, SYN)),
        ("UDP", udp(src, 40000, dst, 80)),
        ("SCTP", sctp(src, 40000, dst, 80, 1)),
        ("echo", echo(src, dst, 40000)),
        ("GRE", raw(src, dst, 47)),
    ]
}

fn answer_to(name: &str, src: Addr6, dst: Addr6) -> Packet6 {
    match name {
        "TCP" => tcp(src, 80, dst, 40000, SYN | ACK),
        "UDP" => udp(src, 80, dst, 40000),
        "SCTP" => sctp(src, 80, dst, 40000, 2),
        "echo" => echo_reply(src, dst, 40000),
        _ => raw(src, dst, 47),
    }
}

fn check_both_ways(lab: &mut Lab, guest: Addr6, outside: Addr6) {
    for (name, there) in all_kinds(guest, SERVER6) {
        let there = up(there);
        Fixture::new(name, "port_ingress", "route1", there.bytes())
            .redirect(out(there.src(outside)))
            .any_flows()
            .run(lab);
        let back = down(answer_to(name, SERVER6, outside));
        Fixture::new(name, "uplink_ingress", "up0", back.bytes())
            .redirect(home(back.dst(guest)))
            .any_flows()
            .run(lab);
    }
    lab.clear_flows();
    // Nobody has to begin inside.
    lab.set_endpoint(guest, "route1", ROUTE_GUEST_MAC);
    for (name, there) in all_kinds(SERVER6, outside) {
        let there = down(there);
        Fixture::new(name, "uplink_ingress", "up0", there.bytes())
            .redirect(home(there.dst(guest)))
            .any_flows()
            .run(lab);
        let back = up(answer_to(name, guest, SERVER6));
        Fixture::new(name, "port_ingress", "route1", back.bytes())
            .redirect(out(back.src(outside)))
            .any_flows()
            .run(lab);
    }
    assert_eq!(lab.v6.flows().len(), 10);
    assert_eq!(lab.faults(), [""; 0]);
    lab.clear_flows();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn guests_and_hosts_outside_reach_each_other_by_the_address_outside() {
    let mut lab = translated();
    check_both_ways(&mut lab, ROUTE_GUEST6, shown());
}

/// RFC 6296, section 3.6, and prefixes longer than its.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn rfc6296_example_and_longer_prefixes() {
    for (inside, outside, len, guest, shown) in [
        (
            "fd01:203:405::",
            "2001:db8:1::",
            48,
            "fd01:203:405:1::1234",
            "2001:db8:1:d550::1234",
        ),
        (
            "fd01:203:405:1200::",
            "2001:db8:1:5600::",
            56,
            "fd01:203:405:1234:1:2:3:4",
            "2001:db8:1:5634:9150:2:3:4",
        ),
    ] {
        let mut lab = lab();
        let bridge = lab.ifindex("br-route");
        lab.add_subnet(six(guest), 64, bridge);
        lab.set_prefix("br-route", pair(inside, outside, len), len);
        check_both_ways(&mut lab, six(guest), six(shown));
    }
}

/// What opens no flow is translated by itself, and the stack's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn nothing_needs_to_be_remembered() {
    let mut lab = translated();
    lab.set_endpoint(ROUTE_GUEST6, "route1", ROUTE_GUEST_MAC);
    let kinds = |src, dst| {
        [
            ("RST", tcp(src, 1, dst, 2, RST)),
            ("echo reply", echo_reply(src, dst, 3)),
            ("later fragment", raw(src, dst, UDP).piece(7, 100, false)),
        ]
    };
    for (name, packet) in kinds(ROUTE_GUEST6, SERVER6) {
        let packet = up(packet);
        Fixture::new(name, "port_ingress", "route1", packet.bytes())
            .flows6([])
            .run(&mut lab);
        Fixture::new(name, "bridge_ingress", "br-route", packet.bytes())
            .flows6([])
            .run(&mut lab);
        let leaves = packet.ttl(63).macs(ROUTER_MAC, UP0_MAC);
        Fixture::new(name, "uplink_egress", "up0", leaves.bytes())
            .came_from("br-route")
            .pass_as(leaves.clone().src(shown()).bytes())
            .flows6([])
            .run(&mut lab);
        // Between networks nobody has another address.
        Fixture::new(name, "bridge_egress", "br-open", leaves.bytes())
            .came_from("br-route")
            .flows6([])
            .run(&mut lab);
    }
    for (name, packet) in kinds(SERVER6, shown()) {
        let packet = down(packet);
        Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
            .pass_as(packet.clone().dst(ROUTE_GUEST6).bytes())
            .flows6([])
            .run(&mut lab);
    }
}

/// RFC 4443, section 2.4, and RFC 6296: an error shows its receiver a packet that it knows, whether there is a
/// flow or not.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_quote_what_their_receiver_has_sent() {
    let mut lab = translated();
    lab.set_endpoint(ROUTE_GUEST6, "route1", ROUTE_GUEST_MAC);
    for bytes in [8, 20, 1000] {
        let sent = udp(ROUTE_GUEST6, 1, SERVER6, 2).ttl(9);
        let seen = sent.clone().src(shown());
        let error = down(packet_too_big(ROUTER6, shown(), 1400, seen.quote(bytes)));
        let translated = packet_too_big(ROUTER6, ROUTE_GUEST6, 1400, sent.quote(bytes))
            .macs(error.to, error.from);
        Fixture::new("no flow, in", "uplink_ingress", "up0", error.bytes())
            .pass_as(translated.bytes())
            .flows6([])
            .run(&mut lab);

        // A guest's answer to what it got, by the stack.
        let got = udp(SERVER6, 2, ROUTE_GUEST6, 1).ttl(9);
        let was = got.clone().dst(shown());
        let refusal = |src: Addr6, quoted: &Packet6| {
            icmp(src, SERVER6, 1, 4, [0; 4], quoted.quote(bytes)).macs(ROUTER_MAC, UP0_MAC)
        };
        for (name, from, leaves_from) in [
            ("no flow, out", ROUTE_GUEST6, shown()),
            ("the host's", UP0_6, UP0_6),
        ] {
            let fixture = Fixture::new(name, "uplink_egress", "up0", refusal(from, &got).bytes());
            let fixture = match from == UP0_6 {
                true => fixture,
                false => fixture.came_from("br-route"),
            };
            fixture
                .pass_as(refusal(leaves_from, &was).bytes())
                .flows6([])
                .run(&mut lab);
        }
    }
    // By a flow they take its way.
    let sent = up(udp(ROUTE_GUEST6, 1, SERVER6, 2));
    Fixture::new("flow", "port_ingress", "route1", sent.bytes())
        .redirect(out(sent.clone().src(shown())))
        .any_flows()
        .run(&mut lab);
    let seen = sent.clone().src(shown()).ttl(3);
    let error = down(time_exceeded(ROUTER6, shown(), seen.quote(1000)));
    let after = time_exceeded(ROUTER6, ROUTE_GUEST6, sent.ttl(3).quote(1000));
    Fixture::new("flow, in", "uplink_ingress", "up0", error.bytes())
        .redirect(home(after))
        .run(&mut lab);
}

/// RFC 6296, sections 3.2 and 3.7.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_stands_for_nobody_is_refused() {
    let mut lab = translated();
    let bridge = lab.ifindex("br-route");
    let last = six("2001:db8:10:ffff::1");
    lab.add_subnet(last, 64, bridge);
    let unreachable = |own, refused: &Packet6| {
        let error = icmp(own, refused.src, 1, 3, [0; 4], refused.quote(8));
        answer(error, refused).bytes()
    };
    let packet = up(udp(last, 1, SERVER6, 2));
    Fixture::new("subnet 0xffff", "port_ingress", "route1", packet.bytes())
        .reject(Reason::NoOutside, unreachable(ROUTE_GW6, &packet))
        .run(&mut lab);
    let leaves = packet.ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("by the stack", "uplink_egress", "up0", leaves.bytes())
        .came_from("br-route")
        .drop(Reason::NoOutside)
        .run(&mut lab);
    for (name, address) in [
        ("subnet 0xffff", "2001:db8:200:ffff::1"),
        ("a subnet of nobody's", "2001:db8:200:1::1"),
        ("the gateway", "2001:db8:200:fe0f::1"),
    ] {
        let packet = down(udp(SERVER6, 1, six(address), 2));
        Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
            .reject(Reason::NoOutside, unreachable(UP0_6, &packet))
            .run(&mut lab);
    }

    let long = pair("2001:db8:10::", "2001:db8:200:1::", 64);
    lab.set_prefix("br-route", long, 64);
    let problem = |own, refused: &Packet6, pointer| {
        let error = icmp(own, refused.src, 4, 0, [0, 0, 0, pointer], refused.quote(8));
        answer(error, refused).bytes()
    };
    let packet = up(udp(six("2001:db8:10::"), 1, SERVER6, 2));
    Fixture::new("no interface", "port_ingress", "route1", packet.bytes())
        .reject(Reason::NoInterface, problem(ROUTE_GW6, &packet, 8))
        .run(&mut lab);
    let packet = down(udp(SERVER6, 1, six("2001:db8:200:1::"), 2));
    Fixture::new("no interface", "uplink_ingress", "up0", packet.bytes())
        .reject(Reason::NoInterface, problem(UP0_6, &packet, 24))
        .run(&mut lab);
}

/// A guest reaches its sibling by the address outside, and is seen with its own: the answer has to come back this
/// way.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn siblings_meet_by_their_addresses_outside() {
    let mut lab = translated();
    let (sibling, sibling_shown) = (six("2001:db8:10::12"), six("2001:db8:200:fe0f::12"));
    lab.set_endpoint(ROUTE_GUEST6, "route1", ROUTE_GUEST_MAC);
    lab.set_endpoint(sibling, "br-route", GUEST2_MAC);
    let packet = up(udp(ROUTE_GUEST6, 1, sibling_shown, 2));
    let arrives = packet.clone().src(shown()).dst(sibling).ttl(63);
    Fixture::new("there", "port_ingress", "route1", packet.bytes())
        .redirect(arrives.macs(GUEST2_MAC, ROUTE_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    let back = udp(sibling, 2, shown(), 1).macs(ROUTE_MAC, GUEST2_MAC);
    let arrives = back.clone().src(sibling_shown).dst(ROUTE_GUEST6);
    Fixture::new("back", "bridge_ingress", "br-route", back.bytes())
        .redirect(home(arrives))
        .any_flows()
        .run(&mut lab);
    lab.clear_flows();
    // Without a flow as well; the bridge hands it up.
    let reset = up(tcp(ROUTE_GUEST6, 1, sibling_shown, 2, RST));
    Fixture::new("RST at the port", "port_ingress", "route1", reset.bytes()).run(&mut lab);
    let arrives = reset.clone().src(shown()).dst(sibling);
    Fixture::new("RST", "bridge_ingress", "br-route", reset.bytes())
        .pass_as(arrives.bytes())
        .run(&mut lab);
    // Those that are kept apart do not.
    lab.change_network("br-route", |network| {
        network.flags |= NETWORK_PORTS_ISOLATED;
    });
    let refused = crate::packet::port_unreachable(ROUTE_GW6, &packet);
    Fixture::new("isolated", "port_ingress", "route1", packet.bytes())
        .reject(Reason::PortIsolated, refused.bytes())
        .run(&mut lab);
}

/// Another network's guests go by the policy; an address that is nobody's network's is refused.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_policy_is_that_of_routed_networks() {
    let mut lab = lab();
    lab.set_prefix("br-rdev", pair("2001:db8:40::", OUTSIDE, 48), 48);
    let guest = six("2001:db8:40::11");
    // 40 - 200 in one's complement.
    let shown = six("2001:db8:200:fe3f::11");
    lab.set_endpoint(guest, "rdev1", RDEV_GUEST_MAC);
    let packet = udp(PEER1_6, 1, shown, 2).macs(UP1_MAC, PEER1_MAC);
    let refused = crate::packet::port_unreachable(UP1_6, &packet);
    Fixture::new("wrong uplink", "uplink_ingress", "up1", packet.bytes())
        .reject(Reason::WrongUplink, refused.bytes())
        .run(&mut lab);
    let packet = down(udp(SERVER6, 1, shown, 2));
    Fixture::new("its uplink", "uplink_ingress", "up0", packet.bytes())
        .redirect(
            packet
                .clone()
                .dst(guest)
                .ttl(63)
                .macs(RDEV_GUEST_MAC, RDEV_MAC)
                .bytes(),
        )
        .any_flows()
        .run(&mut lab);
    for (port, from, macs, gateway, reason) in [
        (
            "isolated1",
            ISOLATED_GUEST6,
            (ISOLATED_MAC, ISOLATED_GUEST_MAC),
            ISOLATED_GW6,
            Reason::Isolated,
        ),
        (
            "nat1",
            GUEST6,
            (NAT_MAC, GUEST_MAC),
            NAT_GW6,
            Reason::WrongUplink,
        ),
    ] {
        let packet = udp(from, 1, shown, 2).macs(macs.0, macs.1);
        let refused = crate::packet::port_unreachable(gateway, &packet);
        Fixture::new(port, "port_ingress", port, packet.bytes())
            .reject(reason, refused.bytes())
            .run(&mut lab);
    }
}

/// With another prefix outside there is no going on: who has a connection is told, and what comes to the old
/// address is nobody's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn flows_end_with_their_prefix() {
    let mut lab = translated();
    lab.set_endpoint(ROUTE_GUEST6, "route1", ROUTE_GUEST_MAC);
    let sent = up(udp(ROUTE_GUEST6, 1, SERVER6, 2));
    let came = down(udp(SERVER6, 3, shown(), 4));
    for _ in 0..2 {
        Fixture::new("out", "port_ingress", "route1", sent.bytes())
            .redirect(out(sent.clone().src(shown())))
            .any_flows()
            .run(&mut lab);
        Fixture::new("in", "uplink_ingress", "up0", came.bytes())
            .redirect(home(came.clone().dst(ROUTE_GUEST6)))
            .any_flows()
            .run(&mut lab);
    }
    assert_eq!(lab.v6.flows().len(), 4);
    lab.clear_prefixes();
    lab.set_prefix("br-route", pair(INSIDE, "2001:db8:300::", 48), 48);
    let epoch = lab.epoch();
    lab.set_epoch(epoch + 1);
    let now = six("2001:db8:300:fd0f::11");
    Fixture::new("out again", "port_ingress", "route1", sent.bytes())
        .redirect(out(sent.clone().src(now)))
        .any_flows()
        .run(&mut lab);
    // Nobody has that address now, and the host has no route to it but back.
    Fixture::new("in again", "uplink_ingress", "up0", came.bytes())
        .any_flows()
        .run(&mut lab);
    assert_eq!(lab.v6.flows().len(), 2, "{:?}", lab.v6.flows());
}

/// In a network that respects the host's rules they see the guest's own address, both ways.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_hosts_rules_see_the_guests_own_address() {
    let mut lab = translated();
    lab.set_endpoint(ROUTE_GUEST6, "route1", ROUTE_GUEST_MAC);
    lab.change_network("br-route", |network| network.flags |= NETWORK_RESPECT);
    let sent = up(udp(ROUTE_GUEST6, 1, SERVER6, 2));
    Fixture::new("for the rules", "port_ingress", "route1", sent.bytes())
        .flows6([])
        .run(&mut lab);
    let leaves = sent.ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("past them", "uplink_egress", "up0", leaves.bytes())
        .came_from("br-route")
        .pass_as(leaves.clone().src(shown()).bytes())
        .any_flows()
        .run(&mut lab);
    assert_eq!(lab.v6.flows().len(), 2);
    let came = down(udp(SERVER6, 3, shown(), 4));
    Fixture::new("from outside", "uplink_ingress", "up0", came.bytes())
        .pass_as(came.clone().dst(ROUTE_GUEST6).bytes())
        .any_flows()
        .run(&mut lab);
}

/// Who has the outside prefix on its own link asks for its addresses (RFC 4861).
#[test]
#[ignore = "needs root: cargo xtask test"]
fn neighbours_are_answered() {
    let mut lab = translated();
    lab.set_mac("up0", UP0_MAC);
    let mut group = six("ff02::1:ff00:0");
    group[13..].copy_from_slice(&shown()[13..]);
    let solicit = |target: Addr6| {
        let mut data = target.to_vec();
        data.extend([1, 1]);
        data.extend(ROUTER_MAC);
        icmp(ROUTER6, group, 135, 0, [0; 4], data)
            .ttl(255)
            .macs([0x33, 0x33, 0xff, 0, 0, 0x11], ROUTER_MAC)
    };
    let advertise = |target: Addr6| {
        let mut data = target.to_vec();
        data.extend([2, 1]);
        data.extend(UP0_MAC);
        icmp(target, ROUTER6, 136, 0, [0x60, 0, 0, 0], data)
            .ttl(255)
            .macs(ROUTER_MAC, UP0_MAC)
    };
    let asked = solicit(shown());
    Fixture::new("a guest's", "uplink_ingress", "up0", asked.bytes())
        .redirect(advertise(shown()).bytes())
        .run(&mut lab);
    let other = solicit(six("2001:db8:200:1::1"));
    Fixture::new("nobody's", "uplink_ingress", "up0", other.bytes()).run(&mut lab);

    let mut shared = pair(INSIDE, OUTSIDE, 48);
    shared.flags |= PREFIX_SHARED;
    lab.set_prefix("br-route", shared, 48);
    Fixture::new("maybe another's", "uplink_ingress", "up0", asked.bytes()).run(&mut lab);
    // A neighbour of the prefix is none of the guests.
    let neighbour = six("2001:db8:200:fe0f::99");
    let packet = up(udp(ROUTE_GUEST6, 1, neighbour, 2));
    Fixture::new("to a neighbour", "port_ingress", "route1", packet.bytes())
        .redirect(out(packet.src(shown())))
        .any_flows()
        .run(&mut lab);
    lab.clear_flows();
    lab.set_endpoint(ROUTE_GUEST6, "route1", ROUTE_GUEST_MAC);
    Fixture::new("a guest's", "uplink_ingress", "up0", asked.bytes())
        .redirect(advertise(shown()).bytes())
        .run(&mut lab);
}

/// What is too large, or has no hops left, is the guest's own packet to it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn guests_are_told_of_their_own_packets() {
    let mut lab = translated();
    let packet = up(tcp(ROUTE_GUEST6, 1, SERVER6, 80, SYN)).ttl(1);
    Fixture::new("no hops", "port_ingress", "route1", packet.bytes())
        .reject(Reason::HopLimit, hops_used_up(ROUTE_GW6, &packet).bytes())
        .any_flows()
        .run(&mut lab);
    let large = up(udp(ROUTE_GUEST6, 1, NARROW6, 2)).data(vec![0; 1400]);
    let too_big = packet_too_big(ROUTE_GW6, ROUTE_GUEST6, 1300, large.quote(8));
    Fixture::new("too large", "port_ingress", "route1", large.bytes())
        .reject(Reason::TooLarge, answer(too_big, &large).bytes())
        .any_flows()
        .run(&mut lab);
}
