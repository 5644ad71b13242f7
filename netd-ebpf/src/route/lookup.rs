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

#[inline(always)]
fn answer<F: Family>(ctx: &TcContext) -> u32 {
    F::routing().map_or(0, |routing| u32::from(ask::<F>(ctx, routing)))
}

#[inline(always)]
fn ask<F: Family>(ctx: &TcContext, routing: &mut Routing<F::Addr>) -> bool {
    let Routing {
        key,
        in_ifindex,
        output,
        tos,
        route,
    } = routing;
    *route = Route::default();
    // SAFETY: all of its fields are integers.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.family = F::AF;
    fib.l4_protocol = key.proto;
    fib.sport = u16::from_ne_bytes(key.sport);
    fib.dport = u16::from_ne_bytes(key.dport);
    fib.ifindex = *in_ifindex;
    // A length makes the helper answer with the path's MTU; the comparison is made later, when
    // the packet's own length after segmentation is known.
    fib.__bindgen_anon_1.tot_len = 1;
    F::ask(&mut fib, key.src, key.dst, *tos);
    let look_up = |fib: &mut bpf_fib_lookup, flags: u32| {
        let len = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: `fib` is as large as said and outlives the call.
        unsafe { fib_lookup(ctx.skb.skb.cast(), core::ptr::from_mut(fib), len, flags) }
    };
    let output = if *output != 0 { LOOKUP_OUTPUT } else { 0 };
    let mut answer = look_up(&mut fib, LOOKUP_SRC | output);
    let tells_own = answer != EINVAL;
    if !tells_own {
        answer = look_up(&mut fib, output);
    }
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
        let limit = F::route_mtu(route.ifindex, key.dst);
        if limit < route.mtu {
            route.mtu = limit;
        }
    }
    if tells_own {
        route.own = F::source(&fib);
    }
    if fib.family == F::AF {
        route.gateway = F::next_hop(&fib);
    }
    true
}
