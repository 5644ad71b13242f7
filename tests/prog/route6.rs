//! IPv6 without translation: routed, isolated and open networks, and what may not pass.

use netd_common::Reason;
use netd_common::abi::{Addr6, MacAddr};

use crate::fixture::Fixture;
use crate::lab::lab;
use crate::names::*;
use crate::nat::down;
use crate::packet::{
    ACK, RST, SYN, TCP, UDP, echo, echo_reply, port_unreachable, raw, sctp, tcp, time_exceeded, udp,
};
use crate::route::{home, out, routed, up};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_guest_begins() {
    let mut lab = lab();
    let packet = up(tcp(ROUTE_GUEST6, 40000, SERVER6, 80, SYN));
    let flows = routed::<Addr6>(TCP).after_first(&lab, packet.bytes().len());
    Fixture::new("SYN", "port_ingress", "route1", packet.bytes())
        .redirect(out(packet))
        .flows6(flows)
        .run(&mut lab);
    let back = down(tcp(SERVER6, 80, ROUTE_GUEST6, 40000, SYN | ACK));
    Fixture::new("SYN-ACK", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back))
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_begins_towards_a_guest_whose_port_is_known() {
    let mut lab = lab();
    lab.set_endpoint(ROUTE_GUEST6, "route1", ROUTE_GUEST_MAC);
    for packet in [
        tcp(SERVER6, 999, ROUTE_GUEST6, 22, SYN),
        udp(SERVER6, 999, ROUTE_GUEST6, 22),
        sctp(SERVER6, 999, ROUTE_GUEST6, 22, 1),
        echo(SERVER6, ROUTE_GUEST6, 22),
    ] {
        let packet = down(packet);
        Fixture::new("first", "uplink_ingress", "up0", packet.bytes())
            .redirect(home(packet))
            .any_flows()
            .run(&mut lab);
    }
    assert_eq!(lab.v6.flows().len(), 8);
    let back = up(tcp(ROUTE_GUEST6, 22, SERVER6, 999, SYN | ACK));
    Fixture::new("answer", "port_ingress", "route1", back.bytes())
        .redirect(out(back.clone()))
        .run(&mut lab);
}

/// What opens no flow is the stack's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_opens_no_flow_is_the_stacks() {
    let mut lab = lab();
    for (name, packet) in [
        (
            "later fragment",
            raw(ROUTE_GUEST6, SERVER6, UDP).piece(7, 100, false),
        ),
        ("RST", tcp(ROUTE_GUEST6, 1, SERVER6, 2, RST)),
        ("echo reply", echo_reply(ROUTE_GUEST6, SERVER6, 3)),
        (
            "error",
            time_exceeded(
                ROUTE_GUEST6,
                SERVER6,
                udp(SERVER6, 9, ROUTE_GUEST6, 9).quote(8),
            ),
        ),
    ] {
        Fixture::new(name, "port_ingress", "route1", up(packet).bytes())
            .flows6([])
            .run(&mut lab);
    }
}

struct Guest {
    port: &'static str,
    address: Addr6,
    gateway: Addr6,
    macs: (MacAddr, MacAddr),
}

const NAT: Guest = Guest {
    port: "nat1",
    address: GUEST6,
    gateway: NAT_GW6,
    macs: (NAT_MAC, GUEST_MAC),
};
const DEV: Guest = Guest {
    port: "dev1",
    address: DEV_GUEST6,
    gateway: GATEWAYS6[1].1,
    macs: (DEV_MAC, DEV_GUEST_MAC),
};
const ROUTE: Guest = Guest {
    port: "route1",
    address: ROUTE_GUEST6,
    gateway: ROUTE_GW6,
    macs: (ROUTE_MAC, ROUTE_GUEST_MAC),
};
const ISOLATED: Guest = Guest {
    port: "isolated1",
    address: ISOLATED_GUEST6,
    gateway: ISOLATED_GW6,
    macs: (ISOLATED_MAC, ISOLATED_GUEST_MAC),
};
const OPEN: Guest = Guest {
    port: "open1",
    address: OPEN_GUEST6,
    gateway: OPEN_GW6,
    macs: (OPEN_MAC, OPEN_GUEST_MAC),
};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn refused_packets_are_answered_by_the_gateway() {
    use Reason::*;
    let mut lab = lab();
    for (from, to, reason) in [
        (NAT, DEV_GUEST6, IntoNat),
        (NAT, ISOLATED_GUEST6, IntoIsolated),
        (DEV, GUEST6, WrongUplink),
        (DEV, PEER1_6, WrongUplink),
        (ROUTE, GUEST6, IntoNat),
        (ROUTE, ISOLATED_GUEST6, IntoIsolated),
        (ISOLATED, SERVER6, Isolated),
        (ISOLATED, GUEST6, Isolated),
        (ISOLATED, OPEN_GUEST6, Isolated),
        (OPEN, GUEST6, IntoNat),
        (OPEN, ISOLATED_GUEST6, IntoIsolated),
    ] {
        for packet in [
            tcp(from.address, 40000, to, 80, SYN),
            udp(from.address, 40000, to, 80),
            udp(from.address, 40000, to, 80).data(vec![]),
            udp(from.address, 40000, to, 80).data(vec![3; 1400]),
            sctp(from.address, 40000, to, 80, 1),
            echo(from.address, to, 9),
            raw(from.address, to, 47),
        ] {
            let packet = packet.macs(from.macs.0, from.macs.1);
            Fixture::new(
                format!("{} to {}", from.port, std::net::Ipv6Addr::from(to)),
                "port_ingress",
                from.port,
                packet.bytes(),
            )
            .reject(reason, port_unreachable(from.gateway, &packet).bytes())
            .flows6([])
            .run(&mut lab);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn spoofed_sources_are_refused() {
    let mut lab = lab();
    for from in [NAT, DEV, ROUTE] {
        for source in [SERVER6, OPEN_GUEST6, UP0_6] {
            let packet = udp(source, 40000, ROUTER6, 80).macs(from.macs.0, from.macs.1);
            Fixture::new(from.port, "port_ingress", from.port, packet.bytes())
                .reject(
                    Reason::ForeignSource,
                    port_unreachable(from.gateway, &packet).bytes(),
                )
                .flows6([])
                .run(&mut lab);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_is_refused_too() {
    let mut lab = lab();
    for (to, reason) in [
        (GUEST6, Reason::IntoNat),
        (ISOLATED_GUEST6, Reason::IntoIsolated),
    ] {
        let packet = down(tcp(SERVER6, 999, to, 80, SYN));
        Fixture::new("from outside", "uplink_ingress", "up0", packet.bytes())
            .reject(reason, port_unreachable(UP0_6, &packet).bytes())
            .flows6([])
            .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn open_networks_are_the_hosts_to_judge() {
    let mut lab = lab();
    let packet = udp(OPEN_GUEST6, 40000, SERVER6, 80).macs(OPEN_MAC, OPEN_GUEST_MAC);
    Fixture::new("out", "port_ingress", "open1", packet.bytes())
        .flows6([])
        .run(&mut lab);
    let packet = down(udp(SERVER6, 40000, OPEN_GUEST6, 80));
    Fixture::new("in", "uplink_ingress", "up0", packet.bytes())
        .flows6([])
        .run(&mut lab);
}

/// A network may be NAT in IPv4 and routed in IPv6, as libvirt has it without `ipv6='yes'`.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn modes_are_each_familys_own() {
    let mut lab = lab();
    lab.change_network("br-nat", |network| {
        network.v6.mode = netd_common::abi::Mode::Route as u8;
    });
    let packet = udp(GUEST6, 40000, SERVER6, 80).macs(NAT_MAC, GUEST_MAC);
    Fixture::new("IPv6", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet))
        .any_flows()
        .run(&mut lab);
    let packet = crate::nat::up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("IPv4", "port_ingress", "nat1", packet.bytes())
        .redirect(crate::nat::out(packet, 40000))
        .any_flows()
        .run(&mut lab);
}
