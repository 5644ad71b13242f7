//! Packets of addresses that are banned.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;

use crate::action::{LOOKUP, drop, reject};
use crate::conntrack::lookup::find;
use crate::context::{Kind, PacketCtx};
use crate::family::Family;
use crate::filter::bans::holds;
use crate::records;

/// Stage: may the packet come from where it does, or go where it does? [`LOOKUP`] if it may. An answer
/// is for guests alone: who is banned gets none.
#[inline(always)]
pub fn check<F: Family>(_: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;
    // Copies: see `conntrack/life.rs`.
    let (src, dst) = (packet.key.src, packet.key.dst);
    if ingress.bridge != 0 {
        if holds::<F>(0, &dst) != 0 || holds::<F>(ingress.bridge, &dst) != 0 {
            return reject(Reason::Banned);
        }
        return LOOKUP;
    }
    // Neighbour discovery goes on, as ARP does: the way to everybody else may lead by a banned
    // router. No router forwards it (RFC 4861, section 7.1).
    if F::IS_IPV6 && packet.kind == Kind::Icmp && packet.ttl == 255 {
        return LOOKUP;
    }
    if holds::<F>(0, &src) != 0 {
        return drop(Reason::Banned);
    }
    let to = match find::<F>(&packet.key) {
        Some(flow) => flow.out_bridge,
        None => records::bridge_of::<F>(dst),
    };
    if to != 0 && holds::<F>(to, &src) != 0 {
        return drop(Reason::Banned);
    }
    LOOKUP
}
