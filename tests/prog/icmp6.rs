//! ICMPv6 errors belong to the flow they quote.

use netd_common::Reason;
use netd_common::abi::Addr6;

use crate::fixture::Fixture;
use crate::flows::{FromGuest, guest_to_server6};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{
    ACK, DCCP, ICMPV6, SCTP, TCP, UDP, UDP_LITE, echo, echo_reply, icmp, lite, sctp, tcp,
    time_exceeded, udp,
};
use crate::packet6::{DESTINATION, Packet6, extension, packet_too_big};

/// The port a flow of these tests shows, not its own.
const SHOWN: u16 = 50000;

const PROTOCOLS: [u8; 6] = [TCP, UDP, SCTP, DCCP, UDP_LITE, ICMPV6];

/// Quotes of eight bytes, of a few more, and of everything.
const QUOTES: [usize; 5] = [8, 12, 18, 20, 1000];

fn flow(lab: &mut Lab, proto: u8) -> FromGuest<Addr6> {
    let mut flow = guest_to_server6(proto, 40000, 80).established();
    flow.shown = Some((UP0_6, SHOWN));
    flow.only(lab);
    flow
}

/// A packet of that flow as the guest sent it.
fn sent(proto: u8) -> Packet6 {
    match proto {
        TCP => tcp(GUEST6, 40000, SERVER6, 80, ACK),
        UDP => udp(GUEST6, 40000, SERVER6, 80),
        SCTP => sctp(GUEST6, 40000, SERVER6, 80, 0),
        ICMPV6 => echo(GUEST6, SERVER6, 40000),
        other => lite(other, GUEST6, 40000, SERVER6, 80),
    }
}

/// A packet of it as the guest received it.
fn received(proto: u8) -> Packet6 {
    match proto {
        TCP => tcp(SERVER6, 80, GUEST6, 40000, ACK),
        UDP => udp(SERVER6, 80, GUEST6, 40000),
        SCTP => sctp(SERVER6, 80, GUEST6, 40000, 0),
        ICMPV6 => echo_reply(SERVER6, GUEST6, 40000),
        other => lite(other, SERVER6, 80, GUEST6, 40000),
    }
}

/// What an error quotes of a translated packet. SCTP's checksum covers all of the packet and is
/// left as it was: who gets the error goes by ports and verification tag (RFC 9260, section 10).
fn quote(packet: &Packet6, original: &Packet6, bytes: usize) -> Vec<u8> {
    let mut quote = packet.quote(bytes);
    let field = packet.header_len() + 8..packet.header_len() + 12;
    if packet.body.protocol(ICMPV6) == SCTP && quote.len() >= field.end {
        quote[field.clone()].copy_from_slice(&original.quote(bytes)[field]);
    }
    quote
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p17_p19_p20_p21_p22_errors_from_outside_reach_the_guest_translated() {
    let mut lab = lab();
    for proto in PROTOCOLS {
        flow(&mut lab, proto);
        for bytes in QUOTES {
            // A router on the way saw the packet with a few hops less to live.
            let inner = sent(proto).ttl(3);
            let shown = inner.clone().src(UP0_6).sport(SHOWN);
            for (what, from) in [("router", ROUTER6), ("server itself", SERVER6)] {
                let error = down(packet_too_big(from, UP0_6, 1400, shown.quote(bytes)));
                let after = packet_too_big(from, GUEST6, 1400, quote(&inner, &shown, bytes))
                    .ttl(63)
                    .macs(GUEST_MAC, NAT_MAC);
                Fixture::new(
                    format!("protocol {proto}, {bytes} bytes quoted by the {what}"),
                    "uplink_ingress",
                    "up0",
                    error.bytes(),
                )
                .redirect(after.bytes())
                .run(&mut lab);
            }
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_from_the_guest_leave_translated() {
    let mut lab = lab();
    for proto in PROTOCOLS {
        flow(&mut lab, proto);
        for bytes in QUOTES {
            let inner = received(proto);
            let shown = inner.clone().dst(UP0_6).dport(SHOWN);
            let error = up(time_exceeded(GUEST6, SERVER6, inner.quote(bytes)));
            let after = time_exceeded(UP0_6, SERVER6, quote(&shown, &inner, bytes))
                .ttl(63)
                .macs(ROUTER_MAC, UP0_MAC);
            Fixture::new(
                format!("protocol {proto}, {bytes} bytes quoted"),
                "port_ingress",
                "nat1",
                error.bytes(),
            )
            .redirect(after.bytes())
            .run(&mut lab);
        }
    }
}

/// All kinds of errors are known (RFC 4443, section 3).
#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_kind_of_error_is_translated() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    for kind in 1..=4 {
        let of =
            |dst, inner: &Packet6| icmp(ROUTER6, dst, kind, 0, [0, 0, 5, 0], inner.quote(1000));
        let shown = sent(UDP).src(UP0_6).sport(SHOWN);
        let error = down(of(UP0_6, &shown));
        let after = of(GUEST6, &sent(UDP)).ttl(63).macs(GUEST_MAC, NAT_MAC);
        Fixture::new(
            format!("type {kind}"),
            "uplink_ingress",
            "up0",
            error.bytes(),
        )
        .redirect(after.bytes())
        .run(&mut lab);
    }
}

/// A quote with extension headers: its ports lie further back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn quotes_with_extension_headers_are_read() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    let inner = sent(UDP).with(extension(DESTINATION, 2));
    let shown = inner.clone().src(UP0_6).sport(SHOWN);
    let error = down(time_exceeded(ROUTER6, UP0_6, shown.quote(1000)));
    let after = time_exceeded(ROUTER6, GUEST6, inner.quote(1000))
        .ttl(63)
        .macs(GUEST_MAC, NAT_MAC);
    Fixture::new("options", "uplink_ingress", "up0", error.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_on_their_last_hop_are_translated_for_the_stack() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    let shown = sent(UDP).src(UP0_6).sport(SHOWN);
    let error = down(time_exceeded(ROUTER6, UP0_6, shown.quote(8))).ttl(1);
    let after = down(time_exceeded(ROUTER6, GUEST6, sent(UDP).quote(8))).ttl(1);
    Fixture::new("from outside", "uplink_ingress", "up0", error.bytes())
        .pass_as(after.bytes())
        .run(&mut lab);
}

/// The host's stack says that a server's packet is too big for the guest's network: outside, only
/// the shown address is known.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_hosts_own_errors_do_not_show_the_guests_address() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    let inner = received(UDP);
    let shown = inner.clone().dst(UP0_6).dport(SHOWN);
    for bytes in [8, 1000] {
        let of = |quoted: &Packet6| {
            packet_too_big(UP0_6, SERVER6, 1400, quoted.quote(bytes))
                .ttl(63)
                .macs(ROUTER_MAC, UP0_MAC)
        };
        Fixture::new("to the server", "uplink_egress", "up0", of(&inner).bytes())
            .pass_as(of(&shown).bytes())
            .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p24_errors_about_unknown_flows() {
    let mut lab = lab();
    let inner = udp(SERVER6, 80, GUEST6, 40000);
    let error = up(time_exceeded(GUEST6, SERVER6, inner.quote(8)));
    Fixture::new("from a NAT guest", "port_ingress", "nat1", error.bytes())
        .drop(Reason::IcmpUnknown)
        .flows6([])
        .run(&mut lab);
    // Addressed to the host, it is the host's.
    let inner = udp(UP0_6, 9, SERVER6, 80);
    let error = down(time_exceeded(ROUTER6, UP0_6, inner.quote(8)));
    Fixture::new("to the host", "uplink_ingress", "up0", error.bytes())
        .flows6([])
        .run(&mut lab);
    let inner = udp(GUEST6, 9, SERVER6, 80);
    let error = down(time_exceeded(ROUTER6, GUEST6, inner.quote(8)));
    Fixture::new(
        "to a NAT guest by name",
        "uplink_ingress",
        "up0",
        error.bytes(),
    )
    .drop(Reason::IntoNat)
    .flows6([])
    .run(&mut lab);
}
