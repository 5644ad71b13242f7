//! Which source port a masqueraded flow gets.

use netd_common::Reason;
use netd_common::abi::{Flow4, FlowKey4};

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::guest_to_server;
use crate::lab::{Lab, lab, now};
use crate::names::*;
use crate::nat::{out, up};
use crate::packet::{ICMP, SYN, TCP, UDP, echo, port_unreachable, tcp, udp};

/// The one flow of this client, and the port it shows.
fn shown(lab: &Lab, key: &FlowKey4) -> (Flow4, u16) {
    let flow = lab.flow(key).expect("a flow");
    let back = lab.flow(&flow.partner(key.proto)).expect("its partner");
    assert_eq!(back.partner(key.proto), *key);
    (flow, u16::from_be_bytes(flow.new_sport))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn privileged_ports_are_moved() {
    let mut lab = lab();
    for port in [1, 80, 1023] {
        lab.set_flows(&[]);
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
        assert!(moved != 40000 && moved >= 1024, "{moved}");
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

/// All tries find their port taken: the guest is told, and nothing is left behind.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn exhausted_ports_are_answered() {
    let mut lab = lab();
    // Every answer from this server has an owner.
    let value = Flow4 {
        last_seen: now(),
        ..Flow4::default()
    };
    for port in 1..=u16::MAX {
        let mut flow = guest_to_server(UDP, 40000, 9);
        flow.shown = Some((UP0, port));
        lab.set_flow((flow.back_key(), value));
    }
    let packet = up(udp(GUEST, 40000, SERVER, 9));
    let answer = port_unreachable(NAT_GW, &packet).bytes();
    let before = lab.drops()[Reason::PortsExhausted.name()];
    let outcome = run(
        &lab,
        "port_ingress",
        lab.ifindex("nat1"),
        lab.ifindex("nat1"),
        0,
        1,
        &packet.bytes(),
    );
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.packet, answer);
    assert_eq!(lab.drops()[Reason::PortsExhausted.name()], before + 1);
    assert_eq!(lab.flow(&guest_to_server(UDP, 40000, 9).key()), None);
    assert_eq!(lab.flows().len(), usize::from(u16::MAX));
}
