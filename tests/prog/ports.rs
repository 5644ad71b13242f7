//! Which source port a masqueraded flow gets.

use netd_common::Reason;
use netd_common::abi::{Flow4, FlowKey4};

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::guest_to_server;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{out, up};
use crate::packet::{ICMP, SYN, TCP, UDP, echo, prohibited, tcp, udp};

/// The one flow of this client, and the port it shows.
fn shown(lab: &Lab, key: &FlowKey4) -> (Flow4, u16) {
    let flow = lab.flow(key).expect("a flow");
    let back = lab.flow(&flow.partner(key.proto)).expect("its partner");
    assert_eq!(back.partner(key.proto), *key);
    (flow, u16::from_be_bytes(flow.new_sport))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p14_privileged_ports_are_moved() {
    let mut lab = lab();
    for port in [1, 80, 1023] {
        lab.clear_flows();
        let packet = up(udp(GUEST, port, SERVER, 123));
        let outcome = run(
            &lab,
            "port_ingress",
            lab.ifindex("nat1"),
            lab.ifindex("nat1"),
            0,
            1,
            &packet.bytes(),
        );
        let (_, moved) = shown(&lab, &guest_to_server(UDP, port, 123).key());
        assert!(moved >= 1024, "{port} -> {moved}");
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(outcome.packet, out(packet, moved));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_guests_with_the_same_port_get_two() {
    let mut lab = lab();
    for proto in [TCP, UDP, ICMP] {
        let first = guest_to_server(proto, 40000, 80);
        first.only(&mut lab);
        let packet = match proto {
            TCP => tcp(GUEST2, 40000, SERVER, 80, SYN),
            UDP => udp(GUEST2, 40000, SERVER, 80),
            _ => echo(GUEST2, SERVER, 40000),
        }
        .macs(NAT_MAC, GUEST2_MAC);
        let outcome = run(
            &lab,
            "port_ingress",
            lab.ifindex("nat2"),
            lab.ifindex("nat2"),
            0,
            1,
            &packet.bytes(),
        );
        let mut second = first;
        second.guest.0 = GUEST2;
        let (_, moved) = shown(&lab, &second.key());
        assert_ne!(moved, 40000);
        // An identifier of ICMP may be any number: none is privileged.
        assert!(proto == ICMP || moved >= 1024, "{moved}");
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(outcome.packet, out(packet, moved));
        // The first one's are untouched.
        for (key, flow) in first.entries(&lab) {
            assert_eq!(lab.flow(&key).map(|f| f.new_src), Some(flow.new_src));
        }
        assert_eq!(lab.flows().len(), 4);
    }
}

/// The same port to another server is free.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_port_is_taken_towards_one_peer_only() {
    let mut lab = lab();
    guest_to_server(TCP, 40000, 80).only(&mut lab);
    let packet = tcp(GUEST2, 40000, SERVER, 81, SYN).macs(NAT_MAC, GUEST2_MAC);
    Fixture::new("other peer port", "port_ingress", "nat2", packet.bytes())
        .redirect(out(packet, 40000))
        .any_flows()
        .run(&mut lab);
}

/// Take ports of the server's port 9 for other guests.
fn take(lab: &mut Lab, ports: impl IntoIterator<Item = u16>) -> usize {
    let mut taken = 0;
    for port in ports {
        let mut other = guest_to_server(UDP, port, 9).established();
        other.guest.0 = GUEST2;
        for entry in other.entries(lab) {
            lab.set_flow(entry);
        }
        taken += 1;
    }
    taken
}

fn set_range(lab: &mut Lab, first: u16, last: u16) {
    lab.change_network("br-nat", |network| {
        (network.first_port, network.last_port) = (first, last);
    });
}

/// All but one of a range are taken: that one is found, wherever it is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p05_the_last_free_port_is_found() {
    let mut lab = lab();
    for (first, last) in [(5000, 5063), (65500, 65535), (1, 40), (65535, 65535)] {
        set_range(&mut lab, first, last);
        for free in [first, first + (last - first) / 2, last] {
            lab.clear_flows();
            take(&mut lab, (first..=last).filter(|port| *port != free));
            let packet = up(udp(GUEST, 40000, SERVER, 9));
            Fixture::new(
                format!("{free} of {first} to {last}"),
                "port_ingress",
                "nat1",
                packet.bytes(),
            )
            .redirect(out(packet, free))
            .any_flows()
            .run(&mut lab);
        }
    }
}

/// In the range of all ports there are: one is free.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p05_the_last_free_port_of_a_thousand_is_found() {
    let mut lab = lab();
    set_range(&mut lab, 1024, 5119);
    take(&mut lab, (1024..=5119).filter(|port| *port != 2222));
    let packet = up(udp(GUEST, 40000, SERVER, 9));
    Fixture::new("one of 4096", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 2222))
        .any_flows()
        .run(&mut lab);
}

/// All tries find their port taken: the guest is told, and nothing is left behind.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p16_exhausted_ports_are_answered() {
    let mut lab = lab();
    for (first, last) in [(5000, 5063), (7777, 7777), (1024, 5119)] {
        lab.clear_flows();
        set_range(&mut lab, first, last);
        let taken = take(&mut lab, first..=last);
        let packet = up(udp(GUEST, 40000, SERVER, 9));
        Fixture::new(
            format!("{first} to {last}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .reject(Reason::PortsExhausted, prohibited(NAT_GW, &packet).bytes())
        .run(&mut lab);
        assert_eq!(lab.flows().len(), 2 * taken);
    }
}

/// What the administrator keeps for the host is not handed out.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn reserved_ports_are_not_handed_out() {
    let mut lab = lab();
    set_range(&mut lab, 5000, 5003);
    for port in [5000, 5001, 5003] {
        lab.set_reserved(port);
    }
    for own in [5000, 40000] {
        lab.clear_flows();
        let packet = up(udp(GUEST, own, SERVER, 9));
        Fixture::new("three of four", "port_ingress", "nat1", packet.bytes())
            .redirect(out(packet, 5002))
            .any_flows()
            .run(&mut lab);
    }
    // An identifier is no port.
    set_range(&mut lab, 0, 0);
    let packet = up(echo(GUEST, SERVER, 5000));
    Fixture::new("echo", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 5000))
        .any_flows()
        .run(&mut lab);
}

/// A socket of the host's has the port: connected to the peer, or listening.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p07_ports_of_the_hosts_sockets_are_not_handed_out() {
    let mut lab = lab();
    let any = std::net::UdpSocket::bind("0.0.0.0:40001").expect("a socket");
    let connected = std::net::UdpSocket::bind("198.51.100.2:40002").expect("a socket");
    connected.connect("192.0.2.80:9").expect("a route");
    let listening = std::net::TcpListener::bind("198.51.100.2:40003").expect("a socket");
    for (proto, port) in [(UDP, 40001), (UDP, 40002), (TCP, 40003)] {
        let packet = match proto {
            UDP => udp(GUEST, port, SERVER, 9),
            _ => tcp(GUEST, port, SERVER, 9, SYN),
        };
        let outcome = run(
            &lab,
            "port_ingress",
            lab.ifindex("nat1"),
            lab.ifindex("nat1"),
            0,
            1,
            &up(packet.clone()).bytes(),
        );
        let (_, moved) = shown(&lab, &guest_to_server(proto, port, 9).key());
        assert_ne!(moved, port);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(outcome.packet, out(up(packet), moved));
    }
    // They are the other protocol's.
    lab.clear_flows();
    let packet = up(tcp(GUEST, 40001, SERVER, 9, SYN));
    Fixture::new("TCP", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40001))
        .any_flows()
        .run(&mut lab);
    drop((any, connected, listening));
}

/// Both CPUs get the first packet of one flow: there is one flow afterwards, counted once.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p06_two_cpus_open_one_flow_once() {
    const PORTS: u16 = 1000;
    let lab = lab();
    let barrier = std::sync::Barrier::new(2);
    let open = || {
        lab.enter();
        let device = lab.ifindex("nat1");
        for sport in 0..PORTS {
            let packet = up(udp(GUEST, 20000 + sport, SERVER, 9)).bytes();
            barrier.wait();
            let outcome = run(&lab, "port_ingress", device, device, 0, 1, &packet);
            assert_eq!(outcome.verdict, Verdict::Redirect);
            let source = &outcome.packet[26..30];
            assert_eq!(source, UP0, "translated, not refused");
        }
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(open);
        let two = scope.spawn(open);
        one.join().expect("every packet leaves");
        two.join().expect("every packet leaves");
    });
    assert_eq!(lab.faults(), Vec::<String>::new());
    assert_eq!(lab.flows().len(), 2 * usize::from(PORTS));
    assert_eq!(lab.usage("br-nat").flows[0], u32::from(PORTS));
}

/// Two guests open flows from the same port to the same peer, on two CPUs: they never get one
/// port, and every flow is whole.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p06_two_cpus_never_hand_out_one_port_twice() {
    const PORTS: u16 = 400;
    let lab = lab();
    let open = |port: &'static str, guest, mac| {
        lab.enter();
        let device = lab.ifindex(port);
        for sport in 0..PORTS {
            let packet = udp(guest, 20000 + sport, SERVER, 9).macs(NAT_MAC, mac);
            let outcome = run(&lab, "port_ingress", device, device, 0, 1, &packet.bytes());
            assert_eq!(outcome.verdict, Verdict::Redirect);
        }
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| open("nat1", GUEST, GUEST_MAC));
        let two = scope.spawn(|| open("nat2", GUEST2, GUEST2_MAC));
        one.join().expect("every packet leaves");
        two.join().expect("every packet leaves");
    });
    assert_eq!(lab.faults(), Vec::<String>::new());
    // Both halves of as many flows: no answer has two owners.
    assert_eq!(lab.flows().len(), 4 * usize::from(PORTS));
}
