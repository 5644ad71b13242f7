//! The host's IPsec policies: what they cover goes by the stack, or nowhere.

use netd_common::Reason;
use netd_common::abi::{
    Addr4, Addr6, IPSEC_BLOCK, IPSEC_CLEAR, IPSEC_FORWARD, IPSEC_OUT, IPSEC_PROTECT, IpsecPolicy,
};

use crate::family::Address;
use crate::fixture::Fixture;
use crate::flows::guest_to_server;
use crate::lab::lab;
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{UDP, tcp, udp};

/// A policy for packets from one address to another.
fn policy<A: Address + Mask>(src: A, dst: A, direction: u8, says: u8) -> IpsecPolicy<A> {
    IpsecPolicy {
        src,
        src_mask: A::ALL,
        dst,
        dst_mask: A::ALL,
        sport: [0; 2],
        sport_mask: [0; 2],
        dport: [0; 2],
        dport_mask: [0; 2],
        ifindex: 0,
        proto: 0,
        direction,
        says,
        pad: 0,
    }
}

trait Mask {
    const ALL: Self;
}

impl Mask for Addr4 {
    const ALL: Self = [0xff; 4];
}

impl Mask for Addr6 {
    const ALL: Self = [0xff; 16];
}

/// A guest's first packet, masqueraded where no policy is about it, and by the stack as it is where one is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_policy_covers_goes_by_the_stack() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    let shown = packet.clone().src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    for (name, direction) in [("out", IPSEC_OUT), ("forward", IPSEC_FORWARD)] {
        lab.clear_flows();
        lab.set_policies(&[policy(GUEST, SERVER, direction, IPSEC_PROTECT)], false);
        for (program, device) in [("port_ingress", "nat1"), ("bridge_ingress", "br-nat")] {
            Fixture::new(name, program, device, packet.bytes())
                .any_flows()
                .run(&mut lab);
        }
        // Its answers are the same flow's, and no more translated.
        let answer = down(udp(SERVER, 80, GUEST, 40000));
        lab.set_policies(
            &[
                policy(GUEST, SERVER, direction, IPSEC_PROTECT),
                policy(SERVER, GUEST, IPSEC_FORWARD, IPSEC_PROTECT),
            ],
            true,
        );
        Fixture::new("answer", "uplink_ingress", "up0", answer.bytes()).run(&mut lab);
        // Once the policy is gone it is masqueraded.
        lab.set_policies::<Addr4>(&[], false);
        Fixture::new("no policy", "port_ingress", "nat1", packet.bytes())
            .redirect(shown.bytes())
            .any_flows()
            .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_blocked_or_would_leave_in_clear_is_dropped_by_name() {
    let mut lab = lab();
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    for policies in [
        [policy(GUEST, SERVER, IPSEC_OUT, IPSEC_BLOCK)],
        [policy(GUEST, SERVER, IPSEC_FORWARD, IPSEC_BLOCK)],
        [policy(UP0, SERVER, IPSEC_OUT, IPSEC_PROTECT)],
        [policy(UP0, SERVER, IPSEC_OUT, IPSEC_BLOCK)],
    ] {
        // Of the flow that runs each packet.
        guest_to_server(UDP, 40000, 80).established().only(&mut lab);
        lab.set_policies(&policies, false);
        for name in ["first", "second"] {
            Fixture::new(name, "port_ingress", "nat1", packet.bytes())
                .any_flows()
                .drop(Reason::IpsecPolicy)
                .run(&mut lab);
        }
        // By the stack as well.
        if policies[0].src == UP0 {
            let leaves = packet.clone().ttl(63).macs(ROUTER_MAC, UP0_MAC);
            Fixture::new("egress", "uplink_egress", "up0", leaves.bytes())
                .came_from("br-nat")
                .any_flows()
                .drop(Reason::IpsecPolicy)
                .run(&mut lab);
        }
    }
    // Forwarded packets do not have that address yet.
    lab.set_policies(&[policy(UP0, SERVER, IPSEC_FORWARD, IPSEC_BLOCK)], false);
    let shown = packet.clone().src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("forward", "port_ingress", "nat1", packet.bytes())
        .redirect(shown.bytes())
        .any_flows()
        .run(&mut lab);
}

/// The first one that matches counts; ports, protocol and device matter.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn policies_are_asked_in_their_order() {
    let mut lab = lab();
    let blocks = policy(GUEST, SERVER, IPSEC_OUT, IPSEC_BLOCK);
    let up0 = lab.ifindex("up0");
    let packet = up(tcp(GUEST, 40000, SERVER, 80, 2));
    let shown = packet.clone().src(UP0).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    let not_about_it = [
        vec![policy(GUEST, SERVER, IPSEC_OUT, IPSEC_CLEAR), blocks],
        vec![IpsecPolicy {
            proto: UDP,
            ..blocks
        }],
        vec![IpsecPolicy {
            ifindex: up0 + 1,
            ..blocks
        }],
        vec![IpsecPolicy {
            dport: [0, 81],
            dport_mask: [0xff; 2],
            ..blocks
        }],
        vec![IpsecPolicy {
            sport: [0, 1],
            sport_mask: [0, 1],
            ..blocks
        }],
        vec![policy(SERVER, GUEST, IPSEC_OUT, IPSEC_BLOCK)],
    ];
    for policies in not_about_it {
        lab.clear_flows();
        lab.set_policies(&policies, false);
        Fixture::new(
            format!("{policies:?}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .redirect(shown.bytes())
        .any_flows()
        .run(&mut lab);
    }
    let about_it = [
        vec![blocks, policy(GUEST, SERVER, IPSEC_OUT, IPSEC_CLEAR)],
        vec![IpsecPolicy { proto: 6, ..blocks }],
        vec![IpsecPolicy {
            ifindex: up0,
            ..blocks
        }],
        vec![IpsecPolicy {
            dport: [0, 80],
            dport_mask: [0xff; 2],
            ..blocks
        }],
        vec![IpsecPolicy {
            src: [192, 168, 122, 0],
            src_mask: [255, 255, 255, 0],
            ..blocks
        }],
    ];
    for policies in about_it {
        lab.clear_flows();
        lab.set_policies(&policies, true);
        Fixture::new(
            format!("{policies:?}"),
            "port_ingress",
            "nat1",
            packet.bytes(),
        )
        .any_flows()
        .drop(Reason::IpsecPolicy)
        .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn policies_of_ipv6_hold() {
    let mut lab = lab();
    let packet = up(udp(GUEST6, 40000, SERVER6, 80));
    let mut other = SERVER6;
    other[15] ^= 1;
    lab.set_policies(&[policy(GUEST6, SERVER6, IPSEC_OUT, IPSEC_PROTECT)], false);
    Fixture::new("covered", "port_ingress", "nat1", packet.bytes())
        .any_flows()
        .run(&mut lab);
    lab.clear_flows();
    lab.set_policies(&[policy(GUEST6, other, IPSEC_OUT, IPSEC_BLOCK)], false);
    let shown = packet.clone().src(UP0_6).ttl(63).macs(ROUTER_MAC, UP0_MAC);
    Fixture::new("not covered", "port_ingress", "nat1", packet.bytes())
        .redirect(shown.bytes())
        .any_flows()
        .run(&mut lab);
    lab.set_policies(&[policy(UP0_6, SERVER6, IPSEC_OUT, IPSEC_PROTECT)], false);
    Fixture::new("translated", "port_ingress", "nat1", packet.bytes())
        .any_flows()
        .drop(Reason::IpsecPolicy)
        .run(&mut lab);
}
