//! ICMP: its messages, and its errors, which belong to the flow whose packet they quote (RFC 5508,
//! section 4.2; RFC 4443).

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, Flow, FlowKey};
use netd_common::checksum::{difference, fold, sum2, update};
use netd_common::flow::proto;

use crate::family::Family;
use crate::maps::Seen;
use crate::packet::{Kind, Packet, has_ports, ifindex};
use crate::path::{needs_stack, redirect};
use crate::{FIRST, PASS, drops, flow, rewrite};

/// Length of the header before the quoted packet, in both families.
pub const HEADER: usize = 8;

/// Types of ICMP messages (RFC 792, RFC 950).
mod v4 {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
    pub const INFORMATION: u8 = 15;
    pub const INFORMATION_REPLY: u8 = 16;
    pub const ADDRESS_MASK: u8 = 17;
    pub const ADDRESS_MASK_REPLY: u8 = 18;
}

/// Types of ICMPv6 messages (RFC 4443).
mod v6 {
    pub const UNREACHABLE: u8 = 1;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
}

/// What a type of message means.
pub struct Message {
    /// `Kind::Flow` for queries and their answers.
    pub kind: Kind,
    /// It answers a query.
    pub answer: bool,
    /// Which query (its type), 0 for echo: part of the flow's key.
    pub query: u8,
}

/// A message of the ICMP with protocol number `icmp`.
#[inline(always)]
pub fn read(icmp: u8, message: u8) -> Message {
    let (kind, answer, query) = if icmp == proto::ICMP {
        match message {
            v4::ECHO => (Kind::Flow, false, 0),
            v4::ECHO_REPLY => (Kind::Flow, true, 0),
            v4::TIMESTAMP | v4::INFORMATION | v4::ADDRESS_MASK => (Kind::Flow, false, message),
            v4::TIMESTAMP_REPLY | v4::INFORMATION_REPLY | v4::ADDRESS_MASK_REPLY => {
                (Kind::Flow, true, message - 1)
            }
            v4::UNREACHABLE
            | v4::SOURCE_QUENCH
            | v4::REDIRECT
            | v4::TIME_EXCEEDED
            | v4::PARAMETER_PROBLEM => (Kind::IcmpError, false, 0),
            _ => (Kind::Icmp, false, 0),
        }
    } else {
        match message {
            v6::ECHO => (Kind::Flow, false, 0),
            v6::ECHO_REPLY => (Kind::Flow, true, 0),
            v6::UNREACHABLE..=v6::PARAMETER_PROBLEM => (Kind::IcmpError, false, 0),
            _ => (Kind::Icmp, false, 0),
        }
    };
    Message {
        kind,
        answer,
        query,
    }
}

/// What an error quotes: the packet as its sender's side saw it.
#[repr(C)]
pub struct Quote<A> {
    /// Addresses and ports of the quoted packet, turned round: the key of the direction in which
    /// the error travels.
    pub key: FlowKey<A>,
    /// Offset of the quoted IP header from the start of the frame.
    l3: u32,
    /// Offset of the quoted transport header.
    l4: u32,
    /// The quoted packet answers an ICMP query.
    answer: bool,
}

impl<A> Quote<A> {
    /// Offset of the quoted IP header. The masks tell the verifier that offsets are small.
    #[inline(always)]
    fn l3(&self) -> usize {
        (self.l3 & 255) as usize
    }

    /// Offset of the quoted transport header.
    #[inline(always)]
    fn l4(&self) -> usize {
        (self.l4 & 255) as usize
    }
}

/// Read bytes of the packet into a value of a map; `None` when the packet ends before.
#[inline(always)]
pub fn load_into<T>(ctx: &TcContext, offset: usize, to: &mut T) -> Option<()> {
    // SAFETY: `to` has the length said, and every pattern of bytes is a value of the integers and
    // byte arrays this is used with.
    let result = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            offset as u32,
            core::ptr::from_mut(to).cast(),
            size_of::<T>() as u32,
        )
    };
    if result == 0 { Some(()) } else { None }
}

/// Read the quote. `None` when it names no flow: cut short, a later fragment, an ICMP error.
#[inline(always)]
fn read_quote<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    quote: &mut Quote<F::Addr>,
) -> Option<()> {
    let l3 = packet.l4() + HEADER;
    quote.l3 = l3 as u32;
    quote.answer = false;
    let (l4, protocol) = F::read_quoted(ctx, l3)?;
    quote.l4 = l4;
    let key = &mut quote.key;
    load_into(ctx, l3 + F::SRC, &mut key.dst)?;
    load_into(ctx, l3 + F::DST, &mut key.src)?;
    key.sport = [0; 2];
    key.dport = [0; 2];
    key.proto = protocol;
    key.zero = [0; 3];
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
        let message = read(F::ICMP, head[0]);
        if message.kind != Kind::Flow {
            return None;
        }
        let (id, query) = ([head[4], head[5]], [0, message.query]);
        quote.answer = message.answer;
        (key.sport, key.dport) = if message.answer {
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

/// Stage: forward an error that came in from the guests of `source.bridge` (0: from outside),
/// translated like the flow it belongs to and by the flow's path. [`FIRST`] when it belongs to no
/// flow.
#[inline(always)]
pub fn forward<F: Family>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let l3 = seen.l3();
    let Seen {
        packet,
        source,
        quote,
        ..
    } = seen;

    // A fragment of an error quotes what no checksum can be made right for.
    if packet.first || F::never_forwarded(packet.key.src) {
        return FIRST;
    }
    if read_quote::<F>(ctx, packet, quote).is_none() {
        return FIRST;
    }
    let Some(flow) = flow::find::<F>(&quote.key) else {
        return FIRST;
    };
    if flow.in_network != source.bridge {
        return FIRST;
    }
    let stack = needs_stack(l3, packet, flow);
    // A guest's error that the stack must handle is translated where it leaves: before, its source
    // would be the host's own address, and the stack takes such a packet for a forged one.
    if stack && source.bridge != 0 {
        return PASS;
    }
    if translate::<F>(ctx, l3, packet, quote, flow, !stack).is_none() {
        return drops::drop(Reason::Rewrite);
    }
    if stack {
        return PASS;
    }
    if rewrite::set_macs(ctx, flow.out_dmac, flow.out_smac).is_none() {
        return drops::drop(Reason::Rewrite);
    }
    redirect::<F>(flow.out_ifindex, F::ZERO)
}

/// Stage: translate an error that leaves by the stack: the host's own about a packet it could not
/// forward quotes a guest's address, which the other side must not see. [`FIRST`] when it is about
/// something else.
#[inline(always)]
pub fn leave<F: Family>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let l3 = seen.l3();
    let Seen { packet, quote, .. } = seen;

    if read_quote::<F>(ctx, packet, quote).is_none() {
        return FIRST;
    }
    let Some(flow) = flow::find::<F>(&quote.key) else {
        return FIRST;
    };
    // Only what leaves the guest's network: an error to the guest itself shows its own packet.
    if flow.flags & FLOW_NAT == 0
        || flow.new_src == quote.key.src
        || flow.in_network == ifindex(ctx)
    {
        return FIRST;
    }
    match translate::<F>(ctx, l3, packet, quote, flow, false) {
        Some(()) => PASS,
        None => drops::drop(Reason::Rewrite),
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
    ctx.skb.store(quote.l3() + F::SRC, &flow.new_dst, 0).ok()?;
    ctx.skb.store(quote.l3() + F::DST, &flow.new_src, 0).ok()?;
    let mut outer = 0u64;
    if F::INDEX == 0 {
        let field = quote.l3() + 10;
        let old: [u8; 2] = ctx.load(field).ok()?;
        // The header's sum stays what it was, so the ICMP checksum does not notice addresses.
        ctx.skb.store(field, &update(old, addresses), 0).ok()?;
    } else {
        outer += u64::from(addresses) + u64::from(outer_addresses);
    }

    let icmp = key.proto == F::ICMP;
    if icmp || has_ports(key.proto) {
        let ports = difference(
            sum2(key.sport) + sum2(key.dport),
            sum2(flow.new_sport) + sum2(flow.new_dport),
        );
        outer += u64::from(ports);
        if icmp {
            let id = if quote.answer {
                flow.new_sport
            } else {
                flow.new_dport
            };
            ctx.skb.store(quote.l4() + 4, &id, 0).ok()?;
        } else {
            ctx.skb.store(quote.l4(), &flow.new_dport, 0).ok()?;
            ctx.skb.store(quote.l4() + 2, &flow.new_sport, 0).ok()?;
        }
        let field = quote.l4()
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
            if !(icmp && F::INDEX == 0) {
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
