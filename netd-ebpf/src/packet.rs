//! Reading a packet's headers.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_vlan_pop;
use aya_ebpf::programs::TcContext;
use netd_common::abi::{Addr4, FlowKey4, MacAddr};
use netd_common::flow::proto;
use network_types::eth::{EthHdr, EtherType};
use network_types::ip::Ipv4Hdr;

use crate::arguments;

/// Types of ICMP messages (RFC 792).
pub mod icmp_type {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench.
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// What can be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP or ICMP echo: `key` is complete.
    Flow,
    /// An ICMP error, which belongs to the flow it quotes.
    IcmpError,
    /// Part of a datagram: ports are not known (first parts included, as the rest would be lost).
    Fragment,
    /// Any other protocol.
    Other,
}

/// An IPv4 packet's headers, read once.
pub struct Packet {
    /// Addresses and, for `Kind::Flow`, ports.
    pub key: FlowKey4,
    /// Offset of the transport header from the start of the frame.
    l4: u32,
    /// Length of the IP packet in bytes.
    pub ip_len: u32,
    /// Where the IP packet ends, from the start of the frame: padding may follow.
    pub end: u32,
    /// Length of the largest packet the kernel will make of it: less than `ip_len` for GSO.
    pub wire_len: u32,
    /// What it is.
    pub kind: Kind,
    /// TCP control bits.
    pub control: u8,
    /// TTL.
    pub ttl: u8,
    /// TOS.
    pub tos: u8,
    /// Does the IP header carry options?
    pub options: bool,
}

impl Packet {
    /// Offset of the transport header. At most 14 + 60 bytes: the mask says so to the verifier,
    /// where a function gets the packet as an argument.
    #[inline(always)]
    pub fn l4(&self) -> usize {
        (self.l4 & 127) as usize
    }
}

/// Why there is no [`Packet`].
pub enum Unread {
    /// Not an IPv4 packet that netd looks into (other protocol, VLAN tag).
    NotIpv4,
    /// The IP header contradicts the length; the stack drops such a packet.
    Malformed,
}

#[inline(always)]
fn raw(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// Device the program runs on.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context; the verifier rewrites the access.
    unsafe { (*raw(ctx)).ifindex }
}

/// Device the stack received the packet from; 0 when the host itself sent it.
#[inline(always)]
pub fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).ingress_ifindex }
}

/// Is the frame for this very device (PACKET_HOST)?
#[inline(always)]
pub fn is_for_us(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).pkt_type == 0 }
}

/// Payload bytes per segment of a GSO packet; 0 for others.
#[inline(always)]
fn gso_size(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).gso_size }
}

/// Take off a VLAN tag with number 0 (a "priority tag", IEEE 802.1Q 6.9.1), as the stack does
/// between this hook and the IP layer (`__netif_receive_skb_core`), so that what is below it is
/// judged. `false` for a frame with two of them, which the stack would take off as well. Tags
/// with other numbers lead to VLAN devices, which have hooks of their own.
#[inline(always)]
pub fn take_off_priority_tag(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe {
        if (*raw(ctx)).vlan_present == 0 || (*raw(ctx)).vlan_tci & 0x0fff != 0 {
            return true;
        }
        if bpf_skb_vlan_pop(raw(ctx)) != 0 {
            return false;
        }
        // A second tag has moved up into the first one's place.
        (*raw(ctx)).vlan_present == 0
    }
}

/// Is this an untagged IPv4 packet?
#[inline(always)]
pub fn is_ipv4(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe {
        (*raw(ctx)).protocol == u32::from(EtherType::Ipv4 as u16) && (*raw(ctx)).vlan_present == 0
    }
}

/// Pointer to `T` at `offset` when all of it lies in the linear part of the packet.
#[inline(always)]
pub fn at<T>(ctx: &TcContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        None
    } else {
        Some(start as *mut T)
    }
}

/// Read `T` at `offset` of the linear part.
///
/// `T` is an integer or an array of bytes. BPF has no trap on alignment: the verifier allows
/// unaligned packet access where the machine does, and the JIT emits a plain load.
#[inline(always)]
pub fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    // SAFETY: `at` proved that the bytes are in the packet.
    at::<T>(ctx, offset).map(|p| unsafe { *p })
}

/// Destination and source MAC of the frame.
#[inline(always)]
pub fn macs(ctx: &TcContext) -> Option<(MacAddr, MacAddr)> {
    Some((read(ctx, 0)?, read(ctx, 6)?))
}

/// Is the address one that Linux does not forward unicast packets from or to: multicast, limited
/// broadcast, loopback, "this host"? Class E and the rest of 0/8 are forwarded (since 5.3).
#[inline(always)]
pub fn never_forwarded(address: Addr4) -> bool {
    address[0] & 0xf0 == 224 || address[0] == 127 || address == [255; 4] || address == [0; 4]
}

/// Bring the longest headers there can be into the linear part.
#[inline(always)]
fn pull_headers(ctx: &TcContext, l3: usize) {
    let all = ctx.len();
    let want = (l3 + 60 + 20) as u32;
    // What cannot be pulled is found missing by whoever reads it.
    let _ = ctx.skb.pull_data(if all < want { all } else { want });
}

/// Read the headers of the packet whose IP header starts at `l3`.
#[inline(always)]
pub fn parse(ctx: &TcContext, l3: usize) -> Result<Packet, Unread> {
    if !is_ipv4(ctx) {
        return Err(Unread::NotIpv4);
    }
    // Headers may lie in pages (a tap fed by vhost, a NIC that splits frames): pull what the
    // longest headers need into the linear part, which `ctx.data` then shows.
    if ctx.data() + l3 + Ipv4Hdr::LEN + 20 > ctx.data_end() {
        pull_headers(ctx, l3);
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
    if header_len != Ipv4Hdr::LEN && ctx.data() + l3 + header_len + 20 > ctx.data_end() {
        pull_headers(ctx, l3);
    }
    let tos = w0.to_ne_bytes()[1];
    let fragment = w1.to_ne_bytes();
    let ttl = w2.to_ne_bytes()[0];
    let protocol = w2.to_ne_bytes()[1];
    let total = w0.to_ne_bytes();
    let total = u32::from(u16::from_be_bytes([total[2], total[3]]));
    let carried = ctx.len() - l3 as u32;
    let gso = gso_size(ctx);
    // Linux's "BIG TCP" leaves the total length of oversized GSO packets zero.
    let ip_len = if total == 0 && gso != 0 {
        carried
    } else {
        total
    };
    if ip_len > carried || ip_len < header_len as u32 {
        return Err(Unread::Malformed);
    }
    let mut packet = Packet {
        key: FlowKey4 {
            src: src.to_ne_bytes(),
            dst: dst.to_ne_bytes(),
            sport: [0; 2],
            dport: [0; 2],
            proto: protocol,
            zero: [0; 3],
        },
        l4: (l3 + header_len) as u32,
        ip_len,
        end: l3 as u32 + ip_len,
        wire_len: ip_len,
        kind: Kind::Other,
        control: 0,
        ttl,
        tos,
        options: header_len != Ipv4Hdr::LEN,
    };
    // More fragments, or an offset.
    if u16::from_be_bytes([fragment[2], fragment[3]]) & 0x3fff != 0 {
        packet.kind = Kind::Fragment;
        return Ok(packet);
    }
    // A transport header that is cut short or contradicts the length does not keep the stack from
    // forwarding the packet, so it is judged like a protocol that netd does not know.
    let l4 = l3 + header_len;
    let mut l4_len = 8;
    match protocol {
        proto::TCP => {
            let Some(tcp) = at::<[u8; 20]>(ctx, l4) else {
                return Ok(packet);
            };
            // SAFETY: `at` proved that the header is in the packet.
            unsafe {
                packet.control = (*tcp)[13];
                l4_len = u32::from((*tcp)[12] >> 4) * 4;
            }
            if l4_len < 20 {
                return Ok(packet);
            }
        }
        proto::UDP | proto::ICMP => {}
        _ => return Ok(packet),
    }
    let Some(ports) = at::<[u16; 4]>(ctx, l4) else {
        return Ok(packet);
    };
    if ip_len < header_len as u32 + l4_len {
        return Ok(packet);
    }
    // SAFETY: `at` proved that eight bytes are in the packet.
    let [w0, w1, w2, _] = unsafe { *ports };
    packet.kind = Kind::Flow;
    if protocol == proto::ICMP {
        match w0.to_ne_bytes()[0] {
            icmp_type::ECHO => packet.key.sport = w2.to_ne_bytes(),
            icmp_type::ECHO_REPLY => packet.key.dport = w2.to_ne_bytes(),
            icmp_type::UNREACHABLE
            | icmp_type::SOURCE_QUENCH
            | icmp_type::REDIRECT
            | icmp_type::TIME_EXCEEDED
            | icmp_type::PARAMETER_PROBLEM => packet.kind = Kind::IcmpError,
            _ => packet.kind = Kind::Other,
        }
    } else {
        packet.key.sport = w0.to_ne_bytes();
        packet.key.dport = w1.to_ne_bytes();
    }
    if gso != 0 {
        packet.wire_len = header_len as u32 + l4_len + gso;
    }
    Ok(packet)
}

/// What [`option_length`] says of a source route.
const SOURCE_ROUTE: u32 = u32::MAX;

/// Does the IP header at `l3` carry a loose or strict source route (RFC 791, 3.1)? Where the host
/// honours them, such a packet is addressed to the host and forwarded to somewhere else.
#[inline(always)]
pub fn has_source_route(ctx: &TcContext, l3: usize) -> bool {
    let Ok(first) = ctx.load::<u8>(l3) else {
        return false;
    };
    let end = l3 as u32 + u32::from(first & 0x0f) * 4;
    let mut at = (l3 + Ipv4Hdr::LEN) as u32;
    for _ in 0..60 - Ipv4Hdr::LEN {
        if at >= end {
            break;
        }
        match option_length(ctx.skb.skb, at) {
            0 => break,
            SOURCE_ROUTE => return true,
            length => at += length,
        }
    }
    false
}

/// Length of the IP option at `at`; 0 at the list's end and where the stack drops the packet.
///
/// A function of its own, since the verifier knows nothing of what it returns: it would follow
/// every way in which the options of a header can be long.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn option_length(ctx: *mut __sk_buff, at: u32) -> u32 {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    arguments!(ctx; else 0);
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

/// The Ethernet header's length, for readers of frames.
pub const ETH: usize = EthHdr::LEN;
