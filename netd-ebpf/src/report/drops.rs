//! Every drop is counted under its reason, and some are told of (`event`).

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use netd_common::Reason;

use crate::action::DROP;
use crate::maps::DROPS;
use crate::report::event;
use crate::skb::ifindex;
use crate::verified::verified;

/// Carry out the action of a program's stages.
#[inline(always)]
pub fn finish(ctx: &TcContext, action: i32) -> i32 {
    if action < DROP {
        return action;
    }
    count(ctx, (action - DROP) as u32);
    TC_ACT_SHOT
}

verified! {
    /// Count a packet under the reason of this number, and tell of it.
    pub fn count(ctx: Ctx, reason: u32) -> i32 = count_and_tell, else 0, as count_drop;
}

/// Count a frame that has no skb yet (XDP).
#[inline(always)]
pub fn count_frame(reason: Reason, bytes: usize) {
    add(reason as u32, bytes as u64);
}

#[inline(always)]
fn add(reason: u32, bytes: u64) {
    if let Some(drops) = DROPS.get_ptr_mut(reason) {
        // SAFETY: the slot belongs to this CPU, and programs of TC and XDP do not interrupt each other.
        unsafe {
            (*drops).packets += 1;
            (*drops).bytes += bytes;
        }
    }
}

#[inline(always)]
fn count_and_tell(ctx: &TcContext, reason: u32) -> i32 {
    add(reason, u64::from(ctx.len()));
    event::record(ctx, reason);
    // Compiled away by the verifier unless the agent loaded the programs with logging on.
    debug!(ctx, "drop reason {} on device {}", reason, ifindex(ctx));
    0
}
