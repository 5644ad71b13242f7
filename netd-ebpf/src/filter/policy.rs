//! What policy and routing say of a packet that would open a flow.

use aya_ebpf::programs::TcContext;
use netd_common::policy::{PolicyEnd, Verdict, evaluate};

use crate::context::{Decision, PacketCtx};
use crate::family::Family;
use crate::filter::ipsec;
use crate::records;
use crate::route::lookup;
use crate::verified::verified;

verified! {
    /// Fill in the packet's `decision`.
    fn policy_decide(ctx: Ctx) -> u32 = judge, else 0, as policy_decide4, policy_decide6;
}

/// Judge the packet of [`Family::packet_ctx`], which would open a flow. What the stack does not forward is
/// left to it.
///
/// Whoever calls this has written nothing to the record by a reference that is still alive.
#[inline(always)]
pub fn decide<F: Family>(ctx: &TcContext) -> Option<&'static mut Decision<F::Addr>> {
    policy_decide::<F>(ctx);
    F::packet_ctx().map(|packet_ctx| &mut packet_ctx.decision)
}

#[inline(always)]
fn judge<F: Family>(ctx: &TcContext) -> u32 {
    let Some(PacketCtx {
        packet,
        ingress,
        decision,
        ..
    }) = F::packet_ctx()
    else {
        return 0;
    };
    *decision = Decision::none();
    let in_ifindex = if ingress.bridge != 0 {
        ingress.bridge
    } else {
        ingress.ifindex
    };
    let forwarded = lookup::route::<F>(
        ctx,
        in_ifindex,
        &packet.key,
        packet.tos,
        &mut decision.route,
    );
    decision.leaves = !decision.route.local && !records::is_own::<F>(&packet.key.dst);
    if !forwarded {
        return 0;
    }
    let out = decision.route.ifindex;
    let to = policy_end::<F>(out, packet.key.dst);
    if to.network.is_some() {
        decision.to = out;
    }
    let from = policy_end::<F>(in_ifindex, packet.key.src);
    // The network went while the packet was under way.
    if ingress.bridge == 0 || from.network.is_some() {
        decision.verdict = evaluate(from, to);
        // The kernel's IPsec is to see a guest's packet as it is.
        if decision.verdict == Verdict::Masquerade
            && ipsec::any()
            && ipsec::covers::<F>(&packet.key, out)
        {
            decision.verdict = Verdict::Accept;
        }
    }
    0
}

/// A device as policy sees it, for a packet that has `address` on that side.
#[inline(always)]
pub fn policy_end<F: Family>(ifindex: u32, address: F::Addr) -> PolicyEnd<'static> {
    let network = records::network(ifindex);
    PolicyEnd {
        network,
        mode: network.map_or(0, |n| F::config(n).mode),
        ifindex,
        in_subnet: network.is_some() && records::bridge_of::<F>(address) == ifindex,
    }
}
