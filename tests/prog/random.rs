//! Random packets: whatever comes in, what is sent on is right, and no private source leaves.

use std::cell::RefCell;

use netd_common::abi::Addr4;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::checker::{check, describe};
use crate::fixture::{Verdict, run};
use crate::lab::{Turn, lab};
use crate::names::*;
use crate::packet::{Body, ETH, Packet, Tcp, UDP};

const CASES: u32 = 4000;

fn address() -> impl Strategy<Value = Addr4> {
    prop_oneof![
        8 => select(vec![
            GUEST, GUEST2, SERVER, UP0, PEER1, NARROW, SILENT, ROUTE_GUEST, ISOLATED_GUEST,
            OPEN_GUEST, NAT_GW, DEV_GUEST, [224, 0, 0, 1], [255; 4],
        ]),
        1 => any::<Addr4>(),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => select(vec![0, 80, 1023, 1024, 40000, 65535]), 1 => any::<u16>()]
}

/// Anything but an ICMP error.
fn plain_body() -> impl Strategy<Value = Body> {
    let data = || vec(any::<u8>(), 0..40);
    prop_oneof![
        (port(), port(), any::<u8>(), data()).prop_map(|(sport, dport, control, data)| Body::Tcp(
            Tcp {
                data,
                ..Tcp::new(sport, dport, control)
            }
        )),
        (port(), port(), data(), any::<bool>()).prop_map(|(sport, dport, data, checksum)| {
            Body::Udp {
                sport,
                dport,
                data,
                checksum,
            }
        }),
        (select(vec![0u8, 8, 13]), port(), data()).prop_map(|(kind, id, data)| {
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
                |(protocol, _)| { !matches!(protocol, 1 | 6 | 17) }
            )
            .prop_map(|(protocol, bytes)| Body::Raw { protocol, bytes }),
    ]
}

fn packet_of(body: impl Strategy<Value = Body>) -> impl Strategy<Value = Packet> {
    let fragment = prop_oneof![6 => Just(0x4000), 2 => Just(0), 1 => any::<u16>()];
    let options = prop_oneof![
        4 => Just(Vec::new()),
        1 => (1usize..=10).prop_map(|words| vec![1; words * 4]),
    ];
    (
        address(),
        address(),
        body,
        any::<u8>(),
        any::<u8>(),
        fragment,
        options,
    )
        .prop_map(|(src, dst, body, ttl, tos, fragment, options)| {
            let mut packet = Packet::new(src, dst, body).ttl(ttl).fragment(fragment);
            packet.header.tos = tos;
            packet.header.options = options;
            packet
        })
}

fn packet() -> BoxedStrategy<Packet> {
    let error = (
        packet_of(plain_body()),
        select(vec![3u8, 4, 5, 11, 12]),
        any::<u8>(),
        0usize..60,
    )
        .prop_map(|(inner, kind, code, quoted)| Body::Icmp {
            kind,
            code,
            rest: [0; 4],
            data: inner.quote(quoted),
        });
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
    macs: [u8; 12],
}

/// Multicast, or the limited broadcast.
fn is_multicast(address: &[u8]) -> bool {
    address
        .first()
        .is_some_and(|first| (224..240).contains(first))
        || address == [255; 4]
}

/// From the MAC address `from` to `to`.
fn macs(to: [u8; 6], from: [u8; 6]) -> [u8; 12] {
    let mut both = [0; 12];
    both[..6].copy_from_slice(&to);
    both[6..].copy_from_slice(&from);
    both
}

fn hooks() -> Vec<Hook> {
    let at = |program, device, to, from| Hook {
        program,
        device,
        came_from: Some(device),
        macs: macs(to, from),
    };
    let leaving = |program, device, came_from, to, from| Hook {
        program,
        device,
        came_from,
        macs: macs(to, from),
    };
    vec![
        at("port_ingress", "nat1", NAT_MAC, GUEST_MAC),
        at("port_ingress", "nat2", NAT_MAC, GUEST2_MAC),
        at("port_ingress", "route1", ROUTE_MAC, ROUTE_GUEST_MAC),
        at("port_ingress", "open1", OPEN_MAC, OPEN_GUEST_MAC),
        at("bridge_ingress", "br-nat", NAT_MAC, GUEST_MAC),
        at("uplink_ingress", "up0", UP0_MAC, ROUTER_MAC),
        at("uplink_ingress", "up1", UP1_MAC, PEER1_MAC),
        leaving("uplink_egress", "up0", Some("br-nat"), ROUTER_MAC, UP0_MAC),
        leaving("uplink_egress", "up0", None, ROUTER_MAC, UP0_MAC),
    ]
}

/// Subnets of NAT networks.
fn is_private(address: &[u8]) -> bool {
    matches!(address, [192, 168, 122 | 123, _])
}

fn evaluate(lab: &Turn, hook: &Hook, frame: &[u8]) -> Result<(), TestCaseError> {
    let ingress = hook.came_from.map_or(0, |device| lab.ifindex(device));
    let outcome = run(
        lab,
        hook.program,
        lab.ifindex(hook.device),
        ingress,
        0,
        1,
        frame,
    );
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
    let was_right = frame[12..14] == [8, 0] && check(&frame[ETH..]) == Ok(());
    let source = out.get(ETH + 12..ETH + 16).unwrap_or_default();
    let destination = out.get(ETH + 16..ETH + 20).unwrap_or_default();
    match outcome.verdict {
        Verdict::Drop => {}
        Verdict::Redirect => {
            prop_assert_eq!(&out[12..14], &[8, 0], "{}", story());
            if was_right {
                prop_assert_eq!(check(&out[ETH..]), Ok(()), "{}", story());
            }
            // A gateway's refusal goes back to the guest; nothing else of a NAT guest's goes on
            // with its own address, except to nobody.
            // (An open network's guests may claim what they like: netd has no say there.)
            let from_guest = !hook.program.starts_with("uplink") && hook.device != "open1";
            let refusal = out[..6] == frame[6..12] && out[6..12] == frame[..6];
            if from_guest && is_private(source) {
                prop_assert!(refusal, "{}", story());
            }
            // Addresses of no forwarding never come out.
            prop_assert!(!is_multicast(destination), "{}", story());
        }
        Verdict::Pass => {
            if was_right {
                prop_assert_eq!(check(&out[ETH..]), Ok(()), "{}", story());
            }
            let leaves = hook.program == "uplink_egress" && frame[12..14] == [8, 0];
            let own = hook.came_from.is_none()
                && destination
                    .first()
                    .is_none_or(|first| is_multicast(destination) || matches!(first, 0 | 127));
            // The host may answer whoever asks a bridge's own address.
            let answer = hook.came_from.is_none() && source.ends_with(&[1]);
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
    let which = 0..hooks.len();
    let result = runner.run(&(which, strategy), |(which, mut frame)| {
        let hook = &hooks[which];
        frame[..12].copy_from_slice(&hook.macs);
        evaluate(&lab.borrow(), hook, &frame)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    // P02: whatever came, no half of a flow is left, and all are counted.
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
        select(vec![1u8, 6, UDP]),
        ports(),
        ports(),
        select(vec![0u8, 8]),
        any::<u8>(),
    )
        .prop_map(|(protocol, sport, dport, kind, control)| match protocol {
            6 => Body::Tcp(Tcp::new(sport, dport, control)),
            1 => Body::Icmp {
                kind,
                code: 0,
                rest: [sport.to_be_bytes()[0], sport.to_be_bytes()[1], 0, 1],
                data: vec![1, 2, 3],
            },
            _ => Body::Udp {
                sport,
                dport,
                data: vec![1, 2, 3],
                checksum: control & 1 == 0,
            },
        });
    let ends = select(vec![
        (GUEST, SERVER),
        (SERVER, UP0),
        (SERVER, GUEST),
        (UP0, SERVER),
        (ROUTE_GUEST, SERVER),
        (SERVER, ROUTE_GUEST),
    ]);
    let plain = (ends.clone(), body, 0u8..4)
        .prop_map(|((src, dst), body, ttl)| Packet::new(src, dst, body).ttl(ttl))
        .boxed();
    let error = (ends, plain.clone(), 0usize..40, vec(any::<u8>(), 0..30)).prop_map(
        |((src, dst), inner, quoted, padding)| {
            let body = Body::Icmp {
                kind: 11,
                code: 0,
                rest: [0; 4],
                data: inner.quote(quoted),
            };
            let mut bytes = Packet::new(src, dst, body).bytes();
            bytes.extend(padding);
            bytes
        },
    );
    check_all(prop_oneof![2 => plain.prop_map(|p| p.bytes()), 1 => error]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn noise() {
    check_all(
        (any::<bool>(), vec(any::<u8>(), 34..200)).prop_map(|(ipv4, mut bytes)| {
            if ipv4 {
                bytes[12..14].copy_from_slice(&[8, 0]);
                bytes[ETH] = 0x45;
            } else if bytes[12..14] == [0x86, 0xdd] {
                // Chance made it IPv6, which a test run refuses to be given less than a header of.
                bytes.resize(bytes.len().max(ETH + 40), 0);
            }
            bytes
        }),
    );
}
