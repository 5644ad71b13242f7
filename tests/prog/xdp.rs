//! The XDP fast path: what it sends is what the TC programs would have sent, and all it does not
//! send is left as it was.

use crate::family::Address;
use crate::fixture::{Fixture, Verdict, run};
use crate::flows::{AT_ROUTE1, BY_ROUTER, FromGuest, guest_to_server, guest_to_server6};
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{ACK, ETH, UDP, echo, tcp, udp, udp_without_checksum};
use crate::packet6::extension;

/// Where an IPv4 frame has its UDP checksum.
const CHECKSUM: usize = ETH + 20 + 6;

/// The only flow there is, settled, with the port that it shows.
fn settled<A: Address>(lab: &mut Lab, flow: FromGuest<A>) {
    flow.established().only(lab);
}

/// For how many ticks a look holds good. In the lab it holds for the tick that it was taken in, and
/// a test that meets the clock's next one would find its flow no longer settled.
const SETTLED: u32 = 7;

/// Both devices of the tests take frames from drivers.
fn xdp_lab() -> crate::lab::Turn {
    let mut lab = lab();
    lab.change_control(|control| control.validity = SETTLED);
    for device in ["nat1", "up0"] {
        lab.set_xdp_target(device, true);
    }
    lab
}

fn shown_as(mut flow: FromGuest, port: u16) -> FromGuest {
    flow.shown = Some((UP0, port));
    flow
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn datagrams_of_settled_flows_go_from_driver_to_driver() {
    let mut lab = xdp_lab();
    for (name, packet) in [
        ("UDP", udp(GUEST, 40000, SERVER, 80)),
        (
            "no checksum",
            udp_without_checksum(GUEST, 40000, SERVER, 80),
        ),
        ("empty", udp(GUEST, 40000, SERVER, 80).data(Vec::new())),
        (
            "as long as the path takes",
            udp(GUEST, 40000, SERVER, 80).data(vec![7; 1472]),
        ),
    ] {
        settled(&mut lab, shown_as(guest_to_server(UDP, 40000, 80), 50000));
        let there = up(packet.clone());
        Fixture::new(name, "port_xdp", "nat1", there.bytes())
            .redirect(out(there, 50000))
            .run(&mut lab);
        let back = down(packet.src(SERVER).sport(80).dst(UP0).dport(50000));
        Fixture::new(name, "uplink_xdp", "up0", back.bytes())
            .redirect(home(back, 40000))
            .run(&mut lab);
        for (key, flow) in lab.flows() {
            assert_eq!(flow.packets, 1, "{name}: {key:?}");
            assert!(flow.bytes > 0, "{name}: {key:?}");
        }
    }
    let mut flow = guest_to_server6(UDP, 40000, 80);
    flow.shown = Some((UP0_6, 50000));
    settled(&mut lab, flow);
    let there = up(udp(GUEST6, 40000, SERVER6, 80));
    Fixture::new("IPv6", "port_xdp", "nat1", there.bytes())
        .redirect(out(there, 50000))
        .run(&mut lab);
    let back = down(udp(SERVER6, 80, UP0_6, 50000));
    Fixture::new("IPv6", "uplink_xdp", "up0", back.bytes())
        .redirect(home(back, 40000))
        .run(&mut lab);
}

/// Every checksum and length, beside what the TC program makes of the same packet.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_fast_path_writes_what_tc_writes() {
    let mut lab = xdp_lab();
    let mut passed = 0;
    for number in 0..500u32 {
        let port = 1024 + (number * 127) as u16;
        let flow = shown_as(guest_to_server(UDP, 40000, 80), port);
        let data = number.to_be_bytes().repeat((number % 64) as usize);
        let there = up(udp(GUEST, 40000, SERVER, 80).data(data.clone())).bytes();
        let back = down(udp(SERVER, 80, UP0, port).data(data)).bytes();
        for (device, xdp, tc, packet) in [
            ("nat1", "port_xdp", "port_ingress", there),
            ("up0", "uplink_xdp", "uplink_ingress", back),
        ] {
            let device = lab.ifindex(device);
            settled(&mut lab, flow);
            let sent = run(&lab, xdp, device, device, 0, 1, &packet);
            let by_tc = run(&lab, tc, device, device, 0, 1, &packet);
            assert_eq!(by_tc.verdict, Verdict::Redirect);
            match sent.verdict {
                Verdict::Redirect => assert_eq!(sent.packet, by_tc.packet, "{number}"),
                // A checksum that looks like one that is still to be computed.
                _ => passed += 1,
            }
        }
    }
    assert!(passed < 3, "{passed} datagrams were passed on");
}

/// A device is still to complete the checksum: only an skb knows.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p30_partial_checksums_are_left_to_tc() {
    let mut lab = xdp_lab();
    settled(&mut lab, guest_to_server(UDP, 40000, 80));
    let mut frame = up(udp(GUEST, 40000, SERVER, 80)).bytes();
    let length = [frame[CHECKSUM - 2], frame[CHECKSUM - 1]];
    let sum = GUEST.sum()
        + SERVER.sum()
        + netd_common::checksum::sum2(length)
        + netd_common::checksum::sum2([0, UDP]);
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&netd_common::checksum::fold(sum).to_ne_bytes());
    Fixture::new("partial", "port_xdp", "nat1", frame).run(&mut lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn all_else_is_passed_on_untouched() {
    let mut lab = xdp_lab();
    let good = || up(udp(GUEST, 40000, SERVER, 80));
    let changed = |at: usize, byte: u8| {
        let mut frame = good().bytes();
        frame[at] = byte;
        frame
    };
    let mut tagged = good().bytes();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut short = good().bytes();
    short.truncate(ETH + 20 + 4);
    let mut liar = good().bytes();
    liar.truncate(liar.len() - 1);
    let packets = [
        ("TCP", up(tcp(GUEST, 40000, SERVER, 80, ACK)).bytes()),
        ("echo", up(echo(GUEST, SERVER, 40000)).bytes()),
        ("options", good().with_options().bytes()),
        ("a first fragment", good().fragment(0x2000).bytes()),
        ("a later fragment", good().fragment(5).bytes()),
        ("the last hop", good().ttl(1).bytes()),
        ("another MAC", good().macs(GUEST2_MAC, GUEST_MAC).bytes()),
        ("a broken header", changed(ETH + 1, 9)),
        ("no IPv4", changed(ETH, 0x55)),
        ("a tag", tagged),
        ("half a header", short),
        ("half a packet", liar),
        ("a strange flow", up(udp(GUEST, 40001, SERVER, 80)).bytes()),
        ("too long", good().data(vec![0; 1473]).bytes()),
        ("ARP", changed(13, 6)),
        ("a runt", vec![0; 14]),
    ];
    settled(&mut lab, guest_to_server(UDP, 40000, 80));
    for (name, frame) in packets {
        Fixture::new(name, "port_xdp", "nat1", frame).run(&mut lab);
    }
    let six = || up(udp(GUEST6, 40000, SERVER6, 80));
    let mut none = six().bytes();
    none[ETH + 40 + 6..ETH + 40 + 8].fill(0);
    settled(&mut lab, guest_to_server6(UDP, 40000, 80));
    for (name, frame) in [
        ("IPv6: the last hop", six().ttl(1).bytes()),
        ("IPv6: an extension", six().with(extension(60, 1)).bytes()),
        ("IPv6: no checksum", none),
    ] {
        Fixture::new(name, "port_xdp", "nat1", frame).run(&mut lab);
    }
}

/// Where the flow has to be looked at, or its way is none for drivers.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn flows_that_are_not_settled_are_left_to_tc() {
    let mut lab = xdp_lab();
    let flow = guest_to_server(UDP, 40000, 80);
    let there = up(udp(GUEST, 40000, SERVER, 80)).bytes();
    let back = down(udp(SERVER, 80, UP0, 40000)).bytes();
    let left = |lab: &mut Lab, name: &str| {
        for (program, device, frame) in [("port_xdp", "nat1", &there), ("uplink_xdp", "up0", &back)]
        {
            Fixture::new(name, program, device, frame.clone()).run(lab);
        }
    };
    settled(&mut lab, flow);
    lab.set_epoch(2);
    left(&mut lab, "another epoch");
    lab.set_epoch(1);

    settled(&mut lab, flow);
    lab.v4.age(SETTLED + 1);
    left(&mut lab, "too long ago");

    let mut unanswered = flow;
    unanswered.far.device = "";
    settled(&mut lab, unanswered);
    Fixture::new("no way", "port_xdp", "nat1", there.clone()).run(&mut lab);

    // Anything may be unicast to somebody else's MAC address in promiscuous mode.
    let mut entries = flow.established().entries(&lab);
    entries
        .iter_mut()
        .for_each(|(_, flow)| flow.in_dmac = GUEST2_MAC);
    lab.set_flows(&entries);
    left(&mut lab, "for another host");

    settled(&mut lab, flow);
    for device in ["nat1", "up0"] {
        lab.set_xdp_target(device, false);
    }
    left(&mut lab, "drivers that send nothing of others'");
}

/// P56: what leads to a device whose driver takes no frames goes by TC, untouched until then.
/// Routed flows take the same way as translated ones.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn p56_routed_flows_go_where_drivers_take_frames() {
    let mut lab = xdp_lab();
    let mut flow = guest_to_server(UDP, 40000, 80);
    flow.guest.0 = ROUTE_GUEST;
    flow.shown = None;
    (flow.near, flow.far) = (AT_ROUTE1, BY_ROUTER);
    settled(&mut lab, flow);
    let back = down(udp(SERVER, 80, ROUTE_GUEST, 40000));
    Fixture::new("to a port", "uplink_xdp", "up0", back.bytes()).run(&mut lab);
    lab.set_xdp_target("route1", true);
    let ttl = 63;
    let after = back.clone().ttl(ttl).macs(ROUTE_GUEST_MAC, ROUTE_MAC);
    Fixture::new("to a port", "uplink_xdp", "up0", back.bytes())
        .redirect(after.bytes())
        .run(&mut lab);
    lab.set_xdp_target("route1", false);
}

/// The uplink's frames show which MAC address they are sent to when a flow is looked at.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_second_look_notes_the_mac_of_frames_from_outside() {
    let mut lab = xdp_lab();
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    let flow = guest_to_server(UDP, 40000, 80);
    let unknown = |lab: &mut Lab| {
        let mut entries = flow.established().entries(lab);
        entries[1].1.in_dmac = [0; 6];
        lab.set_flows(&entries);
    };
    unknown(&mut lab);
    let back = down(udp(SERVER, 80, UP0, 40000));
    let frame = back.bytes();
    Fixture::new("before", "uplink_xdp", "up0", frame.clone()).run(&mut lab);
    unknown(&mut lab);
    lab.v4.age(SETTLED + 1);
    let after = home(back, 40000);
    Fixture::new("the look", "uplink_ingress", "up0", frame.clone())
        .redirect(after.clone())
        .run(&mut lab);
    Fixture::new("after", "uplink_xdp", "up0", frame)
        .redirect(after)
        .run(&mut lab);
}
