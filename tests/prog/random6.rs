//! The same in IPv6: what is sent on is right, and no private source leaves.

use std::cell::RefCell;

use netd_common::abi::Addr6;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::checker::{check, describe};
use crate::fixture::{Verdict, run};
use crate::lab::{Turn, lab};
use crate::names::*;
use crate::packet::{Body, DCCP, ETH, ICMPV6, SCTP, TCP, Tcp, UDP, UDP_LITE};
use crate::packet6::{
    AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, Packet6, Piece, ROUTING, extension,
};

const CASES: u32 = 6000;

fn address() -> impl Strategy<Value = Addr6> {
    let mut group = [0; 16];
    (group[0], group[1], group[15]) = (0xff, 2, 1);
    let mut link_local = [0; 16];
    (link_local[0], link_local[1], link_local[15]) = (0xfe, 0x80, 7);
    prop_oneof![
        8 => select(vec![
            GUEST6, GUEST2_6, SERVER6, UP0_6, PEER1_6, NARROW6, SILENT6, ROUTE_GUEST6,
            ISOLATED_GUEST6, OPEN_GUEST6, NAT_GW6, DEV_GUEST6, group, link_local, [0; 16],
        ]),
        1 => any::<Addr6>(),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => select(vec![0, 80, 1023, 40000, 65535]), 1 => any::<u16>()]
}

fn plain_body() -> impl Strategy<Value = Body> {
    let data = || vec(any::<u8>(), 0..40);
    prop_oneof![
        (port(), port(), any::<u8>(), data()).prop_map(|(sport, dport, control, data)| {
            Body::Tcp(Tcp {
                data,
                ..Tcp::new(sport, dport, control)
            })
        }),
        (port(), port(), data()).prop_map(|(sport, dport, data)| Body::Udp {
            sport,
            dport,
            data,
            checksum: true
        }),
        (port(), port(), any::<u8>()).prop_map(|(a, b, chunk)| Body::sctp(a, b, chunk)),
        (port(), port(), select(vec![DCCP, UDP_LITE]))
            .prop_map(|(a, b, protocol)| Body::lite(protocol, a, b)),
        (select(vec![128u8, 129, 135, 143]), port(), data()).prop_map(|(kind, id, data)| {
            let [a, b] = id.to_be_bytes();
            Body::Icmp {
                kind,
                code: 0,
                rest: [a, b, 0, 1],
                data,
            }
        }),
        (any::<u8>(), data())
            .prop_filter(
                "checked protocols have bodies of their own",
                |(protocol, _)| {
                    !matches!(*protocol, TCP | UDP | SCTP | ICMPV6)
                        && ![HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, AUTHENTICATION]
                            .contains(protocol)
                }
            )
            .prop_map(|(protocol, bytes)| Body::Raw { protocol, bytes }),
    ]
}

fn packet_of(body: impl Strategy<Value = Body>) -> impl Strategy<Value = Packet6> {
    let piece = prop_oneof![
        5 => Just(None),
        1 => (0u16..4, any::<bool>(), 0u32..3).prop_map(|(offset, more, id)| {
            Some(Piece { id, offset, more })
        }),
    ];
    let headers = prop_oneof![
        4 => Just(Vec::new()),
        1 => vec(
            (select(vec![HOP_BY_HOP, DESTINATION, ROUTING]), 1u8..4)
                .prop_map(|(kind, words)| extension(kind, words)),
            0..4,
        ),
    ];
    (address(), address(), body, any::<u8>(), piece, headers).prop_map(
        |(src, dst, body, hops, piece, headers)| {
            let mut packet = Packet6::new(src, dst, body).ttl(hops);
            (packet.header.piece, packet.header.extensions) = (piece, headers);
            packet
        },
    )
}

fn packet() -> BoxedStrategy<Packet6> {
    let error = (packet_of(plain_body()), 1u8..5, any::<u8>(), 0usize..60).prop_map(
        |(inner, kind, code, quoted)| Body::Icmp {
            kind,
            code,
            rest: [0, 0, 5, 0],
            data: inner.quote(quoted),
        },
    );
    prop_oneof![3 => packet_of(plain_body()), 1 => packet_of(error)].boxed()
}

/// A packet, bytes after it, and bytes changed in it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop_oneof![
        3 => Just(Vec::new()),
        1 => vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ];
    let padding = prop_oneof![3 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..30)];
    (packet(), padding, changes).prop_map(|(packet, padding, changes)| {
        let mut bytes = packet.bytes();
        bytes.extend(padding);
        for (at, byte) in changes {
            let at = ETH + at.index(bytes.len() - ETH);
            bytes[at] = byte;
        }
        bytes
    })
}

struct Hook {
    program: &'static str,
    device: &'static str,
    came_from: Option<&'static str>,
    macs: ([u8; 6], [u8; 6]),
}

fn hooks() -> Vec<Hook> {
    let at = |program, device, macs| Hook {
        program,
        device,
        came_from: Some(device),
        macs,
    };
    vec![
        at("port_ingress", "nat1", (NAT_MAC, GUEST_MAC)),
        at("port_ingress", "nat2", (NAT_MAC, GUEST2_MAC)),
        at("port_ingress", "route1", (ROUTE_MAC, ROUTE_GUEST_MAC)),
        at("bridge_ingress", "br-nat", (NAT_MAC, GUEST_MAC)),
        at("uplink_ingress", "up0", (UP0_MAC, ROUTER_MAC)),
        at("uplink_ingress", "up1", (UP1_MAC, PEER1_MAC)),
        Hook {
            program: "uplink_egress",
            device: "up0",
            came_from: Some("br-nat"),
            macs: (ROUTER_MAC, UP0_MAC),
        },
        Hook {
            program: "uplink_egress",
            device: "up0",
            came_from: None,
            macs: (ROUTER_MAC, UP0_MAC),
        },
    ]
}

/// Subnets of NAT networks.
fn is_private(address: &[u8]) -> bool {
    matches!(address, [0xfd, 0, 0x01, 0x22 | 0x23, 0, 0, 0, 0, ..])
}

/// Multicast, link-local, loopback. (To the unspecified address Linux forwards by its default
/// route.)
fn stays(address: &[u8]) -> bool {
    match address {
        [0xff, ..] => true,
        [0xfe, second, ..] => second & 0xc0 == 0x80,
        other => other.iter().take(15).all(|byte| *byte == 0) && other.ends_with(&[1]),
    }
}

fn evaluate(lab: &Turn, hook: &Hook, frame: &[u8]) -> Result<(), TestCaseError> {
    let ingress = hook.came_from.map_or(0, |device| lab.ifindex(device));
    let device = lab.ifindex(hook.device);
    let outcome = run(lab, hook.program, device, ingress, 0, 1, frame);
    let out = &outcome.packet;
    let story = || {
        format!(
            "{} on {}: {:?}\nin:  {}\nout: {}",
            hook.program,
            hook.device,
            outcome.verdict,
            describe(frame, ETH),
            describe(out, ETH)
        )
    };
    let was_right = check(&frame[ETH..]) == Ok(());
    let source = out.get(ETH + 8..ETH + 24).unwrap_or_default();
    let destination = out.get(ETH + 24..ETH + 40).unwrap_or_default();
    if outcome.verdict != Verdict::Drop && was_right {
        prop_assert_eq!(check(&out[ETH..]), Ok(()), "{}", story());
    }
    match outcome.verdict {
        Verdict::Drop => {}
        Verdict::Redirect => {
            // A gateway's refusal goes back to the guest; nothing else of a NAT guest's goes on
            // with its own address.
            let refusal = out[..6] == frame[6..12] && out[6..12] == frame[..6];
            if !hook.program.starts_with("uplink") && is_private(source) {
                prop_assert!(refusal, "{}", story());
            }
            prop_assert!(!stays(destination), "{}", story());
        }
        Verdict::Pass => {
            let own = hook.came_from.is_none() && stays(destination);
            // The host may answer whoever asks a bridge's own address.
            let answer = hook.came_from.is_none() && source.ends_with(&[0, 1]);
            let leaves = hook.program == "uplink_egress";
            if leaves && is_private(source) && !own && !answer {
                return Err(TestCaseError::fail(format!("leaked: {}", story())));
            }
        }
    }
    Ok(())
}

fn check_all(strategy: impl Strategy<Value = Vec<u8>>) {
    let lab = RefCell::new(lab());
    let hooks = hooks();
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&(0..hooks.len(), strategy), |(which, mut frame)| {
        let hook = &hooks[which];
        frame[..6].copy_from_slice(&hook.macs.0);
        frame[6..12].copy_from_slice(&hook.macs.1);
        evaluate(&lab.borrow(), hook, &frame)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert_eq!(lab.borrow().faults(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn likely_packets() {
    check_all(frame());
}

/// Flows exist, and the packets are about them.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn likely_packets_of_known_flows() {
    let ports = || select(vec![80u16, 40000]);
    let body = (
        select(vec![TCP, UDP, SCTP, ICMPV6, 47]),
        ports(),
        ports(),
        any::<u8>(),
    )
        .prop_map(|(protocol, sport, dport, control)| match protocol {
            TCP => Body::Tcp(Tcp::new(sport, dport, control)),
            UDP => Body::udp(sport, dport),
            SCTP => Body::sctp(sport, dport, control),
            ICMPV6 => Body::Icmp {
                kind: 128 + (control & 1),
                code: 0,
                rest: [sport.to_be_bytes()[0], sport.to_be_bytes()[1], 0, 1],
                data: vec![1, 2, 3],
            },
            other => Body::raw(other),
        });
    let ends = select(vec![
        (GUEST6, SERVER6),
        (SERVER6, UP0_6),
        (SERVER6, GUEST6),
        (UP0_6, SERVER6),
        (ROUTE_GUEST6, SERVER6),
        (SERVER6, ROUTE_GUEST6),
    ]);
    let plain = (ends.clone(), body, 0u8..4)
        .prop_map(|((src, dst), body, hops)| Packet6::new(src, dst, body).ttl(hops))
        .boxed();
    let error =
        (ends, plain.clone(), 0usize..60, 1u8..5).prop_map(|((src, dst), inner, quoted, kind)| {
            let body = Body::Icmp {
                kind,
                code: 0,
                rest: [0, 0, 5, 0],
                data: inner.quote(quoted),
            };
            Packet6::new(src, dst, body)
        });
    check_all(prop_oneof![2 => plain, 1 => error].prop_map(|packet| packet.bytes()));
}

/// Bytes that begin like an IPv6 packet.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn noise() {
    check_all(vec(any::<u8>(), 60..200).prop_map(|mut bytes| {
        bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
        bytes[ETH] = 0x60;
        bytes
    }));
}
