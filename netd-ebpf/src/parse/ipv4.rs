//! IPv4 (RFC 791).

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_sock_tuple};
use aya_ebpf::btf_maps::lpm_trie;
use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    BanKey, BindingKey, Device, Endpoint, EndpointKey, FamilyConfig, Flow, FlowKey, Fragment,
    FragmentKey, IpsecPolicy, Network, RouteKey, Slot,
};
use netd_common::checksum::fold;
use netd_common::proto;
use network_types::eth::EtherType;
use network_types::ip::Ipv4Hdr;

use crate::context::{Kind, Packet, Unread};
use crate::family::{Family, V4, family_maps};
use crate::frame::{Frame, at};
use crate::maps::ROUTE_MTUS;
use crate::parse::transport::read_transport;
use crate::skb::{gso_size, has_protocol, pull};
use crate::verified::verified;

impl Family for V4 {
    type Addr = u32;
    const IS_IPV6: bool = false;
    const AF: u8 = 2;
    const HEADER: usize = Ipv4Hdr::LEN;
    const SRC: usize = 12;
    const DST: usize = 16;
    const ICMP: u8 = proto::ICMP;
    const UNREACHABLE_PORT: [u8; 2] = [3, 3];
    const ETHER_TYPE: [u8; 2] = [0x08, 0x00];
    const PROHIBITED: [u8; 2] = [3, 13];
    const UNREACHABLE_HOST: [u8; 2] = [3, 1];
    const TIME_EXCEEDED: [u8; 2] = [11, 0];
    const TOO_LARGE: [u8; 2] = [3, 4];
    const PARAMETER_PROBLEM: [u8; 2] = [12, 0];
    const ZERO: u32 = 0;

    #[inline(always)]
    fn has_bits(address: &u32, bits: &u32, mask: &u32) -> bool {
        (address ^ bits) & mask == 0
    }

    #[inline(always)]
    fn sum(address: &u32) -> u64 {
        u64::from(*address)
    }

    /// Linux forwards class E and the rest of 0/8 (since 5.3), so they are not among these.
    #[inline(always)]
    fn never_forwarded(address: u32) -> bool {
        let first = address.to_ne_bytes()[0];
        first & 0xf0 == 224 || first == 127 || address == u32::MAX || address == 0
    }

    #[inline(always)]
    fn hash(address: u32) -> u32 {
        // The last byte, in which neighbours differ, is to reach the lowest bits.
        u32::from_be(address).wrapping_mul(0x9e37_79b9) >> 8
    }

    #[inline(always)]
    fn pick(first: u32, last: u32, n: u32) -> u32 {
        let (first, last) = (u32::from_be(first), u32::from_be(last));
        let count = u64::from(last.wrapping_sub(first)) + 1;
        first.wrapping_add((u64::from(n) % count) as u32).to_be()
    }

    #[inline(always)]
    fn within(address: u32, first: u32, last: u32) -> bool {
        let address = u32::from_be(address);
        u32::from_be(first) <= address && address <= u32::from_be(last)
    }

    #[inline(always)]
    fn config(network: &Network) -> FamilyConfig<u32> {
        let config = &network.v4;
        FamilyConfig {
            gateway: u32::from_ne_bytes(config.gateway),
            first: u32::from_ne_bytes(config.first),
            last: u32::from_ne_bytes(config.last),
            mode: config.mode,
            pad: config.pad,
        }
    }

    #[inline(always)]
    fn address(device: &Device) -> u32 {
        u32::from_ne_bytes(device.address)
    }

    #[inline(always)]
    fn ask(fib: &mut bpf_fib_lookup, src: u32, dst: u32, tos: u32) {
        fib.__bindgen_anon_2.tos = tos as u8;
        fib.__bindgen_anon_3.ipv4_src = src;
        fib.__bindgen_anon_4.ipv4_dst = dst;
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> u32 {
        // SAFETY: `ask` and the helper write this field of the union.
        unsafe { fib.__bindgen_anon_3.ipv4_src }
    }

    #[inline(always)]
    fn next_hop(fib: &bpf_fib_lookup) -> u32 {
        // SAFETY: as for `source`.
        unsafe { fib.__bindgen_anon_4.ipv4_dst }
    }

    #[inline(always)]
    fn route_mtu(ifindex: u32, dst: u32) -> u16 {
        let key = RouteKey {
            ifindex,
            destination: dst.to_ne_bytes(),
        };
        let bits = size_of::<RouteKey>() as u32 * 8;
        ROUTE_MTUS
            .get(&lpm_trie::Key::new(bits, key))
            .map_or(u16::MAX, |mtu| *mtu as u16)
    }

    #[inline(always)]
    fn next_hop_words(address: u32) -> [u32; 4] {
        [address, 0, 0, 0]
    }

    #[inline(always)]
    fn socket_tuple(key: &FlowKey<u32>, tuple: &mut bpf_sock_tuple) -> u32 {
        // SAFETY: the tuple was zeroed, and this is the field of the length returned.
        let ipv4 = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
        ipv4.saddr = key.src;
        ipv4.daddr = key.dst;
        ipv4.sport = u16::from_ne_bytes(key.sport);
        ipv4.dport = u16::from_ne_bytes(key.dport);
        size_of_val(ipv4) as u32
    }

    #[inline(always)]
    fn is(ctx: &TcContext) -> bool {
        has_protocol(ctx, EtherType::Ipv4 as u16)
    }

    #[inline(always)]
    fn parse(ctx: &TcContext, l3: usize, packet: &mut Packet<u32>) -> Result<(), Unread> {
        if !Self::is(ctx) {
            return Err(Unread::Foreign);
        }
        // Headers may lie in pages (a tap fed by vhost, a NIC that splits frames): pull what the
        // longest headers need into the linear part, which `ctx.data` then shows.
        if ctx.data() + l3 + Ipv4Hdr::LEN + 20 > ctx.data_end() {
            pull(ctx, l3 + 60 + 20);
        }
        let Some(ip) = at::<[u32; 5]>(ctx, l3) else {
            return Err(Unread::Malformed);
        };
        // SAFETY: `at` proved that the header is in the packet.
        let [w0, w1, w2, src, dst] = unsafe { *ip };
        let first = w0.to_ne_bytes()[0];
        let header_len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_len < Ipv4Hdr::LEN {
            return Err(Unread::Malformed);
        }
        // RFC 1812, 5.2.2: what is damaged is not forwarded. With options the stack looks.
        if header_len == Ipv4Hdr::LEN {
            let sum =
                u64::from(w0) + u64::from(w1) + u64::from(w2) + u64::from(src) + u64::from(dst);
            if fold(sum) != 0xffff {
                return Err(Unread::Malformed);
            }
        } else if ctx.data() + l3 + header_len + 20 > ctx.data_end() {
            pull(ctx, l3 + 60 + 20);
        }
        let [_, tos, high, low] = w0.to_ne_bytes();
        let [id_high, id_low, fragment_high, fragment_low] = w1.to_ne_bytes();
        let [ttl, protocol, _, _] = w2.to_ne_bytes();
        let total = u32::from(u16::from_be_bytes([high, low]));
        let carried = ctx.len() - l3 as u32;
        // Linux's "BIG TCP" leaves the total length of oversized GSO packets zero.
        let ip_len = if total == 0 && gso_size(ctx) != 0 {
            carried
        } else {
            total
        };
        if ip_len > carried || ip_len < header_len as u32 {
            return Err(Unread::Malformed);
        }
        let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
        let l4 = (l3 + header_len) as u32;
        *packet = Packet {
            tos: u32::from(tos),
            id: [id_high, id_low, 0, 0],
            ttl,
            options: header_len != Ipv4Hdr::LEN,
            // More fragments.
            first_fragment: fragment & 0x2000 != 0,
            ..Packet::new(src, dst, protocol, l3 as u32, l4, ip_len)
        };
        if fragment & 0x1fff != 0 {
            packet.kind = Kind::Fragment;
            return Ok(());
        }
        read_transport(ctx, packet, proto::ICMP, l3, ip_len - header_len as u32);
        Ok(())
    }

    /// A loose or strict source route (RFC 791, 3.1): where the host honours them, such a packet
    /// is addressed to the host and forwarded to somewhere else.
    #[inline(always)]
    fn has_source_route(ctx: &TcContext, l3: usize) -> bool {
        let Ok(first) = ctx.load::<u8>(l3) else {
            return false;
        };
        let end = l3 as u32 + u32::from(first & 0x0f) * 4;
        let mut at = (l3 + Ipv4Hdr::LEN) as u32;
        for _ in 0..60 - Ipv4Hdr::LEN {
            if at >= end {
                break;
            }
            match option_length(ctx, at) {
                0 => break,
                SOURCE_ROUTE => return true,
                length => at += length,
            }
        }
        false
    }

    #[inline(always)]
    fn may_be_fragmented(ctx: &TcContext, l3: usize) -> bool {
        // DF (RFC 791, section 3.1).
        ctx.load::<u8>(l3 + 6).is_ok_and(|flags| flags & 0x40 == 0)
    }

    #[inline(always)]
    fn read_quoted(ctx: &TcContext, l3: usize) -> Option<(u32, u8)> {
        let ip: [u8; 10] = ctx.load(l3).ok()?;
        let header_len = u32::from(ip[0] & 0x0f) * 4;
        if ip[0] >> 4 != 4 || header_len < Ipv4Hdr::LEN as u32 {
            return None;
        }
        // Only the part with offset 0 quotes ports.
        if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
            return None;
        }
        Some((l3 as u32 + header_len, ip[9]))
    }

    #[inline(always)]
    fn write_header(
        ctx: &impl Frame,
        l3: usize,
        src: &u32,
        dst: &u32,
        diff: u16,
        nat: bool,
        hop: bool,
    ) -> Option<()> {
        let ip = at::<[u16; 10]>(ctx, l3)?;
        // SAFETY: `at` proved that the header is in the packet; both views end within it.
        unsafe {
            let mut change: u64 = 0;
            if hop {
                let ttl = (*ip)[4].to_ne_bytes();
                let lower = u16::from_ne_bytes([ttl[0].wrapping_sub(1), ttl[1]]);
                change += u64::from(!(*ip)[4]) + u64::from(lower);
                (*ip)[4] = lower;
            }
            if nat {
                change += u64::from(diff);
                let addresses = ip.cast::<u32>();
                *addresses.add(3) = *src;
                *addresses.add(4) = *dst;
            }
            (*ip)[5] = !fold(u64::from(!(*ip)[5]) + change);
        }
        Some(())
    }

    family_maps!(u32: FLOWS4, SLOTS4, FRAGMENTS4, ENDPOINTS4, ADDRESSES4, SUBNETS4, POOLS4,
        FORWARDS4, BINDINGS4, BANS4, POLICIES4, SCRATCH4, PACKET_CTX4, ROUTING4, POLICY_WALK4);
}

/// What [`option_length`] says of a source route.
const SOURCE_ROUTE: u32 = u32::MAX;

verified! {
    /// Length of the IP option at `at`; 0 at the list's end and where the stack drops the packet.
    ///
    /// The verifier knows nothing of what it returns: else it would follow every way in which the
    /// options of a header can be long.
    fn option_length(ctx: Ctx, at: u32) -> u32 = read_option_length, else 0, as option_length;
}

#[inline(always)]
fn read_option_length(ctx: &TcContext, at: u32) -> u32 {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    match ctx.load::<u8>(at as usize) {
        Ok(END) | Err(_) => 0,
        Ok(NO_OPERATION) => 1,
        Ok(LOOSE | STRICT) => SOURCE_ROUTE,
        Ok(_) => match ctx.load::<u8>(at as usize + 1) {
            Ok(length) if length >= 2 => u32::from(length),
            _ => 0,
        },
    }
}
