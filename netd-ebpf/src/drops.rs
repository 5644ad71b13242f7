//! Every drop is counted under its reason, and some are told of (`event`).

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use netd_common::Reason;

use crate::maps::DROPS;
use crate::{DROP, arguments, event};

/// The action that drops a packet under `reason`. The program's entry carries it out
/// ([`finish`]): a program's stack is 512 bytes deep, and counting, which may log, needs some.
#[inline(always)]
pub fn drop(reason: Reason) -> i32 {
    DROP + reason as i32
}

/// Carry out the action of a program's stages.
#[inline(always)]
pub fn finish(ctx: &TcContext, action: i32) -> i32 {
    if action < DROP {
        return action;
    }
    count_drop(ctx.skb.skb, (action - DROP) as u32);
    TC_ACT_SHOT
}

/// Count a packet that is refused with an answer.
#[inline(always)]
pub fn count(ctx: &TcContext, reason: u32) {
    count_drop(ctx.skb.skb, reason);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_drop(ctx: *mut __sk_buff, reason: u32) -> i32 {
    arguments!(ctx; else 0);
    if let Some(drops) = DROPS.get_ptr_mut(reason) {
        // SAFETY: the slot belongs to this CPU, and TC programs do not interrupt each other.
        unsafe {
            (*drops).packets += 1;
            (*drops).bytes += u64::from(ctx.len());
        }
    }
    event::record(ctx, reason);
    // Compiled away by the verifier unless the agent loaded the programs with logging on.
    debug!(
        ctx,
        "drop reason {} on device {}",
        reason,
        crate::packet::ifindex(ctx)
    );
    0
}
