//! TCP's windows: how they are scaled, and what a segment offers.

use aya_ebpf::programs::TcContext;
use netd_common::abi::Flow;
use netd_common::tcp;

use crate::context::Packet;
use crate::verified::verified;

/// Options of a SYN that are looked at: there is room for 40 of one byte, but nobody pads so.
const OPTIONS: u32 = 16;

verified! {
    /// The shift count that a SYN offers (RFC 7323, section 2.2); 0 when it offers none. `l4` is the
    /// offset of the TCP header.
    pub fn window_scale(ctx: Ctx, l4: u32) -> u32 = find_window_scale, else 0, as window_scale;
}

#[inline(always)]
fn find_window_scale(ctx: &TcContext, l4: u32) -> u32 {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    let Ok(offset) = ctx.load::<u8>(l4 as usize + 12) else {
        return 0;
    };
    let end = l4 + u32::from(offset >> 4) * 4;
    let mut at = l4 + 20;
    let mut i = 0;
    while i < OPTIONS {
        i += 1;
        if at + 3 > end {
            break;
        }
        let Ok([kind, length, shift]) = ctx.load::<[u8; 3]>(at as usize) else {
            break;
        };
        match kind {
            END => break,
            NO_OPERATION => at += 1,
            WINDOW_SCALE => return u32::from(shift),
            _ if length < 2 => break,
            _ => at += u32::from(length),
        }
    }
    0
}

/// How many bytes of data the segment holds.
#[inline(always)]
pub fn data_len<A>(ctx: &TcContext, packet: &Packet<A>) -> u32 {
    let offset = ctx.load::<u8>(packet.l4() + 12).unwrap_or_default();
    let start = packet.l4_offset.wrapping_add(u32::from(offset >> 4) * 4);
    packet.end.saturating_sub(start)
}

/// Remember what the segment accepts from the other side.
#[inline(always)]
pub fn remember<A>(packet: &Packet<A>, flow: &mut Flow<A>) {
    if packet.control & (tcp::ACK | tcp::RST) == tcp::ACK {
        flow.ack = packet.ack;
        flow.window_end = tcp::window_end(packet.ack, packet.window, flow.wscale, packet.control);
    }
}
