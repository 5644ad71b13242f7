//! Packets that come from outside the managed networks.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;

use crate::action::{PASS, REJECT, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::validate::{is_valid_for, may_come_by};
use crate::context::{Hook, Ingress, Kind};
use crate::family::{Family, V4, V6};
use crate::frame::{ETH, macs};
use crate::hook::stages;
use crate::records;
use crate::reply::{arp, nd, reject};
use crate::report::drops;
use crate::skb::{ifindex, is_for_us, take_off_priority_tag};
use crate::stage::transmit::transmit;

/// Ingress of a device that is no part of a managed network; `l3` is the length of its
/// link-layer header.
#[inline(always)]
pub fn ingress(ctx: &TcContext, l3: usize) -> i32 {
    if !is_for_us(ctx) {
        // Requests are broadcast, solicitations multicast.
        return match l3 {
            ETH if V6::is(ctx) => nd::answer(ctx),
            ETH => arp::answer(ctx),
            _ => PASS,
        };
    }
    if l3 == ETH && !take_off_priority_tag(ctx) {
        return drops::finish(ctx, drop(Reason::VlanTag));
    }
    let here = ifindex(ctx);
    let action = if V4::is(ctx) {
        packet_from_outside::<V4>(ctx, l3, here)
    } else if V6::is(ctx) {
        packet_from_outside::<V6>(ctx, l3, here)
    } else if l3 == ETH {
        arp::answer(ctx)
    } else {
        PASS
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_from_outside<F: Family>(ctx: &TcContext, l3: usize, here: u32) -> i32 {
    let Some(packet_ctx) = F::packet_ctx() else {
        return PASS;
    };
    let packet = &mut packet_ctx.packet;
    if F::parse(ctx, l3, packet).is_err() {
        return PASS;
    }
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
        && flow.in_bridge == 0
        && may_come_by(flow, here)
        && is_valid_for(flow, packet)
    {
        return transmit::<F>(ctx, l3, packet, flow, Hook::Uplink, F::ZERO);
    }
    // Neighbours ask by unicast whether somebody is still there.
    if F::IS_IPV6 && packet.kind == Kind::Icmp && l3 == ETH {
        match nd::answer(ctx) {
            PASS => {}
            answer => return answer,
        }
    }
    let (dmac, smac) = match macs(ctx) {
        Some(macs) if l3 == ETH => macs,
        _ => ([0; 6], [0; 6]),
    };
    let ingress = Ingress {
        bridge: 0,
        ifindex: here,
        dmac,
        smac,
    };
    packet_ctx.keep(ingress, l3);
    let first = |ctx: &TcContext| stages::dnat_or::<F>(ctx, stages::outside_first::<F>);
    let action = stages::run::<F>(
        ctx,
        stages::known_flow::<F>(ctx),
        stages::icmp_error::<F>,
        first,
        stages::send::<F>,
    );
    if action < REJECT {
        return action;
    }
    // Without a frame to turn round there is no answer.
    let own = match records::device(here) {
        Some(device) if l3 == ETH => F::address(device),
        _ => F::ZERO,
    };
    reject::answer::<F>(ctx, here, own, (action - REJECT) as u32)
}
