//! ICMP errors belong to the flow they quote.

use netd_common::Reason;

use crate::fixture::Fixture;
use crate::flows::{AT_ROUTE1, FromGuest, guest_to_server};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{
    ACK, ICMP, Packet, TCP, UDP, echo, echo_reply, fragmentation_needed, raw, tcp, time_exceeded,
    udp, udp_without_checksum,
};

/// The port a flow of these tests shows, not its own.
const SHOWN: u16 = 50000;

fn flow(lab: &mut Lab, proto: u8) -> FromGuest {
    let mut flow = guest_to_server(proto, 40000, 80).established();
    flow.shown = Some((UP0, SHOWN));
    flow.only(lab);
    flow
}

/// A packet of that flow as the guest sent it.
fn sent(name: &str) -> Packet {
    match name {
        "TCP" => tcp(GUEST, 40000, SERVER, 80, ACK),
        "UDP" => udp(GUEST, 40000, SERVER, 80),
        "UDP without checksum" => udp_without_checksum(GUEST, 40000, SERVER, 80),
        _ => echo(GUEST, SERVER, 40000),
    }
}

/// A packet of it as the guest received it.
fn received(name: &str) -> Packet {
    match name {
        "TCP" => tcp(SERVER, 80, GUEST, 40000, ACK),
        "UDP" => udp(SERVER, 80, GUEST, 40000),
        "UDP without checksum" => udp_without_checksum(SERVER, 80, GUEST, 40000),
        _ => echo_reply(SERVER, GUEST, 40000),
    }
}

const KINDS: [(&str, u8); 4] = [
    ("TCP", TCP),
    ("UDP", UDP),
    ("UDP without checksum", UDP),
    ("echo", ICMP),
];

/// Quotes of eight bytes, of a few more, and of everything.
const QUOTES: [usize; 4] = [8, 18, 20, 1000];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p17_p19_p20_p22_errors_from_outside_reach_the_guest_translated() {
    let mut lab = lab();
    for (name, proto) in KINDS {
        flow(&mut lab, proto);
        for bytes in QUOTES {
            // A router on the way saw the packet with a few hops less to live.
            let inner = sent(name).ttl(3);
            let shown = inner.clone().src(UP0).sport(SHOWN);
            for (what, from) in [("router", ROUTER), ("server itself", SERVER)] {
                let error = down(time_exceeded(from, UP0, shown.quote(bytes)));
                let after = time_exceeded(from, GUEST, inner.quote(bytes))
                    .ttl(63)
                    .macs(GUEST_MAC, NAT_MAC);
                Fixture::new(
                    format!("{name}, {bytes} bytes quoted by the {what}"),
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
    for (name, proto) in KINDS {
        flow(&mut lab, proto);
        for bytes in QUOTES {
            let inner = received(name);
            let shown = inner.clone().dst(UP0).dport(SHOWN);
            let error = up(fragmentation_needed(
                GUEST,
                SERVER,
                1400,
                inner.quote(bytes),
            ));
            let after = fragmentation_needed(UP0, SERVER, 1400, shown.quote(bytes))
                .ttl(63)
                .macs(ROUTER_MAC, UP0_MAC);
            Fixture::new(
                format!("{name}, {bytes} bytes quoted"),
                "port_ingress",
                "nat1",
                error.bytes(),
            )
            .redirect(after.bytes())
            .run(&mut lab);
        }
    }
}

/// What follows the packet in its frame is no part of the quote.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_short_quote_does_not_reach_into_padding() {
    let mut lab = lab();
    for (name, proto) in KINDS {
        flow(&mut lab, proto);
        let inner = sent(name);
        let shown = inner.clone().src(UP0).sport(SHOWN);
        let padding = [0x5a; 24];
        let mut error = down(time_exceeded(ROUTER, UP0, shown.quote(8))).bytes();
        error.extend(padding);
        let mut after = time_exceeded(ROUTER, GUEST, inner.quote(8))
            .ttl(63)
            .macs(GUEST_MAC, NAT_MAC)
            .bytes();
        after.extend(padding);
        Fixture::new(name, "uplink_ingress", "up0", error)
            .redirect(after)
            .run(&mut lab);
    }
}

/// A quote with IP options: its ports lie further back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn quotes_with_options_are_read() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    let inner = sent("UDP").with_options();
    let shown = inner.clone().src(UP0).sport(SHOWN);
    let error = down(time_exceeded(ROUTER, UP0, shown.quote(1000)));
    let after = time_exceeded(ROUTER, GUEST, inner.quote(1000))
        .ttl(63)
        .macs(GUEST_MAC, NAT_MAC);
    Fixture::new("options", "uplink_ingress", "up0", error.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
}

/// A router could not take a fragment: the first one names its flow, the others none.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p17_quotes_of_fragments() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    let of = |fragment| {
        let inner = sent("UDP").data(vec![9; 400]).fragment(fragment);
        let shown = inner.clone().src(UP0).sport(SHOWN);
        (
            down(time_exceeded(ROUTER, UP0, shown.quote(8))),
            time_exceeded(ROUTER, GUEST, inner.quote(8))
                .ttl(63)
                .macs(GUEST_MAC, NAT_MAC),
        )
    };
    let (error, after) = of(crate::packet::MORE_FRAGMENTS);
    Fixture::new("first", "uplink_ingress", "up0", error.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
    let (error, _) = of(60);
    Fixture::new("later", "uplink_ingress", "up0", error.bytes()).run(&mut lab);
}

/// With its last hop the stack has it, translated.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_on_their_last_hop_are_translated_for_the_stack() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    let shown = sent("UDP").src(UP0).sport(SHOWN);
    let error = down(time_exceeded(ROUTER, UP0, shown.quote(8))).ttl(1);
    let after = down(time_exceeded(ROUTER, GUEST, sent("UDP").quote(8))).ttl(1);
    Fixture::new("from outside", "uplink_ingress", "up0", error.bytes())
        .pass_as(after.bytes())
        .run(&mut lab);
    // From the guest it is translated at the bridge or where it leaves, not at the port.
    let inner = received("UDP");
    let error = up(time_exceeded(GUEST, SERVER, inner.quote(8))).ttl(1);
    Fixture::new("from the guest", "port_ingress", "nat1", error.bytes()).run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p24_errors_about_unknown_flows() {
    let mut lab = lab();
    let inner = udp(SERVER, 80, GUEST, 40000);
    let error = up(time_exceeded(GUEST, SERVER, inner.quote(8)));
    Fixture::new("from a NAT guest", "port_ingress", "nat1", error.bytes())
        .drop(Reason::IcmpUnknown)
        .flows([])
        .run(&mut lab);

    let other = raw(SERVER, GUEST, 47);
    let error = up(time_exceeded(GUEST, SERVER, other.quote(8)));
    Fixture::new(
        "about another protocol",
        "port_ingress",
        "nat1",
        error.bytes(),
    )
    .drop(Reason::IcmpUnknown)
    .flows([])
    .run(&mut lab);

    let later = inner.clone().fragment(77);
    let error = up(time_exceeded(GUEST, SERVER, later.quote(8)));
    Fixture::new(
        "about a later fragment",
        "port_ingress",
        "nat1",
        error.bytes(),
    )
    .drop(Reason::IcmpUnknown)
    .flows([])
    .run(&mut lab);

    // Addressed to the host, it is the host's.
    let error = down(time_exceeded(ROUTER, UP0, udp(UP0, 9, SERVER, 80).quote(8)));
    Fixture::new("to the host", "uplink_ingress", "up0", error.bytes())
        .flows([])
        .run(&mut lab);

    let error = down(time_exceeded(
        ROUTER,
        GUEST,
        udp(GUEST, 9, SERVER, 80).quote(8),
    ));
    Fixture::new(
        "to a NAT guest by name",
        "uplink_ingress",
        "up0",
        error.bytes(),
    )
    .drop(Reason::IntoNat)
    .flows([])
    .run(&mut lab);
}

/// An error needs a flow or leave: it opens no way that the network's mode does not.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_do_not_pass_where_nothing_else_does() {
    let mut lab = lab();
    let quote = |to, from| udp(to, 9, from, 9).quote(8);
    let error = time_exceeded(
        ROUTE_GUEST,
        ISOLATED_GUEST,
        quote(ISOLATED_GUEST, ROUTE_GUEST),
    )
    .macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new("route to isolated", "port_ingress", "route1", error.bytes())
        .drop(Reason::IntoIsolated)
        .run(&mut lab);
    let error = time_exceeded([1, 2, 3, 4], SERVER, quote(SERVER, [1, 2, 3, 4]))
        .macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new("foreign source", "port_ingress", "route1", error.bytes())
        .drop(Reason::ForeignSource)
        .run(&mut lab);
    let error = time_exceeded(ISOLATED_GUEST, SERVER, quote(SERVER, ISOLATED_GUEST))
        .macs(ISOLATED_MAC, ISOLATED_GUEST_MAC);
    Fixture::new("isolated", "port_ingress", "isolated1", error.bytes())
        .drop(Reason::Isolated)
        .run(&mut lab);
    // Quoting a flow that exists does not make the sender's address right.
    let flow = FromGuest {
        guest: (ROUTE_GUEST, 40000),
        shown: None,
        near: AT_ROUTE1,
        ..guest_to_server(UDP, 40000, 80)
    };
    flow.only(&mut lab);
    let inner = udp(SERVER, 80, ROUTE_GUEST, 40000);
    let error = time_exceeded(GUEST, SERVER, inner.quote(8)).macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new(
        "foreign source, known flow",
        "port_ingress",
        "route1",
        error.bytes(),
    )
    .drop(Reason::ForeignSource)
    .run(&mut lab);
    lab.clear_flows();
    // Where packets may pass, errors may.
    let error = time_exceeded(ROUTE_GUEST, SERVER, quote(SERVER, ROUTE_GUEST))
        .macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new("route", "port_ingress", "route1", error.bytes()).run(&mut lab);
    // To one of the host's other addresses: the host's.
    let error = up(time_exceeded(GUEST, UP0, quote(UP0, GUEST)));
    Fixture::new("to the host", "port_ingress", "nat1", error.bytes()).run(&mut lab);
}

/// An error goes to the sender of the packet that it quotes, and to nobody else by that packet's flow.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_to_somebody_else_are_none() {
    let mut lab = lab();
    flow(&mut lab, UDP);
    let quoted = received("UDP").quote(8);
    let error = up(time_exceeded(GUEST, ROUTER, quoted));
    Fixture::new("from the guest", "port_ingress", "nat1", error.bytes())
        .drop(Reason::IcmpUnknown)
        .any_flows()
        .run(&mut lab);
}

/// An identifier of 0 is the key of an answer to the other side's identifier 0, too. An answer that
/// nobody asked for is no packet of the query's flow, where it leaves by the stack either: it has no
/// place for the identifier that the flow was given.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_answer_is_not_taken_for_a_query_of_its_identifier() {
    let mut lab = lab();
    let mut query = guest_to_server(ICMP, 0, 0).established();
    query.shown = Some((UP0, SHOWN));
    query.only(&mut lab);
    let answer = echo_reply(GUEST, SERVER, 0)
        .ttl(63)
        .macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("at egress", "uplink_egress", "up0", answer.bytes())
        .came_from("br-nat")
        .drop(Reason::NoFlow)
        .any_flows()
        .run(&mut lab);
}
