//! Address ranges to masquerade with (`<nat><address start= end=>`).

use netd_common::Reason;
use netd_common::abi::{Addr4, Addr6, FLOW_SNAT, FamilyConfig};

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::{FromGuest, guest_to_server, guest_to_server6};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{ACK, GRE, SYN, TCP, UDP, icmp, prohibited, raw, tcp, udp};
use crate::readdressed::reset;

const FIRST: Addr4 = [198, 51, 100, 32];
const LAST: Addr4 = [198, 51, 100, 39];

/// Give the NAT network a range, IPv4 and IPv6, that is routed to the host.
fn with_pool(lab: &mut Lab, first: Addr4, last: Addr4) {
    let of6 = |address: Addr4| -> Addr6 {
        let mut six = UP0_6;
        six[15] = address[3];
        six
    };
    let bridge = lab.ifindex("br-nat");
    lab.change_network("br-nat", |network| {
        network.v4 = FamilyConfig {
            first,
            last,
            ..network.v4
        };
        network.v6 = FamilyConfig {
            first: of6(first),
            last: of6(last),
            ..network.v6
        };
    });
    lab.v4.add_pool(first, 29, bridge);
    lab.v6.add_pool(of6(first), 125, bridge);
}

/// The address that a guest's flow shows.
fn shown(lab: &Lab, port: u16, dport: u16) -> (Addr4, u16) {
    let flow = lab
        .flow(&guest_to_server(UDP, port, dport).key())
        .expect("a flow");
    (flow.new_src, u16::from_be_bytes(flow.new_sport))
}

/// RFC 4787, REQ-2: one guest, one address, whatever it does; all are from the range.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_guest_keeps_its_address() {
    let mut lab = lab();
    with_pool(&mut lab, FIRST, LAST);
    let mut seen = Vec::new();
    for (port, dport) in [(40000, 80), (40001, 80), (40000, 81), (7, 9)] {
        let packet = up(udp(GUEST, port, SERVER, dport));
        let device = lab.ifindex("nat1");
        let outcome = run(&lab, "port_ingress", device, device, 0, 1, &packet.bytes());
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let (address, moved) = shown(&lab, port, dport);
        let after = packet.src(address).sport(moved).ttl(63);
        assert_eq!(outcome.packet, after.macs(ROUTER_MAC, UP0_MAC).bytes());
        assert!((FIRST..=LAST).contains(&address), "{address:?}");
        seen.push(address);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    // Guests are spread over the range.
    let mut used = std::collections::BTreeSet::new();
    for last in 2..250 {
        let guest = [192, 168, 122, last];
        let packet = udp(guest, 40000, SERVER, 80).macs(NAT_MAC, GUEST2_MAC);
        let device = lab.ifindex("nat2");
        run(&lab, "port_ingress", device, device, 0, 1, &packet.bytes());
        let flow = FromGuest {
            guest: (guest, 40000),
            ..guest_to_server(UDP, 40000, 80)
        };
        used.insert(lab.flow(&flow.key()).expect("a flow").new_src);
    }
    assert_eq!(used.len(), 8, "{used:?}");
}

/// Answers come to an address that is none of the host's; what belongs to no flow is dropped by
/// name, since routing would only send it back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn answers_find_their_guest_and_others_nobody() {
    let mut lab = lab();
    with_pool(&mut lab, FIRST, FIRST);
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    let after = packet.clone().src(FIRST).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("out", "port_ingress", "nat1", packet.bytes())
        .redirect(after.bytes())
        .any_flows()
        .run(&mut lab);
    let back = down(udp(SERVER, 80, FIRST, 40000));
    let after = back.clone().dst(GUEST).ttl(63).macs(GUEST_MAC, NAT_MAC);
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
    for (name, packet) in [
        ("another port", udp(SERVER, 80, FIRST, 40001)),
        ("another peer", udp(ROUTER, 80, FIRST, 40000)),
        ("TCP", tcp(SERVER, 80, FIRST, 22, SYN)),
        ("GRE", raw(SERVER, FIRST, GRE)),
        ("echo", icmp(SERVER, FIRST, 8, 0, [0, 1, 0, 1], vec![])),
        ("another address", udp(SERVER, 80, [198, 51, 100, 33], 9)),
        ("fragment", raw(SERVER, FIRST, UDP).fragment(99)),
    ] {
        Fixture::new(name, "uplink_ingress", "up0", down(packet).bytes())
            .drop(Reason::NoMapping)
            .run(&mut lab);
    }

    let pool6 = lab.v6.flows();
    assert!(pool6.is_empty());
    let mut first6 = UP0_6;
    first6[15] = FIRST[3];
    let packet = up(udp(GUEST6, 40000, SERVER6, 80));
    let after = packet.clone().src(first6).ttl(63);
    Fixture::new("IPv6", "port_ingress", "nat1", packet.bytes())
        .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    let stored = lab.flow(&guest_to_server6(UDP, 40000, 80).key());
    assert_eq!(stored.expect("a flow").new_src, first6);
    Fixture::new(
        "IPv6, unknown",
        "uplink_ingress",
        "up0",
        down(udp(SERVER6, 80, first6, 1)).bytes(),
    )
    .drop(Reason::NoMapping)
    .run(&mut lab);
}

/// The range changes: flows behind an address that is no longer in it end.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_changed_range_ends_flows() {
    let mut lab = lab();
    with_pool(&mut lab, FIRST, FIRST);
    let mut flow = guest_to_server(TCP, 40000, 80).established();
    flow.shown = Some((FIRST, 40000));
    flow.only(&mut lab);
    assert_ne!(flow.entries(&lab)[0].1.flags & FLOW_SNAT, 0);
    let packet = up(tcp(GUEST, 40000, SERVER, 80, ACK));
    let after = packet.clone().src(FIRST).ttl(63);
    lab.set_epoch(2);
    Fixture::new("same range", "port_ingress", "nat1", packet.bytes())
        .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
        .run(&mut lab);
    with_pool(&mut lab, LAST, LAST);
    lab.set_epoch(3);
    Fixture::new("another", "port_ingress", "nat1", packet.bytes())
        .reject(Reason::SourceMoved, reset(&packet).bytes())
        .run(&mut lab);
    let packet = packet.tcp(|tcp| tcp.control = SYN);
    let after = packet.clone().src(LAST).ttl(63);
    Fixture::new("opened anew", "port_ingress", "nat1", packet.bytes())
        .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    assert_eq!(lab.flows().len(), 2);
}

/// A protocol without ports: as many guests per peer as the range has addresses, and the loser is
/// told.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p44_one_guest_per_address_of_the_range() {
    let mut lab = lab();
    with_pool(&mut lab, FIRST, FIRST);
    let packet = up(raw(GUEST, SERVER, GRE));
    let after = packet.clone().src(FIRST).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("first", "port_ingress", "nat1", packet.bytes())
        .redirect(after.bytes())
        .any_flows()
        .run(&mut lab);
    let other = raw(GUEST2, SERVER, GRE).macs(NAT_MAC, GUEST2_MAC);
    Fixture::new("second", "port_ingress", "nat2", other.bytes())
        .reject(Reason::ProtocolTaken, prohibited(NAT_GW, &other).bytes())
        .run(&mut lab);
}
