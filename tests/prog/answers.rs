//! Answers of what is published leave by the device that brought the question.

use netd_common::abi::Addr4;

use crate::fixture::Fixture;
use crate::forward::web;
use crate::lab::{Lab, ip, lab};
use crate::life::OnDrop;
use crate::names::*;
use crate::nat::up;
use crate::packet::{UDP, udp};

/// The server asks at an uplink's address; its frames there come from `from`.
fn asks(lab: &mut Lab, device: &'static str, (to, mac, from): (Addr4, [u8; 6], [u8; 6])) {
    let question = udp(SERVER, 5000, to, 8080).macs(mac, from);
    let at_guest = question.clone().dst(GUEST).dport(80).ttl(63);
    Fixture::new("question", "uplink_ingress", device, question.bytes())
        .redirect(at_guest.macs(GUEST_MAC, NAT_MAC).bytes())
        .any_flows()
        .run(lab);
}

/// The guest's answer leaves with these addresses.
fn answers(lab: &mut Lab, name: &str, src: Addr4, macs: ([u8; 6], [u8; 6])) {
    let answer = up(udp(GUEST, 80, SERVER, 5000));
    let sent = answer.clone().src(src).sport(8080).ttl(63);
    Fixture::new(name, "port_ingress", "nat1", answer.bytes())
        .redirect(sent.macs(macs.0, macs.1).bytes())
        .any_flows()
        .run(lab);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p55_answers_leave_by_the_device_of_their_question() {
    let mut lab = lab();
    lab.set_endpoint(GUEST, "nat1", GUEST_MAC);
    lab.publish(web(UDP));
    // All routes to the server lead by the other uplink: back to whoever handed the question over.
    let other = [0x02, 0, 0, 0, 1, 0x77];
    asks(&mut lab, "up1", (UP1, UP1_MAC, other));
    answers(&mut lab, "without a route", UP1, (other, UP1_MAC));
    // Where routing has a way by the device, that one.
    ip("route add 192.0.2.80 via 203.0.113.9 metric 500\n\
        route add 192.0.2.80 via 198.51.100.1 metric 100\n");
    let _back = OnDrop(|| {
        ip("route del 192.0.2.80 via 203.0.113.9 metric 500\n\
            route del 192.0.2.80 via 198.51.100.1 metric 100\n");
    });
    lab.set_epoch(2);
    answers(&mut lab, "by its route", UP1, (PEER1_MAC, UP1_MAC));
    // The client comes by the first uplink from now on.
    lab.set_epoch(3);
    asks(&mut lab, "up0", (UP1, UP0_MAC, ROUTER_MAC));
    answers(&mut lab, "after it moved", UP1, (ROUTER_MAC, UP0_MAC));
}
