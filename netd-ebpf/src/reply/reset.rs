//! A RST in answer to a segment of a connection that netd has to end: its sender opens another one
//! at once, where it would wait for minutes otherwise.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use netd_common::checksum::{fold, sum2, sum4};
use netd_common::proto;
use netd_common::tcp;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::context::{Kind, PacketCtx, Words};
use crate::family::{Family, V4, V6};
use crate::frame::{ETH, macs};
use crate::reply::turn::{change_tail, frame, may_answer};
use crate::report::drops;
use crate::route::redirect::redirect;
use crate::verified::verified;

/// Length of a TCP header without options.
const TCP: usize = 20;

verified! {
    /// Make the packet the RST; 0 when it is.
    fn reset_answer(ctx: Ctx) -> i32 = build_answer, else 1, as reset_answer4, reset_answer6;
}

#[inline(always)]
fn build_answer<F: Resets>(ctx: &TcContext) -> i32 {
    i32::from(build::<F>(ctx).is_none())
}

/// Count the segment that was seen under the reason of this number and answer it by a RST, back out of
/// the device it came in by (`here`). There is none to a RST, nor to what is not a whole segment.
#[inline(always)]
pub fn answer<F: Family>(ctx: &TcContext, here: u32, reason: u32) -> i32 {
    drops::count(ctx, reason);
    let Some(PacketCtx { packet, .. }) = F::packet_ctx() else {
        return TC_ACT_SHOT;
    };
    if packet.kind != Kind::Flow
        || packet.key.proto != proto::TCP
        || packet.no_l4
        || packet.first_fragment
        || packet.control & (tcp::ACK | tcp::RST) != tcp::ACK
        || packet.l4_offset as usize != ETH + F::HEADER
        || !may_answer()
    {
        return TC_ACT_SHOT;
    }
    match reset_answer::<F>(ctx) {
        0 => redirect::<F>(here, F::ZERO),
        _ => TC_ACT_SHOT,
    }
}

/// Its IP header, in which families differ.
trait Resets: Family {
    /// Write it.
    fn header(ctx: &TcContext, src: Self::Addr, dst: Self::Addr) -> Option<()>;
}

impl Resets for V4 {
    #[inline(always)]
    fn header(ctx: &TcContext, src: u32, dst: u32) -> Option<()> {
        let start = [0x45, 0, 0, (Ipv4Hdr::LEN + TCP) as u8];
        // Not to be cut, TTL 64.
        let (flags, hops) = ([0x40, 0], [64, proto::TCP]);
        let sum = sum4(start) + sum2(flags) + sum2(hops) + u64::from(src) + u64::from(dst);
        let mut head = [0u8; Ipv4Hdr::LEN];
        head[..4].copy_from_slice(&start);
        head[6..8].copy_from_slice(&flags);
        head[8..10].copy_from_slice(&hops);
        head[10..12].copy_from_slice(&(!fold(sum)).to_ne_bytes());
        head[12..16].copy_from_slice(&src.to_ne_bytes());
        head[16..20].copy_from_slice(&dst.to_ne_bytes());
        ctx.skb.store(ETH, &head, 0).ok()
    }
}

impl Resets for V6 {
    #[inline(always)]
    fn header(ctx: &TcContext, src: Words, dst: Words) -> Option<()> {
        let head = [0x60, 0, 0, 0, 0, TCP as u8, proto::TCP, 64];
        ctx.skb.store(ETH, &head, 0).ok()?;
        ctx.skb.store(ETH + V6::SRC, &src, 0).ok()?;
        ctx.skb.store(ETH + V6::DST, &dst, 0).ok()
    }
}

const _: () = assert!(Ipv6Hdr::LEN == 40);

/// The sender takes a RST whose sequence number is what it has acknowledged (RFC 9293, section
/// 3.10.7.4; RFC 5961, section 3.2).
#[inline(always)]
fn build<F: Resets>(ctx: &TcContext) -> Option<()> {
    let PacketCtx { packet, .. } = F::packet_ctx()?;
    let key = &packet.key;
    let (to, from) = macs(ctx)?;
    let l4 = ETH + F::HEADER;
    // Where the checksum is partial, whatever device sends the packet adds what the field lacks.
    let partial = change_tail(ctx, l4 + 2).is_none();
    change_tail(ctx, l4 + TCP)?;
    let seq = packet.ack.to_be_bytes();
    let offset = [(TCP as u8 / 4) << 4, tcp::RST];
    let pseudo = F::sum(&key.src) + F::sum(&key.dst) + sum4([0, proto::TCP, 0, TCP as u8]);
    let header = sum2(key.dport) + sum2(key.sport) + sum4(seq) + sum2(offset);
    let checksum = if partial {
        fold(pseudo)
    } else {
        !fold(u64::from(fold(pseudo)) + header)
    };
    let mut head = [0u8; TCP];
    head[..2].copy_from_slice(&key.dport);
    head[2..4].copy_from_slice(&key.sport);
    head[4..8].copy_from_slice(&seq);
    head[12..14].copy_from_slice(&offset);
    head[16..18].copy_from_slice(&checksum.to_ne_bytes());
    ctx.skb.store(l4, &head, 0).ok()?;
    F::header(ctx, key.dst, key.src)?;
    frame(ctx, from, to, F::ETHER_TYPE)
}
