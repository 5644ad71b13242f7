//! Flows that go by a forward: their ports, their errors, and what becomes of them.

use netd_common::abi::{Addr4, CONTROL_FORWARDS, FLOW_DNAT, FlowKey, NETWORK_ENDPOINT_INDEPENDENT};
use netd_common::state::State;

use crate::fixture::{Fixture, Verdict, run, verdict};
use crate::lab::{Lab, Published, lab};
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{ACK, Packet, RST, SYN, TCP, UDP, echo, icmp, tcp, udp};

use crate::forward::{HIDDEN, to_guest, web};

/// With the last forward goes what tells the programs that there are some.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn t17_a_stream_ends_with_the_last_forward() {
    let mut lab = lab();
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.publish(web(UDP));
    let stream = down(udp(SERVER, 5000, UP0, 8080));
    for _ in 0..2 {
        let action = verdict(&lab, "uplink_ingress", "up0", &stream.bytes());
        assert_eq!(action, Verdict::Redirect);
    }
    lab.unpublish(web(UDP));
    lab.change_control(|control| {
        control.flags &= !CONTROL_FORWARDS;
        control.epoch += 1;
    });
    Fixture::new("the host's", "uplink_ingress", "up0", stream.bytes())
        .any_flows()
        .run(&mut lab);
    assert!(lab.flow(&stream_key(8080)).is_none());
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
    // The guest has sent nothing else yet: back to whoever handed the datagram over.
    Fixture::new("error", "port_ingress", "nat1", error.bytes())
        .redirect(after.clone().ttl(63).bytes())
        .run(&mut lab);
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
