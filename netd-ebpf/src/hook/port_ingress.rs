//! Packets that guests send to their gateway.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::SlowPath;

use crate::action::{PASS, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::validate::is_valid_for;
use crate::context::{Hook, Kind};
use crate::family::{Family, V4, V6};
use crate::filter::source_guard;
use crate::frame::{ETH, macs};
use crate::hook::slow_path;
use crate::records;
use crate::report::drops;
use crate::route::next_hop::needs_stack;
use crate::skb::{
    ifindex, is_left_to_host, is_translated, take_off_claims, take_off_number,
    take_off_priority_tag, take_off_waited,
};
use crate::stage::shaper;
use crate::stage::transmit::transmit;

/// Ingress of a bridge port or of the bridge itself.
#[inline(always)]
pub fn ingress(ctx: &TcContext, hook: Hook) -> i32 {
    if hook == Hook::Port {
        take_off_claims(ctx);
    }
    if hook == Hook::Bridge && is_translated(ctx) {
        return PASS;
    }
    if let Some(action) = shaper::wait(ctx, hook) {
        return action;
    }
    if hook == Hook::Bridge {
        take_off_waited(ctx);
        // At a port tags are the guests' own business.
        if !take_off_priority_tag(ctx) {
            return drops::finish(ctx, drop(Reason::VlanTag));
        }
    }
    let here = ifindex(ctx);
    let action = if V4::is(ctx) {
        packet_from_guest::<V4>(ctx, hook, here)
    } else if V6::is(ctx) {
        packet_from_guest::<V6>(ctx, hook, here)
    } else {
        slow_path::enter(ctx, SlowPath::FromGuest, PASS)
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
    // What was for the host, or for its rules to judge, at the port may be for somebody else here: br_netfilter
    // has the host's rules translate it on the bridge. Then the connection is the kernel's: answers are translated
    // back only if the kernel sees all of it, and what leaves is judged there (`egress`).
    if hook == Hook::Bridge && is_left_to_host(ctx) {
        if !records::is_own::<F>(&packet.key.dst) {
            return PASS;
        }
        // Published by netd, it may be netd's yet.
        take_off_number(ctx);
    }
    let Some((dmac, _)) = macs(ctx) else {
        return PASS;
    };
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
        && flow.in_ifindex == here
        && flow.in_dmac == dmac
        && is_valid_for(flow, packet)
        && !needs_stack(packet, flow)
    {
        return transmit::<F>(ctx, ETH, packet, flow, F::ZERO);
    }
    slow_path::enter(ctx, SlowPath::FromGuest, slow_path::missing())
}
