//! Opening a flow: what its two entries say.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, FLOW_PROVEN, FLOW_REPLY, FLOW_SNAT};
use netd_common::policy::Verdict;
use netd_common::proto;

use crate::action::{FIRST, OPEN, PASS, SEND, drop, reject};
use crate::clock::now;
use crate::conntrack::{fragment, proof};
use crate::context::{Decision, Ingress, Packet, PacketCtx};
use crate::family::Family;
use crate::filter::bans;
use crate::nat::entries::{clear, first_segment, to_sender};
use crate::nat::snat::snat;
use crate::nat::{port_alloc, prefix};
use crate::records;
use crate::route::next_hop;

/// Prepare the flow of a packet that may pass, in the scratch map: [`OPEN`], or what becomes of
/// the packet instead. `confirm` receives the next hop, where the kernel is to ask for that.
#[inline(always)]
pub fn prepare<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    ingress: &Ingress,
    decision: &Decision<F::Addr>,
    confirm: &mut F::Addr,
) -> i32 {
    match fill::<F>(ctx, packet, ingress, decision, confirm) {
        Ok(()) => OPEN,
        Err(reason) => without(
            decision.verdict == Verdict::Masquerade || is_nowhere(reason),
            reason,
        ),
    }
}

/// What becomes of a packet whose flow could not be opened: routed without a shortcut is still
/// routed, but what is to be masqueraded is refused.
#[inline(always)]
fn without(masquerade: bool, reason: Reason) -> i32 {
    if masquerade { reject(reason) } else { PASS }
}

/// Has the guest's address none outside (`nat::prefix`)?
#[inline(always)]
fn is_nowhere(reason: Reason) -> bool {
    matches!(reason, Reason::NoOutside | Reason::NoInterface)
}

/// Stage: insert the flow that was prepared.
#[inline(always)]
pub fn insert<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        by_stack,
        ..
    } = packet_ctx;

    // Which network a published port leads to is known only now.
    if bans::any()
        && ingress.bridge == 0
        && F::scratch().is_some_and(|s| bans::holds::<F>(s.flow.out_bridge, &packet.key.src) != 0)
    {
        return drop(Reason::Banned);
    }
    if let Some(scratch) = F::scratch()
        && proof::is_needed(&scratch.flow)
    {
        // Until it is proven the flow is looked at with each packet.
        let stale = records::epoch().wrapping_sub(1);
        scratch.back.epoch = stale;
        if scratch.flow.flags & FLOW_PROVEN == 0 {
            scratch.flow.epoch = stale;
            *by_stack = true;
        }
    }
    match port_alloc::insert::<F>(ctx) {
        // That was its mapping; now for the flow itself.
        Ok(()) if F::scratch().is_some_and(|s| s.request.key != packet.key) => FIRST,
        Ok(()) => {
            if packet.first_fragment {
                let hidden = F::scratch().is_some_and(|s| s.flow.flags & FLOW_SNAT != 0);
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
    ingress: &Ingress,
    decision: &Decision<F::Addr>,
    confirm: &mut F::Addr,
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
    flow.in_bridge = ingress.bridge;
    flow.in_ifindex = ingress.ifindex;
    flow.in_dmac = ingress.dmac;
    (flow.last_seen, flow.validated_at) = (now, now as u8);
    flow.counted_for = if ingress.bridge != 0 {
        ingress.bridge
    } else {
        decision.to
    };
    if decision.to != 0 {
        if !next_hop::set_guest::<F>(ctx, flow, decision.to, ingress.ifindex) {
            return Err(Reason::ForeignDestination);
        }
        next_hop::ask_for_guest::<F>(flow, confirm);
    } else {
        next_hop::set_outside::<F>(flow, &decision.route);
        if next_hop::is_makeshift(flow) {
            *confirm = decision.route.gateway;
        }
    }
    if ingress.bridge == 0 {
        flow.in_ifindex = records::network(decision.to).map_or(0, |n| n.uplink_ifindex);
    }
    flow.epoch = next_hop::epoch_after_validation(flow, key.proto, epoch);

    // The answering direction. Until a packet of it was seen, guests answer by their bridge.
    back.new_src = key.dst;
    back.new_dst = key.src;
    back.new_sport = key.dport;
    back.new_dport = key.sport;
    back.flags = FLOW_REPLY;
    back.in_bridge = decision.to;
    back.in_ifindex = decision.to;
    (back.last_seen, back.validated_at) = (now, now as u8);
    back.epoch = epoch.wrapping_sub(1);
    // From outside they come to the device that the packet leaves by.
    back.in_dmac = records::network(decision.to).map_or(flow.next_hop.smac, |network| network.mac);
    to_sender(back, ingress, epoch);
    if decision.to == 0
        && let Some(network) = records::network(ingress.bridge)
    {
        back.in_ifindex = network.uplink_ifindex;
    }
    if key.proto == proto::TCP {
        first_segment(ctx, packet, flow, back);
    }

    scratch.request.key = *key;
    scratch.request.translate = 0;
    scratch.request.avoid = 0;
    if masquerade {
        snat::<F>(packet, ingress, decision)?;
    } else if decision.to == 0 {
        prefix::leave::<F>(scratch, key, ingress.bridge, decision.route.ifindex)?;
    }
    Ok(())
}
