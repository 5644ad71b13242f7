//! Packets that guests send to their gateway.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;

use crate::action::{LOOKUP, PASS, REJECT, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::validate::is_valid_for;
use crate::context::{Hook, Ingress, Kind};
use crate::family::{Family, V4, V6};
use crate::filter::source_guard;
use crate::frame::{ETH, macs};
use crate::hook::stages;
use crate::records;
use crate::reply::reject;
use crate::report::drops;
use crate::skb::{ifindex, take_off_priority_tag};
use crate::stage::transmit::transmit;

/// Ingress of a bridge port or of the bridge itself.
#[inline(always)]
pub fn ingress(ctx: &TcContext, hook: Hook) -> i32 {
    // At a port tags are the guests' own business.
    if hook == Hook::Bridge && !take_off_priority_tag(ctx) {
        return drops::finish(ctx, drop(Reason::VlanTag));
    }
    let here = ifindex(ctx);
    let action = if V4::is(ctx) {
        packet_from_guest::<V4>(ctx, hook, here)
    } else if V6::is(ctx) {
        packet_from_guest::<V6>(ctx, hook, here)
    } else if hook == Hook::Port {
        source_guard::check_other(ctx, here)
    } else {
        PASS
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_from_guest<F: Family>(ctx: &TcContext, hook: Hook, here: u32) -> i32 {
    let Some(packet_ctx) = F::packet_ctx() else {
        return PASS;
    };
    let packet = &mut packet_ctx.packet;
    // A malformed packet is the bridge's, then the stack's, to drop.
    if F::parse(ctx, ETH, packet).is_err() {
        return if hook == Hook::Port && records::port(here).is_some_and(source_guard::is_guarded) {
            drop(Reason::Malformed)
        } else {
            PASS
        };
    }
    let Some((dmac, smac)) = macs(ctx) else {
        return PASS;
    };
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
        && flow.in_ifindex == here
        && flow.in_dmac == dmac
        && is_valid_for(flow, packet)
    {
        return transmit::<F>(ctx, ETH, packet, flow, hook, F::ZERO);
    }
    let (mut bridge, mut guarded) = (here, false);
    if hook == Hook::Port {
        let port = records::port(here);
        bridge = port.map_or(0, |port| port.bridge_ifindex);
        guarded = port.is_some_and(source_guard::is_guarded);
    }
    let ingress = Ingress {
        bridge,
        ifindex: here,
        dmac,
        smac,
    };
    packet_ctx.keep(ingress, ETH);
    let mut action = if guarded {
        stages::guarded::<F>(ctx)
    } else {
        LOOKUP
    };
    if action == LOOKUP {
        action = stages::guest_entry::<F>(ctx);
    }
    if action == LOOKUP {
        action = stages::known_flow::<F>(ctx);
    }
    let first = |ctx: &TcContext| stages::dnat_or::<F>(ctx, stages::guest_first::<F>);
    action = stages::run::<F>(
        ctx,
        action,
        stages::icmp_error::<F>,
        first,
        stages::send::<F>,
    );
    if action < REJECT {
        return action;
    }
    let own = records::network(bridge).map_or(F::ZERO, |n| F::config(n).gateway);
    reject::answer::<F>(ctx, here, own, (action - REJECT) as u32)
}
