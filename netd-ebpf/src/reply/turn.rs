//! Turning a frame round, for answers that the programs make of it.

use aya_ebpf::helpers::generated::bpf_skb_change_tail;
use aya_ebpf::programs::TcContext;

use crate::frame::read;
use crate::maps::REPLY_LIMIT;
use crate::report::ratelimit;

/// Answers that a CPU may send in a second (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 f).
const PER_SECOND: u64 = 1000;

/// May this CPU send one more answer?
#[inline(always)]
pub fn may_answer() -> bool {
    ratelimit::take(&REPLY_LIMIT, PER_SECOND)
}

/// Write the Ethernet header.
#[inline(always)]
pub fn frame(ctx: &TcContext, to: [u8; 6], from: [u8; 6], ether_type: [u8; 2]) -> Option<()> {
    ctx.skb.store(0, &to, 0).ok()?;
    ctx.skb.store(6, &from, 0).ok()?;
    ctx.skb.store(12, &ether_type, 0).ok()?;
    read::<u8>(ctx, 0).map(|_| ())
}

/// Make the frame `len` bytes long; what is new is zero. `None` when the kernel refuses, as it does
/// before the end of a checksum field that is still to be filled in (CHECKSUM_PARTIAL).
#[inline(always)]
pub fn change_tail(ctx: &TcContext, len: usize) -> Option<()> {
    // SAFETY: a valid context and no other pointer.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, len as u32, 0) } == 0 {
        Some(())
    } else {
        None
    }
}
