//! Where packets go on that the first look at them does not send: programs of their own, by tail
//! calls.
//!
//! Hooks of a kind share one, so the verifier walks it once for all of them, and it has the whole
//! stack of a program. Which packet it is about stands in `packet_ctx4` and `packet_ctx6`, which
//! are of one CPU: nothing comes between a program and the one it calls.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::SlowPath;

use crate::action::{DROP, LOOKUP, PASS, REJECT, SEND, drop};
use crate::context::{Hook, Ingress, Kind, Packet, PacketCtx};
use crate::family::{Family, V4, V6};
use crate::filter::source_guard;
use crate::frame::{ETH, macs};
use crate::hook::stages;
use crate::maps::SLOW_PATHS;
use crate::records;
use crate::reply::{arp, nd, reject, reset};
use crate::report::drops;
use crate::skb::{ifindex, is_for_us, is_translated};
use crate::stage::to_outside::is_judged;
use crate::stage::{announced, services};
use crate::verified::verified;

/// Go on there. Comes back only where that program is missing: with `otherwise`.
#[inline(always)]
pub fn enter(ctx: &TcContext, path: SlowPath, otherwise: i32) -> i32 {
    // SAFETY: nothing of the caller's has to be dropped.
    unsafe { SLOW_PATHS.tail_call(ctx, path as u32) };
    otherwise
}

/// What becomes of a guest's packet where the slow path is missing.
#[inline(always)]
pub fn missing() -> i32 {
    drop(Reason::Incomplete)
}

/// From a bridge port, or from the bridge itself.
#[inline(always)]
pub fn from_guest(ctx: &TcContext) -> i32 {
    let here = ifindex(ctx);
    let action = if V4::is(ctx) {
        packet_from_guest::<V4>(ctx, here)
    } else if V6::is(ctx) {
        packet_from_guest::<V6>(ctx, here)
    } else {
        other_from_guest(ctx)
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_from_guest<F: Family>(ctx: &TcContext, here: u32) -> i32 {
    let (Some(packet_ctx), Some((dmac, smac))) = (F::packet_ctx(), macs(ctx)) else {
        return PASS;
    };
    let mut ingress = Ingress {
        bridge: here,
        ifindex: here,
        port_flags: 0,
        dmac,
        smac,
    };
    let mut action = LOOKUP;
    let port = records::port(here);
    if let Some(port) = port {
        ingress.bridge = port.bridge_ifindex;
        ingress.port_flags = port.flags;
    }
    packet_ctx.keep(ingress, ETH);
    if port.is_some_and(source_guard::is_guarded) {
        action = stages::guarded::<F>(ctx);
    }
    if action == LOOKUP {
        action = stages::to_services::<F>(ctx);
    }
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
    refuse_guest::<F>(ctx, (action - REJECT) as u32)
}

// On their own, so that the program that calls them leaves more of the stack to its stages.
verified! {
    /// Refuse a guest's packet under the reason of this number, with an answer.
    fn refuse_guest(ctx: Ctx, reason: u32) -> i32
        = answer_guest, else PASS, as refuse_guest4, refuse_guest6;
}

verified! {
    /// What is neither IPv4 nor IPv6.
    fn other_from_guest(ctx: Ctx) -> i32 = look_at_other, else PASS, as other_from_guest;
}

#[inline(always)]
fn answer_guest<F: Family>(ctx: &TcContext, reason: u32) -> i32 {
    let here = ifindex(ctx);
    if reason == Reason::SourceMoved as u32 {
        return reset::answer::<F>(ctx, here, reason);
    }
    let bridge = F::packet_ctx().map_or(0, |packet_ctx| packet_ctx.ingress.bridge);
    let own = records::network(bridge).map_or(F::ZERO, |n| F::config(n).gateway);
    reject::answer::<F>(ctx, here, own, reason)
}

#[inline(always)]
fn look_at_other(ctx: &TcContext) -> i32 {
    let here = ifindex(ctx);
    let mut hook = Hook::Bridge;
    if records::port(here).is_some() {
        hook = Hook::Port;
        match source_guard::check_other(ctx, here) {
            PASS => {}
            refused => return refused,
        }
    }
    announced::by_arp(ctx, here);
    services::show_arp(ctx, hook, here)
}

/// From any other device.
#[inline(always)]
pub fn from_outside(ctx: &TcContext) -> i32 {
    if !is_for_us(ctx) {
        // Requests are broadcast, solicitations multicast.
        return if V6::is(ctx) {
            nd::answer(ctx)
        } else {
            arp::answer(ctx)
        };
    }
    if is_translated(ctx) {
        return PASS;
    }
    let action = if V4::is(ctx) {
        packet_from_outside::<V4>(ctx)
    } else if V6::is(ctx) {
        packet_from_outside::<V6>(ctx)
    } else {
        arp::answer(ctx)
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_from_outside<F: Family>(ctx: &TcContext) -> i32 {
    let Some(packet_ctx) = F::packet_ctx() else {
        return PASS;
    };
    let is_frame = packet_ctx.l3() == ETH;
    // Neighbours ask by unicast whether somebody is still there.
    if F::IS_IPV6 && packet_ctx.packet.kind == Kind::Icmp && is_frame {
        match nd::answer(ctx) {
            PASS => {}
            answer => return answer,
        }
    }
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
    let here = ifindex(ctx);
    // Without a frame to turn round there is no answer.
    let own = match records::device(here) {
        Some(device) if is_frame => F::address(device),
        _ => F::ZERO,
    };
    reject::answer::<F>(ctx, here, own, (action - REJECT) as u32)
}

/// By the stack, at the egress of any device.
#[inline(always)]
pub fn to_outside(ctx: &TcContext) -> i32 {
    let action = if V4::is(ctx) {
        packet_to_outside::<V4>(ctx)
    } else {
        packet_to_outside::<V6>(ctx)
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_to_outside<F: Family>(ctx: &TcContext) -> i32 {
    let Some(PacketCtx {
        ingress, packet, ..
    }) = F::packet_ctx()
    else {
        return PASS;
    };
    let here = ifindex(ctx);
    let judged = is_judged(ctx, ingress);
    if is_arriving(ingress, here) {
        match stages::arrives::<F>(ctx) {
            LOOKUP if takes_no_port::<F>(packet, ingress) => return PASS,
            LOOKUP => {}
            action => return action,
        }
    }
    let mut known = stages::leaving_known::<F>(ctx);
    if judged && known == SEND {
        known = stages::prove::<F>(ctx);
    }
    let first = |ctx: &TcContext| {
        if judged {
            stages::judged_first::<F>(ctx)
        } else {
            stages::leaving_first::<F>(ctx)
        }
    };
    let action = stages::run::<F>(
        ctx,
        known,
        stages::icmp_leaves::<F>,
        first,
        stages::translate::<F>,
    );
    // Nobody can be answered from here.
    if action >= REJECT {
        return action - REJECT + DROP;
    }
    action
}

/// Is the packet one that the stack has forwarded to guests by the host's rules, which are asked here?
#[inline(always)]
pub fn is_arriving(ingress: &Ingress, here: u32) -> bool {
    ingress.ifindex != 0
        && records::network(here).is_some()
        && records::respects_rules(ingress.bridge, here)
}

/// What is nobody's but the stack's and goes to guests takes no port of anybody's.
#[inline(always)]
pub fn takes_no_port<F: Family>(packet: &Packet<F::Addr>, ingress: &Ingress) -> bool {
    ingress.bridge == 0 && packet.key.proto != F::ICMP
}
