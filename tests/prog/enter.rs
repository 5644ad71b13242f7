//! Connections that the kernel tracked before netd did (`netd libvirt adopt`).

use std::net::{IpAddr, SocketAddr};

use netd::datapath::enter::frame;
use netd::link::TrackedConnection;
use netd_common::Reason;
use netd_common::abi::{Addr4, Addr6, ENTERED, NOT_ENTERED};
use netd_common::clock::ticks;
use netd_common::state::State;
use netd_common::timeout::DEFAULT_TIMEOUTS;
use netd_common::timeout::Timeout;

use crate::family::Address;
use crate::fixture::Fixture;
use crate::flows::{FromGuest, guest_to_server, guest_to_server6};
use crate::lab::{Lab, call_on, lab, now};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, FIN, ICMP, ICMPV6, Packet, TCP, UDP, echo, echo_reply, tcp, udp};
use crate::route::{home as routed_home, routed};

/// The port that the kernel has given the guest's connection.
const SHOWN: u16 = 50000;

/// As the kernel tells of a flow.
fn tracked<A: Address + Into<IpAddr>>(flow: &FromGuest<A>) -> TrackedConnection {
    let (key, back) = (flow.key(), flow.back_key());
    let at = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    TrackedConnection {
        protocol: flow.proto,
        guest: at(key.src, key.sport),
        peer: at(key.dst, key.dport),
        seen_as: at(back.dst, back.dport),
        state: flow.state,
        fins: 0,
        remaining: u32::MAX / 2,
    }
}

fn enter(lab: &Lab, bridge: &str, connection: &TrackedConnection) -> u32 {
    call_on(&lab.ebpf, "enter", &frame(lab.ifindex(bridge), connection))
}

fn shown<A: Address>(mut flow: FromGuest<A>) -> FromGuest<A> {
    flow.shown = Some((A::UP0, SHOWN));
    flow.in_state(State::Established)
}

/// What either side says next, after a silence of any length, goes on as before.
fn goes_on<A: Address + Into<IpAddr>>(
    lab: &mut Lab,
    flow: &FromGuest<A>,
    there: Packet<A>,
    back: Packet<A>,
) {
    for outside_first in [true, false] {
        lab.clear_flows();
        assert_eq!(enter(lab, "br-nat", &tracked(flow)), ENTERED);
        let (there, back) = (up(there.clone()), down(back.clone()));
        let name = format!("protocol {}, outside first: {outside_first}", flow.proto);
        let from_outside = Fixture::new(name.clone(), "uplink_ingress", "up0", back.bytes())
            .redirect(home(back, 40000));
        let from_guest =
            Fixture::new(name, "port_ingress", "nat1", there.bytes()).redirect(out(there, SHOWN));
        if outside_first {
            from_outside.run(lab);
            from_guest.run(lab);
        } else {
            from_guest.run(lab);
            from_outside.run(lab);
        }
        assert_eq!(lab.faults(), [""; 0]);
        assert_eq!(lab.usage("br-nat").flows[A::INDEX], 1);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn either_side_goes_on() {
    let mut lab = lab();
    for (proto, there, back) in [
        (
            TCP,
            tcp(GUEST, 40000, SERVER, 80, ACK),
            tcp(SERVER, 80, UP0, SHOWN, ACK),
        ),
        (
            UDP,
            udp(GUEST, 40000, SERVER, 80),
            udp(SERVER, 80, UP0, SHOWN),
        ),
        (
            ICMP,
            echo(GUEST, SERVER, 40000),
            echo_reply(SERVER, UP0, SHOWN),
        ),
    ] {
        let flow = shown(guest_to_server(proto, 40000, 80));
        goes_on::<Addr4>(&mut lab, &flow, there, back);
    }
    for (proto, there, back) in [
        (
            TCP,
            tcp(GUEST6, 40000, SERVER6, 80, ACK),
            tcp(SERVER6, 80, UP0_6, SHOWN, ACK),
        ),
        (
            UDP,
            udp(GUEST6, 40000, SERVER6, 80),
            udp(SERVER6, 80, UP0_6, SHOWN),
        ),
        (
            ICMPV6,
            echo(GUEST6, SERVER6, 40000),
            echo_reply(SERVER6, UP0_6, SHOWN),
        ),
    ] {
        let flow = shown(guest_to_server6(proto, 40000, 80));
        goes_on::<Addr6>(&mut lab, &flow, there, back);
    }
}

/// A connection that ends goes on ending.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn its_state_and_age_are_the_kernels() {
    let lab = lab();
    let flow = shown(guest_to_server(TCP, 40000, 80)).in_state(State::FinWait);
    let connection = TrackedConnection {
        fins: 2,
        remaining: 20,
        ..tracked(&flow)
    };
    let began = now();
    assert_eq!(enter(&lab, "br-nat", &connection), ENTERED);
    let took = now().wrapping_sub(began);
    let timeout = DEFAULT_TIMEOUTS[Timeout::TcpFinWait as usize];
    for key in [flow.key(), flow.back_key()] {
        let entry = lab.flow(&key).expect("entered");
        assert_eq!(entry.state, State::FinWait as u8);
        let silent = began.wrapping_sub(entry.last_seen).wrapping_add(took);
        let wanted = timeout - ticks(20);
        assert!((wanted..=wanted + 1 + took).contains(&silent), "{silent}");
    }
    // It is known whose FIN it was: the guest's is the second.
    let mut lab = lab;
    let fin = up(tcp(GUEST, 40000, SERVER, 80, FIN | ACK));
    Fixture::new("the guest's FIN", "port_ingress", "nat1", fin.bytes())
        .redirect(out(fin, SHOWN))
        .run(&mut lab);
    let entry = lab.flow(&flow.key()).expect("entered");
    assert_eq!(entry.state, State::LastAck as u8);
}

/// Where addresses stay, outside's packets pass by policy alone. Entering them is no harm.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_routed_keeps_its_addresses() {
    let mut lab = lab();
    let flow = routed::<Addr4>(TCP).established();
    assert_eq!(enter(&lab, "br-route", &tracked(&flow)), ENTERED);
    assert_eq!(lab.flow(&flow.key()).expect("entered").flags, 0);
    lab.set_endpoint(ROUTE_GUEST, "route1", ROUTE_GUEST_MAC);
    let back = down(tcp(SERVER, 80, ROUTE_GUEST, 40000, ACK));
    Fixture::new("from outside", "uplink_ingress", "up0", back.bytes())
        .redirect(routed_home(back))
        .run(&mut lab);
}

/// What was opened between the programs' arrival and this one's: the peer knows the kernel's port.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_kernels_port_wins() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    let first = guest_to_server(UDP, 40000, 80);
    Fixture::new("a packet", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet.clone(), 40000))
        .any_flows()
        .run(&mut lab);
    let kernels = shown(guest_to_server(UDP, 40000, 80));
    assert_eq!(enter(&lab, "br-nat", &tracked(&kernels)), ENTERED);
    // Once more changes nothing.
    assert_eq!(enter(&lab, "br-nat", &tracked(&kernels)), ENTERED);
    assert!(lab.flow(&first.back_key()).is_none());
    Fixture::new("the next", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, SHOWN))
        .run(&mut lab);
    assert_eq!(lab.faults(), [""; 0]);
    assert_eq!(lab.usage("br-nat").flows[0], 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_netd_would_not_do_is_not_entered() {
    let mut lab = lab();
    let flow = shown(guest_to_server(TCP, 40000, 80));
    let good = tracked(&flow);
    let dropped = lab.drops();
    let others = [
        (
            "br-nat",
            "not translated",
            TrackedConnection {
                seen_as: good.guest,
                ..good
            },
        ),
        (
            "br-nat",
            "behind a foreign address",
            TrackedConnection {
                seen_as: "203.0.113.77:50000".parse().expect("an address"),
                ..good
            },
        ),
        (
            "br-nat",
            "to the host itself",
            TrackedConnection {
                peer: SocketAddr::new(NAT_GW.into(), 53),
                ..good
            },
        ),
        ("br-route", "of another network", good),
        (
            "br-isolated",
            "from an isolated network",
            TrackedConnection {
                guest: SocketAddr::new(ISOLATED_GUEST.into(), 40000),
                ..good
            },
        ),
        (
            "br-route",
            "translated where netd does not",
            TrackedConnection {
                guest: SocketAddr::new(ROUTE_GUEST.into(), 40000),
                ..good
            },
        ),
    ];
    for (bridge, what, connection) in others {
        assert_eq!(enter(&lab, bridge, &connection), NOT_ENTERED, "{what}");
    }
    assert!(lab.flows().is_empty());
    // Somebody else's port.
    assert_eq!(enter(&lab, "br-nat", &good), ENTERED);
    let another = TrackedConnection {
        guest: SocketAddr::new(GUEST2.into(), 40000),
        ..good
    };
    assert_eq!(enter(&lab, "br-nat", &another), NOT_ENTERED);
    assert_eq!(lab.faults(), [""; 0]);
    let isolated = Reason::Isolated.name();
    assert_eq!(
        lab.drops()[isolated],
        dropped[isolated],
        "no packet was dropped"
    );
    lab.clear_flows();
    assert_eq!(enter(&lab, "br-nat", &another), ENTERED);
}
