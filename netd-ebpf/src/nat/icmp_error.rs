//! ICMP errors, which belong to the flow whose packet they quote (RFC 5508, section 4.2; RFC 4443).

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, FLOW_REPLY, Flow, NextHop};
use netd_common::checksum::{difference, fold, sum2, update};
use netd_common::proto;

use crate::action::{ERROR, FIRST, PASS, drop};
use crate::conntrack::ipsec::{ANY_WAY, BY_STACK, way};
use crate::conntrack::lookup::find;
use crate::conntrack::proof;
use crate::context::{Hook, Kind, Packet, PacketCtx, Quote};
use crate::family::Family;
use crate::filter::bans;
use crate::filter::ipsec;
use crate::frame::{ETH, put_header, set_macs};
use crate::parse::icmp::{self, HEADER};
use crate::parse::transport::has_ports;
use crate::records;
use crate::route::next_hop::{self, needs_stack};
use crate::route::redirect::redirect;
use crate::skb::{come_in_again, ifindex, load_into};

/// Read the quote. `None` when it names no flow: cut short, a later fragment, an ICMP error.
#[inline(always)]
fn read_quote<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    quote: &mut Quote<F::Addr>,
) -> Option<()> {
    let l3 = packet.l4() + HEADER;
    quote.l3 = l3 as u32;
    quote.is_reply = false;
    let (l4, protocol) = F::read_quoted(ctx, l3)?;
    quote.l4 = l4;
    let key = &mut quote.key;
    load_into(ctx, l3 + F::SRC, &mut key.dst)?;
    load_into(ctx, l3 + F::DST, &mut key.src)?;
    key.sport = [0; 2];
    key.dport = [0; 2];
    key.proto = protocol;
    key.pad = 0;
    key.zone = 0;
    if protocol != F::ICMP && !has_ports(protocol) {
        return Some(());
    }
    let l4 = (l4 & 255) as usize;
    // RFC 792 promises eight bytes; what follows the packet in its frame is none of them.
    if l4 + 8 > packet.end as usize {
        return None;
    }
    let head: [u8; 8] = ctx.load(l4).ok()?;
    if protocol == F::ICMP {
        let message = icmp::read(F::ICMP, head[0]);
        if message.kind != Kind::Flow {
            return None;
        }
        let (id, query) = ([head[4], head[5]], [0, message.query]);
        quote.is_reply = message.is_reply;
        (key.sport, key.dport) = if message.is_reply {
            (id, query)
        } else {
            (query, id)
        };
    } else {
        key.sport = [head[2], head[3]];
        key.dport = [head[0], head[1]];
    }
    Some(())
}

/// The entry of the flow that an error's sender may speak of. The error goes to whoever sent what it
/// quotes: to anybody else, a group of hosts say, it is none. And where the identifier of a query is the
/// number of a query, what is quoted may be one of the other side's.
#[inline(always)]
fn flow_of<F: Family>(
    packet: &Packet<F::Addr>,
    quote: &Quote<F::Addr>,
) -> Option<&'static mut Flow<F::Addr>> {
    let flow = find::<F>(&quote.key)?;
    let answers = flow.flags & FLOW_REPLY != 0;
    // One question: the verifier follows each on its own.
    let is_other = (quote.key.proto == F::ICMP) & (quote.is_reply == answers);
    if is_other | (packet.key.dst != quote.key.dst) {
        return None;
    }
    Some(flow)
}

/// Stage: of which flow is an error that came in from the guests of `ingress.bridge` (0: from outside),
/// and which way is that flow's? [`ERROR`] to go on with it, [`FIRST`] when it belongs to no flow.
#[inline(always)]
pub fn belongs<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        quote,
        decision,
        ..
    } = packet_ctx;

    // A fragment of an error quotes what no checksum can be made right for.
    if packet.first_fragment || F::never_forwarded(packet.key.src) {
        return FIRST;
    }
    if read_quote::<F>(ctx, packet, quote).is_none() {
        return FIRST;
    }
    let Some(flow) = flow_of::<F>(packet, quote) else {
        return FIRST;
    };
    if flow.in_bridge != ingress.bridge {
        return FIRST;
    }
    if bans::any() && ingress.bridge == 0 && bans::holds::<F>(flow.out_bridge, &packet.key.src) != 0
    {
        return drop(Reason::Banned);
    }
    // The flow's own packets may not have come this far since the way has changed. Where the host's rules
    // have a say, the stack knows it, and the flow is to find by itself that it has moved.
    if flow.epoch != records::epoch()
        && !proof::is_needed(flow)
        && !next_hop::renew::<F>(ctx, &quote.key, flow, ingress.ifindex, &mut decision.route)
    {
        return FIRST;
    }
    ERROR
}

/// Stage: forward such an error, translated like its flow and by the flow's path.
#[inline(always)]
pub fn forward<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet,
        ingress,
        quote,
        ..
    } = packet_ctx;

    let Some(flow) = find::<F>(&quote.key) else {
        return FIRST;
    };
    let is_stale = flow.epoch != records::epoch();
    let stack = needs_stack(packet, flow)
        || next_hop::is_makeshift(flow)
        || (proof::is_needed(flow) && (is_stale || !proof::is_proven(flow)))
        || (ingress.bridge == 0 && records::is_filtered(ingress.ifindex));
    if ipsec::any() {
        match way::<F>(&quote.key) {
            ANY_WAY => {}
            // Its source is not translated, or there would be none.
            BY_STACK => return PASS,
            _ => return drop(Reason::IpsecPolicy),
        }
    }
    // A guest's error that the stack must handle is translated where it leaves: before, its source
    // would be the host's own address, and the stack takes such a packet for a forged one. One to an
    // address that hides another network's guest would not leave; the bridge hands it up first
    // (`stage::transmit`).
    if stack
        && ingress.bridge != 0
        && (ingress.hook() == Hook::Port || flow.new_dst == quote.key.dst)
    {
        return PASS;
    }
    if translate::<F>(ctx, l3, packet, quote, flow, !stack).is_none() {
        return drop(Reason::Rewrite);
    }
    if stack {
        return match ingress.hook() {
            Hook::Uplink if records::has_bridged_rules(ingress.ifindex) => come_in_again(ctx),
            _ => PASS,
        };
    }
    let NextHop { dmac, smac, .. } = flow.next_hop;
    let framed = if l3 == ETH {
        set_macs(ctx, dmac, smac)
    } else {
        put_header(ctx, dmac, smac, F::ETHER_TYPE)
    };
    if framed.is_none() {
        return drop(Reason::Rewrite);
    }
    redirect::<F>(flow.next_hop.ifindex, F::ZERO)
}

/// Stage: translate an error that leaves by the stack: the host's own about a packet it could not
/// forward quotes a guest's address, which the other side must not see. [`FIRST`] when it is about
/// something else.
#[inline(always)]
pub fn leave<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx { packet, quote, .. } = packet_ctx;

    if read_quote::<F>(ctx, packet, quote).is_none() {
        return FIRST;
    }
    let Some(flow) = flow_of::<F>(packet, quote) else {
        // Another network's guest has sent it, and it was translated where the bridge handed it up: it
        // quotes what the guest here has sent.
        return match find::<F>(&quote.key.reversed()) {
            Some(flow) if flow.in_bridge == ifindex(ctx) => PASS,
            _ => FIRST,
        };
    };
    // Only what leaves the guest's network: an error to the guest itself shows its own packet.
    if flow.flags & FLOW_NAT == 0 || flow.new_src == quote.key.src || flow.in_bridge == ifindex(ctx)
    {
        return FIRST;
    }
    match translate::<F>(ctx, l3, packet, quote, flow, false) {
        Some(()) => PASS,
        None => drop(Reason::Rewrite),
    }
}

/// Rewrite outer and quoted headers; `hop` takes one from the outer TTL.
#[inline(always)]
fn translate<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    quote: &Quote<F::Addr>,
    flow: &Flow<F::Addr>,
    hop: bool,
) -> Option<()> {
    // The error goes to the quoted packet's sender, and comes from its addressee or from a router
    // between; a router behind a translated address hides behind it too.
    let old = &packet.key;
    let new_src = if flow.new_src == quote.key.src {
        &old.src
    } else {
        &flow.new_src
    };
    let new_dst = if old.dst == quote.key.dst {
        &flow.new_dst
    } else {
        &old.dst
    };
    let diff = difference(
        F::sum(&old.src) + F::sum(&old.dst),
        F::sum(new_src) + F::sum(new_dst),
    );
    let nat = flow.flags & FLOW_NAT != 0;
    if nat {
        translate_quote::<F>(ctx, packet, quote, flow, diff)?;
    }
    F::write_header(ctx, l3, new_src, new_dst, diff, nat, hop)
}

/// The quoted packet went the other way: its source is this direction's destination. Its
/// checksums change with it, and so does the ICMP checksum that covers them all; in IPv6 that
/// covers the outer addresses, too, whose difference is `outer_addresses`.
#[inline(always)]
fn translate_quote<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    quote: &Quote<F::Addr>,
    flow: &Flow<F::Addr>,
    outer_addresses: u16,
) -> Option<()> {
    let key = &quote.key;
    let addresses = difference(
        F::sum(&key.src) + F::sum(&key.dst),
        F::sum(&flow.new_src) + F::sum(&flow.new_dst),
    );
    ctx.skb
        .store(quote.l3_offset() + F::SRC, &flow.new_dst, 0)
        .ok()?;
    ctx.skb
        .store(quote.l3_offset() + F::DST, &flow.new_src, 0)
        .ok()?;
    let mut outer = 0u64;
    if !F::IS_IPV6 {
        let field = quote.l3_offset() + 10;
        let old: [u8; 2] = ctx.load(field).ok()?;
        // The header's sum stays what it was, so the ICMP checksum does not notice addresses.
        ctx.skb.store(field, &update(old, addresses), 0).ok()?;
    } else {
        outer += u64::from(addresses) + u64::from(outer_addresses);
    }

    let is_icmp = key.proto == F::ICMP;
    if is_icmp || has_ports(key.proto) {
        let ports = difference(
            sum2(key.sport) + sum2(key.dport),
            sum2(flow.new_sport) + sum2(flow.new_dport),
        );
        outer += u64::from(ports);
        if is_icmp {
            let id = if quote.is_reply {
                flow.new_sport
            } else {
                flow.new_dport
            };
            ctx.skb.store(quote.l4_offset() + 4, &id, 0).ok()?;
        } else {
            ctx.skb.store(quote.l4_offset(), &flow.new_dport, 0).ok()?;
            ctx.skb
                .store(quote.l4_offset() + 2, &flow.new_sport, 0)
                .ok()?;
        }
        let field = quote.l4_offset()
            + match key.proto {
                proto::TCP => 16,
                proto::ICMP | proto::ICMPV6 => 2,
                _ => 6,
            };
        // The transport checksum may lie beyond the end of a short quote: then there is none to
        // keep. SCTP's would need the whole packet.
        if key.proto != proto::SCTP
            && field + 2 <= packet.end as usize
            && let Ok(old) = ctx.load::<[u8; 2]>(field)
            && !(key.proto == proto::UDP && old == [0; 2])
        {
            let mut covered = u64::from(ports);
            if !is_icmp || F::IS_IPV6 {
                covered += u64::from(addresses);
            }
            let mut new = update(old, fold(covered));
            // RFC 768: zero would say that there is none.
            if key.proto == proto::UDP && new == [0; 2] {
                new = [0xff; 2];
            }
            ctx.skb.store(field, &new, 0).ok()?;
            outer += u64::from(difference(sum2(old), sum2(new)));
        }
    }
    let field = packet.l4() + 2;
    let old: [u8; 2] = ctx.load(field).ok()?;
    ctx.skb.store(field, &update(old, fold(outer)), 0).ok()
}
