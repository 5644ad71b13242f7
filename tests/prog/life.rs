//! Flows over time: expiry, halves, changed paths, guests that move.

use netd_common::Reason;
use netd_common::abi::MacAddr;
use netd_common::state::State;

use crate::fixture::Fixture;
use crate::flows::{AT_ROUTE1, FromGuest, guest_to_server};
use crate::lab::{ip, lab, now};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, SYN, TCP, UDP, port_unreachable, tcp, udp};

/// Puts the lab in order again, whatever becomes of the test.
pub struct OnDrop<F: Fn()>(pub F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Longer than any flow may be silent.
const AGES: u32 = 500_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_expired_flow_is_opened_anew() {
    let mut lab = lab();
    let mut flow = guest_to_server(UDP, 40000, 80).established();
    flow.shown = Some((UP0, 50000));
    let mut stale = flow.entries(&lab);
    for (_, entry) in &mut stale {
        entry.last_seen = now().wrapping_sub(AGES);
        entry.packets = 99;
    }
    lab.set_flows(&stale);
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    // Opened anew it has its own port again.
    let fresh = guest_to_server(UDP, 40000, 80).after_first(&lab, packet.bytes().len());
    Fixture::new("out", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .flows(fresh)
        .run(&mut lab);

    // From outside it is a packet to the host.
    lab.set_flows(&stale);
    let back = down(udp(SERVER, 80, UP0, 50000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .flows([])
        .run(&mut lab);
}

/// A look at policy and path holds good for a while, unless the flow is silent for as long: then its
/// own entry is all that a packet needs, and its time is kept.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_look_holds_good_for_a_while() {
    const SETTLED: u32 = 7;
    let mut lab = lab();
    lab.change_control(|control| control.validity = SETTLED);
    let flow = guest_to_server(UDP, 40000, 80).established();
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    let entries = flow.entries(&lab);
    for (silent, since_look, holds) in [
        (0, 0, true),
        (1, 1, true),
        (SETTLED, SETTLED, true),
        (0, SETTLED, true),
        (0, SETTLED + 1, false),
        (SETTLED + 1, SETTLED + 1, false),
        (256, 256, false),
    ] {
        lab.start_of_tick();
        let mut entries = entries.clone();
        for (_, entry) in &mut entries {
            entry.last_seen = now().wrapping_sub(silent);
            entry.validated_at = now().wrapping_sub(since_look) as u8;
        }
        // Whoever looks finds nothing that allows the flow.
        lab.clear_records();
        lab.set_flows(&entries);
        let name = format!("silent for {silent}, looked at {since_look} ago");
        let fixture = Fixture::new(name, "port_ingress", "nat1", packet.bytes()).any_flows();
        if holds {
            let began = now();
            fixture.redirect(out(packet.clone(), 40000)).run(&mut lab);
            let after = lab.flow(&flow.key()).expect("the flow");
            let is_now = (began..=now()).contains(&after.last_seen);
            assert!(is_now, "{silent} {since_look}");
        } else {
            fixture.run(&mut lab);
        }
    }
}

/// One direction keeps the other alive.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_one_sided_stream_does_not_expire() {
    let mut lab = lab();
    let flow = guest_to_server(UDP, 40000, 80).established();
    let mut flows = flow.entries(&lab);
    flows[1].1.last_seen = now().wrapping_sub(AGES);
    lab.set_flows(&flows);
    let back = down(udp(SERVER, 80, UP0, 40000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back, 40000))
        .run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p09_half_a_flow_is_not_used() {
    let mut lab = lab();
    let mut flow = guest_to_server(UDP, 40000, 80).established();
    flow.shown = Some((UP0, 50000));
    let [there, back] = flow.entries(&lab).try_into().expect("two entries");
    let old = |mut entry: (_, netd_common::abi::Flow4)| {
        // Not of this tick: a fresh entry is trusted for a moment.
        entry.1.last_seen = entry.1.last_seen.wrapping_sub(2);
        entry
    };
    lab.set_flows(&[old(there)]);
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    let fresh = guest_to_server(UDP, 40000, 80).after_first(&lab, packet.bytes().len());
    Fixture::new("no partner", "port_ingress", "nat1", packet.bytes())
        .redirect(out(packet, 40000))
        .flows(fresh)
        .run(&mut lab);

    lab.set_flows(&[old(back)]);
    let answer = down(udp(SERVER, 80, UP0, 50000));
    Fixture::new(
        "answer without request",
        "uplink_ingress",
        "up0",
        answer.bytes(),
    )
    .flows([])
    .run(&mut lab);
}

/// A neighbour's MAC address changes, the agent raises the epoch: the next packet knows.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_raised_epoch_renews_the_path() {
    let mut lab = lab();
    let peer = [198, 51, 100, 77];
    let of = |lab: &crate::lab::Lab, mac: MacAddr| {
        let mut flow = guest_to_server(UDP, 40000, 80).established();
        flow.peer.0 = peer;
        flow.far.macs.0 = mac;
        flow.entries(lab)
    };
    let (old, new) = ([2, 0, 0, 0, 7, 1], [2, 0, 0, 0, 7, 2]);
    ip("neigh replace 198.51.100.77 lladdr 02:00:00:00:07:02 dev up0 nud permanent\n");
    lab.start_of_tick();
    let flows = of(&lab, old);
    lab.set_flows(&flows);
    let packet = up(udp(GUEST, 40000, peer, 80));
    let to = |mac| {
        let after = packet.clone().src(UP0).ttl(63).macs(mac, UP0_MAC);
        after.bytes()
    };
    Fixture::new("same epoch", "port_ingress", "nat1", packet.bytes())
        .redirect(to(old))
        .run(&mut lab);
    lab.set_epoch(2);
    Fixture::new("raised", "port_ingress", "nat1", packet.bytes())
        .redirect(to(new))
        .run(&mut lab);
    let key = of(&lab, new)[0].0;
    let flow = lab.flow(&key).expect("the flow");
    assert_eq!((flow.next_hop.dmac, flow.epoch), (new, 2));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_network_that_vanished_takes_its_flows_along() {
    let mut lab = lab();
    let flow = guest_to_server(TCP, 40000, 80).established();
    flow.only(&mut lab);
    lab.remove_network("br-nat");
    lab.set_epoch(2);
    let back = down(tcp(SERVER, 80, UP0, 40000, ACK));
    Fixture::new("from outside", "uplink_ingress", "up0", back.bytes())
        .flows([])
        .run(&mut lab);
    flow.only(&mut lab);
    lab.set_epoch(3);
    let packet = up(tcp(GUEST, 40000, SERVER, 80, ACK));
    Fixture::new("from the guest", "port_ingress", "nat1", packet.bytes()).run(&mut lab);
}

/// Live migration inside the host, or a new tap: the guest speaks from another port.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_guest_that_moves_is_followed() {
    let mut lab = lab();
    let flow = guest_to_server(UDP, 40000, 80).established();
    flow.only(&mut lab);
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.set_epoch(2);
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("from the new port", "port_ingress", "nat2", packet.bytes())
        .redirect(out(packet, 40000))
        .run(&mut lab);
    let entry = lab.flow(&flow.key()).expect("the flow");
    assert_eq!(entry.in_ifindex, lab.ifindex("nat2"));
    assert_eq!(
        lab.endpoint(GUEST).expect("an endpoint").ifindex,
        lab.ifindex("nat2")
    );
    let back = down(udp(SERVER, 80, UP0, 40000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back, 40000))
        .run(&mut lab);
    let entry = lab.flow(&flow.back_key()).expect("the answering entry");
    assert_eq!(entry.next_hop.ifindex, lab.ifindex("nat2"));
}

/// A guest of an open network may claim any address, that of a running flow, too: the flow stays
/// what it is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_is_not_replaced_by_somebody_elses_packets() {
    let mut lab = lab();
    let flow = FromGuest {
        guest: (ROUTE_GUEST, 22),
        shown: None,
        near: AT_ROUTE1,
        ..guest_to_server(UDP, 22, 80)
    }
    .established();
    flow.only(&mut lab);
    let entries = lab.flows();
    // As the server would answer.
    let packet = udp(SERVER, 80, ROUTE_GUEST, 22).macs(OPEN_MAC, OPEN_GUEST_MAC);
    Fixture::new("from open", "port_ingress", "open1", packet.bytes())
        .flows(entries)
        .run(&mut lab);
}

/// A guest goes, and another one gets its address: what is still sent to the first one's flows
/// does not reach it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p10_answers_do_not_reach_the_address_next_owner() {
    let mut lab = lab();
    let flow = guest_to_server(UDP, 40000, 80).established();
    flow.only(&mut lab);
    lab.set_endpoint(GUEST, "nat2", GUEST2_MAC);
    lab.set_epoch(2);
    let back = down(udp(SERVER, 80, UP0, 40000));
    Fixture::new("back", "uplink_ingress", "up0", back.bytes())
        .flows([])
        .run(&mut lab);
}

/// Another guest cannot use the flow of a network it is not in.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_belongs_to_its_network() {
    let mut lab = lab();
    let flow = guest_to_server(UDP, 40000, 80).established();
    flow.only(&mut lab);
    let packet = udp(GUEST, 40000, SERVER, 80).macs(ROUTE_MAC, ROUTE_GUEST_MAC);
    Fixture::new(
        "from a routed network",
        "port_ingress",
        "route1",
        packet.bytes(),
    )
    .reject(
        Reason::ForeignSource,
        port_unreachable(ROUTE_GW, &packet).bytes(),
    )
    .run(&mut lab);
    // And from outside, with the guest's address as source.
    let packet = udp(GUEST, 40000, SERVER, 80).macs(UP0_MAC, ROUTER_MAC);
    Fixture::new("from outside", "uplink_ingress", "up0", packet.bytes()).run(&mut lab);
}

/// The same ports again after the end: a new connection, judged anew.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_flow_is_reused_by_a_syn() {
    let mut lab = lab();
    for state in [State::TimeWait, State::Close] {
        let flow = guest_to_server(TCP, 40000, 80).in_state(state);
        flow.only(&mut lab);
        let packet = up(tcp(GUEST, 40000, SERVER, 80, SYN));
        Fixture::new("SYN", "port_ingress", "nat1", packet.bytes())
            .redirect(out(packet, 40000))
            .run(&mut lab);
        for key in [flow.key(), flow.back_key()] {
            assert_eq!(lab.flow(&key).expect("an entry").state, State::New as u8);
        }
    }
}
