//! What guests are held to: their own addresses, and what of the host and of each other they reach.

use netd_common::Reason;
use netd_common::abi::{
    Addr4, Addr6, BINDING_SNOOPED, MacAddr, NETWORK_GUARDED, NETWORK_HOST_NONE,
    NETWORK_HOST_SERVICES, NETWORK_PORTS_ISOLATED, PORT_GUARD, PORT_GUARD_MAC, PORT_ISOLATED,
};

use crate::fixture::{Fixture, run};
use crate::lab::{Lab, Published, lab};
use crate::names::*;
use crate::nat::{out, up};
use crate::packet::{
    ACK, GRE, Packet, SYN, TCP, echo, echo_reply, icmp, port_unreachable, raw, tcp, udp,
};
use crate::packet6::Packet6;

const BROADCAST: Addr4 = [255; 4];
const NOBODY: Addr4 = [0; 4];
const ALL_NODES: Addr6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The guest at `nat1` is guarded in every way, and has its IPv4 address by a lease.
fn guarded() -> crate::lab::Turn {
    let mut lab = lab();
    lab.guard_port("nat1", PORT_GUARD, [0; 6]);
    lab.bind("br-nat", GUEST, GUEST_MAC);
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.keep_guests_still();
    lab
}

fn at_port(lab: &mut Lab, name: &str, frame: Vec<u8>, refused: Option<Reason>) {
    let fixture = Fixture::new(name, "port_ingress", "nat1", frame).any_flows();
    match refused {
        Some(reason) => fixture.drop(reason).run(lab),
        None => fixture.run(lab),
    }
}

pub fn arp(
    smac: MacAddr,
    operation: u8,
    hardware: MacAddr,
    sender: Addr4,
    target: Addr4,
) -> Vec<u8> {
    let mut frame = [0xff; 6].to_vec();
    frame.extend(smac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(hardware);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p42_a_guest_uses_its_own_addresses_only() {
    let mut lab = guarded();
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("its own", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet.clone(), 40000))
        .any_flows()
        .run(&mut lab);
    let neighbour = udp(GUEST, 40000, GUEST2, 80).macs(GUEST2_MAC, GUEST_MAC);
    at_port(&mut lab, "to its neighbour", neighbour.bytes(), None);
    for (name, packet, reason) in [
        (
            "another's IPv4 address",
            up(udp(GUEST2, 40000, SERVER, 80)),
            Reason::SpoofedAddress,
        ),
        (
            "another's, to its neighbour",
            udp(GUEST2, 40000, GUEST, 80).macs(GUEST2_MAC, GUEST_MAC),
            Reason::SpoofedAddress,
        ),
        (
            "nobody's",
            up(udp([10, 9, 8, 7], 40000, SERVER, 80)),
            Reason::SpoofedAddress,
        ),
        (
            "none, and no DHCP",
            udp(NOBODY, 68, BROADCAST, 69).macs([0xff; 6], GUEST_MAC),
            Reason::SpoofedAddress,
        ),
        (
            "the gateway's",
            up(udp(NAT_GW, 40000, SERVER, 80)),
            Reason::SpoofedAddress,
        ),
        (
            "another's MAC address",
            udp(GUEST, 40001, SERVER, 80).macs(NAT_MAC, GUEST2_MAC),
            Reason::SpoofedMac,
        ),
        (
            "both of another's",
            udp(GUEST2, 40000, SERVER, 80).macs(NAT_MAC, GUEST2_MAC),
            Reason::SpoofedMac,
        ),
    ] {
        at_port(&mut lab, name, packet.bytes(), Some(reason));
    }
    let discover = udp(NOBODY, 68, BROADCAST, 67).macs([0xff; 6], GUEST_MAC);
    at_port(&mut lab, "DHCPDISCOVER", discover.bytes(), None);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p42_arp_speaks_of_its_sender() {
    let mut lab = guarded();
    for (name, frame, refused) in [
        ("request", arp(GUEST_MAC, 1, GUEST_MAC, GUEST, GUEST2), None),
        ("reply", arp(GUEST_MAC, 2, GUEST_MAC, GUEST, GUEST2), None),
        ("probe", arp(GUEST_MAC, 1, GUEST_MAC, NOBODY, GUEST), None),
        (
            "for the gateway",
            arp(GUEST_MAC, 2, GUEST_MAC, NAT_GW, GUEST2),
            Some(Reason::SpoofedArp),
        ),
        (
            "another's MAC address inside",
            arp(GUEST_MAC, 2, GUEST2_MAC, GUEST, GUEST2),
            Some(Reason::SpoofedArp),
        ),
        (
            "another's outside",
            arp(GUEST2_MAC, 2, GUEST_MAC, GUEST, GUEST2),
            Some(Reason::SpoofedMac),
        ),
        (
            "cut short",
            arp(GUEST_MAC, 2, GUEST_MAC, GUEST, GUEST2)[..30].to_vec(),
            Some(Reason::SpoofedArp),
        ),
    ] {
        at_port(&mut lab, name, frame, refused);
    }
    // LLDP, and a frame with a tag inside.
    for kind in [[0x88, 0xcc], [0x81, 0x00], [0x88, 0xa8], [0x00, 0x26]] {
        let mut frame = [0xff; 6].to_vec();
        frame.extend(GUEST_MAC);
        frame.extend(kind);
        frame.extend([0; 46]);
        let name = format!("{kind:x?}");
        at_port(&mut lab, &name, frame, Some(Reason::OtherProtocol));
    }
    let mut rarp = arp(GUEST_MAC, 3, GUEST_MAC, NOBODY, NOBODY);
    rarp[12..14].copy_from_slice(&[0x80, 0x35]);
    at_port(&mut lab, "announcement of a move", rarp, None);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn guests_are_no_servers_and_no_routers() {
    let mut lab = guarded();
    let offer = udp(GUEST, 67, BROADCAST, 68).macs([0xff; 6], GUEST_MAC);
    at_port(
        &mut lab,
        "DHCPOFFER",
        offer.bytes(),
        Some(Reason::RogueServer),
    );
    let link = |n| {
        let mut address: Addr6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n];
        address[8] = 2;
        address
    };
    let all = [0x33, 0x33, 0, 0, 0, 1];
    for (name, packet) in [
        (
            "router advertisement",
            icmp(link(1), ALL_NODES, 134, 0, [64, 0, 7, 8], vec![0; 8]),
        ),
        (
            "redirect",
            icmp(link(1), ALL_NODES, 137, 0, [0; 4], vec![0; 32]),
        ),
        ("DHCPv6", udp(link(1), 547, ALL_NODES, 546)),
    ] {
        let frame = packet.macs(all, GUEST_MAC).bytes();
        at_port(&mut lab, name, frame, Some(Reason::RogueServer));
    }
}

/// RFC 6620: an IPv6 address is whose it was first.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p42_ipv6_addresses_are_whose_they_were_first() {
    let mut lab = guarded();
    lab.guard_port("nat2", PORT_GUARD, [0; 6]);
    let first = up(udp(GUEST6, 40000, NAT_GW6, 9));
    at_port(&mut lab, "claims", first.bytes(), None);
    assert!(lab.bound("br-nat", GUEST6).is_some());
    let thief = |packet: Packet6| packet.macs(NAT_MAC, GUEST2_MAC).bytes();
    Fixture::new(
        "too late",
        "port_ingress",
        "nat2",
        thief(udp(GUEST6, 40000, NAT_GW6, 9)),
    )
    .drop(Reason::SpoofedAddress)
    .run(&mut lab);
    let advertisement = |target: Addr6| {
        let mut data = target.to_vec();
        data.extend([2, 1]);
        data.extend(GUEST2_MAC);
        icmp(GUEST2_6, ALL_NODES, 136, 0, [0x20, 0, 0, 0], data)
    };
    Fixture::new(
        "its own",
        "port_ingress",
        "nat2",
        thief(advertisement(GUEST2_6)),
    )
    .any_flows()
    .run(&mut lab);
    Fixture::new(
        "another's",
        "port_ingress",
        "nat2",
        thief(advertisement(GUEST6)),
    )
    .drop(Reason::SpoofedNeighbour)
    .run(&mut lab);
    // Of no network of this bridge's.
    Fixture::new(
        "elsewhere's",
        "port_ingress",
        "nat2",
        thief(udp(ROUTE_GUEST6, 1, SERVER6, 2)),
    )
    .drop(Reason::SpoofedAddress)
    .run(&mut lab);
    // Duplicate address detection comes from nobody.
    let solicitation = icmp([0; 16], ALL_NODES, 135, 0, [0; 4], GUEST6.to_vec());
    Fixture::new("DAD", "port_ingress", "nat2", thief(solicitation)).run(&mut lab);
    // A flood of claims ends, and takes nobody's address.
    let device = lab.ifindex("nat2");
    for n in 0..200u8 {
        let mut address = GUEST2_6;
        address[14] = n;
        let frame = thief(udp(address, 1, NAT_GW6, 2));
        run(&lab, "port_ingress", device, device, 0, 1, &frame);
    }
    assert!(lab.v6.bindings_of(GUEST2_MAC) <= 65);
    assert_eq!(lab.bound("br-nat", GUEST6).map(|b| b.mac), Some(GUEST_MAC));
}

/// libvirt gives a tap its guest's MAC address with another first byte.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_taps_own_address_says_whose_it_is() {
    let mut lab = guarded();
    let mut tap = GUEST_MAC;
    tap[0] = 0xfe;
    lab.guard_port("nat1", PORT_GUARD_MAC, tap);
    let from = |mac| udp(GUEST2, 40000, SERVER, 80).macs(NAT_MAC, mac);
    // Even as the first frame of the port.
    let packet = from(GUEST2_MAC);
    at_port(
        &mut lab,
        "not its guest's",
        packet.bytes(),
        Some(Reason::SpoofedMac),
    );
    let packet = from(GUEST_MAC);
    Fixture::new("its guest's", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .any_flows()
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_lease_is_good_as_soon_as_it_is_granted() {
    let mut lab = lab();
    let mut message = vec![0; 240];
    message[0] = 2;
    message[16..20].copy_from_slice(&GUEST2);
    message[28..34].copy_from_slice(&GUEST2_MAC);
    let reply = udp(NAT_GW, 67, BROADCAST, 68)
        .data(message)
        .macs(GUEST2_MAC, NAT_MAC);
    let bridge = lab.ifindex("br-nat");
    run(&lab, "bridge_egress", bridge, 0, 0, 1, &reply.bytes());
    assert_eq!(lab.bound("br-nat", GUEST2), None, "nothing is guarded");
    lab.change_network("br-nat", |n| n.flags = NETWORK_GUARDED);
    run(&lab, "bridge_egress", bridge, 0, 0, 1, &reply.bytes());
    let binding = lab.bound("br-nat", GUEST2).expect("a binding");
    assert_eq!((binding.mac, binding.kind), (GUEST2_MAC, BINDING_SNOOPED));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_host_can_be_closed() {
    let unicast = |packet: Packet| up(packet);
    let everybody = |packet: Packet| packet.macs([0xff; 6], GUEST_MAC);
    // Hook, packet, passes with `services`, passes with `none`.
    let table: Vec<(&str, Packet, bool, bool)> = vec![
        (
            "SSH",
            unicast(tcp(GUEST, 5000, NAT_GW, 22, SYN)),
            false,
            false,
        ),
        (
            "SSH, LAN address",
            unicast(tcp(GUEST, 5000, UP0, 22, SYN)),
            false,
            false,
        ),
        ("UDP", unicast(udp(GUEST, 5000, NAT_GW, 9)), false, false),
        ("GRE", unicast(raw(GUEST, NAT_GW, GRE)), false, false),
        ("DNS", unicast(udp(GUEST, 5000, NAT_GW, 53)), true, false),
        (
            "DNS by TCP",
            unicast(tcp(GUEST, 5000, NAT_GW, 53, SYN)),
            true,
            false,
        ),
        ("TFTP", unicast(udp(GUEST, 5000, NAT_GW, 69)), true, false),
        (
            "DHCP renewal",
            unicast(udp(GUEST, 68, NAT_GW, 67)),
            true,
            false,
        ),
        ("ping", unicast(echo(GUEST, NAT_GW, 7)), true, false),
        (
            "DHCPDISCOVER",
            everybody(udp(NOBODY, 68, BROADCAST, 67)),
            true,
            false,
        ),
        (
            "broadcast",
            everybody(udp(GUEST, 5000, BROADCAST, 9)),
            false,
            false,
        ),
        (
            "mDNS",
            everybody(udp(GUEST, 5353, [224, 0, 0, 251], 5353)),
            false,
            false,
        ),
        // What the host has asked for.
        (
            "answer to a ping",
            unicast(echo_reply(GUEST, NAT_GW, 7)),
            true,
            true,
        ),
        (
            "TCP that goes on",
            unicast(tcp(GUEST, 22, NAT_GW, 5000, SYN | ACK)),
            true,
            true,
        ),
        (
            "ICMP error",
            unicast(icmp(
                GUEST,
                NAT_GW,
                3,
                3,
                [0; 4],
                udp(NAT_GW, 1, GUEST, 2).bytes()[14..42].to_vec(),
            )),
            true,
            true,
        ),
    ];
    let mut lab = lab();
    for (mode, flag) in [
        ("all", 0),
        ("services", NETWORK_HOST_SERVICES),
        ("none", NETWORK_HOST_NONE),
    ] {
        lab.change_network("br-nat", |n| n.flags = flag);
        lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
        lab.keep_guests_still();
        for (name, packet, services, none) in &table {
            lab.allow_answers();
            let passes = match mode {
                "all" => true,
                "services" => *services,
                _ => *none,
            };
            let name = format!("{name}, {mode}");
            let fixture = Fixture::new(name, "bridge_ingress", "br-nat", packet.bytes());
            let multicast = packet.dst[0] >= 224;
            if passes {
                fixture.any_flows().run(&mut lab);
            } else if multicast {
                fixture.drop(Reason::HostAccessDenied).run(&mut lab);
            } else {
                let answer = port_unreachable(NAT_GW, packet).bytes();
                fixture
                    .reject(Reason::HostAccessDenied, answer)
                    .run(&mut lab);
            }
        }
        // Routed traffic is none of this.
        let packet = up(tcp(GUEST, 5000, SERVER, 80, SYN));
        Fixture::new("outside", "port_ingress", "nat1", packet.bytes())
            .redirect(out(packet, 5000))
            .any_flows()
            .run(&mut lab);
        lab.clear_flows();
    }
}

/// A published port is a service of the host's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_host_publishes_nothing_to_those_guests() {
    let mut lab = lab();
    lab.publish(Published {
        proto: TCP,
        at: (None, NOBODY, 8080),
        bridge: "br-nat",
        to: (GUEST, 80),
    });
    lab.change_network("br-route", |n| n.flags = NETWORK_HOST_SERVICES);
    let packet = tcp(ROUTE_GUEST, 5000, UP0, 8080, SYN).macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new("closed", "port_ingress", "route1", packet.bytes())
        .reject(
            Reason::HostAccessDenied,
            port_unreachable(ROUTE_GW, &packet).bytes(),
        )
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn isolated_ports_do_not_meet_at_the_gateway() {
    let mut lab = lab();
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.set_endpoint(GUEST2, "nat2", GUEST2_MAC);
    lab.keep_guests_still();
    let packet = up(udp(GUEST, 5000, GUEST2, 9));
    let refused = |name: &'static str| {
        Fixture::new(name, "port_ingress", "nat1", packet.bytes()).reject(
            Reason::PortIsolated,
            port_unreachable(NAT_GW, &packet).bytes(),
        )
    };
    let passes = |name: &'static str| Fixture::new(name, "port_ingress", "nat1", packet.bytes());
    passes("neither").run(&mut lab);
    lab.guard_port("nat1", PORT_ISOLATED, [0; 6]);
    passes("one of them").run(&mut lab);
    lab.guard_port("nat2", PORT_ISOLATED, [0; 6]);
    refused("both").run(&mut lab);
    for port in ["nat1", "nat2"] {
        lab.guard_port(port, 0, [0; 6]);
    }
    lab.change_network("br-nat", |n| n.flags = NETWORK_PORTS_ISOLATED);
    refused("the whole network").run(&mut lab);
    Fixture::new(
        "the bridge's hook",
        "bridge_ingress",
        "br-nat",
        packet.bytes(),
    )
    .reject(
        Reason::PortIsolated,
        port_unreachable(NAT_GW, &packet).bytes(),
    )
    .run(&mut lab);
    // The host and the outside are reached as ever.
    let packet = up(echo(GUEST, NAT_GW, 1));
    Fixture::new("gateway", "port_ingress", "nat1", packet.bytes()).run(&mut lab);
    let packet = up(tcp(GUEST, 5000, SERVER, 80, SYN));
    Fixture::new("outside", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 5000))
        .any_flows()
        .run(&mut lab);
}
