//! Packets that come from outside the managed networks.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::SlowPath;

use crate::action::{PASS, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::validate::{is_valid_for, may_come_by};
use crate::context::{Ingress, Kind};
use crate::family::{Family, V4, V6};
use crate::frame::{ETH, macs};
use crate::hook::slow_path;
use crate::report::drops;
use crate::route::next_hop::needs_stack;
use crate::skb::{ifindex, is_for_us, take_off_priority_tag};
use crate::stage::transmit::transmit;

/// Ingress of a device that is no part of a managed network; `l3` is the length of its
/// link-layer header.
#[inline(always)]
pub fn ingress(ctx: &TcContext, l3: usize) -> i32 {
    if !is_for_us(ctx) {
        return other(ctx, l3);
    }
    if l3 == ETH && !take_off_priority_tag(ctx) {
        return drops::finish(ctx, drop(Reason::VlanTag));
    }
    let here = ifindex(ctx);
    let action = if V4::is(ctx) {
        packet_from_outside::<V4>(ctx, l3, here)
    } else if V6::is(ctx) {
        packet_from_outside::<V6>(ctx, l3, here)
    } else {
        other(ctx, l3)
    };
    drops::finish(ctx, action)
}

/// Questions for the MAC address of something that netd answers for, maybe.
#[inline(always)]
fn other(ctx: &TcContext, l3: usize) -> i32 {
    if l3 != ETH {
        return PASS;
    }
    slow_path::enter(ctx, SlowPath::FromOutside, PASS)
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
        && !needs_stack(packet, flow)
    {
        return transmit::<F>(ctx, l3, packet, flow, F::ZERO);
    }
    let (dmac, smac) = match macs(ctx) {
        Some(macs) if l3 == ETH => macs,
        _ => ([0; 6], [0; 6]),
    };
    let ingress = Ingress {
        bridge: 0,
        ifindex: here,
        port_flags: 0,
        dmac,
        smac,
    };
    packet_ctx.keep(ingress, l3);
    // The host's own packets pass where the slow path is missing.
    slow_path::enter(ctx, SlowPath::FromOutside, PASS)
}
