//! REJECT: an ICMP error in answer to a packet that may not pass, or cannot.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::generated::bpf_skb_change_head;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::checksum::{fold, sum2, sum4};
use netd_common::proto;
use network_types::icmp::Icmpv4Hdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::context::{Kind, Packet, PacketCtx, Words};
use crate::family::{Family, V4, V6};
use crate::frame::{ETH, macs};
use crate::parse::icmp::HEADER;
use crate::parse::transport::has_ports;
use crate::reply::turn::{change_tail, frame, may_answer};
use crate::report::drops;
use crate::route::redirect::redirect;
use crate::verified::verified;

/// Length of the headers put before the quoted packet.
const ADDED4: usize = Ipv4Hdr::LEN + Icmpv4Hdr::LEN;
const ADDED6: usize = Ipv6Hdr::LEN + HEADER;

verified! {
    /// Make the packet the answer, from `own` and with type and code of `message`, above which stands the
    /// MTU it tells of; 0 when it is.
    fn reject_answer(ctx: Ctx, own: Address, message: u32) -> i32
        = build_answer, else 1, as reject_answer4, reject_answer6;
}

#[inline(always)]
fn build_answer<F: Answers>(ctx: &TcContext, own: &F::Addr, message: u32) -> i32 {
    let Some(PacketCtx { packet, .. }) = F::packet_ctx() else {
        return 1;
    };
    let mtu = (message >> 16) as u16;
    i32::from(F::build(ctx, packet, *own, (message as u16).to_ne_bytes(), mtu).is_none())
}

/// The answers, which differ more than they have in common.
trait Answers: Family {
    /// Make the packet the answer.
    fn build(
        ctx: &TcContext,
        packet: &Packet<Self::Addr>,
        own: Self::Addr,
        message: [u8; 2],
        mtu: u16,
    ) -> Option<()>;
}

impl Answers for V4 {
    #[inline(always)]
    fn build(
        ctx: &TcContext,
        packet: &Packet<u32>,
        own: u32,
        message: [u8; 2],
        mtu: u16,
    ) -> Option<()> {
        build4(ctx, packet, own, message, mtu)
    }
}

impl Answers for V6 {
    #[inline(always)]
    fn build(
        ctx: &TcContext,
        packet: &Packet<Words>,
        own: Words,
        message: [u8; 2],
        mtu: u16,
    ) -> Option<()> {
        build6(ctx, packet, own, message, mtu)
    }
}

/// Count the packet that was seen under the reason of this number and answer it from `own`, back out of the
/// device it came in by (`here`). No answer goes to an ICMP error, a fragment or a sender that cannot be
/// answered (RFC 1122, 3.2.2; RFC 4443, section 2.4 e).
#[inline(always)]
pub fn answer<F: Family>(ctx: &TcContext, here: u32, own: F::Addr, reason: u32) -> i32 {
    drops::count(ctx, reason);
    let Some(PacketCtx { packet, .. }) = F::packet_ctx() else {
        return TC_ACT_SHOT;
    };
    if own == F::ZERO
        || matches!(packet.kind, Kind::IcmpError | Kind::Fragment)
        || packet.first_fragment
        || packet.options
        || packet.l4_offset as usize != ETH + F::HEADER
        || packet.key.src == F::ZERO
        || F::never_forwarded(packet.key.src)
        || F::never_forwarded(packet.key.dst)
        || !may_answer()
    {
        return TC_ACT_SHOT;
    }
    let resources = [
        Reason::NoAddress,
        Reason::PortsExhausted,
        Reason::ProtocolTaken,
        Reason::TableFull,
        Reason::NetworkFull,
        Reason::NoMemory,
    ];
    let mut message = F::UNREACHABLE_PORT;
    let mut i = 0;
    while i < resources.len() {
        if reason == resources[i] as u32 {
            message = F::PROHIBITED;
        }
        i += 1;
    }
    let mut mtu = 0;
    if reason == Reason::Unresolved as u32 || reason == Reason::NoOutside as u32 {
        message = F::UNREACHABLE_HOST;
    } else if reason == Reason::HopLimit as u32 {
        message = F::TIME_EXCEEDED;
    } else if reason == Reason::TooLarge as u32 {
        message = F::TOO_LARGE;
        mtu = F::packet_ctx().map_or(0, |packet_ctx| packet_ctx.mtu);
    } else if F::IS_IPV6 && reason == Reason::NoInterface as u32 {
        // Where the MTU would be stands where in the header that is.
        message = F::PARAMETER_PROBLEM;
        mtu = F::packet_ctx().map_or(0, |packet_ctx| packet_ctx.mtu);
    }
    let message = u32::from(u16::from_ne_bytes(message)) | u32::from(mtu) << 16;
    match reject_answer::<F>(ctx, &own, message) {
        0 => redirect::<F>(here, F::ZERO),
        _ => TC_ACT_SHOT,
    }
}

// The transport checksum of a packet from a guest is often *partial*: its field holds the sum of
// the pseudo-header, and whatever device sends the packet on adds the rest, at offsets that the
// program can neither see nor change. So the answer keeps the original packet in its place and
// puts its headers before it: then the field that may yet be filled in is the checksum of the
// quoted transport header. If it is partial, that field is made zero, so that the bytes from the
// quoted transport header on sum to zero once it is filled in, and the ICMP checksum is right
// without them.

/// Cut the packet for the quote and make room before it. Returns how many bytes after the IP
/// header are quoted and their sum; `None` when the kernel refuses.
#[inline(always)]
fn make_room<A>(
    ctx: &TcContext,
    packet: &Packet<A>,
    header_len: usize,
    added: usize,
) -> Option<(usize, u64)> {
    let l4 = ETH + header_len;
    let tcp = packet.key.proto == proto::TCP;
    // Quote eight bytes (RFC 792); IPv6 would have more (RFC 4443), but they tell nothing more.
    let rest: [u16; 4] = ctx.load(l4).ok()?;
    let mut quoted = 8;
    // Cutting before the end of the checksum field is refused where it is partial.
    let partial = change_tail(ctx, l4 + 2).is_none();
    if partial && !has_ports(packet.key.proto) {
        return make_room_for_tunnel(ctx, packet.end, l4, added);
    }
    if partial && tcp {
        quoted = 20;
    }
    change_tail(ctx, l4 + quoted)?;
    // SAFETY: a valid context and no other pointer.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, added as u32, 0) } != 0 {
        return None;
    }
    let mut sum = 0u64;
    if partial {
        let field = if tcp { 16 } else { 6 };
        ctx.skb.store(l4 + added + field, &[0u8; 2], 0).ok()?;
    } else {
        // The probe cut them off.
        ctx.skb.store(l4 + added, &rest, 0).ok()?;
        for word in rest {
            sum += u64::from(word);
        }
    }
    Some((quoted, sum))
}

/// Words after the IP header that are quoted of a tunnel: GRE's longest header and that of IPv6.
const TUNNEL_WORDS: usize = 16;

/// The same of a packet that the kernel does not cut before the transport header it has found
/// within a tunnel (GRE, IP in IP), when the packet came from a tap or a packet socket. No
/// checksum is partial there.
#[inline(always)]
fn make_room_for_tunnel(
    ctx: &TcContext,
    end: u32,
    l4: usize,
    added: usize,
) -> Option<(usize, u64)> {
    let rest = (end as usize).wrapping_sub(l4);
    let quoted = if rest < TUNNEL_WORDS * 4 {
        rest
    } else {
        TUNNEL_WORDS * 4
    };
    // Zeros that do not change the sum follow the last word.
    change_tail(ctx, l4 + ((quoted + 3) & !3))?;
    // SAFETY: a valid context and no other pointer.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, added as u32, 0) } != 0 {
        return None;
    }
    let mut sum = 0u64;
    let mut i = 0;
    while i < TUNNEL_WORDS
        && let Ok(word) = ctx.load::<u32>(l4 + added + i * 4)
    {
        sum += u64::from(word);
        i += 1;
    }
    Some((quoted, sum))
}

#[inline(always)]
fn build4(
    ctx: &TcContext,
    packet: &Packet<u32>,
    own: u32,
    message: [u8; 2],
    mtu: u16,
) -> Option<()> {
    let (to, from) = macs(ctx)?;
    let mut head: [u8; Ipv4Hdr::LEN] = ctx.load(ETH).ok()?;
    let (quoted, quote_sum) = make_room(ctx, packet, Ipv4Hdr::LEN, ADDED4)?;
    // The quoted IP header sums to zero, being right. Make sure: the sender may have lied.
    let mut header_sum = 0u64;
    let mut i = 0;
    while i < Ipv4Hdr::LEN {
        header_sum += sum2([head[i], head[i + 1]]);
        i += 2;
    }
    let mut icmp = [0u8; Icmpv4Hdr::LEN];
    [icmp[0], icmp[1]] = message;
    // RFC 1191, section 4: zero where the message tells of none.
    let mtu = mtu.to_be_bytes();
    [icmp[6], icmp[7]] = mtu;
    let checksum = !fold(sum2(message) + sum2(mtu) + header_sum + quote_sum);
    [icmp[2], icmp[3]] = checksum.to_ne_bytes();

    // Version, TOS with internetwork control precedence (RFC 1812, 4.3.2.5), length, TTL.
    let len = ((ADDED4 + Ipv4Hdr::LEN + quoted) as u16).to_be_bytes();
    let start = [0x45, 0xc0, len[0], len[1]];
    let ttl = [64, proto::ICMP];
    let sum = sum4(start) + sum2(ttl) + u64::from(own) + u64::from(packet.key.src);
    let checksum = (!fold(sum)).to_ne_bytes();
    head[..4].copy_from_slice(&start);
    head[4..8].copy_from_slice(&[0; 4]);
    head[8..10].copy_from_slice(&ttl);
    head[10..12].copy_from_slice(&checksum);
    head[12..16].copy_from_slice(&own.to_ne_bytes());
    head[16..20].copy_from_slice(&packet.key.src.to_ne_bytes());
    ctx.skb.store(ETH, &head, 0).ok()?;
    ctx.skb.store(ETH + Ipv4Hdr::LEN, &icmp, 0).ok()?;
    frame(ctx, from, to, V4::ETHER_TYPE)
}

#[inline(always)]
fn build6(
    ctx: &TcContext,
    packet: &Packet<Words>,
    own: Words,
    message: [u8; 2],
    mtu: u16,
) -> Option<()> {
    let (to, from) = macs(ctx)?;
    let start: [u32; 2] = ctx.load(ETH).ok()?;
    let (quoted, quote_sum) = make_room(ctx, packet, Ipv6Hdr::LEN, ADDED6)?;
    let src = packet.key.src;
    let header_sum =
        u64::from(start[0]) + u64::from(start[1]) + V6::sum(&src) + V6::sum(&packet.key.dst);
    let len = (HEADER + Ipv6Hdr::LEN + quoted) as u16;
    let pseudo = V6::sum(&own) + V6::sum(&src) + sum2(len.to_be_bytes()) + sum2([0, proto::ICMPV6]);
    // RFC 4443, section 3.2: four bytes, zero where the message tells of none.
    let mtu = mtu.to_be_bytes();
    let told = sum2(message) + sum2(mtu);
    let checksum = !fold(u64::from(fold(pseudo)) + told + header_sum + quote_sum);
    let mut icmp = [0u8; HEADER];
    [icmp[6], icmp[7]] = mtu;
    [icmp[0], icmp[1]] = message;
    [icmp[2], icmp[3]] = checksum.to_ne_bytes();

    let [high, low] = len.to_be_bytes();
    let head = [0x60, 0, 0, 0, high, low, proto::ICMPV6, 64];
    ctx.skb.store(ETH, &head, 0).ok()?;
    ctx.skb.store(ETH + V6::SRC, &own, 0).ok()?;
    ctx.skb.store(ETH + V6::DST, &src, 0).ok()?;
    ctx.skb.store(ETH + Ipv6Hdr::LEN, &icmp, 0).ok()?;
    frame(ctx, from, to, V6::ETHER_TYPE)
}
