//! Guests that announce where they are, and ports whose bridge has a say.

use netd_common::Reason;
use netd_common::abi::{Addr4, Addr6, MacAddr, PORT_BY_BRIDGE, PORT_GUARD_IP, PORT_ISOLATED};

use crate::family::Address;
use crate::fixture::Fixture;
use crate::flows::guest_to_server;
use crate::guards::arp;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{UDP, icmp, udp};
use crate::packet6::Packet6;

const ALL_NODES: Addr6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const NOBODY: Addr4 = [0; 4];

fn at<A: Address>(lab: &Lab, address: A) -> (u32, MacAddr) {
    let endpoint = lab.endpoint(address).expect("an endpoint");
    (endpoint.ifindex, endpoint.mac)
}

/// A neighbour advertisement of `target` by the guest of `mac`.
fn advertisement(target: Addr6, mac: MacAddr, flags: u8) -> Packet6 {
    let mut data = target.to_vec();
    data.extend([2, 1]);
    data.extend(mac);
    icmp(target, ALL_NODES, 136, 0, [flags, 0, 0, 0], data)
        .ttl(255)
        .macs([0x33, 0x33, 0, 0, 0, 1], mac)
}

/// W3: whose address it was is forgotten at once, and flows look again.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p64_arp_moves_an_address() {
    let mut lab = lab();
    for (name, operation, sender, moves) in [
        ("request", 1, GUEST, true),
        ("reply", 2, GUEST, true),
        ("probe", 1, NOBODY, false),
        ("of another network", 2, ROUTE_GUEST, false),
    ] {
        for address in [GUEST, ROUTE_GUEST] {
            lab.set_endpoint(address, "nat1", GUEST_MAC);
        }
        lab.let_guests_move();
        let epoch = lab.moves();
        let frame = arp(GUEST2_MAC, operation, GUEST2_MAC, sender, GUEST);
        Fixture::new(name, "port_ingress", "nat2", frame).run(&mut lab);
        let (port, mac) = if moves {
            ("nat2", GUEST2_MAC)
        } else {
            ("nat1", GUEST_MAC)
        };
        assert_eq!(at(&lab, GUEST), (lab.ifindex(port), mac), "{name}");
        let other = (lab.ifindex("nat1"), GUEST_MAC);
        assert_eq!(at(&lab, ROUTE_GUEST), other, "{name}");
        assert_eq!(lab.moves() != epoch, moves, "{name}: flows look again");
    }
    // The packet that is for nobody who was seen teaches nothing.
    let frame = arp(GUEST2_MAC, 1, GUEST2_MAC, GUEST2, GUEST);
    Fixture::new("of a stranger", "port_ingress", "nat2", frame).run(&mut lab);
    assert!(lab.endpoint(GUEST2).is_none());
}

/// More than one address may move in a tick: flows that looked in between look again.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p64_two_addresses_move_in_a_tick() {
    let mut lab = lab();
    let other = [192, 168, 122, 77];
    for address in [GUEST, other] {
        lab.set_endpoint(address, "nat1", GUEST_MAC);
    }
    lab.start_of_tick();
    lab.let_guests_move();
    for address in [GUEST, other] {
        let epoch = lab.moves();
        let frame = arp(GUEST2_MAC, 1, GUEST2_MAC, address, address);
        Fixture::new("a move", "port_ingress", "nat2", frame).run(&mut lab);
        assert_ne!(lab.moves(), epoch, "{address:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p64_an_advertisement_that_overrides_moves_an_address() {
    let mut lab = lab();
    let own = advertisement(GUEST6, GUEST2_MAC, 0x20);
    let mut cut = own.bytes();
    cut.truncate(cut.len() - 8);
    let length = (cut.len() - 54) as u16;
    cut[18..20].copy_from_slice(&length.to_be_bytes());
    for (name, frame, moves) in [
        ("unsolicited", own.bytes(), true),
        (
            "that does not override",
            advertisement(GUEST6, GUEST2_MAC, 0).bytes(),
            false,
        ),
        ("from afar", own.clone().ttl(254).bytes(), false),
        ("without the MAC address", cut, false),
        (
            "of a group",
            advertisement(GUEST6, [1, 0, 0, 0, 0, 9], 0x20)
                .macs([0x33, 0x33, 0, 0, 0, 1], GUEST2_MAC)
                .bytes(),
            false,
        ),
    ] {
        lab.set_endpoint(GUEST6, "nat1", GUEST_MAC);
        Fixture::new(name, "port_ingress", "nat2", frame).run(&mut lab);
        let (port, mac) = if moves {
            ("nat2", GUEST2_MAC)
        } else {
            ("nat1", GUEST_MAC)
        };
        assert_eq!(at(&lab, GUEST6), (lab.ifindex(port), mac), "{name}");
    }
}

/// Where addresses are guarded, and ARP is not, nobody gets another's packets by a word.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p64_a_guarded_port_moves_its_own_address_alone() {
    let mut lab = lab();
    lab.guard_port("nat2", PORT_GUARD_IP, [0; 6]);
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    let frame = arp(GUEST2_MAC, 1, GUEST2_MAC, GUEST, GUEST);
    Fixture::new("another's", "port_ingress", "nat2", frame.clone()).run(&mut lab);
    assert_eq!(at(&lab, GUEST), (lab.ifindex("nat1"), GUEST_MAC));
    lab.bind("br-nat", GUEST, GUEST2_MAC);
    Fixture::new("its own", "port_ingress", "nat2", frame).run(&mut lab);
    assert_eq!(at(&lab, GUEST), (lab.ifindex("nat2"), GUEST2_MAC));
}

/// A port that its bridge has closed, or judges: its frames are the bridge's, also of flows that run,
/// and what it says of itself counts once the bridge let it pass.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_bridge_judges_goes_by_the_bridge() {
    let mut lab = lab();
    let flow = guest_to_server(UDP, 40000, 80).established();
    flow.only(&mut lab);
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.guard_port("nat1", PORT_BY_BRIDGE, [0; 6]);
    lab.set_epoch(2);
    let known = up(udp(GUEST, 40000, SERVER, 80));
    let new = up(udp(GUEST, 40001, SERVER, 80));
    for (name, packet) in [("of a flow", &known), ("of none", &new)] {
        Fixture::new(name, "port_ingress", "nat1", packet.bytes()).run(&mut lab);
    }
    // To the guest by the bridge as well.
    let back = down(udp(SERVER, 80, UP0, 40000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .redirect(crate::nat::home(back, 40000))
        .run(&mut lab);
    let entry = lab.flow(&flow.back_key()).expect("the answering entry");
    assert_eq!(entry.next_hop.ifindex, lab.ifindex("br-nat"));
    // What the bridge let pass goes on from there, by the flow that there is.
    Fixture::new("at the bridge", "bridge_ingress", "br-nat", known.bytes())
        .redirect(crate::nat::out(known.clone(), 40000))
        .run(&mut lab);
    let entry = lab.flow(&flow.key()).expect("the flow");
    assert_eq!(entry.in_ifindex, lab.ifindex("br-nat"));

    lab.set_endpoint(GUEST2, "nat2", GUEST2_MAC);
    let claim = arp(GUEST_MAC, 1, GUEST_MAC, GUEST2, GUEST2);
    Fixture::new("a claim at the port", "port_ingress", "nat1", claim.clone()).run(&mut lab);
    assert_eq!(at(&lab, GUEST2), (lab.ifindex("nat2"), GUEST2_MAC));
    Fixture::new("at the bridge", "bridge_ingress", "br-nat", claim).run(&mut lab);
    assert_eq!(at(&lab, GUEST2), (lab.ifindex("br-nat"), GUEST_MAC));
    // Who is kept apart stays so: the bridge's hook does not know the port.
    lab.guard_port("nat1", PORT_BY_BRIDGE | PORT_ISOLATED, [0; 6]);
    let packet = up(udp(GUEST, 1, GUEST2, 2));
    Fixture::new("to a sibling", "port_ingress", "nat1", packet.bytes())
        .drop(Reason::PortIsolated)
        .run(&mut lab);
}
