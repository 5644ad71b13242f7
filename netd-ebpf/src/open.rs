//! Opening a flow: what its two entries say.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_MASQUERADE, FLOW_NAT, FLOW_REPLY, Flow, Port};
use netd_common::checksum::{difference, sum2};
use netd_common::flow::proto;
use netd_common::policy::Verdict;
use netd_common::port::Range;
use netd_common::tcp;

use crate::claim::{SPARE_RESERVED, SPARE_SOCKETS};
use crate::flow::{self, Decision, Source, now};
use crate::maps::Seen;
use crate::packet::{Packet, has_ports};
use crate::path;
use crate::reject::Rejects;
use crate::window::window_scale;
use crate::{FIRST, OPEN, PASS, REJECT, SEND, claim, drops, fragment, leaving, maps};

/// Prepare the flow of a packet that may pass, in the scratch map: [`OPEN`], or what becomes of
/// the packet instead.
#[inline(always)]
pub fn prepare<F: Rejects>(
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
    if masquerade {
        REJECT + reason as i32
    } else {
        PASS
    }
}

/// Stage: insert the flow that was prepared.
#[inline(always)]
pub fn insert<F: Rejects>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen { packet, .. } = seen;

    match claim::insert::<F>(ctx) {
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

/// Stage: send the packet by its flow.
#[inline(always)]
pub fn send<F: Rejects>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let l3 = seen.l3();
    let Seen {
        packet,
        source,
        confirm,
        ..
    } = seen;

    match flow::find::<F>(&packet.key) {
        // `path::set_guest` looked for the guest.
        Some(flow) if flow.out_network != 0 && flow.out_ifindex == 0 && flow.out_mtu == 0 => {
            drops::drop(Reason::NoGuest)
        }
        Some(flow) if flow.in_network == source.bridge => {
            path::transmit::<F>(ctx, l3, packet, flow, source.hook(), *confirm)
        }
        // Another CPU needed the room.
        _ => drops::drop(Reason::TableFull),
    }
}

/// Stage: translate the packet by its flow, where it leaves by the stack.
#[inline(always)]
pub fn translate<F: Rejects>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let l3 = seen.l3();
    let Seen { packet, .. } = seen;

    match flow::find::<F>(&packet.key) {
        Some(flow) if flow.flags & FLOW_NAT != 0 => leaving::translated::<F>(ctx, l3, packet, flow),
        _ => drops::drop(Reason::TableFull),
    }
}

#[inline(always)]
fn fill<F: Rejects>(
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
    let epoch = maps::epoch();
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
        if !path::set_guest::<F>(ctx, flow, decision.to, source.ifindex) {
            return Err(Reason::ForeignDestination);
        }
    } else {
        path::set_outside::<F>(flow, &decision.route);
    }
    if source.bridge == 0 {
        flow.in_ifindex = maps::network(decision.to).map_or(0, |n| n.uplink);
    }
    flow.epoch = path::epoch_after_look(flow, key.proto, epoch);

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
    back.in_mac = maps::network(decision.to).map_or(flow.out_smac, |network| network.mac);
    to_sender(back, source, epoch);
    if decision.to == 0
        && let Some(network) = maps::network(source.bridge)
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

/// Where a packet is let in that is addressed to the host, or to an address that guests hide behind.
pub struct Inbound<A> {
    /// Bridge of the guest's network.
    pub bridge: u32,
    /// The guest.
    pub guest: A,
    /// Its port.
    pub port: Port,
    /// The only device that may bring such packets from outside; 0 for any.
    pub device: u32,
    /// `FLOW_*` bits of both directions, beside those of every translated flow.
    pub flags: u8,
}

/// Prepare, in the scratch map, the flow of a packet that is let in: its destination is translated.
/// `confirm` receives whom the kernel is to ask for, if the guest has not been seen. `false` when the
/// guest's network is gone.
#[inline(always)]
pub fn let_in<F: Rejects>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    source: &Source,
    inbound: &Inbound<F::Addr>,
    confirm: &mut F::Addr,
) -> bool {
    let (Some(scratch), Some(network)) = (F::scratch(), maps::network(inbound.bridge)) else {
        return false;
    };
    let key = &packet.key;
    let now = now();
    let epoch = maps::epoch();
    let (flow, back) = (&mut scratch.flow, &mut scratch.back);
    clear(flow);
    clear(back);

    flow.new_src = key.src;
    flow.new_dst = inbound.guest;
    flow.new_sport = key.sport;
    flow.new_dport = inbound.port;
    flow.flags = FLOW_NAT | inbound.flags;
    flow.addr_diff = difference(F::sum(&key.dst), F::sum(&inbound.guest));
    flow.port_diff = difference(sum2(key.dport), sum2(inbound.port));
    flow.in_network = source.bridge;
    flow.in_ifindex = inbound.device;
    flow.in_mac = source.dmac;
    (flow.last_seen, flow.looked) = (now, now as u8);
    flow.counted = inbound.bridge;
    if source.bridge != 0 {
        flow.in_ifindex = source.ifindex;
        flow.counted = source.bridge;
    }
    if !path::set_guest::<F>(ctx, flow, inbound.bridge, source.ifindex) {
        return false;
    }
    path::ask_for_guest::<F>(flow, confirm);
    flow.epoch = path::epoch_after_look(flow, key.proto, epoch);

    back.new_src = key.dst;
    back.new_dst = key.src;
    back.new_sport = key.dport;
    back.new_dport = key.sport;
    back.flags = FLOW_REPLY | FLOW_NAT | inbound.flags;
    back.addr_diff = difference(F::sum(&inbound.guest), F::sum(&key.dst));
    back.port_diff = difference(sum2(inbound.port), sum2(key.dport));
    // Until a packet of it was seen, the guest answers by its bridge.
    back.in_network = inbound.bridge;
    back.in_ifindex = inbound.bridge;
    back.in_mac = network.mac;
    (back.last_seen, back.looked) = (now, now as u8);
    back.epoch = epoch.wrapping_sub(1);
    to_sender(back, source, epoch);
    if key.proto == proto::TCP {
        first_segment(ctx, packet, flow, back);
    }
    scratch.claim.key = *key;
    scratch.claim.translate = 0;
    scratch.claim.spare = 0;
    true
}

/// Answers to a guest go straight back to where its packet came from.
#[inline(always)]
fn to_sender<A>(back: &mut Flow<A>, source: &Source, epoch: u32) {
    if let Some(network) = maps::network(source.bridge) {
        back.out_network = source.bridge;
        back.out_ifindex = source.ifindex;
        back.out_dmac = source.smac;
        back.out_smac = network.mac;
        back.out_mtu = network.mtu;
        back.epoch = epoch;
    }
}

/// Make an entry of the scratch map say nothing: another flow's is still there.
#[inline(always)]
fn clear<A: Default>(flow: &mut Flow<A>) {
    *flow = Flow::default();
}

/// Put the flow of the scratch map behind an address of the host's or of its network's range.
#[inline(always)]
fn hide<F: Rejects>(
    packet: &Packet<F::Addr>,
    source: &Source,
    decision: &Decision<F::Addr>,
) -> Result<(), Reason> {
    let Some(scratch) = F::scratch() else {
        return Err(Reason::NoMemory);
    };
    let key = &packet.key;
    let (mut range, mut address) = (Range::new(0, 0), decision.route.own);
    if source.bridge == 0 {
        // A packet of the host's own, whose port a guest's flow has: another port will do.
        address = key.src;
    } else {
        // A device that the agent does not know yet has no program at its egress.
        let Some(device) = maps::device(decision.route.ifindex) else {
            return Err(Reason::NoAddress);
        };
        // Towards a destination of the link alone routing names an address of the link.
        if address == F::ZERO || F::never_forwarded(address) {
            address = F::address(device);
        }
        if let Some(network) = maps::network(source.bridge) {
            range = Range::new(network.first_port, network.last_port);
            let side = F::side(network);
            if side.first != F::ZERO {
                // The same address for all of a guest's flows (RFC 4787, REQ-2).
                address = F::pick(side.first, side.last, F::hash(key.src));
            }
        }
    }
    if address == F::ZERO {
        return Err(Reason::NoAddress);
    }
    if key.proto == F::ICMP {
        range = Range::ALL;
    }
    scratch.flow.flags |= FLOW_NAT | FLOW_MASQUERADE;
    scratch.back.flags |= FLOW_NAT;
    scratch.flow.new_src = address;
    scratch.flow.addr_diff = difference(F::sum(&key.src), F::sum(&address));
    scratch.back.addr_diff = difference(F::sum(&address), F::sum(&key.src));
    scratch.claim.first = range.first;
    scratch.claim.last = range.last;
    scratch.claim.translate = u32::from(has_ports(key.proto) || key.proto == F::ICMP);
    scratch.claim.spare = SPARE_RESERVED;
    if source.bridge != 0 {
        scratch.claim.spare |= SPARE_SOCKETS;
    }
    Ok(())
}

/// What a TCP connection's first segment says of windows.
#[inline(always)]
fn first_segment<A>(ctx: &TcContext, packet: &Packet<A>, flow: &mut Flow<A>, back: &mut Flow<A>) {
    if packet.control & tcp::SYN != 0 {
        flow.wscale = window_scale(ctx.skb.skb, packet.at) as u8;
        // What the answer must acknowledge; no window yet.
        back.ack = packet.seq.wrapping_add(1);
        back.edge = back.ack;
    } else {
        // A connection from before netd's time: how windows are scaled was agreed then.
        flow.wscale = tcp::MAX_WSCALE;
        back.wscale = tcp::MAX_WSCALE;
    }
}
