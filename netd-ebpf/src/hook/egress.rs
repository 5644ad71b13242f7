//! Packets that leave by the stack: the last place where they can be translated.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::Mode;
use netd_common::policy::{PolicyEnd, Verdict, evaluate};

use crate::action::{DROP, PASS, REJECT, drop};
use crate::context::{Ingress, Unread};
use crate::family::{Family, V4, V6};
use crate::filter::policy::policy_end;
use crate::frame::read;
use crate::hook::stages;
use crate::records;
use crate::report::drops;
use crate::skb::{ifindex, ingress_ifindex};

/// Egress of any device.
#[inline(always)]
pub fn egress(ctx: &TcContext, l3: usize) -> i32 {
    let action = if V4::is(ctx) {
        packet_to_outside::<V4>(ctx, l3)
    } else if V6::is(ctx) {
        packet_to_outside::<V6>(ctx, l3)
    } else {
        PASS
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_to_outside<F: Family>(ctx: &TcContext, l3: usize) -> i32 {
    let from = ingress_ifindex(ctx);
    // Redirected by `port_ingress`, translated already. The stack never forwards a packet with a
    // bridge port as its input device: it gets such packets from the bridge.
    if from != 0 && records::bridge_of_port(from) != 0 {
        return PASS;
    }
    let Some(src) = read::<F::Addr>(ctx, l3 + F::SRC) else {
        return PASS;
    };
    let here = ifindex(ctx);
    let mut bridge = records::bridge_of::<F>(src);
    let to_guests = records::network(here);
    // The host talks to guests, be it by the address of another network's bridge: like any of its
    // own packets.
    if from == 0 && to_guests.is_some() {
        bridge = 0;
    }
    // It was addressed to the host when it came in, and nobody judged it.
    if from != 0
        && to_guests.is_some_and(|n| Mode::from_u8(F::config(n).mode) != Mode::Open)
        && F::has_source_route(ctx, l3)
    {
        return drop(Reason::SourceRoute);
    }
    if bridge == here {
        return PASS;
    }
    if from != 0
        && to_guests.is_some()
        && records::device(from).is_none()
        && let Some(reason) = judge_transit::<F>(ctx, l3, from, here)
    {
        return drop(reason);
    }
    // Redirected by `bridge_ingress`: no guest is let through with an address that is not its
    // network's, so this is a translated packet, too.
    if from != 0 && bridge == 0 && records::network(from).is_some() {
        return PASS;
    }
    let Some(packet_ctx) = F::packet_ctx() else {
        return PASS;
    };
    let packet = &mut packet_ctx.packet;
    match F::parse(ctx, l3, packet) {
        Ok(()) => {}
        Err(Unread::Foreign) => return PASS,
        Err(Unread::Malformed) if bridge == 0 => return PASS,
        Err(Unread::Malformed) => return drop(Reason::Malformed),
    }
    // What the host sends to guests takes no port of anybody's.
    if bridge == 0 && to_guests.is_some() && packet.key.proto != F::ICMP {
        return PASS;
    }
    let ingress = Ingress {
        bridge,
        ifindex: from,
        dmac: [0; 6],
        smac: [0; 6],
    };
    packet_ctx.keep(ingress, l3);
    let action = stages::run::<F>(
        ctx,
        stages::leaving_known::<F>(ctx),
        stages::icmp_leaves::<F>,
        stages::leaving_first::<F>,
        stages::translate::<F>,
    );
    // Nobody can be answered from here.
    if action >= REJECT {
        return action - REJECT + DROP;
    }
    action
}

/// Why a packet may not come to a network that was routed here from a device that has no program
/// (yet).
#[inline(always)]
fn judge_transit<F: Family>(ctx: &TcContext, l3: usize, from: u32, here: u32) -> Option<Reason> {
    let dst = read::<F::Addr>(ctx, l3 + F::DST)?;
    let from = PolicyEnd {
        network: None,
        mode: 0,
        ifindex: from,
        in_subnet: false,
    };
    match evaluate(from, policy_end::<F>(here, dst)) {
        Verdict::Reject(reason) => Some(reason),
        _ => None,
    }
}
