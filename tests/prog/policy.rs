//! The table of forward modes, as packets: refusals are ICMP port unreachable from the gateway.

use netd_common::Reason;
use netd_common::abi::{Addr4, MacAddr, Mode};

use crate::fixture::Fixture;
use crate::lab::{lab, set_forwarding};
use crate::names::*;
use crate::nat::up;
use crate::packet::{
    ACK, MORE_FRAGMENTS, Packet, SYN, echo, port_unreachable, raw, tcp, time_exceeded, udp,
    udp_without_checksum,
};

struct Guest {
    port: &'static str,
    address: Addr4,
    gateway: Addr4,
    macs: (MacAddr, MacAddr),
}

const NAT: Guest = Guest {
    port: "nat1",
    address: GUEST,
    gateway: NAT_GW,
    macs: (NAT_MAC, GUEST_MAC),
};
const DEV: Guest = Guest {
    port: "dev1",
    address: DEV_GUEST,
    gateway: [192, 168, 123, 1],
    macs: (DEV_MAC, DEV_GUEST_MAC),
};
const ROUTE: Guest = Guest {
    port: "route1",
    address: ROUTE_GUEST,
    gateway: ROUTE_GW,
    macs: (ROUTE_MAC, ROUTE_GUEST_MAC),
};
const RDEV: Guest = Guest {
    port: "rdev1",
    address: RDEV_GUEST,
    gateway: [10, 40, 0, 1],
    macs: (RDEV_MAC, RDEV_GUEST_MAC),
};
const ISOLATED: Guest = Guest {
    port: "isolated1",
    address: ISOLATED_GUEST,
    gateway: ISOLATED_GW,
    macs: (ISOLATED_MAC, ISOLATED_GUEST_MAC),
};
const OPEN: Guest = Guest {
    port: "open1",
    address: OPEN_GUEST,
    gateway: [10, 30, 0, 1],
    macs: (OPEN_MAC, OPEN_GUEST_MAC),
};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn refused_packets_are_answered_by_the_gateway() {
    use Reason::*;
    let mut lab = lab();
    for (from, to, reason) in [
        (NAT, DEV_GUEST, IntoNat),
        (NAT, ISOLATED_GUEST, IntoIsolated),
        (NAT, RDEV_GUEST, WrongUplink),
        (DEV, GUEST, WrongUplink),
        (DEV, ROUTE_GUEST, WrongUplink),
        (DEV, OPEN_GUEST, WrongUplink),
        (DEV, PEER1, WrongUplink),
        (ROUTE, GUEST, IntoNat),
        (ROUTE, ISOLATED_GUEST, IntoIsolated),
        (ROUTE, RDEV_GUEST, WrongUplink),
        (RDEV, ROUTE_GUEST, WrongUplink),
        (RDEV, PEER1, WrongUplink),
        (ISOLATED, SERVER, Isolated),
        (ISOLATED, GUEST, Isolated),
        (ISOLATED, ROUTE_GUEST, Isolated),
        (ISOLATED, OPEN_GUEST, Isolated),
        (OPEN, GUEST, IntoNat),
        (OPEN, ISOLATED_GUEST, IntoIsolated),
        (OPEN, RDEV_GUEST, WrongUplink),
    ] {
        for packet in [
            tcp(from.address, 40000, to, 80, SYN),
            tcp(from.address, 40000, to, 80, ACK),
            udp(from.address, 40000, to, 80),
            udp(from.address, 40000, to, 80).data(vec![]),
            udp(from.address, 40000, to, 80).data(vec![3; 1400]),
            udp_without_checksum(from.address, 40000, to, 80),
            echo(from.address, to, 9),
            raw(from.address, to, 47),
        ] {
            let packet = packet.macs(from.macs.0, from.macs.1);
            Fixture::new(
                format!("{} to {to:?}", from.port),
                "port_ingress",
                from.port,
                packet.bytes(),
            )
            .reject(reason, port_unreachable(from.gateway, &packet).bytes())
            .flows([])
            .run(&mut lab);
        }
    }
}

/// Where the host does not forward at all, an isolated guest is told no all the same; others are
/// the stack's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn isolated_guests_are_refused_without_forwarding_too() {
    let mut lab = lab();
    for bridge in ["br-isolated", "br-nat"] {
        set_forwarding(bridge, false);
    }
    let refused = udp(ISOLATED_GUEST, 4000, SERVER, 80).macs(ISOLATED_MAC, ISOLATED_GUEST_MAC);
    let isolated = Fixture::new("isolated", "port_ingress", "isolated1", refused.bytes()).reject(
        Reason::Isolated,
        port_unreachable(ISOLATED_GW, &refused).bytes(),
    );
    let own = udp(ISOLATED_GUEST, 4000, UP0, 80).macs(ISOLATED_MAC, ISOLATED_GUEST_MAC);
    let to_host = Fixture::new("to the host", "port_ingress", "isolated1", own.bytes());
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    let nat = Fixture::new("nat", "port_ingress", "nat1", packet.bytes()).flows([]);
    for fixture in [isolated, to_host, nat] {
        fixture.run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn spoofed_sources_are_refused() {
    let mut lab = lab();
    for from in [NAT, DEV, ROUTE, RDEV] {
        for source in [[1, 2, 3, 4], SERVER, [192, 168, 124, 5], UP0] {
            let packet = udp(source, 40000, ROUTER, 80).macs(from.macs.0, from.macs.1);
            Fixture::new(
                format!("{source:?} at {}", from.port),
                "port_ingress",
                from.port,
                packet.bytes(),
            )
            .reject(
                Reason::ForeignSource,
                port_unreachable(from.gateway, &packet).bytes(),
            )
            .flows([])
            .run(&mut lab);
        }
    }
    // The guest of another network.
    let packet = up(udp(ROUTE_GUEST, 40000, SERVER, 80));
    Fixture::new("another network's", "port_ingress", "nat1", packet.bytes())
        .reject(
            Reason::ForeignSource,
            port_unreachable(NAT_GW, &packet).bytes(),
        )
        .run(&mut lab);
}

/// RFC 1122, 3.2.2: what must not be answered is dropped and counted all the same.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_must_not_be_answered_is_not() {
    let mut lab = lab();
    let from_isolated = |packet: Packet| packet.macs(ISOLATED_MAC, ISOLATED_GUEST_MAC);
    let refused = udp(ISOLATED_GUEST, 4000, SERVER, 80);
    for (name, packet) in [
        (
            "ICMP error",
            time_exceeded(
                ISOLATED_GUEST,
                SERVER,
                udp(SERVER, 1, ISOLATED_GUEST, 2).quote(8),
            ),
        ),
        (
            "later fragment",
            raw(ISOLATED_GUEST, SERVER, 17).fragment(9),
        ),
        ("first fragment", refused.clone().fragment(MORE_FRAGMENTS)),
        ("IP options", refused.with_options()),
    ] {
        Fixture::new(
            name,
            "port_ingress",
            "isolated1",
            from_isolated(packet).bytes(),
        )
        .drop(Reason::Isolated)
        .run(&mut lab);
    }
}

/// What follows the packet in its frame is no part of the answer.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn padding_is_not_quoted() {
    let mut lab = lab();
    let packet = udp(ISOLATED_GUEST, 4000, SERVER, 80)
        .data(vec![1])
        .macs(ISOLATED_MAC, ISOLATED_GUEST_MAC);
    let mut frame = packet.bytes();
    frame.resize(60, 0xee);
    Fixture::new("padded", "port_ingress", "isolated1", frame)
        .reject(
            Reason::Isolated,
            port_unreachable(ISOLATED_GW, &packet).bytes(),
        )
        .run(&mut lab);
}

/// The stack drops what is damaged, and nothing is said about it (RFC 1812, 5.2.2).
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_wrong_header_checksum_is_the_stacks_to_drop() {
    let mut lab = lab();
    let packet = udp(ISOLATED_GUEST, 4000, SERVER, 80).macs(ISOLATED_MAC, ISOLATED_GUEST_MAC);
    let mut frame = packet.bytes();
    frame[24] ^= 0x55;
    Fixture::new("wrong header checksum", "port_ingress", "isolated1", frame).run(&mut lab);
}

/// From outside: the answer comes from the device's own address.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_is_refused_too() {
    let mut lab = lab();
    for (to, reason) in [
        (GUEST, Reason::IntoNat),
        (DEV_GUEST, Reason::IntoNat),
        (ISOLATED_GUEST, Reason::IntoIsolated),
    ] {
        let packet = tcp(SERVER, 999, to, 80, SYN).macs(UP0_MAC, ROUTER_MAC);
        Fixture::new("from outside", "uplink_ingress", "up0", packet.bytes())
            .reject(reason, port_unreachable(UP0, &packet).bytes())
            .flows([])
            .run(&mut lab);
    }
    // A routed network bound to up0, from up1.
    let packet = tcp(PEER1, 999, RDEV_GUEST, 80, SYN).macs(UP1_MAC, PEER1_MAC);
    Fixture::new("wrong uplink", "uplink_ingress", "up1", packet.bytes())
        .reject(Reason::WrongUplink, port_unreachable(UP1, &packet).bytes())
        .flows([])
        .run(&mut lab);
}

/// Open: netd has no say outside.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn open_networks_are_the_hosts_to_judge() {
    let mut lab = lab();
    let packet = udp(OPEN_GUEST, 40000, SERVER, 80).macs(OPEN_MAC, OPEN_GUEST_MAC);
    Fixture::new("out", "port_ingress", "open1", packet.bytes())
        .flows([])
        .run(&mut lab);
    let packet = udp(SERVER, 40000, OPEN_GUEST, 80).macs(UP0_MAC, ROUTER_MAC);
    Fixture::new("in", "uplink_ingress", "up0", packet.bytes())
        .flows([])
        .run(&mut lab);
}

/// A network that changes its mode: the next packet of a flow is judged anew.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_changed_mode_reaches_running_flows() {
    let mut lab = lab();
    let flow = crate::flows::guest_to_server(17, 40000, 80).established();
    flow.only(&mut lab);
    lab.set_mode("br-nat", Mode::Isolated);
    lab.set_epoch(2);
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("now isolated", "port_ingress", "nat1", packet.bytes())
        .reject(Reason::Isolated, port_unreachable(NAT_GW, &packet).bytes())
        .flows([])
        .run(&mut lab);
}
