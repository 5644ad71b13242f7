//! REJECT: an ICMP port unreachable in answer to a packet that may not pass.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{bpf_skb_change_head, bpf_skb_change_tail};
use aya_ebpf::programs::TcContext;
use netd_common::abi::Addr4;
use netd_common::checksum::{fold, sum2, sum4};
use netd_common::flow::proto;
use network_types::icmp::Icmpv4Hdr;
use network_types::ip::Ipv4Hdr;

use crate::arguments;
use crate::packet::{ETH, Kind, Packet, ifindex, macs, never_forwarded, read};
use crate::path::{NOBODY, redirect};

/// Port unreachable, the code libvirt's rules answer with.
const PORT_UNREACHABLE: u8 = 3;
/// IP header and ICMP header put before the quoted packet.
const ADDED: usize = Ipv4Hdr::LEN + Icmpv4Hdr::LEN;
/// Start of the quoted transport header in the answer.
const QUOTED_L4: usize = ETH + ADDED + Ipv4Hdr::LEN;

/// Turn the packet into the answer, sent from `own` (network order) back out of the device it came
/// in by. No answer goes to an ICMP error, a fragment or a sender that cannot be answered (RFC
/// 1122, 3.2.2).
///
/// The transport checksum of a packet from a guest is often *partial*: its field holds the sum of
/// the pseudo-header, and whatever device sends the packet on adds the rest, at offsets that the
/// program can neither see nor change. So the answer keeps the original packet in its place and
/// puts 28 bytes before it: then the field that may yet be filled in is the checksum of the
/// quoted transport header. If it is partial, that field is made zero, so that the bytes from the
/// quoted transport header on sum to zero once it is filled in, and the ICMP checksum is right
/// without them.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn reject_answer(ctx: *mut __sk_buff, packet: *const Packet, own: u32) -> i32 {
    arguments!(ctx, packet; else TC_ACT_SHOT);
    let own = own.to_ne_bytes();
    if own == [0; 4]
        || matches!(packet.kind, Kind::IcmpError | Kind::Fragment)
        || packet.options
        || never_forwarded(packet.key.src)
        || never_forwarded(packet.key.dst)
    {
        return TC_ACT_SHOT;
    }
    match build(ctx, packet, own) {
        Some(()) => redirect(ifindex(ctx), NOBODY),
        None => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn build(ctx: &TcContext, packet: &Packet, own: Addr4) -> Option<()> {
    let l4 = ETH + Ipv4Hdr::LEN;
    let (to, from) = macs(ctx)?;
    let mut head: [u8; Ipv4Hdr::LEN] = ctx.load(ETH).ok()?;
    // Quote eight bytes (RFC 792).
    let rest: [u16; 4] = ctx.load(l4).ok()?;
    let mut quoted = 8;
    // Cutting before the end of the checksum field is refused only where it is partial.
    let partial = change_tail(ctx, l4 + 2).is_none();
    let tcp = packet.key.proto == proto::TCP;
    if partial && tcp {
        quoted = 20;
    }
    change_tail(ctx, l4 + quoted)?;
    // SAFETY: a valid context and no other pointer.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, ADDED as u32, 0) } != 0 {
        return None;
    }
    let mut quote_sum = 0u64;
    if partial {
        let field = if tcp { 16 } else { 6 };
        ctx.skb.store(QUOTED_L4 + field, &[0u8; 2], 0).ok()?;
    } else {
        // The probe cut them off.
        ctx.skb.store(QUOTED_L4, &rest, 0).ok()?;
        for word in rest {
            quote_sum += u64::from(word);
        }
    }
    // The quoted IP header sums to zero, being right. Make sure: the sender may have lied.
    let mut header_sum = 0u64;
    let mut i = 0;
    while i < Ipv4Hdr::LEN {
        header_sum += sum2([head[i], head[i + 1]]);
        i += 2;
    }
    let mut icmp = [0u8; Icmpv4Hdr::LEN];
    icmp[0] = crate::packet::icmp_type::UNREACHABLE;
    icmp[1] = PORT_UNREACHABLE;
    let checksum = !fold(sum2([icmp[0], icmp[1]]) + header_sum + quote_sum);
    [icmp[2], icmp[3]] = checksum.to_ne_bytes();

    // Version, TOS with internetwork control precedence (RFC 1812, 4.3.2.5), length, TTL.
    let len = ((ADDED + Ipv4Hdr::LEN + quoted) as u16).to_be_bytes();
    let start = [0x45, 0xc0, len[0], len[1]];
    let ttl = [64, proto::ICMP];
    let sum = sum4(start) + sum2(ttl) + sum4(own) + sum4(packet.key.src);
    let checksum = (!fold(sum)).to_ne_bytes();
    head[..4].copy_from_slice(&start);
    head[4..8].copy_from_slice(&[0; 4]);
    head[8..10].copy_from_slice(&ttl);
    head[10..12].copy_from_slice(&checksum);
    head[12..16].copy_from_slice(&own);
    head[16..20].copy_from_slice(&packet.key.src);
    ctx.skb.store(ETH, &head, 0).ok()?;
    ctx.skb.store(ETH + Ipv4Hdr::LEN, &icmp, 0).ok()?;
    ctx.skb.store(0, &from, 0).ok()?;
    ctx.skb.store(6, &to, 0).ok()?;
    ctx.skb.store(12, &[0x08u8, 0x00], 0).ok()?;
    read::<u8>(ctx, 0).map(|_| ())
}

#[inline(always)]
fn change_tail(ctx: &TcContext, len: usize) -> Option<()> {
    // SAFETY: a valid context and no other pointer.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, len as u32, 0) } == 0 {
        Some(())
    } else {
        None
    }
}
