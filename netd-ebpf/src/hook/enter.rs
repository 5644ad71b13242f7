//! Connections that netd takes over from the kernel's connection tracking. No packet comes here: the
//! agent runs the program on a record of each ([`Tracked`]).

use aya_ebpf::programs::TcContext;
use netd_common::abi::{ENTERED, NOT_ENTERED, Tracked};
use netd_common::{proto, tcp};

use crate::action::{OPEN, PASS, SEND};
use crate::context::{Ingress, Kind, Packet};
use crate::family::{Family, V4, V6};
use crate::frame::{ETH, at};
use crate::hook::stages;
use crate::records;

/// Enter one connection.
#[inline(always)]
pub fn enter(ctx: &TcContext) -> i32 {
    let action = if V4::is(ctx) {
        connection::<V4>(ctx)
    } else if V6::is(ctx) {
        connection::<V6>(ctx)
    } else {
        PASS
    };
    (if action == SEND { ENTERED } else { NOT_ENTERED }) as i32
}

/// As if its guest sent a packet: the policy has to agree, and says of the way out what it says of any
/// flow. Then the flow is made the connection that it is.
#[inline(always)]
fn connection<F: Family>(ctx: &TcContext) -> i32 {
    if !read::<F>(ctx) {
        return PASS;
    }
    let mut action = stages::guest_first::<F>(ctx);
    if action == OPEN {
        action = stages::as_tracked::<F>(ctx);
    }
    if action == OPEN {
        action = stages::insert::<F>(ctx);
    }
    action
}

/// The packet that the connection's guest might send. `false` where its network is not netd's.
#[inline(always)]
fn read<F: Family>(ctx: &TcContext) -> bool {
    let (Some(tracked), Some(packet_ctx)) = (at::<Tracked<F::Addr>>(ctx, ETH), F::packet_ctx())
    else {
        return false;
    };
    // SAFETY: `at` proved that the record is in the packet, and every bit pattern is one. The verifier
    // allows unaligned access to packets where the machine does.
    let tracked = unsafe { &*tracked };
    let bridge = tracked.bridge;
    if records::bridge_of::<F>(tracked.src) != bridge {
        return false;
    }
    let Some(network) = records::network(bridge) else {
        return false;
    };
    let packet = &mut packet_ctx.packet;
    *packet = Packet::new(tracked.src, tracked.dst, tracked.proto, ETH as u32, 0, 0);
    packet.key.sport = tracked.sport;
    packet.key.dport = tracked.dport;
    packet.kind = Kind::Flow;
    if tracked.proto == proto::TCP {
        packet.control = tcp::ACK;
    }
    // Which port the guest is at, and its MAC address, is found when the flow's first packet comes.
    let ingress = Ingress {
        bridge,
        ifindex: bridge,
        port_flags: 0,
        dmac: network.mac,
        smac: [0; 6],
    };
    packet_ctx.keep(ingress, ETH);
    // What the host's rules have to say is for its next packet to find out.
    packet_ctx.by_stack = true;
    true
}
