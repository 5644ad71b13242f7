//! Fragments that overtake the first one of their packet, without which nobody knows whose they are.
//!
//! They are handed to the agent (the ring buffer `held`), which gives them back a few milliseconds later:
//! by a program that it runs (`netd-ebpf/src/release`), they come in once more by the device that they
//! came by, with a mark, and find what the first one has left (`fragment`). Whose first one has not come
//! by then are held once more, for longer, and then treated as without an agent.
//!
//! What is addressed to the host may be its own. So the stack gets it at once, and a copy is held.

use core::hint::black_box;

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    CONTROL_HOLDS, FRAGMENT_OF_HOST, FRAGMENT_ORPHAN, HELD_BYTES, HELD_LONG, HELD_ONCE, HeldFrame,
};

use crate::action::{HOLD, PASS};
use crate::conntrack::fragment;
use crate::context::{Hook, Kind, PacketCtx};
use crate::family::Family;
use crate::maps::{HELD, HELD_LIMIT};
use crate::records;
use crate::report::ratelimit;
use crate::skb::{ifindex, tc_index};

/// Frames that come by one device and are held, in a second: more is a flood, and costs no more than
/// without an agent.
const PER_SECOND: u64 = 500;

/// How often a frame is held.
const TRIES: u32 = 2;

/// A packet for the host itself: [`HOLD`] for a fragment whose first one may have been for something
/// published, else [`PASS`].
#[inline(always)]
pub fn for_host<F: Family>(packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let packet = &packet_ctx.packet;
    // The bridge hands it up, and its own hook sees it.
    if packet_ctx.ingress.hook() == Hook::Port {
        return PASS;
    }
    if packet.kind == Kind::Fragment {
        packet_ctx.unheld = PASS;
        packet_ctx.goes_on = true;
        return HOLD;
    }
    if packet.first_fragment {
        fragment::note_in_stack::<F>(packet, FRAGMENT_OF_HOST);
    }
    PASS
}

/// A fragment for or from a guest: [`HOLD`]. `unheld` is what becomes of it where it cannot be held.
#[inline(always)]
pub fn for_guest<A>(packet_ctx: &mut PacketCtx<A>, unheld: i32) -> i32 {
    packet_ctx.unheld = unheld;
    packet_ctx.goes_on = false;
    HOLD
}

/// Stage: after [`HOLD`].
#[inline(always)]
pub fn hold<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let tries = match tc_index(ctx) {
        HELD_ONCE => 1,
        HELD_LONG => TRIES,
        _ => 0,
    };
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet,
        unheld,
        goes_on,
        ..
    } = packet_ctx;
    // A copy that was held went on when it came first.
    let here = match *goes_on && tries == 0 {
        true => PASS,
        false => TC_ACT_SHOT,
    };
    if *goes_on && fragment::is_hosts::<F>(packet) {
        return here;
    }
    if tries < TRIES && hand_over(ctx, l3, F::ETHER_TYPE, tries) {
        return here;
    }
    if *goes_on {
        fragment::note_in_stack::<F>(packet, FRAGMENT_ORPHAN);
        return here;
    }
    *unheld
}

/// Give the agent a copy of the frame. `false` where there is no agent, no room, or too many of them.
#[inline(always)]
fn hand_over(ctx: &TcContext, l3: usize, ether_type: [u8; 2], tries: u32) -> bool {
    if records::control_flags() & CONTROL_HOLDS == 0 {
        return false;
    }
    let here = ifindex(ctx);
    let last = ctx.len().wrapping_sub(1);
    if last >= HELD_BYTES as u32 {
        return false;
    }
    if tries == 0 && !ratelimit::take_of(&HELD_LIMIT, here, PER_SECOND) {
        return false;
    }
    let Some(mut entry) = HELD.reserve(0) else {
        return false;
    };
    // Once more, for the verifier: that of Linux 6.1 forgets the limits of a number that lay on the stack
    // meanwhile.
    let last = black_box(last);
    if last >= HELD_BYTES as u32 {
        entry.discard(0);
        return false;
    }
    let held: *mut HeldFrame = entry.as_mut_ptr();
    // SAFETY: `held` is the entry's memory, whose bytes are written but for those behind the frame, which
    // nobody reads; the helpers get a valid context, and the length of what there is room for.
    let read = unsafe {
        (*held).time = bpf_ktime_get_coarse_ns();
        (*held).ifindex = here;
        (*held).len = last + 1;
        (*held).l3 = l3 as u16;
        (*held).ether_type = ether_type;
        (*held).tries = tries;
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            0,
            (&raw mut (*held).bytes).cast(),
            last + 1,
        )
    };
    if read != 0 {
        entry.discard(0);
        return false;
    }
    entry.submit(0);
    true
}
