//! What policy and routing say of a packet that would open a flow.

use aya_ebpf::programs::TcContext;
use netd_common::policy::{Place, judge};

use crate::context::{Decision, Packet, Source};
use crate::family::Family;
use crate::records;
use crate::route::lookup;

/// Judge a packet that would open a flow. What the stack does not forward is left to it.
#[inline(always)]
pub fn decide<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    source: &Source,
    decision: &mut Decision<F::Addr>,
) {
    let in_ifindex = if source.bridge != 0 {
        source.bridge
    } else {
        source.ifindex
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
    let to = place::<F>(out, packet.key.dst);
    if to.network.is_some() {
        decision.to = out;
    }
    let from = place::<F>(in_ifindex, packet.key.src);
    // The network went while the packet was under way.
    if source.bridge == 0 || from.network.is_some() {
        decision.verdict = judge(from, to);
    }
}

/// A device as policy sees it, for a packet that has `address` on that side.
#[inline(always)]
pub fn place<F: Family>(ifindex: u32, address: F::Addr) -> Place<'static> {
    let network = records::network(ifindex);
    Place {
        network,
        mode: network.map_or(0, |n| F::side(n).mode),
        ifindex,
        inside: network.is_some() && records::bridge_of::<F>(address) == ifindex,
    }
}
