//! What the two entries of any new flow say.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{Flow, PORT_GETS_BY_BRIDGE};
use netd_common::tcp;

use crate::conntrack::window::window_scale;
use crate::context::{Ingress, Packet};
use crate::records;

/// Answers to a guest go straight back to where its packet came from, or by the bridge to there.
#[inline(always)]
pub fn to_sender<A>(back: &mut Flow<A>, ingress: &Ingress, epoch: u32) {
    if let Some(network) = records::network(ingress.bridge) {
        back.out_bridge = ingress.bridge;
        back.next_hop.ifindex = if ingress.port_flags & PORT_GETS_BY_BRIDGE == 0 {
            ingress.ifindex
        } else {
            ingress.bridge
        };
        back.next_hop.dmac = ingress.smac;
        back.next_hop.smac = network.mac;
        back.next_hop.mtu = network.mtu;
        back.epoch = epoch;
    }
}

/// Make an entry of the scratch map say nothing: another flow's is still there.
#[inline(always)]
pub fn clear<A: Default>(flow: &mut Flow<A>) {
    *flow = Flow::default();
}

/// What a TCP connection's first segment says of windows.
#[inline(always)]
pub fn first_segment<A>(
    ctx: &TcContext,
    packet: &Packet<A>,
    flow: &mut Flow<A>,
    back: &mut Flow<A>,
) {
    if packet.control & tcp::SYN != 0 {
        flow.wscale = window_scale(ctx, packet.l4_offset) as u8;
        // What the answer must acknowledge; no window yet.
        back.ack = packet.seq.wrapping_add(1);
        back.window_end = back.ack;
    } else {
        // A connection from before netd's time: how windows are scaled was agreed then.
        flow.wscale = tcp::MAX_WSCALE;
        back.wscale = tcp::MAX_WSCALE;
    }
}
