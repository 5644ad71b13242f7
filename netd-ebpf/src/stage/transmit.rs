//! The last act: a packet is sent on its way by its flow.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, Flow};
use netd_common::proto;

use crate::action::{PASS, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::window;
use crate::context::{Hook, Packet, PacketCtx};
use crate::family::Family;
use crate::frame::set_macs;
use crate::nat::rewrite;
use crate::route::next_hop::needs_stack;
use crate::route::redirect::redirect;

/// Stage: send the packet by its flow.
#[inline(always)]
pub fn send<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet,
        ingress,
        confirm,
        ..
    } = packet_ctx;

    match find::<F>(&packet.key) {
        // `next_hop::set_guest` looked for the guest.
        Some(flow)
            if flow.out_bridge != 0 && flow.next_hop.ifindex == 0 && flow.next_hop.mtu == 0 =>
        {
            drop(Reason::NoGuest)
        }
        Some(flow) if flow.in_bridge == ingress.bridge => {
            transmit::<F>(ctx, l3, packet, flow, ingress.hook(), *confirm)
        }
        // Another CPU needed the room.
        _ => drop(Reason::TableFull),
    }
}

/// Stage: translate the packet by its flow, where it leaves by the stack.
#[inline(always)]
pub fn translate<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx { packet, .. } = packet_ctx;

    match find::<F>(&packet.key) {
        Some(flow) if flow.flags & FLOW_NAT != 0 => translated::<F>(ctx, l3, packet, flow),
        _ => drop(Reason::TableFull),
    }
}

/// Send an established packet on its way: past bridge, stack and netfilter when the path allows.
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
    hook: Hook,
    confirm: F::Addr,
) -> i32 {
    flow.packets += 1;
    flow.bytes += u64::from(ctx.len());
    if packet.key.proto == proto::TCP && !packet.no_l4 {
        window::remember(packet, flow);
    }
    // The stack answers with ICMP where that is due, fragments, resolves neighbours. A packet that
    // answers a translated flow is addressed to the host and must be translated first. Not at a
    // port: the bridge hands the packet up to `bridge_ingress`, which would not know the
    // translated one.
    let stack = needs_stack(l3, packet, flow);
    // An answer, or a packet that a mapping lets in; the host's own flows change their port only.
    let translated_destination = flow.flags & FLOW_NAT != 0
        && (flow.new_dst != packet.key.dst || flow.new_dport != packet.key.dport);
    if stack && (!translated_destination || hook == Hook::Port) {
        return PASS;
    }
    if (!stack && set_macs(ctx, flow.next_hop.dmac, flow.next_hop.smac).is_none())
        || rewrite::apply::<F>(ctx, l3, packet, flow, !stack).is_none()
    {
        return drop(Reason::Rewrite);
    }
    if stack {
        PASS
    } else {
        redirect::<F>(flow.next_hop.ifindex, confirm)
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
