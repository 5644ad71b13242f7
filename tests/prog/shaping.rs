//! What guests of a network with an outbound rate send.

use netd_common::abi::{CONTROL_SHAPERS, PORT_SHAPER};

use crate::fixture::{Verdict, run};
use crate::flows::guest_to_server;
use crate::lab::{Lab, lab};
use crate::names::*;
use crate::nat::up;
use crate::packet::{UDP, udp};

/// The device in whose queue it waits, here.
const SHAPER: &str = "up1";

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_frame_waits_once_and_is_the_bridges_then() {
    let mut lab = lab();
    let (shaper, bridge) = (lab.ifindex(SHAPER), lab.ifindex("br-nat"));
    lab.change_network("br-nat", |network| network.shaper_ifindex = shaper);
    guest_to_server(UDP, 40000, 80).established().only(&mut lab);
    let frame = up(udp(GUEST, 40000, SERVER, 80));
    let sent = |lab: &Lab, repeat| run(lab, "bridge_ingress", bridge, 0, 0, repeat, &frame.bytes());
    // Nobody said that some network has such a device.
    let unheld = sent(&lab, 1);
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
        run(&lab, "bridge_ingress", bridge, 0, 0, 1, &to_all).verdict,
        Verdict::Pass
    );
    // A network without a rate.
    lab.change_network("br-nat", |network| network.shaper_ifindex = 0);
    assert_ne!(sent(&lab, 1).packet, frame.bytes());
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
