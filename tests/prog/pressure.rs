//! Full tables: who makes room for whom, who is told, and how memory comes back.

use netd_common::Reason;
use netd_common::abi::{Addr4, Flow4, FlowKey4, Usage};
use netd_common::state::State;

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::{FromGuest, guest_to_server, guest_to_server6};
use crate::lab::{FLOWS, Lab, lab};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, Packet, SYN, TCP, UDP, prohibited, tcp, udp};

/// The `i`-th flow of many: other ports, then another peer.
fn nth(proto: u8, i: u32, state: State) -> FromGuest {
    let [_, _, high, low] = (i / 60_000).to_be_bytes();
    FromGuest {
        peer: ([203, 0, high, low], 80),
        ..guest_to_server(proto, 2000 + (i % 60_000) as u16, 80)
    }
    .in_state(state)
}

fn add(lab: &mut Lab, proto: u8, range: std::ops::Range<u32>, state: State) {
    for i in range {
        for entry in nth(proto, i, state).entries(lab) {
            lab.set_flow(entry);
        }
    }
}

/// One packet of the guest's through its port; what became of it.
fn send(lab: &Lab, packet: Packet) -> Verdict {
    let device = lab.ifindex("nat1");
    run(
        lab,
        "port_ingress",
        device,
        device,
        0,
        1,
        &up(packet).bytes(),
    )
    .verdict
}

fn are_all_there(lab: &Lab, proto: u8, range: std::ops::Range<u32>) {
    for i in range {
        let flow = nth(proto, i, State::New);
        for key in [flow.key(), flow.back_key()] {
            assert!(lab.flow(&key).is_some(), "flow {i} has gone");
        }
    }
}

/// Far more one-packet flows than there is room for: connections that both sides use stay, every
/// new flow finds a place, since the flood makes room for itself.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p01_p02_a_flood_of_one_packet_flows_leaves_connections_alone() {
    let mut lab = lab();
    add(&mut lab, TCP, 0..1000, State::Established);
    let flood: Addr4 = [192, 0, 2, 81];
    for i in 0..3 * FLOWS {
        let packet = udp(
            GUEST,
            (1024 + i % 60_000) as u16,
            flood,
            (1 + i / 60_000) as u16,
        );
        assert_eq!(send(&lab, packet), Verdict::Redirect, "packet {i}");
    }
    are_all_there(&lab, TCP, 0..1000);
    // Neither halves nor flows without a slot, and no more than there is room for.
    assert_eq!(lab.faults(), Vec::<String>::new());
    let flows = lab.flows().len();
    assert!(flows <= 2 * FLOWS as usize, "{flows}");
    assert!(flows > FLOWS as usize, "the table is used: {flows}");
    let usage = lab.usage("br-nat").flows;
    assert_eq!(usage, [flows as u32 / 2, 0]);
    // A connection goes on.
    let one = nth(TCP, 500, State::Established);
    let packet = up(tcp(GUEST, one.guest.1, one.peer.0, 80, ACK));
    Fixture::new("one of them", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, one.guest.1))
        .run(&mut lab);
}

/// A SYN flood: half-open connections make room for each other.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p01_a_syn_flood_leaves_connections_alone() {
    let mut lab = lab();
    add(&mut lab, TCP, 0..1000, State::Established);
    for i in 0..2 * FLOWS {
        let packet = tcp(GUEST, (1024 + i % 60_000) as u16, SERVER, 443, SYN);
        assert_eq!(send(&lab, packet), Verdict::Redirect, "packet {i}");
    }
    are_all_there(&lab, TCP, 0..1000);
    assert_eq!(lab.faults(), Vec::<String>::new());
}

/// The table holds nothing but connections in use: new ones are refused by name, and no other
/// goes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p01_a_table_full_of_connections_refuses_by_name() {
    let mut lab = lab();
    add(&mut lab, TCP, 0..FLOWS, State::Established);
    for (name, packet) in [
        ("UDP", up(udp(GUEST, 999, SERVER, 9))),
        ("TCP", up(tcp(GUEST, 999, SERVER, 9, SYN))),
    ] {
        Fixture::new(name, "port_ingress", "nat1", packet.bytes())
            .reject(Reason::TableFull, prohibited(NAT_GW, &packet).bytes())
            .run(&mut lab);
    }
    // The other family has its own table.
    let packet = up(udp(GUEST6, 40000, SERVER6, 9));
    Fixture::new("IPv6", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .any_flows()
        .run(&mut lab);
    // A routed packet needs no flow.
    let packet = udp(ROUTE_GUEST, 9, SERVER, 9).macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new("routed", "port_ingress", "route1", packet.bytes()).run(&mut lab);
    // One ends: there is room again.
    let ended = nth(TCP, 77, State::Established);
    let back = down(tcp(ended.peer.0, 80, UP0, ended.guest.1, 0x04));
    Fixture::new("RST", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back, ended.guest.1))
        .run(&mut lab);
    let closed = lab.flow(&ended.key()).map(|flow| flow.state);
    let mut served = false;
    // Each try looks at some of the slots.
    for _ in 0..2000 {
        served |= lab.flow(&guest_to_server(UDP, 5000, 9).key()).is_some();
        if !served {
            lab.allow_answers();
            send(&lab, udp(GUEST, 5000, SERVER, 9));
        }
    }
    assert!(served, "after a RST (state {closed:?})");
    assert_eq!(lab.faults(), Vec::<String>::new());
}

/// Flows that are over make room first; what both sides use is not asked.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_that_have_ended_make_room() {
    let mut lab = lab();
    for ended in [State::TimeWait, State::Close, State::Answered, State::New] {
        lab.clear_flows();
        add(&mut lab, TCP, 0..FLOWS - 500, State::Established);
        add(&mut lab, TCP, FLOWS - 500..FLOWS, ended);
        let mut opened = 0;
        for port in 5000..5400 {
            if send(&lab, udp(GUEST, port, SERVER, 9)) == Verdict::Redirect
                && lab.flow(&guest_to_server(UDP, port, 9).key()).is_some()
            {
                opened += 1;
            }
        }
        // Most of the tries look at slots of connections in use.
        assert!(opened > 0, "{ended:?}");
        are_all_there(&lab, TCP, 0..FLOWS - 500);
        assert_eq!(lab.faults(), Vec::<String>::new());
    }
}

/// A network may have so many flows: beyond that its own unanswered ones go, others' never.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p01_a_network_keeps_to_its_limit() {
    let mut lab = lab();
    lab.change_control(|control| control.max_per_network = 100);
    add(&mut lab, TCP, 0..100, State::Established);
    let packet = up(udp(GUEST, 999, SERVER, 9));
    Fixture::new("one too many", "port_ingress", "nat1", packet.bytes())
        .reject(Reason::NetworkFull, prohibited(NAT_GW, &packet).bytes())
        .run(&mut lab);
    // Another network, and the other family.
    let packet = udp(DEV_GUEST, 40000, SERVER, 9).macs(DEV_MAC, DEV_GUEST_MAC);
    let after = packet.clone().src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("another network", "port_ingress", "dev1", packet.bytes())
        .redirect(after.bytes())
        .any_flows()
        .run(&mut lab);
    let packet = up(udp(GUEST6, 40000, SERVER6, 9));
    Fixture::new("IPv6", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .any_flows()
        .run(&mut lab);
    assert_eq!(lab.usage("br-nat"), Usage { flows: [100, 1] });

    // Half of them unanswered: those make room.
    lab.clear_flows();
    add(&mut lab, TCP, 0..50, State::Established);
    add(&mut lab, TCP, 50..100, State::New);
    for port in 5000..5200 {
        send(&lab, udp(GUEST, port, SERVER, 9));
        assert!(lab.usage("br-nat").flows[0] <= 100);
    }
    are_all_there(&lab, TCP, 0..50);
    assert_eq!(lab.faults(), Vec::<String>::new());
}

/// Everything silent is removed by one sweep, both halves, and the count is right.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_sweep_removes_what_is_dead() {
    let mut lab = lab();
    add(&mut lab, UDP, 0..300, State::New);
    lab.v4.age(1000);
    add(&mut lab, TCP, 0..200, State::Established);
    guest_to_server6(UDP, 40000, 80).only(&mut lab);
    lab.v6.age(1000);
    assert_eq!(lab.usage("br-nat"), Usage { flows: [500, 1] });
    assert_eq!(lab.sweep_all(), 301);
    assert_eq!(lab.usage("br-nat"), Usage { flows: [200, 0] });
    assert_eq!(lab.flows().len(), 400);
    assert_eq!(lab.v6.flows().len(), 0);
    assert_eq!(lab.v4.taken_slots(), 200);
    assert_eq!(lab.faults(), Vec::<String>::new());
    assert_eq!(lab.sweep_all(), 0);
}

/// A network goes: its flows go with the next sweep, and nobody else's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_sweep_removes_the_flows_of_a_network_that_has_gone() {
    let mut lab = lab();
    add(&mut lab, TCP, 0..50, State::Established);
    let bridge = lab.ifindex("br-dev");
    let other = FromGuest {
        guest: (DEV_GUEST, 40000),
        ..guest_to_server(TCP, 40000, 80)
    };
    let theirs: Vec<(FlowKey4, Flow4)> = other
        .established()
        .entries(&lab)
        .into_iter()
        .map(|(key, mut flow)| {
            if flow.counted_for != 0 {
                flow.counted_for = bridge;
            }
            (key, flow)
        })
        .collect();
    for entry in &theirs {
        lab.set_flow(*entry);
    }
    lab.remove_network("br-nat");
    assert_eq!(lab.sweep_all(), 50);
    assert_eq!(lab.flows().len(), 2);
    assert!(lab.flow(&theirs[0].0).is_some());
}

/// An entry that lost its other half is removed; one that is there keeps its flow.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p02_the_sweep_removes_halves() {
    let mut lab = lab();
    add(&mut lab, TCP, 0..3, State::Established);
    lab.v4
        .remove_flow(&nth(TCP, 1, State::Established).back_key());
    assert_eq!(lab.sweep_all(), 1);
    assert_eq!(lab.flows().len(), 4);
    assert_eq!(lab.usage("br-nat").flows[0], 2);
    assert_eq!(lab.faults(), Vec::<String>::new());
}

/// A slot that names a flow which was removed and opened again elsewhere frees nothing but itself.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p13_a_stale_slot_does_not_remove_a_later_flow() {
    let mut lab = lab();
    let flow = guest_to_server(TCP, 40000, 80).established();
    flow.only(&mut lab);
    // The same key in another slot, as if the flow had been there before.
    lab.v4.take_slot(flow.key());
    assert_eq!(lab.v4.taken_slots(), 2);
    lab.sweep_all();
    assert_eq!(lab.v4.taken_slots(), 1);
    assert_eq!(lab.flows().len(), 2);
    assert_eq!(lab.usage("br-nat").flows[0], 1);
    assert_eq!(lab.faults(), Vec::<String>::new());
    // And where somebody needs the slot, before any sweep.
    let stale = lab.v4.take_slot(flow.key());
    for port in 0..FLOWS as u16 {
        send(&lab, udp(GUEST, 2000 + port, SERVER, 9));
    }
    assert!(lab.flow(&flow.key()).is_some());
    let used = lab.v4.slots().into_iter().find(|(i, _)| *i == stale);
    assert_ne!(used.expect("in use again").1.key, flow.key());
    assert_eq!(lab.faults(), Vec::<String>::new());
}

/// The hands of the search and of the sweep count on past the end of their type.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p13_the_hands_may_wrap() {
    let mut lab = lab();
    lab.set_hands(u32::MAX - 5);
    for port in 2000..2020 {
        assert_eq!(send(&lab, udp(GUEST, port, SERVER, 9)), Verdict::Redirect);
    }
    assert_eq!(lab.flows().len(), 40);
    lab.v4.age(1000);
    assert_eq!(lab.sweep_all(), 20);
    assert_eq!(lab.flows().len(), 0);
    lab.set_hands(0);
}
