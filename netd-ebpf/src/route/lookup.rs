//! What the kernel's routing says of a packet.

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup};
use aya_ebpf::helpers::generated::bpf_fib_lookup as fib_lookup;
use aya_ebpf::programs::TcContext;
use netd_common::abi::FlowKey;

use crate::context::{Route, Routing};
use crate::family::Family;
use crate::verified::verified;

/// `BPF_FIB_LKUP_RET_NOT_FWDED`: the destination is the host itself, or a broadcast.
const NOT_FORWARDED: i64 = 4;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: routed, but the next hop's MAC address is not known.
const NO_NEIGH: i64 = 7;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`: routed, but larger than the path's MTU.
const FRAG_NEEDED: i64 = 8;
/// `BPF_FIB_LOOKUP_OUTPUT`: the device is the one to leave by.
const LOOKUP_OUTPUT: u32 = 1 << 1;
/// `BPF_FIB_LOOKUP_SRC` (Linux 6.7): answer with the source address the host itself would use.
const LOOKUP_SRC: u32 = 1 << 4;
const EINVAL: i64 = -22;

/// Ask the kernel where a packet that came in by `in_ifindex` goes. `false` when it is not to be
/// forwarded: for the host itself, unreachable, forwarding off; the stack knows what to answer.
#[inline(always)]
pub fn route<F: Family>(
    ctx: &TcContext,
    in_ifindex: u32,
    key: &FlowKey<F::Addr>,
    tos: u32,
    route: &mut Route<F::Addr>,
) -> bool {
    let Some(routing) = F::routing() else {
        return false;
    };
    routing.key = *key;
    routing.in_ifindex = in_ifindex;
    routing.output = 0;
    routing.tos = tos;
    let forwarded = ask_routing::<F>(ctx) != 0;
    if forwarded && !routing.route.resolved {
        ask_mtu::<F>(ctx);
    }
    *route = routing.route;
    forwarded
}

/// Ask the kernel for the way by the device `out` of a packet of `key` that leaves with the host's
/// address `src`. `false` when there is none.
#[inline(always)]
pub fn route_by<F: Family>(
    ctx: &TcContext,
    out: u32,
    key: &FlowKey<F::Addr>,
    src: &F::Addr,
    tos: u32,
    route: &mut Route<F::Addr>,
) -> bool {
    let Some(routing) = F::routing() else {
        return false;
    };
    routing.key = *key;
    routing.key.src = *src;
    routing.in_ifindex = out;
    routing.output = 1;
    routing.tos = tos;
    let found = ask_routing::<F>(ctx) != 0;
    if found && routing.route.ifindex == out {
        if !routing.route.resolved {
            ask_mtu::<F>(ctx);
        }
        *route = routing.route;
        return true;
    }
    // The kernel takes another device where this one has no way for IPv6.
    *route = Route::default();
    false
}

verified! {
    /// Answer the question in [`Family::routing`]: what [`route`] returns.
    fn ask_routing(ctx: Ctx) -> u32 = answer, else 0, as ask_routing4, ask_routing6;
}

// On its own, and not called from there: the way here uses the whole stack.
verified! {
    /// Fill in the MTU where the next hop's MAC address is not known: without that the helper tells the one of a
    /// packet alone that is larger, which it finds before.
    fn ask_mtu(ctx: Ctx) -> u32 = find_mtu, else 0, as ask_mtu4, ask_mtu6;
}

#[inline(always)]
fn find_mtu<F: Family>(ctx: &TcContext) -> u32 {
    let Some(routing) = F::routing() else {
        return 0;
    };
    // SAFETY: all of its fields are integers.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    question::<F>(&mut fib, routing, u16::MAX);
    let output = if routing.output != 0 {
        LOOKUP_OUTPUT
    } else {
        0
    };
    routing.route.mtu = u16::MAX;
    if look_up(ctx, &mut fib, output) == FRAG_NEEDED {
        // SAFETY: the helper wrote this field of the union.
        routing.route.mtu = unsafe { fib.__bindgen_anon_1.mtu_result };
    }
    limit_mtu::<F>(&routing.key, &mut routing.route);
    0
}

/// What routing is asked.
#[inline(always)]
fn question<F: Family>(fib: &mut bpf_fib_lookup, routing: &Routing<F::Addr>, tot_len: u16) {
    let key = &routing.key;
    fib.family = F::AF;
    fib.l4_protocol = key.proto;
    fib.sport = u16::from_ne_bytes(key.sport);
    fib.dport = u16::from_ne_bytes(key.dport);
    fib.ifindex = routing.in_ifindex;
    fib.__bindgen_anon_1.tot_len = tot_len;
    F::ask(fib, key.src, key.dst, routing.tos);
}

#[inline(always)]
fn look_up(ctx: &TcContext, fib: &mut bpf_fib_lookup, flags: u32) -> i64 {
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: `fib` is as large as said and outlives the call.
    unsafe { fib_lookup(ctx.skb.skb.cast(), core::ptr::from_mut(fib), len, flags) }
}

/// Some routes' MTUs the helper does not tell.
#[inline(always)]
fn limit_mtu<F: Family>(key: &FlowKey<F::Addr>, route: &mut Route<F::Addr>) {
    let limit = F::route_mtu(route.ifindex, key.dst);
    if limit < route.mtu {
        route.mtu = limit;
    }
}

#[inline(always)]
fn answer<F: Family>(ctx: &TcContext) -> u32 {
    F::routing().map_or(0, |routing| u32::from(ask::<F>(ctx, routing)))
}

#[inline(always)]
fn ask<F: Family>(ctx: &TcContext, routing: &mut Routing<F::Addr>) -> bool {
    routing.route = Route::default();
    // SAFETY: all of its fields are integers.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    // A length makes the helper answer with the path's MTU; the comparison is made later, when
    // the packet's own length after segmentation is known.
    question::<F>(&mut fib, routing, 1);
    let output = if routing.output != 0 {
        LOOKUP_OUTPUT
    } else {
        0
    };
    let mut answer = look_up(ctx, &mut fib, LOOKUP_SRC | output);
    let tells_own = answer != EINVAL;
    if !tells_own {
        answer = look_up(ctx, &mut fib, output);
    }
    let Routing { key, route, .. } = routing;
    route.resolved = answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS);
    route.local = answer == NOT_FORWARDED;
    if !route.resolved && answer != NO_NEIGH {
        return false;
    }
    route.ifindex = fib.ifindex;
    route.dmac = fib.dmac;
    route.smac = fib.smac;
    if route.resolved {
        // SAFETY: the helper wrote this field of the union.
        route.mtu = unsafe { fib.__bindgen_anon_1.mtu_result };
        limit_mtu::<F>(key, route);
    }
    if tells_own {
        route.own = F::source(&fib);
    }
    if fib.family == F::AF {
        route.gateway = F::next_hop(&fib);
    }
    true
}
