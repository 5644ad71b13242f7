//! SCTP, DCCP and UDP-Lite by their ports; all other protocols by address alone.

use netd_common::Reason;
use netd_common::state::State;

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::{FromGuest, guest_to_server};
use crate::lab::lab;
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{
    DCCP, GRE, ICMP, Packet, SCTP, UDP_LITE, icmp, lite, prohibited, raw, sctp, time_exceeded,
};

/// Chunk types (RFC 9260, section 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Ports are translated both ways, with every checksum right, whatever the packet's length.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p44_protocols_with_ports_are_translated_by_them() {
    let mut lab = lab();
    for protocol in [SCTP, DCCP, UDP_LITE] {
        let of = |src, sport, dst, dport, len: usize| -> Packet {
            let data: Vec<u8> = (0..len).map(|i| (i * 11) as u8).collect();
            match protocol {
                SCTP => sctp(src, sport, dst, dport, DATA),
                _ => lite(protocol, src, sport, dst, dport),
            }
            .data(data)
        };
        for len in [4, 5, 12, 13, 100, 1000, 1459] {
            let mut flow = guest_to_server(protocol, 40000, 80).established();
            flow.shown = Some((UP0, 50000));
            flow.only(&mut lab);
            let there = up(of(GUEST, 40000, SERVER, 80, len));
            Fixture::new(
                format!("protocol {protocol} out, {len} bytes"),
                "port_ingress",
                "nat1",
                there.bytes(),
            )
            .redirect(out(there, 50000))
            .run(&mut lab);
            let back = down(of(SERVER, 80, UP0, 50000, len));
            Fixture::new(
                format!("protocol {protocol} back, {len} bytes"),
                "uplink_ingress",
                "up0",
                back.bytes(),
            )
            .redirect(home(back, 40000))
            .run(&mut lab);
        }
    }
}

/// An association opens a flow with its own port, or another if that is taken.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p44_sctp_opens_flows() {
    let mut lab = lab();
    let packet = up(sctp(GUEST, 40000, SERVER, 80, INIT));
    let flow = guest_to_server(SCTP, 40000, 80);
    let flows = flow.after_first(&lab, packet.bytes().len());
    Fixture::new("INIT", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .flows(flows)
        .run(&mut lab);
    let packet = sctp(GUEST2, 40000, SERVER, 80, INIT).macs(NAT_MAC, GUEST2_MAC);
    let device = lab.ifindex("nat2");
    let outcome = run(&lab, "port_ingress", device, device, 0, 1, &packet.bytes());
    let second = FromGuest {
        guest: (GUEST2, 40000),
        ..flow
    };
    let entry = lab.flow(&second.key()).expect("a flow");
    let moved = u16::from_be_bytes(entry.new_sport);
    assert_ne!(moved, 40000);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.packet, out(packet, moved));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn sctp_states_follow_the_chunks() {
    let mut lab = lab();
    let flow = guest_to_server(SCTP, 40000, 80);
    for ending in [
        [
            (true, SHUTDOWN, State::FinWait),
            (false, SHUTDOWN_ACK, State::FinWait),
            (true, SHUTDOWN_COMPLETE, State::Close),
        ],
        [
            (false, DATA, State::Established),
            (true, DATA, State::Established),
            (false, ABORT, State::Close),
        ],
    ] {
        lab.clear_flows();
        let opening = [
            (true, INIT, State::New),
            (false, INIT_ACK, State::Answered),
            (true, COOKIE_ECHO, State::Answered),
            (false, COOKIE_ACK, State::Established),
        ];
        for (from_guest, chunk, after) in opening.into_iter().chain(ending) {
            let name = format!("chunk {chunk}");
            if from_guest {
                let packet = up(sctp(GUEST, 40000, SERVER, 80, chunk));
                Fixture::new(&name, "port_ingress", "nat1", packet.bytes())
                    .redirect(out(packet, 40000))
            } else {
                let packet = down(sctp(SERVER, 80, UP0, 40000, chunk));
                Fixture::new(&name, "uplink_ingress", "up0", packet.bytes())
                    .redirect(home(packet, 40000))
            }
            .any_flows()
            .run(&mut lab);
            for key in [flow.key(), flow.back_key()] {
                let state = State::from_u8(lab.flow(&key).expect("an entry").state);
                assert_eq!(state, after, "{name}");
            }
        }
    }
}

/// Errors about them, with the ports in the quote.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_about_them_are_translated() {
    let mut lab = lab();
    for protocol in [SCTP, DCCP, UDP_LITE, GRE] {
        let mut flow = guest_to_server(protocol, 40000, 80).established();
        flow.shown = Some((UP0, 50000));
        flow.only(&mut lab);
        let inner = match protocol {
            SCTP => sctp(GUEST, 40000, SERVER, 80, DATA),
            GRE => raw(GUEST, SERVER, GRE),
            other => lite(other, GUEST, 40000, SERVER, 80),
        };
        let shown = match protocol {
            GRE => inner.clone().src(UP0),
            _ => inner.clone().src(UP0).sport(50000),
        };
        let error = down(time_exceeded(ROUTER, UP0, shown.quote(8)));
        let after = time_exceeded(ROUTER, GUEST, inner.quote(8))
            .ttl(63)
            .macs(GUEST_MAC, NAT_MAC);
        Fixture::new(
            format!("protocol {protocol}"),
            "uplink_ingress",
            "up0",
            error.bytes(),
        )
        .redirect(after.bytes())
        .run(&mut lab);
    }
}

/// One guest per remote: the first one wins, the other is told, and gets its turn when the first
/// one's flow has ended.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p44_other_protocols_belong_to_one_guest_per_peer() {
    let mut lab = lab();
    for protocol in [2, 4, 41, GRE, 50, 51, 89, 103, 115] {
        lab.clear_flows();
        let name = format!("protocol {protocol}");
        let packet = up(raw(GUEST, SERVER, protocol));
        let flow = guest_to_server(protocol, 0, 0);
        let flows = flow.after_first(&lab, packet.bytes().len());
        let shown = |packet: &Packet| {
            let after = packet.clone().src(UP0).ttl(63);
            after.macs(ROUTER_MAC, UP0_MAC).bytes()
        };
        Fixture::new(&name, "port_ingress", "nat1", packet.bytes())
            .redirect(shown(&packet))
            .flows(flows)
            .run(&mut lab);
        let back = down(raw(SERVER, UP0, protocol));
        let after = back.clone().dst(GUEST).ttl(63).macs(GUEST_MAC, NAT_MAC);
        Fixture::new(
            format!("{name}, back"),
            "uplink_ingress",
            "up0",
            back.bytes(),
        )
        .redirect(after.bytes())
        .run(&mut lab);

        let other = raw(GUEST2, SERVER, protocol).macs(NAT_MAC, GUEST2_MAC);
        Fixture::new(
            format!("{name} of another guest"),
            "port_ingress",
            "nat2",
            other.bytes(),
        )
        .reject(Reason::ProtocolTaken, prohibited(NAT_GW, &other).bytes())
        .run(&mut lab);
        // To another peer.
        let elsewhere = raw(GUEST2, ROUTER, protocol).macs(NAT_MAC, GUEST2_MAC);
        Fixture::new(
            format!("{name} to another peer"),
            "port_ingress",
            "nat2",
            elsewhere.bytes(),
        )
        .redirect(shown(&elsewhere))
        .any_flows()
        .run(&mut lab);

        lab.v4.age(1_000_000);
        Fixture::new(
            format!("{name}, after a while"),
            "port_ingress",
            "nat2",
            other.bytes(),
        )
        .redirect(shown(&other))
        .any_flows()
        .run(&mut lab);
    }
}

/// The host itself speaks the protocol with that peer: the guest does not get its answers.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p44_the_hosts_own_protocol_is_not_given_to_a_guest() {
    let mut lab = lab();
    let own = raw(UP0, SERVER, GRE).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("the host's", "uplink_egress", "up0", own.bytes())
        .any_flows()
        .run(&mut lab);
    let packet = up(raw(GUEST, SERVER, GRE));
    Fixture::new("a guest's", "port_ingress", "nat1", packet.bytes())
        .reject(Reason::ProtocolTaken, prohibited(NAT_GW, &packet).bytes())
        .run(&mut lab);
    // The peer's go to the host.
    let back = down(raw(SERVER, UP0, GRE));
    Fixture::new("the peer's", "uplink_ingress", "up0", back.bytes()).run(&mut lab);
}

/// Both sides ping each other with identifier 0: what the peer asks is not what it answers.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn icmp_queries_are_not_taken_for_answers() {
    let mut lab = lab();
    for (name, id, asked) in [
        ("both with 0", 0, icmp(SERVER, UP0, 8, 0, [0; 4], vec![1])),
        (
            "a timestamp request with 0 and an echo request with 13",
            13,
            icmp(SERVER, UP0, 13, 0, [0; 4], vec![1; 12]),
        ),
    ] {
        lab.clear_flows();
        let packet = up(icmp(GUEST, SERVER, 8, 0, [0, id, 0, 1], vec![1]));
        Fixture::new(name, "port_ingress", "nat1", packet.bytes())
            .redirect(out(packet, id.into()))
            .any_flows()
            .run(&mut lab);
        // Both in the slow path and right after it.
        for _ in 0..2 {
            Fixture::new(name, "uplink_ingress", "up0", down(asked.clone()).bytes()).run(&mut lab);
            let answer = down(icmp(SERVER, UP0, 0, 0, [0, id, 0, 1], vec![1]));
            Fixture::new(name, "uplink_ingress", "up0", answer.bytes())
                .redirect(home(answer, id.into()))
                .run(&mut lab);
        }
    }
}

/// Every query of ICMP is translated by its identifier, each type for itself (RFC 5508, REQ-1).
#[test]
#[ignore = "needs root: cargo xtask test"]
fn icmp_queries_are_translated() {
    let mut lab = lab();
    for (query, answer) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        let name = format!("type {query}");
        let packet = up(icmp(
            GUEST,
            SERVER,
            query,
            0,
            [0x9c, 0x40, 0, 1],
            vec![1; 12],
        ));
        let fixture = Fixture::new(&name, "port_ingress", "nat1", packet.bytes());
        fixture
            .redirect(out(packet, 40000))
            .any_flows()
            .run(&mut lab);
        let back = down(icmp(
            SERVER,
            UP0,
            answer,
            0,
            [0x9c, 0x40, 0, 1],
            vec![1; 12],
        ));
        Fixture::new(&name, "uplink_ingress", "up0", back.bytes())
            .redirect(home(back, 40000))
            .run(&mut lab);
    }
    assert_eq!(lab.flows().len(), 8);
    assert!(lab.flow(&guest_to_server(ICMP, 40000, 0).key()).is_some());
}
