//! A flow's state, as its packets change it.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_FIN, FLOW_REPLY, Flow};
use netd_common::flow::after;
use netd_common::proto;
use netd_common::state::State;
use netd_common::tcp::{self, Peer};

use crate::conntrack::window;
use crate::context::Packet;
use crate::verified::verified;

verified! {
    /// [`after`], which inside its callers would multiply the ways that the verifier follows.
    fn state_after(state: u32, protocol: u32, reply: u32, control: u32, fins: u32) -> u32
        = find_state_after, else 0, as state_after;
}

#[inline(always)]
fn find_state_after(state: u32, protocol: u32, reply: u32, control: u32, fins: u32) -> u32 {
    after(
        State::from_u8(state as u8),
        protocol as u8,
        reply != 0,
        control as u8,
        fins as u8,
    ) as u32
}

/// The flow's state after the packet.
#[inline(always)]
pub fn advance<A>(ctx: &TcContext, packet: &Packet<A>, flow: &mut Flow<A>, partner: &mut Flow<A>) {
    // A later fragment shows no transport header.
    if packet.no_l4 {
        return;
    }
    let state = State::from_u8(flow.state);
    let reply = flow.flags & FLOW_REPLY != 0;
    if packet.key.proto == proto::TCP && packet.control & tcp::SYN != 0 {
        flow.wscale = window::window_scale(ctx, packet.l4_offset) as u8;
        // Both sides scale or neither does.
        if packet.control & tcp::ACK != 0 && flow.wscale == 0 {
            partner.wscale = 0;
        }
    }
    let mut fins = 0;
    if packet.key.proto == proto::TCP {
        let peer = Peer {
            ack: partner.ack,
            window_end: partner.window_end,
        };
        // Who was not heard of yet has no window (one that is closed has an edge); then the answer
        // to a SYN proves itself by acknowledging it (RFC 9293, section 3.10.7.3).
        let genuine = if partner.window_end | partner.ack == 0 {
            !reply || state as u8 != State::New as u8 || packet.ack == flow.ack
        } else if packet.control & tcp::RST != 0 {
            peer.may_reset(packet.seq)
        } else {
            // A FIN stands behind the segment's data, some of which may be old.
            peer.may_reset(packet.seq.wrapping_add(window::data_len(ctx, packet)))
        };
        if packet.control & (tcp::RST | tcp::FIN) != 0 && !genuine {
            return;
        }
        if packet.control & tcp::FIN != 0 {
            flow.flags |= FLOW_FIN;
        }
        let seen = |flags: u8| u8::from(flags & FLOW_FIN != 0);
        fins = seen(flow.flags) | (seen(partner.flags) << 1);
    }
    let after = state_after(
        state as u32,
        u32::from(packet.key.proto),
        u32::from(reply),
        u32::from(packet.control),
        u32::from(fins),
    ) as u8;
    if after != state as u8 {
        flow.state = after;
        partner.state = after;
    }
}
