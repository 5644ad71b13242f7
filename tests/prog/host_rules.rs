//! Networks that respect the host's own rules: what passes the stack, and from when on it does not.

use netd_common::abi::{FLOW_PROVEN, Flow, NETWORK_RESPECT};

use crate::fixture::Fixture;
use crate::flows::guest_to_server;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::packet::{ACK, Packet, SYN, TCP, UDP, tcp, udp};

fn respect(lab: &mut Lab) {
    lab.change_network("br-nat", |network| network.flags |= NETWORK_RESPECT);
    let epoch = lab.epoch();
    lab.change_control(|control| control.rules_epoch = epoch);
}

/// As the guest sends it, to its gateway.
fn sent(packet: Packet) -> Packet {
    packet.macs(NAT_MAC, GUEST_MAC)
}

/// As the stack sends it: the TTL is lower already, the MAC addresses are right.
fn leaving(packet: &Packet) -> Packet {
    packet.clone().ttl(63).macs(ROUTER_MAC, UP0_MAC)
}

/// The host's rules have let the packet pass.
fn comes_out(lab: &mut Lab, packet: &Packet) {
    let packet = leaving(packet);
    let after = packet.clone().src(UP0);
    Fixture::new("comes out", "uplink_egress", "up0", packet.bytes())
        .came_from("br-nat")
        .pass_as(after.bytes())
        .any_flows()
        .run(lab);
}

fn goes_by_stack(lab: &mut Lab, name: &'static str, packet: &Packet) {
    Fixture::new(name, "port_ingress", "nat1", packet.clone().bytes())
        .pass_as(packet.clone().bytes())
        .any_flows()
        .run(lab);
}

fn goes_straight(lab: &mut Lab, name: &'static str, packet: &Packet) {
    let after = leaving(packet).src(UP0);
    Fixture::new(name, "port_ingress", "nat1", packet.clone().bytes())
        .redirect(after.bytes())
        .any_flows()
        .run(lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_is_opened_where_the_rules_let_its_packet_out() {
    let mut lab = lab();
    respect(&mut lab);
    let packet = sent(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("first", "port_ingress", "nat1", packet.clone().bytes())
        .pass_as(packet.clone().bytes())
        .flows([])
        .run(&mut lab);
    comes_out(&mut lab, &packet);
    let key = guest_to_server(UDP, 40000, 80).key();
    let flow: Flow<_> = lab.flow(&key).expect("a flow");
    assert_eq!(flow.flags & FLOW_PROVEN, FLOW_PROVEN);
    assert_eq!(flow.in_ifindex, lab.ifindex("nat1"));
    goes_straight(&mut lab, "later", &packet);
    // Its answers prove themselves.
    let back = udp(SERVER, 80, UP0, 40000).macs(UP0_MAC, ROUTER_MAC);
    let after = back.clone().dst(GUEST);
    Fixture::new("its answer", "uplink_ingress", "up0", back.bytes())
        .pass_as(after.bytes())
        .any_flows()
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn changed_rules_are_asked_again() {
    let mut lab = lab();
    respect(&mut lab);
    let packet = sent(udp(GUEST, 40000, SERVER, 80));
    goes_by_stack(&mut lab, "first", &packet);
    comes_out(&mut lab, &packet);
    goes_straight(&mut lab, "proven", &packet);
    let epoch = lab.epoch();
    lab.change_control(|control| {
        control.rules_epoch = epoch + 512;
        control.epoch += 1024;
    });
    goes_by_stack(&mut lab, "not proven any more", &packet);
    goes_by_stack(&mut lab, "nor by waiting", &packet);
    comes_out(&mut lab, &packet);
    goes_straight(&mut lab, "proven again", &packet);
    // Other changes of the host ask for no proof.
    lab.change_control(|control| control.epoch += 1);
    goes_straight(&mut lab, "looked at again", &packet);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_opens_a_connection_always_passes_the_rules() {
    let mut lab = lab();
    respect(&mut lab);
    let syn = sent(tcp(GUEST, 40000, SERVER, 80, SYN));
    goes_by_stack(&mut lab, "SYN", &syn);
    comes_out(&mut lab, &syn);
    goes_by_stack(&mut lab, "SYN again, for its maximum segment size", &syn);
    comes_out(&mut lab, &syn);
    let key = guest_to_server(TCP, 40000, 80).key();
    let flow: Flow<_> = lab.flow(&key).expect("a flow");
    assert_eq!(flow.flags & FLOW_PROVEN, FLOW_PROVEN);
    // Conntrack is not to take it for established, and keep it for days.
    goes_straight(&mut lab, "ACK", &sent(tcp(GUEST, 40000, SERVER, 80, ACK)));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_that_the_stack_sends_elsewhere_stays_with_it() {
    let mut lab = lab();
    respect(&mut lab);
    let packet = sent(udp(GUEST, 40000, SERVER, 80));
    goes_by_stack(&mut lab, "first", &packet);
    // By a mark, say: routing without it names up0.
    let elsewhere = packet.clone().ttl(63).macs(PEER1_MAC, UP1_MAC);
    let after = elsewhere.clone().src(UP1);
    Fixture::new("comes out", "uplink_egress", "up1", elsewhere.bytes())
        .came_from("br-nat")
        .pass_as(after.bytes())
        .any_flows()
        .run(&mut lab);
    goes_by_stack(&mut lab, "later", &packet);
}

/// Its address is another device's then, as it is of a flow that a mark sends elsewhere.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_whose_device_was_made_anew_has_left_its_way() {
    let mut lab = lab();
    respect(&mut lab);
    let mut flow = guest_to_server(UDP, 40000, 80).established();
    flow.shown = Some((UP1, 40000));
    let packet = sent(udp(GUEST, 40000, SERVER, 80));
    for (device, stays) in [(lab.ifindex("up0"), true), (9999, false)] {
        let mut entries = flow.entries(&lab);
        entries[0].1.next_hop.ifindex = device;
        lab.set_flows(&entries);
        let epoch = lab.epoch();
        lab.change_control(|control| {
            control.epoch += 1;
            control.rules_epoch = epoch + 1;
        });
        goes_by_stack(&mut lab, "to be judged", &packet);
        assert_eq!(lab.flow(&flow.key()).is_some(), stays, "{device}");
    }
}
