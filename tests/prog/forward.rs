//! Published ports: who reaches them, by which of them, and as whom.

use netd_common::Reason;
use netd_common::abi::{Addr4, FLOW_DNAT, FlowKey, NETWORK_ENDPOINT_INDEPENDENT};
use netd_common::state::State;

use crate::fixture::{Fixture, Verdict, run};
use crate::lab::{Lab, Published, lab};
use crate::names::*;
use crate::nat::{down, up};
use crate::nat6::{down6, up6};
use crate::packet::{
    ACK, Packet, RST, SCTP, SYN, TCP, UDP, echo, icmp, port_unreachable, sctp, tcp, udp,
};
use crate::packet6::{tcp6, udp6};

const HIDDEN: Addr4 = [198, 51, 100, 77];

/// Port 8080 of all the host's addresses, at the guest's port 80.
fn web(proto: u8) -> Published<Addr4> {
    Published {
        proto,
        at: (None, [0; 4], 8080),
        bridge: "br-nat",
        to: (GUEST, 80),
    }
}

/// As the guest at `nat1` gets what comes from elsewhere.
fn to_guest(packet: Packet) -> Packet {
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
                tcp6(SERVER6, 5000, UP0_6, 8080, SYN),
                tcp6(GUEST6, 80, SERVER6, 5000, SYN | ACK),
            )
        } else {
            (
                udp6(SERVER6, 5000, UP0_6, 8080),
                udp6(GUEST6, 80, SERVER6, 5000),
            )
        };
        let packet = down6(packet);
        let after = packet.clone().dst(GUEST6).dport(80).hops(63);
        Fixture::new("in", "uplink_ingress", "up0", packet.bytes())
            .redirect(after.macs(GUEST_MAC, NAT_MAC).bytes())
            .any_flows()
            .run(&mut lab);
        let answer = up6(answer);
        let after = answer.clone().src(UP0_6).sport(8080).hops(63);
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
    let mut lab = lab();
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
                .run(&mut lab);
            let answer = up(answer);
            let after = answer.clone().src(UP0).sport(8080).dst(client).ttl(63);
            Fixture::new("back", "port_ingress", "nat1", answer.bytes())
                .redirect(after.macs(mac, NAT_MAC).bytes())
                .any_flows()
                .run(&mut lab);
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

/// A running stream goes to the new guest with its next packet; flows of other forwards stay.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p39_a_stream_follows_its_forward() {
    let mut lab = lab();
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.set_endpoint(GUEST2, "nat2", GUEST2_MAC);
    lab.keep_guests_still();
    lab.publish(web(UDP));
    lab.publish(Published {
        at: (None, [0; 4], 9090),
        ..web(UDP)
    });
    let stream = down(udp(SERVER, 5000, UP0, 8080));
    let other = down(udp(SERVER, 5000, UP0, 9090));
    for packet in [&stream, &other] {
        let device = lab.ifindex("up0");
        let outcome = run(
            &lab,
            "uplink_ingress",
            device,
            device,
            0,
            1,
            &packet.bytes(),
        );
        assert_eq!(outcome.verdict, Verdict::Redirect);
    }
    lab.publish(Published {
        to: (GUEST2, 80),
        ..web(UDP)
    });
    let epoch = lab.epoch();
    lab.set_epoch(epoch + 1);
    let after = stream.clone().dst(GUEST2).dport(80).ttl(63);
    Fixture::new("guest_moves", "uplink_ingress", "up0", stream.bytes())
        .redirect(after.macs(GUEST2_MAC, NAT_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    // Behind the guest's one port two flows of one client must differ.
    let key = stream_key(9090);
    let kept = lab.flow(&key).expect("the other stream");
    let after = other
        .clone()
        .dst(GUEST)
        .dport(80)
        .sport(u16::from_be_bytes(kept.new_sport))
        .ttl(63);
    Fixture::new("stays", "uplink_ingress", "up0", other.bytes())
        .redirect(after.macs(GUEST_MAC, NAT_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    // Taken away: the host's own matter again.
    lab.unpublish(web(UDP));
    let epoch = lab.epoch();
    lab.set_epoch(epoch + 1);
    Fixture::new("gone", "uplink_ingress", "up0", stream.bytes())
        .any_flows()
        .run(&mut lab);
    assert_eq!(lab.faults(), [] as [String; 0]);
}

fn stream_key(port: u16) -> FlowKey<Addr4> {
    FlowKey {
        src: SERVER,
        dst: UP0,
        sport: 5000u16.to_be_bytes(),
        dport: port.to_be_bytes(),
        proto: UDP,
        pad: 0,
        zone: 0,
    }
}

/// No guest is masqueraded with a published port.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p08_published_ports_are_not_handed_out() {
    for independent in [false, true] {
        let mut lab = lab();
        if independent {
            lab.change_network("br-nat", |n| n.flags = NETWORK_ENDPOINT_INDEPENDENT);
            lab.change_control(|c| c.flags |= netd_common::abi::CONTROL_MAPPINGS);
        }
        lab.publish(web(TCP));
        let shown = |lab: &Lab, packet: Packet| {
            let device = lab.ifindex("nat2");
            let packet = packet.macs(NAT_MAC, GUEST2_MAC);
            let outcome = run(lab, "port_ingress", device, device, 0, 1, &packet.bytes());
            assert_eq!(outcome.verdict, Verdict::Redirect);
            u16::from_be_bytes(outcome.packet[34..36].try_into().expect("two bytes"))
        };
        let port = shown(&lab, tcp(GUEST2, 8080, SERVER, 80, SYN));
        assert_ne!(port, 8080);
        // Of another protocol, and beside it.
        assert_eq!(shown(&lab, udp(GUEST2, 8080, SERVER, 80)), 8080);
        assert_eq!(shown(&lab, tcp(GUEST2, 8081, SERVER, 80, SYN)), 8081);
        drop(lab);
    }
}

/// What a guest says of a packet that a forward brought shows the published address, inside and
/// outside.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p23_errors_of_a_published_guest_show_the_published_address() {
    let mut lab = lab();
    lab.publish(web(UDP));
    let packet = down(udp(SERVER, 5000, UP0, 8080));
    let at_guest = to_guest(packet.clone().dst(GUEST).dport(80));
    Fixture::new("in", "uplink_ingress", "up0", packet.bytes())
        .redirect(at_guest.bytes())
        .any_flows()
        .run(&mut lab);
    let quote = |packet: &Packet| packet.bytes()[14..14 + 28].to_vec();
    let error = up(icmp(GUEST, SERVER, 3, 3, [0; 4], quote(&at_guest)));
    let quoted = packet.ttl(63);
    let after = icmp(UP0, SERVER, 3, 3, [0; 4], quote(&quoted)).macs(ROUTER_MAC, UP0_MAC);
    // The guest has sent nothing else yet, so its flow knows no way: the stack's is taken.
    Fixture::new("error", "port_ingress", "nat1", error.bytes()).run(&mut lab);
    let routed = error.clone().ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("error, routed", "uplink_egress", "up0", routed.bytes())
        .came_from("br-nat")
        .pass_as(after.clone().ttl(63).bytes())
        .run(&mut lab);
    let answer = up(udp(GUEST, 80, SERVER, 5000));
    let answered = answer.clone().src(UP0).sport(8080).ttl(63);
    Fixture::new("answer", "port_ingress", "nat1", answer.bytes())
        .redirect(answered.macs(ROUTER_MAC, UP0_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    Fixture::new("error, straight", "port_ingress", "nat1", error.bytes())
        .redirect(after.ttl(63).bytes())
        .run(&mut lab);
}

/// An address of its own: all that reaches it is one guest's, and ports that are published there
/// beside go first.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_whole_address_is_a_guests() {
    let mut lab = lab();
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.set_endpoint(GUEST2, "nat2", GUEST2_MAC);
    lab.keep_guests_still();
    let bridge = lab.ifindex("br-nat");
    lab.v4.add_pool(HIDDEN, 32, bridge);
    lab.publish(Published {
        proto: 0,
        at: (None, HIDDEN, 0),
        bridge: "br-nat",
        to: (GUEST, 0),
    });
    lab.publish(Published {
        at: (None, HIDDEN, 8080),
        to: (GUEST2, 80),
        ..web(TCP)
    });
    for (name, packet) in [
        ("TCP", tcp(SERVER, 5000, HIDDEN, 22, SYN)),
        ("UDP", udp(SERVER, 5000, HIDDEN, 53)),
        ("echo", echo(SERVER, HIDDEN, 7)),
    ] {
        let packet = down(packet);
        Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
            .redirect(to_guest(packet.clone().dst(GUEST)).bytes())
            .any_flows()
            .run(&mut lab);
    }
    let packet = down(tcp(SERVER, 5000, HIDDEN, 8080, SYN));
    let after = packet.clone().dst(GUEST2).dport(80).ttl(63);
    Fixture::new("a port of it", "uplink_ingress", "up0", packet.bytes())
        .redirect(after.macs(GUEST2_MAC, NAT_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    let answer = up(udp(GUEST, 53, SERVER, 5000));
    let after = answer.clone().src(HIDDEN).ttl(63);
    Fixture::new("back", "port_ingress", "nat1", answer.bytes())
        .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
        .any_flows()
        .run(&mut lab);
    // The host's own addresses are its own.
    let packet = down(tcp(SERVER, 5000, UP0, 22, SYN));
    Fixture::new("ssh", "uplink_ingress", "up0", packet.bytes()).run(&mut lab);
}

/// DNS at the gateway is the network's own service, whatever is published at all addresses.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_gateways_services_stay() {
    let mut lab = lab();
    lab.publish(Published {
        at: (None, [0; 4], 53),
        ..web(UDP)
    });
    let packet = udp(GUEST2, 5000, NAT_GW, 53).macs(NAT_MAC, GUEST2_MAC);
    Fixture::new("gateway", "port_ingress", "nat2", packet.bytes()).run(&mut lab);
    let packet = down(udp(SERVER, 5000, UP0, 53));
    Fixture::new("elsewhere", "uplink_ingress", "up0", packet.bytes())
        .redirect(to_guest(packet.clone().dst(GUEST).dport(80)).bytes())
        .any_flows()
        .run(&mut lab);
}

/// Two connections that the client tells apart by the published port alone.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn clients_flows_stay_apart_behind_one_port() {
    let mut lab = lab();
    for port in [8080, 8081] {
        lab.publish(Published {
            at: (None, [0; 4], port),
            ..web(TCP)
        });
    }
    let device = lab.ifindex("up0");
    let mut ports = Vec::new();
    for port in [8080, 8081] {
        let packet = down(tcp(SERVER, 5000, UP0, port, SYN));
        let outcome = run(
            &lab,
            "uplink_ingress",
            device,
            device,
            0,
            1,
            &packet.bytes(),
        );
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let sport = u16::from_be_bytes(outcome.packet[34..36].try_into().expect("two bytes"));
        ports.push(sport);
        let answer = up(tcp(GUEST, 80, SERVER, sport, SYN | ACK));
        let after = answer.clone().src(UP0).sport(port).dport(5000).ttl(63);
        Fixture::new("back", "port_ingress", "nat1", answer.bytes())
            .redirect(after.macs(ROUTER_MAC, UP0_MAC).bytes())
            .any_flows()
            .run(&mut lab);
    }
    assert_eq!(ports[0], 5000);
    assert_ne!(ports[1], 5000);
}

/// The host talked from the port before it was published: its answers are its own.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p07_the_hosts_own_flows_keep_a_port_that_is_published() {
    let mut lab = lab();
    lab.publish(web(UDP));
    let packet = udp(UP0, 8080, SERVER, 53).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("the host asks", "uplink_egress", "up0", packet.bytes())
        .any_flows()
        .run(&mut lab);
    let answer = down(udp(SERVER, 53, UP0, 8080));
    Fixture::new("it is answered", "uplink_ingress", "up0", answer.bytes())
        .any_flows()
        .run(&mut lab);
    let packet = down(udp(SERVER, 54, UP0, 8080));
    Fixture::new("somebody else", "uplink_ingress", "up0", packet.bytes())
        .redirect(to_guest(packet.clone().dst(GUEST).dport(80)).bytes())
        .any_flows()
        .run(&mut lab);
}

/// What closes or answers a connection that nobody knows opens none.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p45_a_stray_segment_to_a_published_port_is_the_hosts_to_answer() {
    let mut lab = lab();
    lab.publish(web(TCP));
    for flags in [RST, SYN | ACK] {
        let packet = down(tcp(SERVER, 5000, UP0, 8080, flags));
        Fixture::new("stray", "uplink_ingress", "up0", packet.bytes()).run(&mut lab);
    }
    assert!(lab.flows().is_empty());
}

/// Entries carry what they are, and the flow's states are those of any other.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn entries_of_a_published_port() {
    let mut lab = lab();
    lab.publish(web(UDP));
    let device = lab.ifindex("up0");
    let packet = down(udp(SERVER, 5000, UP0, 8080));
    run(
        &lab,
        "uplink_ingress",
        device,
        device,
        0,
        1,
        &packet.bytes(),
    );
    let key = stream_key(8080);
    let flow = lab.flow(&key).expect("a flow");
    assert_eq!(flow.flags & FLOW_DNAT, FLOW_DNAT);
    assert_eq!(flow.state, State::New as u8);
    assert_eq!(
        (flow.in_bridge, flow.out_bridge),
        (0, lab.ifindex("br-nat"))
    );
    assert_eq!(flow.counted_for, lab.ifindex("br-nat"));
    let back = lab.flow(&flow.partner(UDP)).expect("its other half");
    assert_eq!(back.flags & FLOW_DNAT, FLOW_DNAT);
    assert_eq!(back.partner(UDP), key);
}
