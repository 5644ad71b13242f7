//! Networks whose prefix is translated (NPTv6, RFC 6296): each guest has an address of its own outside, by
//! which it is reached as it reaches others.
//!
//! Flows only remember what they would come to once more, so that a known packet is sent as any other is.
//! What has none, and needs none, is translated by itself, and the stack has it then: no checksum changes,
//! whatever the packet is.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_DNAT, FLOW_NAT, FLOW_SNAT, FlowKey, Forward};
use netd_common::policy::{Verdict, evaluate};

use crate::action::{ENTERS, FIRST, OPEN, PASS, drop, reject};
use crate::conntrack::trackable::why_no_flow;
use crate::context::{Hook, Kind, Packet, PacketCtx, Scratch};
use crate::family::Family;
use crate::filter::policy::policy_end;
use crate::filter::{bans, ipsec, isolation};
use crate::nat::inbound::{Inbound, open_inbound};
use crate::parse::icmp::HEADER;
use crate::prefixes::{
    NO_INTERFACE, NO_OUTSIDE, OTHER, TRANSLATED, any, find, is_translated, outside_of,
    prefix_guest, prefix_translate, reason,
};
use crate::records;
use crate::skb::{come_in_again, ifindex, load_into};

/// Offsets in the IPv6 header that an error names (RFC 4443, section 3.4).
const POINTS_AT_SOURCE: u16 = 8;
const POINTS_AT_DESTINATION: u16 = 24;

/// Stage: a packet of no known flow. Where it is for a guest by its address outside, prepare its flow; [`ENTERS`]
/// when it goes without one, [`FIRST`] when it is for nobody.
#[inline(always)]
pub fn admit<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
        mtu,
        ..
    } = packet_ctx;
    *mtu = POINTS_AT_SOURCE;
    if F::never_forwarded(packet.key.dst) {
        return FIRST;
    }
    let mut found = Forward::default();
    match prefix_guest::<F>(&packet.key.dst, &mut found) {
        OTHER => return FIRST,
        TRANSLATED => {}
        none => {
            *mtu = POINTS_AT_DESTINATION;
            return reject(reason(none));
        }
    }
    let bridge = found.bridge_ifindex;
    let Some(network) = records::network(bridge) else {
        return FIRST;
    };
    let by = if ingress.bridge != 0 {
        ingress.bridge
    } else {
        ingress.ifindex
    };
    let from = policy_end::<F>(by, packet.key.src);
    let is_sibling = ingress.bridge == bridge;
    if is_sibling && !from.in_subnet {
        return reject(Reason::ForeignSource);
    }
    if is_sibling && isolation::keeps_apart::<F>(&found.guest, ingress) {
        return reject(Reason::PortIsolated);
    }
    if let Verdict::Reject(reason) = evaluate(from, policy_end::<F>(bridge, found.guest))
        && !is_sibling
    {
        return reject(reason);
    }
    if why_no_flow(packet).is_some() {
        return ENTERS;
    }
    let inbound = Inbound {
        bridge,
        guest: found.guest,
        port: packet.key.dport,
        device: if ingress.bridge == 0 {
            network.uplink_ifindex
        } else {
            0
        },
        flags: FLOW_DNAT,
    };
    if !open_inbound::<F>(ctx, packet, ingress, &inbound, confirm) {
        return FIRST;
    }
    // A guest of the same network would be answered by the guest itself, who knows it by another address.
    if is_sibling {
        let (result, outside) = outside_of::<F>(packet.key.src);
        if result == NO_OUTSIDE || result == NO_INTERFACE {
            return reject(reason(result));
        }
        if let Some(scratch) = F::scratch() {
            scratch.flow.new_src = outside;
        }
    }
    OPEN
}

/// Put the prepared flow of a guest of `bridge`, which leaves by the device `out`, behind its address outside, if it
/// has one.
#[inline(always)]
pub fn leave<F: Family>(
    scratch: &mut Scratch<F::Addr>,
    key: &FlowKey<F::Addr>,
    bridge: u32,
    out: u32,
) -> Result<(), Reason> {
    if !any::<F>() || !records::network(bridge).is_some_and(is_translated::<F>) {
        return Ok(());
    }
    // The kernel's IPsec is to see a guest's packet as it is.
    if ipsec::any() && ipsec::covers::<F>(key, out) {
        return Ok(());
    }
    match outside_of::<F>(key.src) {
        (OTHER, _) => Ok(()),
        (TRANSLATED, outside) => {
            scratch.flow.flags |= FLOW_NAT | FLOW_SNAT;
            scratch.back.flags |= FLOW_NAT;
            scratch.flow.new_src = outside;
            Ok(())
        }
        (none, _) => Err(reason(none)),
    }
}

/// Stage: a packet that [`admit`] lets in without a flow.
#[inline(always)]
pub fn enters<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;
    // The bridge hands it up, and its own hook sees it.
    if ingress.hook() == Hook::Port {
        return PASS;
    }
    let mut found = Forward::default();
    if !find::<F>(&packet.key.dst, &mut found) {
        return drop(Reason::NoOutside);
    }
    // A copy: see `conntrack/life.rs`.
    let mut src = packet.key.src;
    if bans::any() && ingress.bridge == 0 && bans::holds::<F>(found.bridge_ifindex, &src) != 0 {
        return drop(Reason::Banned);
    }
    if ingress.bridge == found.bridge_ifindex {
        let (result, outside) = outside_of::<F>(src);
        if result == TRANSLATED {
            src = outside;
        }
    }
    if translate_quote::<F>(ctx, packet, F::SRC, 1).is_none()
        || F::write_header(ctx, l3, &src, &found.guest, 0, true, false).is_none()
    {
        return drop(Reason::Rewrite);
    }
    if records::has_bridged_rules(ifindex(ctx)) {
        return come_in_again(ctx);
    }
    PASS
}

/// Stage: a packet of no flow that leaves by the stack, from a guest whose address is another outside, or an error
/// about one to such a guest.
#[inline(always)]
pub fn leaves<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx { packet, .. } = packet_ctx;
    let (result, src) = outside_of::<F>(packet.key.src);
    if result == NO_OUTSIDE || result == NO_INTERFACE {
        return drop(reason(result));
    }
    if translate_quote::<F>(ctx, packet, F::DST, 0).is_none()
        || F::write_header(ctx, l3, &src, &packet.key.dst, 0, true, false).is_none()
    {
        return drop(Reason::Rewrite);
    }
    PASS
}

/// What an error quotes went the other way, so the guest's address is at the other end. Neither its checksums nor
/// the error's notice. `None` when the kernel refuses to change it.
#[inline(always)]
fn translate_quote<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    which: usize,
    inwards: u32,
) -> Option<()> {
    if packet.kind != Kind::IcmpError {
        return Some(());
    }
    let at = packet.l4() + HEADER + which;
    let mut quoted = Forward::default();
    // Too short to tell whose packet that was.
    if load_into(ctx, at, &mut quoted.guest).is_none() {
        return Some(());
    }
    if prefix_translate::<F>(inwards, &mut quoted) != TRANSLATED {
        return Some(());
    }
    ctx.skb.store(at, &quoted.guest, 0).ok()
}
