//! What policy and routing say of a packet that would open a flow.

use aya_ebpf::programs::TcContext;
use netd_common::policy::{PolicyEnd, evaluate};

use crate::context::{Decision, Ingress, Packet};
use crate::family::Family;
use crate::records;
use crate::route::lookup;

/// Judge a packet that would open a flow. What the stack does not forward is left to it.
#[inline(always)]
pub fn decide<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    ingress: &Ingress,
    decision: &mut Decision<F::Addr>,
) {
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
        return;
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
    }
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
