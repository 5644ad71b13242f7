//! IPv6 headers between the first and the transport's, and packets that are nobody's to route.

use netd_common::Reason;
use netd_common::abi::Addr6;

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::guest_to_server6;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{UDP, icmp, udp};
use crate::packet6::{DESTINATION, HOP_BY_HOP, Packet6, ROUTING, extension};

/// The transport header is found behind extension headers, which stay as they are.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn extension_headers_are_walked() {
    let mut lab = lab();
    for (name, headers) in [
        ("destination options", vec![extension(DESTINATION, 1)]),
        ("long ones", vec![extension(DESTINATION, 8)]),
        (
            "two",
            vec![extension(DESTINATION, 1), extension(DESTINATION, 2)],
        ),
    ] {
        guest_to_server6(UDP, 40000, 80)
            .established()
            .only(&mut lab);
        let with = |mut packet: Packet6| {
            packet.header.extensions.clone_from(&headers);
            packet
        };
        let there = with(up(udp(GUEST6, 40000, SERVER6, 80)));
        let back = with(down(udp(SERVER6, 80, UP0_6, 40000)));
        either(&mut lab, name, "port_ingress", "nat1", &there, |p| {
            out(p, 40000)
        });
        back_either(&mut lab, name, &back);
    }
}

/// A packet with extension headers is sent on, or left to the stack, which has it translated at
/// egress; both are right.
fn either(
    lab: &mut Lab,
    name: &str,
    program: &'static str,
    device: &'static str,
    packet: &Packet6,
    after: impl Fn(Packet6) -> Vec<u8>,
) {
    let ifindex = lab.ifindex(device);
    let outcome = run(lab, program, ifindex, ifindex, 0, 1, &packet.bytes());
    match outcome.verdict {
        Verdict::Redirect => assert_eq!(outcome.packet, after(packet.clone()), "{name}"),
        Verdict::Pass => {
            assert_eq!(outcome.packet, packet.bytes(), "{name}");
            let leaving = packet.clone().ttl(63).macs(ROUTER_MAC, UP0_MAC);
            Fixture::new(name, "uplink_egress", "up0", leaving.bytes())
                .came_from("br-nat")
                .pass_as(leaving.src(UP0_6).bytes())
                .run(lab);
        }
        Verdict::Drop => panic!("{name}: dropped"),
    }
}

/// The same from outside, where the stack gets it translated.
fn back_either(lab: &mut Lab, name: &str, packet: &Packet6) {
    let ifindex = lab.ifindex("up0");
    let outcome = run(
        lab,
        "uplink_ingress",
        ifindex,
        ifindex,
        0,
        1,
        &packet.bytes(),
    );
    match outcome.verdict {
        Verdict::Redirect => assert_eq!(outcome.packet, home(packet.clone(), 40000), "{name}"),
        Verdict::Pass => assert_eq!(
            outcome.packet,
            packet.clone().dst(GUEST6).dport(40000).bytes(),
            "{name}"
        ),
        Verdict::Drop => panic!("{name}: dropped"),
    }
}

/// More headers than the bound: not translated, so not let out.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn too_many_extension_headers_do_not_leave() {
    let mut lab = lab();
    let mut packet = udp(GUEST6, 40000, SERVER6, 80);
    for _ in 0..12 {
        packet = packet.with(extension(DESTINATION, 1));
    }
    let leaving = packet.clone().ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("twelve", "uplink_egress", "up0", leaving.bytes())
        .came_from("br-nat")
        .drop(Reason::Malformed)
        .flows6([])
        .run(&mut lab);
}

/// By a routing header a host may send a packet past the policy.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn routing_headers_are_refused() {
    let mut lab = lab();
    let mut header = extension(ROUTING, 3);
    // Type 2 (RFC 6275) or 0 (RFC 5095), one segment left.
    for kind in [0, 2, 4] {
        (header.1[1], header.1[2]) = (kind, 1);
        let packet = up(udp(GUEST6, 40000, SERVER6, 80)).with(header.clone());
        Fixture::new(
            format!("type {kind}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .drop(Reason::SourceRoute)
        .flows6([])
        .run(&mut lab);
    }
}

/// P43 in IPv6, and what neighbours say to each other.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p43_multicast_and_neighbour_discovery_pass_untouched() {
    let mut lab = lab();
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
    let mut router = link_local;
    router[15] = 1;
    let all = |last: u8| {
        let mut address = [0; 16];
        (address[0], address[1], address[15]) = (0xff, 2, last);
        address
    };
    let group = |last| [0x33, 0x33, 0, 0, 0, last];
    let none = [0; 16];
    let mut solicited = all(1);
    solicited[11..].copy_from_slice(&[1, 0xff, 0, 0, 1]);
    let solicitation = |src: Addr6, dst: Addr6, target: Addr6| {
        let mut data = target.to_vec();
        data.extend([1, 1]);
        data.extend(GUEST_MAC);
        icmp(src, dst, 135, 0, [0; 4], data).ttl(255)
    };
    for (name, packet) in [
        (
            "duplicate address detection",
            solicitation(none, solicited, GUEST6).macs(group(1), GUEST_MAC),
        ),
        (
            "solicitation",
            solicitation(GUEST6, solicited, NAT_GW6).macs(group(1), GUEST_MAC),
        ),
        (
            "unicast solicitation",
            up(solicitation(GUEST6, NAT_GW6, NAT_GW6)),
        ),
        (
            "solicitation of a link-local address",
            up(solicitation(link_local, router, router)),
        ),
        (
            "advertisement",
            up(icmp(GUEST6, NAT_GW6, 136, 0, [0x60, 0, 0, 0], GUEST6.to_vec()).ttl(255)),
        ),
        (
            "router solicitation",
            icmp(link_local, all(2), 133, 0, [0; 4], vec![])
                .ttl(255)
                .macs(group(2), GUEST_MAC),
        ),
        (
            "multicast listener report",
            icmp(link_local, all(0x16), 143, 0, [0; 4], vec![])
                .ttl(1)
                .with(extension(HOP_BY_HOP, 1))
                .macs(group(0x16), GUEST_MAC),
        ),
        (
            "DHCPv6",
            udp(link_local, 546, all(2), 547).macs(group(2), GUEST_MAC),
        ),
        (
            "multicast in a unicast frame",
            up(udp(GUEST6, 5353, all(0xfb), 5353)),
        ),
        (
            "to the gateway's link-local address",
            up(udp(link_local, 9, router, 9)),
        ),
        ("to the gateway", up(udp(GUEST6, 9, NAT_GW6, 53))),
        (
            "to the host's address outside",
            up(udp(GUEST6, 9, UP0_6, 53)),
        ),
        (
            "to a sibling by the gateway",
            up(udp(GUEST6, 9, GUEST2_6, 53)),
        ),
        ("no way there", up(udp(GUEST6, 9, NOWHERE6, 53))),
        (
            "loopback",
            up(udp(
                GUEST6,
                9,
                {
                    let mut one = none;
                    one[15] = 1;
                    one
                },
                53,
            )),
        ),
    ] {
        for (program, device) in [("port_ingress", "nat1"), ("bridge_ingress", "br-nat")] {
            Fixture::new(name, program, device, packet.bytes())
                .flows6([])
                .run(&mut lab);
        }
    }
    // From outside.
    for (name, packet) in [
        ("to the host", udp(SERVER6, 9, UP0_6, 22)),
        ("through the host", udp(SERVER6, 9, PEER1_6, 22)),
        (
            "solicitation",
            icmp(ROUTER6, UP0_6, 135, 0, [0; 4], UP0_6.to_vec()).ttl(255),
        ),
    ] {
        Fixture::new(name, "uplink_ingress", "up0", down(packet).bytes())
            .flows6([])
            .run(&mut lab);
    }
    // What the host itself sends.
    for (name, packet) in [
        ("own", udp(UP0_6, 9, SERVER6, 22)),
        (
            "own solicitation",
            icmp(UP0_6, ROUTER6, 135, 0, [0; 4], ROUTER6.to_vec()).ttl(255),
        ),
        ("own multicast", udp(UP0_6, 5353, all(0xfb), 5353)),
        (
            "own, link-local",
            icmp(link_local, all(0x16), 143, 0, [0; 4], vec![]).ttl(1),
        ),
    ] {
        let packet = packet.macs(ROUTER_MAC, UP0_MAC);
        Fixture::new(name, "uplink_egress", "up0", packet.bytes())
            .flows6([])
            .run(&mut lab);
    }
}
