//! The last act: a packet is sent on its way by its flow.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, Flow};
use netd_common::proto;

use crate::action::{PASS, drop, reject};
use crate::clock::now;
use crate::conntrack::ipsec::{ANY_WAY, BY_STACK, way};
use crate::conntrack::lookup::find;
use crate::conntrack::{in_stack, proof, window};
use crate::context::{Hook, Packet, PacketCtx};
use crate::family::Family;
use crate::filter::ipsec;
use crate::frame::{ETH, put_header, set_macs};
use crate::nat::rewrite;
use crate::records;
use crate::route::next_hop::{self, needs_stack};
use crate::route::redirect::redirect;
use crate::skb::{come_in_again, ifindex};

/// Stage: send the packet by its flow.
#[inline(always)]
pub fn send<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet,
        ingress,
        confirm,
        by_stack,
        mtu,
        ..
    } = packet_ctx;

    if ipsec::any() && is_kept_back::<F>(packet, by_stack) {
        return drop(Reason::IpsecPolicy);
    }
    match find::<F>(&packet.key) {
        // `next_hop::set_guest` looked for the guest.
        Some(flow)
            if flow.out_bridge != 0 && flow.next_hop.ifindex == 0 && flow.next_hop.mtu == 0 =>
        {
            drop(Reason::NoGuest)
        }
        Some(flow) if flow.in_bridge == ingress.bridge => {
            let hook = ingress.hook();
            // Behind this program they see each packet, and the stack has it then.
            if hook == Hook::Uplink && records::is_filtered(ingress.ifindex) {
                flow.epoch = records::epoch().wrapping_sub(1);
                *by_stack = true;
                // Where the host's rules have a say, it is theirs to drop.
                if flow.out_bridge != 0 && !proof::is_needed(flow) {
                    in_stack::give(ctx, flow);
                }
            }
            if *by_stack {
                return give_to_stack::<F>(ctx, l3, packet, flow, hook);
            }
            if !needs_stack(packet, flow) && !is_unresolved(flow) {
                return transmit::<F>(ctx, l3, packet, flow, *confirm);
            }
            if let Some(reason) = why_not::<F>(ctx, l3, packet, flow) {
                *mtu = flow.next_hop.mtu;
                return reject(reason);
            }
            // What it forwards comes by the egress of where it goes before the next packet does. At a
            // port the bridge has it first.
            let forwarded = hook == Hook::Bridge || flow.out_bridge != 0;
            if forwarded && hook != Hook::Port && flow.next_hop.ifindex != 0 {
                in_stack::give(ctx, flow);
            }
            give_to_stack::<F>(ctx, l3, packet, flow, hook)
        }
        // Another CPU needed the room.
        _ => drop(Reason::TableFull),
    }
}

/// Do the host's IPsec policies keep the packet from leaving? Where they want it protected, it goes by the stack.
#[inline(always)]
fn is_kept_back<F: Family>(packet: &Packet<F::Addr>, by_stack: &mut bool) -> bool {
    match way::<F>(&packet.key) {
        ANY_WAY => false,
        BY_STACK => {
            *by_stack = true;
            false
        }
        _ => true,
    }
}

/// Has the kernel asked for the next hop in vain? It asks with a packet in hand (`redirect`), for three
/// seconds, and tells nobody when that fails. So it is asked for some seconds, and then for as long senders are
/// told, in turn.
#[inline(always)]
fn is_unresolved<A>(flow: &Flow<A>) -> bool {
    /// Ticks, a power of two.
    const TURN: u8 = 4;
    next_hop::is_makeshift(flow) && (now() as u8).wrapping_sub(flow.validated_at) & TURN != 0
}

/// Why the packet cannot be sent on at all, where its sender can be told here.
#[inline(always)]
fn why_not<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    flow: &Flow<F::Addr>,
) -> Option<Reason> {
    // With headers between IP's and the transport's the stack answers (`reply::reject`).
    if l3 != ETH
        || packet.options
        || packet.l4_offset as usize != ETH + F::HEADER
        || packet.first_fragment
        || packet.no_l4
    {
        return None;
    }
    if packet.ttl <= 1 {
        return Some(Reason::HopLimit);
    }
    if is_unresolved(flow) {
        return Some(Reason::Unresolved);
    }
    let too_large = flow.next_hop.ifindex != 0 && packet.wire_len > u32::from(flow.next_hop.mtu);
    (too_large && !F::may_be_fragmented(ctx, l3)).then_some(Reason::TooLarge)
}

/// Stage: translate the packet by its flow, where it leaves by the stack.
#[inline(always)]
pub fn translate<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet, by_stack, ..
    } = packet_ctx;

    if ipsec::any() && is_kept_back::<F>(packet, by_stack) {
        return drop(Reason::IpsecPolicy);
    }
    match find::<F>(&packet.key) {
        Some(flow) if flow.flags & FLOW_NAT != 0 => translated::<F>(ctx, l3, packet, flow),
        // Routed, and here for the proof that it may be.
        Some(_) => PASS,
        None => drop(Reason::TableFull),
    }
}

/// Send an established packet on its way past bridge, stack and netfilter, which its path allows.
///
/// `confirm` names the next hop (or nobody) when the kernel should be reminded that it is in use:
/// one packet of a flow now and then goes through its neighbour code, so that the entry is
/// confirmed (RFC 4861's reachability states, which Linux keeps for ARP too) and a changed MAC
/// address noticed.
#[inline(always)]
pub fn transmit<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    confirm: F::Addr,
) -> i32 {
    count(ctx, packet, flow);
    // Where frames come without an Ethernet header, they get it once the packet is as it should be.
    if (l3 == ETH && set_macs(ctx, flow.next_hop.dmac, flow.next_hop.smac).is_none())
        || rewrite::apply::<F>(ctx, l3, packet, flow, true).is_none()
        || (l3 != ETH
            && put_header(ctx, flow.next_hop.dmac, flow.next_hop.smac, F::ETHER_TYPE).is_none())
    {
        return drop(Reason::Rewrite);
    }
    redirect::<F>(flow.next_hop.ifindex, confirm)
}

/// The stack has the packet: it answers with ICMP where that is due, fragments, resolves neighbours,
/// asks the host's rules. A packet that answers a translated flow is addressed to the host and must
/// be translated first. Not at a port: the bridge hands the packet up to `bridge_ingress`, which
/// would not know the translated one.
#[inline(always)]
fn give_to_stack<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    hook: Hook,
) -> i32 {
    count(ctx, packet, flow);
    // An answer, or a packet that a mapping lets in; the host's own flows change their port only.
    let translated_destination = flow.flags & FLOW_NAT != 0
        && (flow.new_dst != packet.key.dst || flow.new_dport != packet.key.dport);
    if !translated_destination || hook == Hook::Port {
        return PASS;
    }
    match rewrite::apply::<F>(ctx, l3, packet, flow, false) {
        // What connection tracking has made of it is wrong now: the host's rules would take an answer for a packet
        // of no connection.
        Some(()) if records::has_bridged_rules(ifindex(ctx)) => come_in_again(ctx),
        Some(()) => PASS,
        None => drop(Reason::Rewrite),
    }
}

#[inline(always)]
fn count<A>(ctx: &TcContext, packet: &Packet<A>, flow: &mut Flow<A>) {
    flow.packets += 1;
    flow.bytes += u64::from(ctx.len());
    if packet.key.proto == proto::TCP && !packet.no_l4 {
        window::remember(packet, flow);
    }
}

/// Translate a packet that the stack has already forwarded.
#[inline(always)]
fn translated<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    flow: &Flow<F::Addr>,
) -> i32 {
    match rewrite::apply::<F>(ctx, l3, packet, flow, false) {
        Some(()) => PASS,
        None => drop(Reason::Rewrite),
    }
}
