//! ICMP errors: they belong to the flow whose packet they quote (RFC 5508, section 4.2).

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, Flow4, FlowKey4};
use netd_common::checksum::{difference, sum2, sum4, update};
use netd_common::flow::proto;
use network_types::icmp::Icmpv4Hdr;
use network_types::ip::Ipv4Hdr;

use crate::packet::{Packet, icmp_type, ifindex};
use crate::path::{NOBODY, redirect};
use crate::{FIRST, PASS, drops, flow, packet, rewrite};

/// What an error quotes: the packet as its sender's side saw it.
struct Quote {
    /// Addresses and ports of the quoted packet, turned round: the key of the direction in which
    /// the error travels.
    key: FlowKey4,
    /// Offset of the quoted IP header.
    l3: usize,
    /// Offset of the quoted transport header.
    l4: usize,
}

/// Read the quote. `None` when it names no flow: cut short, a fragment, another protocol.
#[inline(always)]
fn quote(ctx: &TcContext, packet: &Packet) -> Option<Quote> {
    let l3 = packet.l4() + Icmpv4Hdr::LEN;
    let ip: [u8; Ipv4Hdr::LEN] = ctx.load(l3).ok()?;
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header_len < Ipv4Hdr::LEN {
        return None;
    }
    // Only the part with offset 0 quotes ports.
    if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
        return None;
    }
    let l4 = l3 + header_len;
    // RFC 792 promises eight bytes; what follows the packet in its frame is none of them.
    if l4 + 8 > packet.end as usize {
        return None;
    }
    let head: [u8; 8] = ctx.load(l4).ok()?;
    let mut key = FlowKey4 {
        src: [ip[16], ip[17], ip[18], ip[19]],
        dst: [ip[12], ip[13], ip[14], ip[15]],
        sport: [head[2], head[3]],
        dport: [head[0], head[1]],
        proto: ip[9],
        zero: [0; 3],
    };
    match ip[9] {
        proto::TCP | proto::UDP => {}
        proto::ICMP => {
            let id = [head[4], head[5]];
            (key.sport, key.dport) = match head[0] {
                icmp_type::ECHO => ([0; 2], id),
                icmp_type::ECHO_REPLY => (id, [0; 2]),
                _ => return None,
            };
        }
        _ => return None,
    }
    Some(Quote { key, l3, l4 })
}

/// Forward an error that came in from the guests of `bridge` (0: from outside), translated like
/// the flow it belongs to and by the flow's path. [`FIRST`] when it belongs to no flow.
#[inline(always)]
pub fn forward(ctx: &TcContext, l3: usize, packet: &Packet, bridge: u32) -> i32 {
    let Some(quote) = quote(ctx, packet) else {
        return FIRST;
    };
    let Some(flow) = flow::find(&quote.key) else {
        return FIRST;
    };
    if flow.in_network != bridge {
        return FIRST;
    }
    let stack = l3 != packet::ETH
        || flow.out_ifindex == 0
        || packet.ttl <= 1
        || packet.options
        || packet.wire_len > u32::from(flow.out_mtu);
    // A guest's error that the stack must handle is translated where it leaves: before, its source
    // would be the host's own address, and the stack takes such a packet for a forged one.
    if stack && bridge != 0 {
        return PASS;
    }
    if translate(ctx, l3, packet, &quote, flow, !stack).is_none() {
        return drops::drop(Reason::Rewrite);
    }
    if stack {
        return PASS;
    }
    if rewrite::set_macs(ctx, flow.out_dmac, flow.out_smac).is_none() {
        return drops::drop(Reason::Rewrite);
    }
    redirect(flow.out_ifindex, NOBODY)
}

/// Translate an error that the host's own stack sends about a packet it could not forward: it
/// quotes a guest's address, which the other side must not see. `None` when it is about something
/// else.
#[inline(always)]
pub fn translate_at_egress(ctx: &TcContext, l3: usize, packet: &Packet) -> Option<i32> {
    let quote = quote(ctx, packet)?;
    let flow = flow::find(&quote.key)?;
    // Only what leaves the guest's network: an error to the guest itself shows its own packet.
    if flow.flags & FLOW_NAT == 0
        || flow.new_src == quote.key.src
        || flow.in_network == ifindex(ctx)
    {
        return None;
    }
    Some(match translate(ctx, l3, packet, &quote, flow, false) {
        Some(()) => PASS,
        None => drops::drop(Reason::Rewrite),
    })
}

/// Rewrite outer and quoted headers; `hop` takes one from the outer TTL.
#[inline(always)]
fn translate(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet,
    quote: &Quote,
    flow: &Flow4,
    hop: bool,
) -> Option<()> {
    let mut ip_diff = 0u64;
    if hop {
        let field = [packet.ttl, packet.key.proto];
        let lower = [packet.ttl.wrapping_sub(1), packet.key.proto];
        ip_diff += u64::from(difference(sum2(field), sum2(lower)));
        ctx.skb.store(l3 + 8, &lower, 0).ok()?;
    }
    if flow.flags & FLOW_NAT != 0 {
        // The error goes to the quoted packet's sender, and comes from its addressee or from a
        // router between; a router behind a translated address hides behind it too.
        let old = packet.key;
        let new_src = if flow.new_src == quote.key.src {
            old.src
        } else {
            flow.new_src
        };
        let new_dst = if old.dst == quote.key.dst {
            flow.new_dst
        } else {
            old.dst
        };
        ip_diff += u64::from(difference(
            sum4(old.src) + sum4(old.dst),
            sum4(new_src) + sum4(new_dst),
        ));
        ctx.skb.store(l3 + 12, &new_src, 0).ok()?;
        ctx.skb.store(l3 + 16, &new_dst, 0).ok()?;
        translate_quote(ctx, packet, quote, flow)?;
    }
    let checksum: [u8; 2] = ctx.load(l3 + 10).ok()?;
    let checksum = update(checksum, netd_common::checksum::fold(ip_diff));
    ctx.skb.store(l3 + 10, &checksum, 0).ok()
}

/// The quoted packet went the other way: its source is this direction's destination. Its
/// checksums change with it, and so does the ICMP checksum that covers them all.
#[inline(always)]
fn translate_quote(ctx: &TcContext, packet: &Packet, quote: &Quote, flow: &Flow4) -> Option<()> {
    let key = &quote.key;
    let addresses = difference(
        sum4(key.src) + sum4(key.dst),
        sum4(flow.new_src) + sum4(flow.new_dst),
    );
    ctx.skb.store(quote.l3 + 12, &flow.new_dst, 0).ok()?;
    ctx.skb.store(quote.l3 + 16, &flow.new_src, 0).ok()?;
    let old: [u8; 2] = ctx.load(quote.l3 + 10).ok()?;
    // The header's sum stays what it was, so the ICMP checksum does not notice addresses.
    ctx.skb
        .store(quote.l3 + 10, &update(old, addresses), 0)
        .ok()?;

    let ports = difference(
        sum2(key.sport) + sum2(key.dport),
        sum2(flow.new_sport) + sum2(flow.new_dport),
    );
    let mut outer = u64::from(ports);
    let field = if key.proto == proto::ICMP {
        let id = if flow.new_dport == [0; 2] {
            flow.new_sport
        } else {
            flow.new_dport
        };
        ctx.skb.store(quote.l4 + 4, &id, 0).ok()?;
        quote.l4 + 2
    } else {
        ctx.skb.store(quote.l4, &flow.new_dport, 0).ok()?;
        ctx.skb.store(quote.l4 + 2, &flow.new_sport, 0).ok()?;
        quote.l4 + if key.proto == proto::UDP { 6 } else { 16 }
    };
    // The transport checksum may lie beyond the end of a short quote: then there is none to keep.
    if field + 2 <= packet.end as usize
        && let Ok(old) = ctx.load::<[u8; 2]>(field)
        && !(key.proto == proto::UDP && old == [0; 2])
    {
        let covered = if key.proto == proto::ICMP {
            0
        } else {
            u64::from(addresses)
        };
        let new = update(old, netd_common::checksum::fold(covered + u64::from(ports)));
        ctx.skb.store(field, &new, 0).ok()?;
        outer += u64::from(difference(sum2(old), sum2(new)));
    }
    let field = packet.l4() + 2;
    let old: [u8; 2] = ctx.load(field).ok()?;
    ctx.skb
        .store(field, &update(old, netd_common::checksum::fold(outer)), 0)
        .ok()
}
