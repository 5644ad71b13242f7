//! Flows that the kernel's connection tracking knew before netd did.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_FIN, FLOW_REPLY, FLOW_SNAT, Tracked};
use netd_common::checksum::difference;
use netd_common::state::State;

use crate::action::{OPEN, PASS, SEND};
use crate::clock::now;
use crate::conntrack::life;
use crate::conntrack::lookup::find;
use crate::context::{PacketCtx, Scratch};
use crate::family::Family;
use crate::frame::{ETH, at};
use crate::records;
use crate::route::source;

/// Stage: make the flow of the scratch map, which was prepared as if the guest's next packet opened it,
/// the connection that the kernel has: its translation, its state, its age. [`OPEN`]; [`SEND`] where
/// there is that flow already; [`PASS`] where netd's policy would have treated it otherwise.
#[inline(always)]
pub fn prepare<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let (Some(tracked), Some(scratch)) = (at::<Tracked<F::Addr>>(ctx, ETH), F::scratch()) else {
        return PASS;
    };
    // SAFETY: as in `hook::enter`.
    let tracked = unsafe { &*tracked };
    let bridge = packet_ctx.ingress.bridge;
    let translated = tracked.new_src != tracked.src;
    if translated != (scratch.flow.flags & FLOW_SNAT != 0)
        || (translated && !source::is_usable::<F>(&tracked.new_src, bridge))
        || (!translated && tracked.new_sport != tracked.sport)
    {
        return PASS;
    }
    let key = &packet_ctx.packet.key;
    if let Some(flow) = find::<F>(key) {
        if flow.flags & FLOW_REPLY != 0 || flow.in_bridge != bridge {
            return PASS;
        }
        if flow.new_src == tracked.new_src && flow.new_sport == tracked.new_sport {
            return SEND;
        }
        // Opened a moment ago, by a packet of this connection: the peer knows it by the kernel's port.
        life::remove::<F>(key);
    }
    fill::<F>(scratch, tracked);
    OPEN
}

#[inline(always)]
fn fill<F: Family>(scratch: &mut Scratch<F::Addr>, tracked: &Tracked<F::Addr>) {
    let (flow, back) = (&mut scratch.flow, &mut scratch.back);
    // No other port will do.
    scratch.request.translate = 0;
    scratch.request.avoid = 0;
    flow.new_src = tracked.new_src;
    flow.new_sport = tracked.new_sport;
    if tracked.new_src != tracked.src {
        flow.addr_diff = difference(F::sum(&tracked.src), F::sum(&tracked.new_src));
        back.addr_diff = difference(F::sum(&tracked.new_src), F::sum(&tracked.src));
    }
    let state = State::from_u8(tracked.state);
    (flow.state, back.state) = (state as u8, state as u8);
    if tracked.fins & 1 != 0 {
        flow.flags |= FLOW_FIN;
    }
    if tracked.fins & 2 != 0 {
        back.flags |= FLOW_FIN;
    }
    // It ends when the kernel would have ended it, or sooner where netd's timeout is shorter.
    let timeout = records::timeout_of(u32::from(tracked.proto), state as u32);
    let silent = timeout.saturating_sub(tracked.remaining);
    let seen = now().wrapping_sub(silent);
    (flow.last_seen, back.last_seen) = (seen, seen);
    // Whichever packet comes first looks for the way.
    let epoch = records::epoch().wrapping_sub(1);
    (flow.epoch, back.epoch) = (epoch, epoch);
}
