//! What guests of a network with an outbound rate send.

use netd_common::abi::{CONTROL_SHAPERS, PORT_QUEUED, PORT_SHAPER};

use crate::fixture::{Fixture, Verdict, run};
use crate::flows::guest_to_server;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::{down, home, out, up};
use crate::packet::{UDP, udp};

/// The device in whose queue it waits, here.
const SHAPER: &str = "up1";

/// Where frames of guests come in: at a port, and at the bridge those that no port's program has seen.
const HOOKS: [(&str, &str); 2] = [("port_ingress", "nat1"), ("bridge_ingress", "br-nat")];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_frame_waits_once_and_goes_on_then() {
    for (program, device) in HOOKS {
        let mut lab = lab();
        let (shaper, device) = (lab.ifindex(SHAPER), lab.ifindex(device));
        lab.change_network("br-nat", |network| network.shaper_ifindex = shaper);
        guest_to_server(UDP, 40000, 80).established().only(&mut lab);
        let frame = up(udp(GUEST, 40000, SERVER, 80));
        let sent = |lab: &Lab, repeat| run(lab, program, device, 0, 0, repeat, &frame.bytes());
        // Nobody said that some network has such a device.
        let unheld = sent(&lab, 1);
        assert_ne!(unheld.packet, frame.bytes());
        lab.change_control(|control| control.flags |= CONTROL_SHAPERS);
        let first = sent(&lab, 1);
        assert_eq!(
            (first.verdict, &first.packet),
            (Verdict::Redirect, &frame.bytes())
        );
        // The same frame again.
        let second = sent(&lab, 2);
        assert_eq!(
            (second.verdict, second.packet),
            (unheld.verdict, unheld.packet)
        );
        // What is for all does not wait.
        let to_all = frame.clone().macs([0xff; 6], GUEST_MAC).bytes();
        assert_eq!(
            run(&lab, program, device, 0, 0, 1, &to_all).verdict,
            Verdict::Pass
        );
        // A network without a rate.
        lab.change_network("br-nat", |network| network.shaper_ifindex = 0);
        assert_ne!(sent(&lab, 1).packet, frame.bytes());
    }
}

/// What goes to a guest waits at the bridge, and what that guest sends goes the short way.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn answers_to_a_guest_go_by_the_queue() {
    let mut lab = lab();
    lab.guard_port("nat1", PORT_QUEUED, [0; 6]);
    let bridge = lab.ifindex("br-nat");
    let flow = guest_to_server(UDP, 40000, 80);
    let sent = up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("a first packet", "port_ingress", "nat1", sent.bytes())
        .redirect(out(sent.clone(), 40000))
        .any_flows()
        .run(&mut lab);
    let entry = |lab: &Lab, key| lab.flow(&key).expect("an entry");
    assert_eq!(entry(&lab, flow.back_key()).next_hop.ifindex, bridge);
    assert_eq!(entry(&lab, flow.key()).in_ifindex, lab.ifindex("nat1"));
    let back = down(udp(SERVER, 80, UP0, 40000));
    Fixture::new("an answer", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back.clone(), 40000))
        .any_flows()
        .run(&mut lab);
    // The same once it was looked at again.
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.set_epoch(2);
    Fixture::new("another answer", "uplink_ingress", "up0", back.bytes())
        .redirect(home(back.clone(), 40000))
        .any_flows()
        .run(&mut lab);
    assert_eq!(entry(&lab, flow.back_key()).next_hop.ifindex, bridge);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nothing_else_comes_back_by_the_device() {
    let mut lab = lab();
    lab.guard_port("nat2", PORT_SHAPER, [0; 6]);
    let index = lab.ifindex("nat2");
    let frame = up(udp(GUEST, 40000, SERVER, 80)).bytes();
    let before = lab.drops();
    let verdict = run(&lab, "shaper_ingress", index, 0, 0, 1, &frame).verdict;
    assert_eq!((verdict, lab.drops()), (Verdict::Drop, before));
}
