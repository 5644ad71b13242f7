//! Packets that leave by the stack: the last place where they can be translated.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{Mode, Network, SlowPath};
use netd_common::policy::{PolicyEnd, Verdict, evaluate};

use crate::action::{PASS, drop};
use crate::conntrack::in_stack;
use crate::context::{Ingress, PacketCtx, Unread};
use crate::family::{Family, V4, V6};
use crate::filter::policy::policy_end;
use crate::frame::read;
use crate::hook::slow_path::{self, takes_no_port};
use crate::records;
use crate::report::drops;
use crate::skb::{ifindex, ingress_ifindex, is_left_to_host, was_for_host};
use crate::verified::verified;

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

verified! {
    /// Has a bridge's hook settled what becomes of a packet to guests from there?
    fn is_settled(ctx: Ctx, from: u32, bridge: u32, here: u32) -> u32
        = has_settled, else 0, as is_settled4, is_settled6;
}

#[inline(always)]
fn has_settled<F: Family>(ctx: &TcContext, from: u32, bridge: u32, here: u32) -> u32 {
    let (Some(source), Some(to)) = (records::network(from), records::network(here)) else {
        return 0;
    };
    // No guest is let through with an address that is not its network's: it is translated already.
    // Nor has anybody judged what was for the host, and was led here by its rules.
    let hides = is_to_hide::<F>(source, to)
        || records::respects_rules(bridge, here)
        || is_left_to_host(ctx);
    u32::from(bridge == 0 || !hides)
}

/// From one network's guest to another network: is it translated where it leaves? What guests send was
/// judged by `bridge_ingress`, which may have led it to something published. Where the host's rules are
/// respected, this is where its flow is opened. And what one who is to be hidden sends to a network that
/// hides nobody the stack has, with options say, unless it was for something published there.
#[inline(always)]
fn is_to_hide<F: Family>(source: &Network, to: &Network) -> bool {
    let [hides, hidden] = [source, to].map(|n| F::config(n).mode == Mode::Nat as u8);
    hides & !hidden
}

/// Why does a packet not leave whose source is no guest's, and which was for the host when it came in from this
/// network: the host's rules have led it on. What is for the host may have any source, but for the host's own
/// (the kernel takes none of those in), which only its rules can have given it.
#[inline(always)]
fn why_not_led<F: Family>(ctx: &TcContext, bridge: u32, src: &F::Addr) -> Option<Reason> {
    if !was_for_host(ctx) {
        return None;
    }
    match Mode::from_u8(F::config(records::network(bridge)?).mode) {
        Mode::Open => None,
        Mode::Isolated => Some(Reason::Isolated),
        _ if records::is_own::<F>(src) => None,
        _ => Some(Reason::ForeignSource),
    }
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
    let is_guests = from != 0 && records::network(from).is_some();
    if is_guests
        && bridge == 0
        && let Some(reason) = why_not_led::<F>(ctx, from, &src)
    {
        return drop(reason);
    }
    // Redirected by `bridge_ingress`: no guest is let through with an address that is not its
    // network's, so this is a translated packet, too.
    if is_guests && bridge == 0 && to_guests.is_none() {
        return PASS;
    }
    if from != 0
        && to_guests.is_some()
        && !is_guests
        && records::device(from).is_none()
        && let Some(reason) = judge_transit::<F>(ctx, l3, from, here)
    {
        return drop(reason);
    }
    let ingress = Ingress {
        bridge,
        ifindex: from,
        port_flags: 0,
        dmac: [0; 6],
        smac: [0; 6],
    };
    let parsed = {
        let Some(packet_ctx) = F::packet_ctx() else {
            return PASS;
        };
        packet_ctx.keep(ingress, l3);
        F::parse(ctx, l3, &mut packet_ctx.packet)
    };
    leave::<F>(ctx, here, parsed, to_guests.is_some())
}

/// The packet's headers were read, or not.
#[inline(always)]
fn leave<F: Family>(
    ctx: &TcContext,
    here: u32,
    parsed: Result<(), Unread>,
    to_guests: bool,
) -> i32 {
    // From the map again: the verifier is to walk the headers once, whatever came before.
    let Some(PacketCtx {
        packet, ingress, ..
    }) = F::packet_ctx()
    else {
        return PASS;
    };
    let Ingress {
        bridge,
        ifindex: from,
        ..
    } = *ingress;
    match parsed {
        Ok(()) => {}
        Err(Unread::Foreign) => return PASS,
        Err(Unread::Malformed) if bridge == 0 || is_settled::<F>(ctx, from, bridge, here) != 0 => {
            return PASS;
        }
        Err(Unread::Malformed) => return drop(Reason::Malformed),
    }
    if to_guests {
        if from != 0
            && (in_stack::take_back_to_guests::<F>(here) | is_settled::<F>(ctx, from, bridge, here))
                != 0
        {
            return PASS;
        }
        // The host's own, most of all.
        if takes_no_port::<F>(packet, ingress) && !slow_path::is_arriving(ingress, here) {
            return PASS;
        }
    }
    let otherwise = if bridge == 0 {
        PASS
    } else {
        slow_path::missing()
    };
    slow_path::enter(ctx, SlowPath::ToOutside, otherwise)
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
