//! Packets from outside the managed networks, of no flow that is known.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::CONTROL_MAPPINGS;
use netd_common::policy::Verdict;

use crate::action::{PASS, drop, reject};
use crate::conntrack::held;
use crate::conntrack::trackable::why_no_flow;
use crate::context::{Kind, PacketCtx};
use crate::family::Family;
use crate::filter::policy::decide;
use crate::nat::{mapping, open};
use crate::records;

/// Stage: a packet of no known flow.
#[inline(always)]
pub fn first<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    if records::control_flags() & CONTROL_MAPPINGS != 0 {
        match mapping::admit::<F>(ctx, packet_ctx) {
            PASS => {}
            action => return action,
        }
    }
    let PacketCtx {
        packet,
        ingress,
        confirm,
        ..
    } = packet_ctx;
    // The host's own traffic ends here.
    if records::is_own::<F>(&packet.key.dst) {
        return held::for_host::<F>(packet_ctx);
    }
    if records::bridge_of::<F>(packet.key.dst) == 0 {
        // An address that only guests' flows have; routing would send the packet back.
        if records::pool_of::<F>(packet.key.dst) != 0 {
            if packet.kind == Kind::Fragment {
                return held::for_guest(packet_ctx, drop(Reason::NoMapping));
            }
            return drop(Reason::NoMapping);
        }
        if !records::has_routes_behind() || F::never_forwarded(packet.key.dst) {
            return PASS;
        }
    }
    let Some(decision) = decide::<F>(ctx) else {
        return PASS;
    };
    match decision.verdict {
        Verdict::Stack | Verdict::Masquerade => PASS,
        Verdict::Reject(reason) => reject(reason),
        Verdict::Accept if packet.kind == Kind::Fragment => held::for_guest(packet_ctx, PASS),
        Verdict::Accept if why_no_flow(packet).is_some() => PASS,
        Verdict::Accept => open::prepare::<F>(ctx, packet, ingress, decision, confirm),
    }
}
