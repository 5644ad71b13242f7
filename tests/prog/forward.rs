//! Published ports: who reaches them, by which of them, and as whom.

use netd_common::Reason;
use netd_common::abi::{Addr4, CONTROL_MAPPINGS, FlowKey, NETWORK_ENDPOINT_INDEPENDENT};

use crate::fixture::{Fixture, run};
use crate::lab::{Lab, Published, lab};
use crate::names::*;
use crate::nat::{down, out, up};
use crate::packet::{ACK, Packet, SCTP, SYN, TCP, UDP, echo, port_unreachable, sctp, tcp, udp};

pub const HIDDEN: Addr4 = [198, 51, 100, 77];

/// Port 8080 of all the host's addresses, at the guest's port 80.
pub fn web(proto: u8) -> Published<Addr4> {
    Published {
        proto,
        at: (None, [0; 4], 8080),
        bridge: "br-nat",
        to: (GUEST, 80),
    }
}

/// As the guest at `nat1` gets what comes from elsewhere.
pub fn to_guest(packet: Packet) -> Packet {
    let ttl = packet.ttl - 1;
    packet.ttl(ttl).macs(GUEST_MAC, NAT_MAC)
}

/// One packet from outside and its answer.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p35_a_published_port_is_reached_from_outside() {
    let mut lab = lab();
    for (name, proto, port, packet, answer) in [
        (
            "TCP",
            TCP,
            8080,
            tcp(SERVER, 5000, UP0, 8080, SYN),
            tcp(GUEST, 80, SERVER, 5000, SYN | ACK),
        ),
        (
            "UDP",
            UDP,
            8080,
            udp(SERVER, 5000, UP0, 8080),
            udp(GUEST, 80, SERVER, 5000),
        ),
        (
            "SCTP",
            SCTP,
            8080,
            sctp(SERVER, 5000, UP0, 8080, 1),
            sctp(GUEST, 80, SERVER, 5000, 2),
        ),
    ] {
        lab.publish(web(proto));
        let packet = down(packet);
        Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
            .redirect(to_guest(packet.clone().dst(GUEST).dport(80)).bytes())
            .any_flows()
            .run(&mut lab);
        let answer = up(answer);
        let after = answer.clone().src(UP0).sport(port).ttl(63);
        Fixture::new(name, "port_ingress", "nat1", answer.bytes())
            .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
            .any_flows()
            .run(&mut lab);
        // The next one needs no second look.
        Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
            .redirect(to_guest(packet.dst(GUEST).dport(80)).bytes())
            .run(&mut lab);
        assert_eq!(lab.faults(), [] as [String; 0]);
        lab.clear_flows();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_published_port_is_reached_by_ipv6() {
    let mut lab = lab();
    for proto in [TCP, UDP] {
        lab.publish(Published {
            proto,
            at: (None, [0; 16], 8080),
            bridge: "br-nat",
            to: (GUEST6, 80),
        });
        let (packet, answer) = if proto == TCP {
            (
                tcp(SERVER6, 5000, UP0_6, 8080, SYN),
                tcp(GUEST6, 80, SERVER6, 5000, SYN | ACK),
            )
        } else {
            (
                udp(SERVER6, 5000, UP0_6, 8080),
                udp(GUEST6, 80, SERVER6, 5000),
            )
        };
        let packet = down(packet);
        let after = packet.clone().dst(GUEST6).dport(80).ttl(63);
        Fixture::new("in", "uplink_ingress", "up0", packet.bytes())
            .redirect(after.macs(GUEST_MAC, NAT_MAC).bytes())
            .any_flows()
            .run(&mut lab);
        let answer = up(answer);
        let after = answer.clone().src(UP0_6).sport(8080).ttl(63);
        Fixture::new("out", "port_ingress", "nat1", answer.bytes())
            .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
            .any_flows()
            .run(&mut lab);
    }
}

/// The target itself and its neighbour: seen with the gateway's address, so that they are answered
/// by way of the host.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p35_a_published_port_is_reached_from_its_own_network() {
    is_reached_from_its_own_network(&mut lab());
}

/// The same with endpoint-independent mappings, of which this is none.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn t49_a_published_port_is_reached_beside_mappings() {
    let mut lab = lab();
    lab.change_network("br-nat", |n| n.flags = NETWORK_ENDPOINT_INDEPENDENT);
    lab.change_control(|c| c.flags |= CONTROL_MAPPINGS);
    is_reached_from_its_own_network(&mut lab);
    // The guest has one all the same, with its own port.
    let packet = up(udp(GUEST, 6000, SERVER, 80));
    Fixture::new("outside", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 6000))
        .any_flows()
        .run(&mut lab);
}

fn is_reached_from_its_own_network(lab: &mut Lab) {
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.keep_guests_still();
    for (client, mac, port, device) in [
        (GUEST, GUEST_MAC, 6000, "nat1"),
        (GUEST2, GUEST2_MAC, 6001, "nat2"),
    ] {
        for proto in [TCP, UDP] {
            lab.publish(web(proto));
            let (packet, answer) = if proto == TCP {
                (
                    tcp(client, port, UP0, 8080, SYN),
                    tcp(GUEST, 80, NAT_GW, port, SYN | ACK),
                )
            } else {
                (udp(client, port, UP0, 8080), udp(GUEST, 80, NAT_GW, port))
            };
            let packet = packet.macs(NAT_MAC, mac);
            let after = packet.clone().src(NAT_GW).dst(GUEST).dport(80);
            Fixture::new("there", "port_ingress", device, packet.bytes())
                .redirect(to_guest(after).bytes())
                .any_flows()
                .run(lab);
            let answer = up(answer);
            let after = answer.clone().src(UP0).sport(8080).dst(client).ttl(63);
            Fixture::new("back", "port_ingress", "nat1", answer.bytes())
                .redirect(after.macs(mac, NAT_MAC).bytes())
                .any_flows()
                .run(lab);
        }
    }
    assert_eq!(lab.faults(), [] as [String; 0]);
}

/// A guest of another network keeps its address, and gets nowhere without the forward.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p41_another_network_reaches_what_is_published_and_nothing_else() {
    let mut lab = lab();
    lab.publish(web(TCP));
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.keep_guests_still();
    for (client, mac, gateway, device) in [
        (ROUTE_GUEST, ROUTE_GUEST_MAC, ROUTE_MAC, "route1"),
        (
            ISOLATED_GUEST,
            ISOLATED_GUEST_MAC,
            ISOLATED_MAC,
            "isolated1",
        ),
        (OPEN_GUEST, OPEN_GUEST_MAC, OPEN_MAC, "open1"),
        (DEV_GUEST, DEV_GUEST_MAC, DEV_MAC, "dev1"),
    ] {
        let packet = tcp(client, 6000, UP0, 8080, SYN).macs(gateway, mac);
        Fixture::new(device, "port_ingress", device, packet.bytes())
            .redirect(to_guest(packet.clone().dst(GUEST).dport(80)).bytes())
            .any_flows()
            .run(&mut lab);
        let answer = up(tcp(GUEST, 80, client, 6000, SYN | ACK));
        let after = answer
            .clone()
            .src(UP0)
            .sport(8080)
            .ttl(63)
            .macs(mac, gateway);
        Fixture::new(device, "port_ingress", "nat1", answer.bytes())
            .redirect(after.bytes())
            .any_flows()
            .run(&mut lab);
        // By its private address.
        let packet = tcp(client, 6001, GUEST, 80, SYN).macs(gateway, mac);
        let here = lab.ifindex(device);
        let outcome = run(&lab, "port_ingress", here, here, 0, 1, &packet.bytes());
        let key = FlowKey {
            src: client,
            dst: GUEST,
            sport: 6001u16.to_be_bytes(),
            dport: 80u16.to_be_bytes(),
            proto: TCP,
            pad: 0,
            zone: 0,
        };
        assert!(lab.flow(&key).is_none(), "{device}");
        assert_ne!(
            &outcome.packet[30..34],
            &GUEST,
            "{device}: {:?}",
            outcome.packet
        );
    }
    // With an address that is not its network's.
    let packet = tcp([10, 10, 9, 9], 6000, UP0, 8080, SYN).macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    let answer = port_unreachable(ROUTE_GW, &packet);
    Fixture::new("forged", "port_ingress", "route1", packet.bytes())
        .reject(Reason::ForeignSource, answer.bytes())
        .run(&mut lab);
}

/// Guests of every mode but open publish; the answer of an isolated one finds its way out, and
/// nothing else of it does.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p40_an_isolated_guest_can_publish_a_port() {
    let mut lab = lab();
    for (bridge, device, guest, mac, gateway) in [
        (
            "br-isolated",
            "isolated1",
            ISOLATED_GUEST,
            ISOLATED_GUEST_MAC,
            ISOLATED_MAC,
        ),
        (
            "br-route",
            "route1",
            ROUTE_GUEST,
            ROUTE_GUEST_MAC,
            ROUTE_MAC,
        ),
    ] {
        lab.publish(Published {
            bridge,
            to: (guest, 80),
            ..web(TCP)
        });
        lab.set_endpoint(guest, device, mac);
        lab.keep_guests_still();
        let packet = down(tcp(SERVER, 5000, UP0, 8080, SYN));
        let after = packet.clone().dst(guest).dport(80).ttl(63);
        Fixture::new(bridge, "uplink_ingress", "up0", packet.bytes())
            .redirect(after.macs(mac, gateway).bytes())
            .any_flows()
            .run(&mut lab);
        let answer = tcp(guest, 80, SERVER, 5000, SYN | ACK).macs(gateway, mac);
        let after = answer.clone().src(UP0).sport(8080).ttl(63);
        Fixture::new(bridge, "port_ingress", device, answer.bytes())
            .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
            .any_flows()
            .run(&mut lab);
        // The stack's way out translates it as well.
        let routed = answer.macs(ROUTER_MAC, UP0_MAC).ttl(63);
        let after = routed.clone().src(UP0).sport(8080);
        Fixture::new(bridge, "uplink_egress", "up0", routed.bytes())
            .came_from(bridge)
            .pass_as(after.bytes())
            .any_flows()
            .run(&mut lab);
        lab.clear_flows();
    }
    let packet = tcp(ISOLATED_GUEST, 5000, SERVER, 80, SYN).macs(ISOLATED_MAC, ISOLATED_GUEST_MAC);
    let answer = port_unreachable(ISOLATED_GW, &packet);
    Fixture::new(
        "isolated still",
        "port_ingress",
        "isolated1",
        packet.bytes(),
    )
    .reject(Reason::Isolated, answer.bytes())
    .run(&mut lab);
}

/// What is bound to loopback is the host's own alone.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p36_a_port_at_loopback_is_not_reached_from_elsewhere() {
    let mut lab = lab();
    let lo = [127, 0, 0, 1];
    lab.set_own(lo, Some("lo"));
    lab.publish(Published {
        at: (None, lo, 8080),
        ..web(TCP)
    });
    for dst in [lo, UP0] {
        let packet = down(tcp(SERVER, 5000, dst, 8080, SYN));
        Fixture::new("outside", "uplink_ingress", "up0", packet.bytes()).run(&mut lab);
        let packet = up(tcp(GUEST, 5000, dst, 8080, SYN));
        Fixture::new("guest", "port_ingress", "nat1", packet.bytes()).run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p37_other_hosts_ports_are_not_caught() {
    let mut lab = lab();
    lab.publish(web(TCP));
    let packet = up(tcp(GUEST, 5000, SERVER, 8080, SYN));
    let after = packet.clone().src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("by a guest", "port_ingress", "nat1", packet.bytes())
        .redirect(after.bytes())
        .any_flows()
        .run(&mut lab);
    // Another protocol, another port.
    for packet in [
        udp(SERVER, 5000, UP0, 8080),
        tcp(SERVER, 5000, UP0, 8081, SYN),
        echo(SERVER, UP0, 8080),
    ] {
        Fixture::new("the host's", "uplink_ingress", "up0", down(packet).bytes()).run(&mut lab);
    }
}

/// The more exact definition goes first: address, then device, then all.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p38_addresses_have_ports_of_their_own() {
    let mut lab = lab();
    let guests = [
        [192, 168, 122, 21],
        [192, 168, 122, 22],
        [192, 168, 122, 23],
    ];
    for (guest, last) in guests.iter().zip(1..) {
        lab.set_endpoint(*guest, "nat1", [2, 0, 0, 0, 0, last]);
    }
    lab.keep_guests_still();
    let published = [
        ((None, UP0, 8080), guests[0]),
        ((Some("up1"), [0; 4], 8080), guests[1]),
        ((None, [0; 4], 8080), guests[2]),
    ];
    for (at, guest) in published {
        lab.publish(Published {
            at,
            to: (guest, 80),
            ..web(TCP)
        });
    }
    let reaches = |lab: &mut Lab, device: &str, to, port, expected: Option<usize>| {
        let here = lab.ifindex(device);
        let mac = if device == "up0" { UP0_MAC } else { UP1_MAC };
        let packet = tcp([192, 0, 2, 7], port, to, 8080, SYN).macs(mac, ROUTER_MAC);
        let outcome = run(lab, "uplink_ingress", here, here, 0, 1, &packet.bytes());
        let dst: Addr4 = outcome.packet[30..34].try_into().expect("four bytes");
        match expected {
            Some(guest) => assert_eq!(dst, guests[guest], "{device} {to:?}"),
            None => assert_eq!(dst, to, "{device} {to:?}"),
        }
    };
    reaches(&mut lab, "up0", UP0, 1, Some(0));
    reaches(&mut lab, "up1", UP0, 2, Some(0));
    reaches(&mut lab, "up1", UP1, 3, Some(1));
    reaches(&mut lab, "up0", PLAIN0, 4, Some(2));
    // The device's address, but by another device: what is bound to the device does not fit.
    reaches(&mut lab, "up0", UP1, 5, Some(2));
    lab.unpublish(Published {
        at: (None, UP0, 8080),
        ..web(TCP)
    });
    reaches(&mut lab, "up0", UP0, 6, Some(2));
    reaches(&mut lab, "up1", UP1, 7, Some(1));
    lab.unpublish(Published {
        at: (None, [0; 4], 8080),
        ..web(TCP)
    });
    reaches(&mut lab, "up0", UP1, 8, None);
    reaches(&mut lab, "up1", UP1, 9, Some(1));
}
