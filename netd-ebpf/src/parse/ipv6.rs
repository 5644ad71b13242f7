//! IPv6 (RFC 8200).

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_sock_tuple};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    Addr6, BanKey, BindingKey, Device, Endpoint, EndpointKey, FamilyConfig, Flow, FlowKey,
    Fragment, FragmentKey, IpsecPolicy, Network, Slot,
};
use netd_common::checksum::{difference, sum2};
use netd_common::proto;
use network_types::eth::EtherType;
use network_types::ip::Ipv6Hdr;

use crate::context::{Kind, Packet, Unread, Words};
use crate::family::{Family, V6, family_maps};
use crate::frame::{Frame, at};
use crate::parse::transport::read_transport;
use crate::skb::{gso_size, has_protocol, pull};
use crate::verified::verified;

/// Extension headers (IANA protocol numbers).
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

/// Extension headers that are walked.
const MAX_HEADERS: u32 = 8;
/// Largest offset of the transport header from the start of the frame.
const MAX_OFFSET: u32 = 200;

/// Bits of [`extension_headers`]' result, above protocol and offset.
mod walk {
    pub const OPTIONS: u64 = 1 << 24;
    pub const ROUTED: u64 = 1 << 25;
    pub const FIRST: u64 = 1 << 26;
    pub const LATER: u64 = 1 << 27;
    pub const BROKEN: u64 = 1 << 28;
}

impl Family for V6 {
    type Addr = Words;
    const IS_IPV6: bool = true;
    const AF: u8 = 10;
    const HEADER: usize = Ipv6Hdr::LEN;
    const SRC: usize = 8;
    const DST: usize = 24;
    const ICMP: u8 = proto::ICMPV6;
    const UNREACHABLE_PORT: [u8; 2] = [1, 4];
    const ETHER_TYPE: [u8; 2] = [0x86, 0xdd];
    const PROHIBITED: [u8; 2] = [1, 1];
    const UNREACHABLE_HOST: [u8; 2] = [1, 3];
    const TIME_EXCEEDED: [u8; 2] = [3, 0];
    const TOO_LARGE: [u8; 2] = [2, 0];
    const PARAMETER_PROBLEM: [u8; 2] = [4, 0];
    const ZERO: Words = [0; 4];

    #[inline(always)]
    fn has_bits(address: &Words, bits: &Words, mask: &Words) -> bool {
        let other = |i: usize| (address[i] ^ bits[i]) & mask[i];
        other(0) | other(1) | other(2) | other(3) == 0
    }

    #[inline(always)]
    fn sum(address: &Words) -> u64 {
        let [a, b, c, d] = *address;
        u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
    }

    #[inline(always)]
    fn never_forwarded(address: Words) -> bool {
        let [first, second, ..] = address[0].to_ne_bytes();
        let [high, low] = halves(address);
        // ff00::/8, fe80::/10 and ::1. Linux does forward packets to ::, so they are judged.
        first == 0xff || (first == 0xfe && second & 0xc0 == 0x80) || (high == 0 && low == 1)
    }

    #[inline(always)]
    fn hash(address: Words) -> u32 {
        let [high, low] = halves(address);
        ((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    #[inline(always)]
    fn pick(first: Words, last: Words, n: u32) -> Words {
        let ([_, start], [_, end]) = (halves(first), halves(last));
        let span = end.wrapping_sub(start);
        // The number of addresses is span + 1, which may not fit.
        let offset = if span == u64::MAX {
            u64::from(n)
        } else {
            u64::from(n) % (span + 1)
        };
        let low = start.wrapping_add(offset);
        let [a, b, ..] = first;
        [a, b, ((low >> 32) as u32).to_be(), (low as u32).to_be()]
    }

    #[inline(always)]
    fn within(address: Words, first: Words, last: Words) -> bool {
        let ([high, low], [start, from], [end, to]) =
            (halves(address), halves(first), halves(last));
        (start, from) <= (high, low) && (high, low) <= (end, to)
    }

    #[inline(always)]
    fn config(network: &Network) -> FamilyConfig<Words> {
        let config = &network.v6;
        FamilyConfig {
            gateway: words(&config.gateway),
            first: words(&config.first),
            last: words(&config.last),
            mode: config.mode,
            pad: config.pad,
        }
    }

    #[inline(always)]
    fn address(device: &Device) -> Words {
        words(&device.address6)
    }

    #[inline(always)]
    fn ask(fib: &mut bpf_fib_lookup, src: Words, dst: Words, tos: u32) {
        fib.__bindgen_anon_2.flowinfo = tos;
        fib.__bindgen_anon_3.ipv6_src = src;
        fib.__bindgen_anon_4.ipv6_dst = dst;
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> Words {
        // SAFETY: `ask` and the helper write this field of the union.
        unsafe { fib.__bindgen_anon_3.ipv6_src }
    }

    #[inline(always)]
    fn next_hop(fib: &bpf_fib_lookup) -> Words {
        // SAFETY: as for `source`.
        unsafe { fib.__bindgen_anon_4.ipv6_dst }
    }

    #[inline(always)]
    fn route_mtu(_: u32, _: Words) -> u16 {
        u16::MAX
    }

    #[inline(always)]
    fn next_hop_words(address: Words) -> [u32; 4] {
        address
    }

    #[inline(always)]
    fn socket_tuple(key: &FlowKey<Words>, tuple: &mut bpf_sock_tuple) -> u32 {
        // SAFETY: the tuple was zeroed, and this is the field of the length returned.
        let ipv6 = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
        ipv6.saddr = key.src;
        ipv6.daddr = key.dst;
        ipv6.sport = u16::from_ne_bytes(key.sport);
        ipv6.dport = u16::from_ne_bytes(key.dport);
        size_of_val(ipv6) as u32
    }

    #[inline(always)]
    fn is(ctx: &TcContext) -> bool {
        has_protocol(ctx, EtherType::Ipv6 as u16)
    }

    #[inline(always)]
    fn parse(ctx: &TcContext, l3: usize, packet: &mut Packet<Words>) -> Result<(), Unread> {
        if !Self::is(ctx) {
            return Err(Unread::Foreign);
        }
        if ctx.data() + l3 + Ipv6Hdr::LEN + 20 > ctx.data_end() {
            pull(ctx, l3 + Ipv6Hdr::LEN + 20);
        }
        let Some(ip) = at::<[u32; 10]>(ctx, l3) else {
            return Err(Unread::Malformed);
        };
        // SAFETY: `at` proved that the header is in the packet.
        let [w0, w1, s0, s1, s2, s3, d0, d1, d2, d3] = unsafe { *ip };
        let [version, ..] = w0.to_ne_bytes();
        let [high, low, next, ttl] = w1.to_ne_bytes();
        if version >> 4 != 6 {
            return Err(Unread::Malformed);
        }
        let payload = u32::from(u16::from_be_bytes([high, low]));
        let carried = ctx.len() - l3 as u32;
        // Of oversized GSO packets ("BIG TCP") the header does not tell the length.
        let ip_len = if payload == 0 && gso_size(ctx) != 0 {
            carried
        } else {
            payload + Ipv6Hdr::LEN as u32
        };
        if ip_len > carried {
            return Err(Unread::Malformed);
        }
        let l4 = (l3 + Ipv6Hdr::LEN) as u32;
        let (src, dst) = ([s0, s1, s2, s3], [d0, d1, d2, d3]);
        *packet = Packet {
            tos: w0 & u32::from_be(0x0fff_ffff),
            ttl,
            ..Packet::new(src, dst, next, l3 as u32, l4, ip_len)
        };
        if is_extension(next) {
            let walked = extension_headers(ctx, l4, u32::from(next));
            packet.key.proto = walked as u8;
            packet.l4_offset = (walked >> 8) as u32 & 255;
            packet.options = walked & (walk::OPTIONS | walk::ROUTED) != 0;
            packet.first_fragment = walked & walk::FIRST != 0;
            if walked & (walk::FIRST | walk::LATER) != 0 {
                let id = (walked >> 32) as u32 & 255;
                packet.id = ctx.load::<[u8; 4]>(id as usize).unwrap_or_default();
            }
            if walked & walk::BROKEN != 0 {
                return Ok(());
            }
            if walked & walk::LATER != 0 {
                packet.kind = Kind::Fragment;
                return Ok(());
            }
            pull(ctx, packet.l4() + 20);
        }
        let header_len = packet.l4_offset.wrapping_sub(l3 as u32);
        if header_len > ip_len {
            return Ok(());
        }
        read_transport(ctx, packet, proto::ICMPV6, l3, ip_len - header_len);
        Ok(())
    }

    /// A routing header with stations left (RFC 8200, 4.4): the packet's destination is not where
    /// it ends.
    #[inline(always)]
    fn has_source_route(ctx: &TcContext, l3: usize) -> bool {
        let Ok(next) = ctx.load::<u8>(l3 + 6) else {
            return false;
        };
        let start = (l3 + Ipv6Hdr::LEN) as u32;
        is_extension(next) && extension_headers(ctx, start, u32::from(next)) & walk::ROUTED != 0
    }

    #[inline(always)]
    fn may_be_fragmented(_: &TcContext, _: usize) -> bool {
        // Senders alone do that (RFC 8200, section 4.5).
        false
    }

    #[inline(always)]
    fn read_quoted(ctx: &TcContext, l3: usize) -> Option<(u32, u8)> {
        let version: u8 = ctx.load(l3).ok()?;
        let next: u8 = ctx.load(l3 + 6).ok()?;
        let l4 = (l3 + Ipv6Hdr::LEN) as u32;
        if version >> 4 != 6 {
            return None;
        }
        if !is_extension(next) {
            return Some((l4, next));
        }
        let walked = extension_headers(ctx, l4, u32::from(next));
        if walked & (walk::BROKEN | walk::LATER) != 0 {
            return None;
        }
        Some(((walked >> 8) as u32 & 255, walked as u8))
    }

    #[inline(always)]
    fn write_header(
        ctx: &impl Frame,
        l3: usize,
        src: &Words,
        dst: &Words,
        _: u16,
        nat: bool,
        hop: bool,
    ) -> Option<()> {
        let ip = at::<[u32; 10]>(ctx, l3)?;
        let mut change = 0;
        // SAFETY: `at` proved that the header is in the packet; all views end within it.
        unsafe {
            if hop {
                let field = ip.cast::<u16>().add(3);
                let [next, ttl] = (*field).to_ne_bytes();
                let lower = [next, ttl.wrapping_sub(1)];
                change = difference(u64::from(*field), sum2(lower));
                *field = u16::from_ne_bytes(lower);
            }
            if nat {
                let addresses = ip.cast::<[u32; 4]>();
                // Source and destination begin after eight bytes.
                *addresses.byte_add(8) = *src;
                *addresses.byte_add(24) = *dst;
            }
        }
        if hop {
            // No checksum covers the hop limit.
            ctx.changed(change);
        }
        Some(())
    }

    family_maps!(Words: FLOWS6, SLOTS6, FRAGMENTS6, ENDPOINTS6, ADDRESSES6, SUBNETS6, POOLS6,
        FORWARDS6, BINDINGS6, BANS6, POLICIES6, SCRATCH6, PACKET_CTX6, ROUTING6, POLICY_WALK6);
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        extension::HOP_BY_HOP | extension::ROUTING | extension::FRAGMENT | extension::DESTINATION
    )
}

verified! {
    /// Walk the extension headers from `start` on, the first of which is of type `next`. Returns
    /// protocol (8 bits), offset of its header (8 bits from bit 8), `walk` bits, and the offset of a
    /// fragment's identification (8 bits from bit 32).
    fn extension_headers(ctx: Ctx, start: u32, next: u32) -> u64
        = walk_extension_headers, else walk::BROKEN, as extension_headers;

    /// Read the extension header of type `kind` at `at`. Returns the type of the one behind it (8
    /// bits), its own length (12 bits from bit 8), `walk` bits, `BROKEN` where it cannot be read, and
    /// the offset of a fragment's identification as above.
    ///
    /// The verifier knows nothing of what it returns: else it would follow every row of headers.
    fn extension_header(ctx: Ctx, at: u32, kind: u32) -> u64
        = read_extension_header, else walk::BROKEN, as extension_header;
}

#[inline(always)]
fn walk_extension_headers(ctx: &TcContext, start: u32, next: u32) -> u64 {
    let (mut at, mut next, mut bits) = (start, next, 0u64);
    let mut i = 0;
    while i < MAX_HEADERS && is_extension(next as u8) && at <= MAX_OFFSET {
        i += 1;
        let header = extension_header(ctx, at, next);
        if header & walk::BROKEN != 0 {
            break;
        }
        bits |= header & !0x00ff_ffff;
        at += (header >> 8) as u32 & 0xfff;
        next = header as u32 & 255;
        if bits & walk::LATER != 0 {
            break;
        }
    }
    if at > MAX_OFFSET || (is_extension(next as u8) && bits & walk::LATER == 0) {
        bits |= walk::BROKEN;
        at = start;
    }
    bits | u64::from(next) | u64::from(at & 255) << 8
}

#[inline(always)]
fn read_extension_header(ctx: &TcContext, at: u32, kind: u32) -> u64 {
    let Ok([next, length, third, fourth]) = ctx.load::<[u8; 4]>(at as usize) else {
        return walk::BROKEN;
    };
    if kind as u8 == extension::FRAGMENT {
        let offset = u16::from_be_bytes([third, fourth]);
        let mut bits = u64::from(next) | 8 << 8 | u64::from(at + 4) << 32;
        if offset & 0xfff8 != 0 {
            bits |= walk::LATER;
        } else if offset & 1 != 0 {
            bits |= walk::FIRST;
        }
        return bits;
    }
    let mut bits = u64::from(next) | (((u64::from(length) + 1) * 8) << 8);
    if kind as u8 == extension::HOP_BY_HOP {
        bits |= walk::OPTIONS;
    }
    // Segments left.
    if kind as u8 == extension::ROUTING && fourth != 0 {
        bits |= walk::ROUTED;
    }
    bits
}

/// The two halves of an address as numbers (host order).
#[inline(always)]
fn halves([a, b, c, d]: Words) -> [u64; 2] {
    let join =
        |high: u32, low: u32| u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low));
    [join(a, b), join(c, d)]
}

/// An address from a record of the agent's.
#[inline(always)]
fn words(address: &Addr6) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
