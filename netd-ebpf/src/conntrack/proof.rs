//! Proof that the host's own rules let a flow pass, for networks that respect them
//! (`<netd:host firewall='respect'>`).
//!
//! Packets of such a flow take the stack, so that prerouting, FORWARD, postrouting and the device's own
//! hooks see them with the addresses they would have without netd, until one comes out where it
//! leaves. That direction is proven then, and takes the short way. A change of the rules makes it
//! prove itself again: the agent raises [`rules_epoch`].
//!
//! Conntrack sees the beginning of such a flow alone. So of TCP it gets SYN and SYN-ACK, after which
//! its entry goes by itself; and SCTP, in whose middle it recognises nothing, always takes the stack.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_PROVEN, Flow};
use netd_common::{proto, tcp};

use crate::action::LOOKUP;
use crate::clock::now;
use crate::conntrack::fragment;
use crate::conntrack::lookup::find;
use crate::context::{Kind, Packet, PacketCtx, Route};
use crate::family::Family;
use crate::records::{self, rules_epoch};
use crate::route::lookup::route;
use crate::route::next_hop;
use crate::skb::ifindex;

/// Do the host's rules have a say in the flow?
#[inline(always)]
pub fn is_needed<A>(flow: &Flow<A>) -> bool {
    records::respects_rules(flow.in_bridge, flow.out_bridge)
}

/// Stage: before a known flow is looked at. Where the host's rules have a say in it, are they to see this
/// packet?
#[inline(always)]
pub fn ask<F: Family>(_: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        by_stack,
        proven,
        ..
    } = packet_ctx;

    if packet.kind == Kind::Fragment {
        fragment::resolve::<F>(packet);
    }
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
        && is_needed(flow)
    {
        if !is_proven(flow) {
            flow.flags &= !FLOW_PROVEN;
        }
        *proven = is_given(flow);
        *by_stack = !*proven || is_for_rules(packet);
    }
    LOOKUP
}

/// Have they let a packet of this direction through, when it was looked at last?
#[inline(always)]
pub fn is_given<A>(flow: &Flow<A>) -> bool {
    flow.flags & FLOW_PROVEN != 0
}

/// Have they, as they are now?
#[inline(always)]
pub fn is_proven<A>(flow: &Flow<A>) -> bool {
    is_given(flow) && flow.epoch.wrapping_sub(rules_epoch()) as i32 >= 0
}

/// Must the rules see this very packet of a proven flow? What opens a connection is also what rules
/// change (the maximum segment size).
#[inline(always)]
fn is_for_rules<A>(packet: &Packet<A>) -> bool {
    match packet.key.proto {
        proto::TCP => packet.control & tcp::SYN != 0,
        proto::SCTP => true,
        _ => false,
    }
}

/// A packet of the flow has come through the stack and is about to leave by this device. Where that
/// is what routing says without knowing of marks and of what the rules did, the direction is proven.
/// Where it is not, the stack knows better, and goes on to carry it.
#[inline(always)]
pub fn prove<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    from: u32,
) {
    let (now, epoch) = (now(), records::epoch());
    let agrees = if flow.out_bridge != 0 {
        flow.out_bridge == ifindex(ctx)
            && next_hop::set_guest::<F>(ctx, flow, flow.out_bridge, from)
            && flow.next_hop.ifindex != 0
    } else {
        let mut found = Route::default();
        let leaves_here = route::<F>(ctx, from, &packet.key, packet.tos, &mut found)
            && found.ifindex == ifindex(ctx);
        if leaves_here {
            next_hop::set_outside::<F>(flow, &found);
        }
        leaves_here
    };
    flow.validated_at = now as u8;
    if agrees {
        flow.flags |= FLOW_PROVEN;
        flow.epoch = next_hop::epoch_after_validation(flow, packet.key.proto, epoch);
    } else {
        flow.flags &= !FLOW_PROVEN;
        flow.epoch = epoch.wrapping_sub(1);
    }
}
