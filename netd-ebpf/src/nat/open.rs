//! Opening a flow: what its two entries say.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_MASQUERADE, FLOW_NAT, FLOW_REPLY};
use netd_common::policy::Verdict;
use netd_common::proto;

use crate::action::{FIRST, OPEN, PASS, SEND, reject};
use crate::clock::now;
use crate::conntrack::fragment;
use crate::context::{Decision, Packet, Seen, Source};
use crate::family::Family;
use crate::nat::entries::{clear, first_segment, to_sender};
use crate::nat::port_alloc;
use crate::nat::snat::hide;
use crate::records;
use crate::route::next_hop;

/// Prepare the flow of a packet that may pass, in the scratch map: [`OPEN`], or what becomes of
/// the packet instead.
#[inline(always)]
pub fn prepare<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    source: &Source,
    decision: &Decision<F::Addr>,
) -> i32 {
    match fill::<F>(ctx, packet, source, decision) {
        Ok(()) => OPEN,
        Err(reason) => without(decision.verdict == Verdict::Masquerade, reason),
    }
}

/// What becomes of a packet whose flow could not be opened: routed without a shortcut is still
/// routed, but what is to be masqueraded is refused.
#[inline(always)]
fn without(masquerade: bool, reason: Reason) -> i32 {
    if masquerade { reject(reason) } else { PASS }
}

/// Stage: insert the flow that was prepared.
#[inline(always)]
pub fn insert<F: Family>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen { packet, .. } = seen;

    match port_alloc::insert::<F>(ctx) {
        // That was its mapping; now for the flow itself.
        Ok(()) if F::scratch().is_some_and(|s| s.claim.key != packet.key) => FIRST,
        Ok(()) => {
            if packet.first {
                let hidden = F::scratch().is_some_and(|s| s.flow.flags & FLOW_MASQUERADE != 0);
                fragment::note::<F>(ctx, packet, hidden);
            }
            SEND
        }
        Err(reason) => {
            let nat = F::scratch().is_some_and(|s| s.flow.flags & FLOW_NAT != 0);
            without(nat, reason)
        }
    }
}

#[inline(always)]
fn fill<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    source: &Source,
    decision: &Decision<F::Addr>,
) -> Result<(), Reason> {
    let Some(scratch) = F::scratch() else {
        return Err(Reason::NoMemory);
    };
    let key = &packet.key;
    let masquerade = decision.verdict == Verdict::Masquerade;
    let now = now();
    let epoch = records::epoch();
    let (flow, back) = (&mut scratch.flow, &mut scratch.back);
    clear(flow);
    clear(back);

    flow.new_src = key.src;
    flow.new_dst = key.dst;
    flow.new_sport = key.sport;
    flow.new_dport = key.dport;
    flow.in_network = source.bridge;
    flow.in_ifindex = source.ifindex;
    flow.in_mac = source.dmac;
    (flow.last_seen, flow.looked) = (now, now as u8);
    flow.counted = if source.bridge != 0 {
        source.bridge
    } else {
        decision.to
    };
    if decision.to != 0 {
        if !next_hop::set_guest::<F>(ctx, flow, decision.to, source.ifindex) {
            return Err(Reason::ForeignDestination);
        }
    } else {
        next_hop::set_outside::<F>(flow, &decision.route);
    }
    if source.bridge == 0 {
        flow.in_ifindex = records::network(decision.to).map_or(0, |n| n.uplink);
    }
    flow.epoch = next_hop::epoch_after_look(flow, key.proto, epoch);

    // The answering direction. Until a packet of it was seen, guests answer by their bridge.
    back.new_src = key.dst;
    back.new_dst = key.src;
    back.new_sport = key.dport;
    back.new_dport = key.sport;
    back.flags = FLOW_REPLY;
    back.in_network = decision.to;
    back.in_ifindex = decision.to;
    (back.last_seen, back.looked) = (now, now as u8);
    back.epoch = epoch.wrapping_sub(1);
    // From outside they come to the device that the packet leaves by.
    back.in_mac = records::network(decision.to).map_or(flow.out_smac, |network| network.mac);
    to_sender(back, source, epoch);
    if decision.to == 0
        && let Some(network) = records::network(source.bridge)
    {
        back.in_ifindex = network.uplink;
    }
    if key.proto == proto::TCP {
        first_segment(ctx, packet, flow, back);
    }

    scratch.claim.key = *key;
    scratch.claim.translate = 0;
    scratch.claim.spare = 0;
    if masquerade {
        hide::<F>(packet, source, decision)?;
    }
    Ok(())
}
