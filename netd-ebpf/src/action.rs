//! What becomes of a packet: what programs return to the kernel, and what their stages return to
//! one another.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use netd_common::Reason;

/// Let the next program of the hook, then the stack, have the packet.
pub const PASS: i32 = TC_ACT_UNSPEC;

/// Between the stages of a program: for a guest by its address outside, without a flow.
pub const ENTERS: i32 = 1 << 6;
/// Between the stages of a program: from a guest whose address is another outside, without a flow.
pub const LEAVES: i32 = 1 << 7;
/// Between the stages of a program: a fragment that is to wait for the first one of its packet.
pub const HOLD: i32 = 1 << 8;
/// Between the stages of a program: the flow is known, but its path is to be looked at again.
pub const CHECK: i32 = 1 << 9;
/// Between the stages of a program: the packet is its flow's, whose state is to follow it.
pub const GO_ON: i32 = 1 << 10;
/// Between the stages of a program: see whether a flow is known.
pub const LOOKUP: i32 = 1 << 11;
/// Between the stages of a program: no flow is known, judge the packet as a first one.
pub const FIRST: i32 = 1 << 12;
/// Between the stages of a program: it is an ICMP error, see what it is about.
pub const ERROR: i32 = 1 << 13;
/// Between the stages of a program: insert the flow in the scratch map, then go on.
pub const OPEN: i32 = 1 << 14;
/// Between the stages of a program: the flow is there, send the packet.
pub const SEND: i32 = 1 << 15;
/// Between the stages of a program: drop, for the `Reason` above this number.
pub const DROP: i32 = 1 << 16;
/// Between the stages of a program: refuse with an answer, for the `Reason` above this number.
pub const REJECT: i32 = 1 << 17;

/// The action that drops a packet under `reason`. The program's entry carries it out
/// (`report::drops::finish`): a program's stack is 512 bytes deep, and counting, which may log,
/// needs some.
#[inline(always)]
pub fn drop(reason: Reason) -> i32 {
    DROP + reason as i32
}

/// The action that refuses a packet under `reason` with an answer to its sender.
#[inline(always)]
pub fn reject(reason: Reason) -> i32 {
    REJECT + reason as i32
}
