//! Packets that the host's stack carries: does it let them out again?
//!
//! What it does not, the host's own rules have dropped most likely. An entry knows of its last packet
//! alone: one that has not come out when the stack is given the next one is counted as lost.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_IN_STACK, Flow, Mode, Network};

use crate::conntrack::lookup::find;
use crate::conntrack::proof;
use crate::context::Kind;
use crate::family::Family;
use crate::records;
use crate::report::drops;
use crate::verified::verified;

/// The stack gets a packet of the flow.
#[inline(always)]
pub fn give<A>(ctx: &TcContext, flow: &mut Flow<A>) {
    if flow.flags & FLOW_IN_STACK != 0 {
        drops::count(ctx, Reason::LostInStack as u32);
    }
    flow.flags |= FLOW_IN_STACK;
}

/// It has let one out.
#[inline(always)]
pub fn take_back<A>(flow: &mut Flow<A>) {
    flow.flags &= !FLOW_IN_STACK;
}

verified! {
    /// It lets out the packet to the guests behind this bridge. Is it of a flow that has translated it
    /// already, if it had to be, and that the host's rules have no say in?
    pub fn take_back_to_guests(bridge: u32) -> u32
        = take_back_at, else 0, as take_back_to_guests4, take_back_to_guests6;
}

#[inline(always)]
fn take_back_at<F: Family>(bridge: u32) -> u32 {
    let Some(packet_ctx) = F::packet_ctx() else {
        return 0;
    };
    let packet = &packet_ctx.packet;
    // An open network's traffic is the stack's anyway.
    let is_open = |n: &Network| F::config(n).mode == Mode::Open as u8;
    if packet.kind != Kind::Flow || records::network(bridge).is_none_or(is_open) {
        return 0;
    }
    // The other direction's entry leads to its own.
    let partner = {
        let answer = packet.key.reversed();
        match find::<F>(&answer) {
            Some(flow) if flow.in_bridge == bridge => flow.partner(packet.key.proto),
            _ => return 0,
        }
    };
    match find::<F>(&partner) {
        Some(flow) if flow.out_bridge == bridge => {
            take_back(flow);
            u32::from(!proof::is_needed(flow))
        }
        _ => 0,
    }
}
