//! The sweep of dead flows: it visits the slots in turn, some every quarter of a second, from a timer
//! of the kernel's.

use core::intrinsics::atomic_xadd;

use aya_ebpf::bindings::bpf_timer;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use netd_common::abi::{SWEEP_RUN, Sweeper};

use crate::conntrack::slots::{
    FETCHES, FREE, Liveness, RESERVED, TAKEN, exchange, liveness, remove_slot, slot, sweeper,
};
use crate::family::{Family, V4, V6};
use crate::{maps, records};

/// Interval of the sweep in nanoseconds, and in how many steps it goes round.
const SWEEP_NS: u64 = 250_000_000;
const SWEEP_STEPS: u32 = 256;

/// One run of the sweep.
struct Sweep {
    count: u32,
    removed: u32,
}

/// Visit so many slots and free those whose flows are dead; returns how many.
#[inline(always)]
fn sweep<F: Family>(visits: u32) -> u32 {
    let mut run = Sweep {
        count: records::slot_count(),
        removed: 0,
    };
    // SAFETY: as in `slots::take_slot`.
    unsafe {
        bpf_loop(
            visits,
            sweep_slot::<F> as *mut c_void,
            (&raw mut run).cast(),
            0,
        );
    }
    run.removed
}

/// One round of [`sweep`].
extern "C" fn sweep_slot<F: Family>(_: u32, run: *mut Sweep) -> i64 {
    // SAFETY: the `Sweep` that `sweep` handed to bpf_loop.
    let run = unsafe { &mut *run };
    let Some(sweeper) = sweeper() else {
        return 1;
    };
    // SAFETY: as in `slots::try_slot`.
    let turn = unsafe {
        let hand = &raw mut (*sweeper).sweep[F::INDEX];
        atomic_xadd::<u32, u32, FETCHES>(hand, 1)
    };
    let index = turn.checked_rem(run.count).unwrap_or(0);
    if let Some(slot) = slot::<F>(index)
        && slot.used == TAKEN
        && liveness::<F>(&slot.key, index) == Liveness::Dead
        && exchange(slot, TAKEN, RESERVED)
    {
        remove_slot::<F>(&slot.key, index);
        slot.used = FREE;
        run.removed += 1;
    }
    0
}

/// A run of the program `sweep`: the number of slots freed.
#[inline(always)]
pub fn run() -> i32 {
    (sweep::<V4>(SWEEP_RUN) + sweep::<V6>(SWEEP_RUN)) as i32
}

/// Start the timer, or go on with it in this program's version. 0, or what the kernel said.
#[inline(always)]
pub fn start_timer() -> i32 {
    const CLOCK_MONOTONIC: u64 = 1;
    const EBUSY: i64 = -16;
    let Some(sweeper) = sweeper() else {
        return -1;
    };
    // SAFETY: the timer lies in a value of the map handed over; `timer_fired` has the signature
    // the kernel calls.
    unsafe {
        let timer: *mut bpf_timer = (&raw mut (*sweeper).timer).cast();
        let map = (&raw const maps::SWEEPER).cast_mut().cast::<c_void>();
        // It is there already when an agent ran before.
        let result = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        if result != 0 && result != EBUSY {
            return result as i32;
        }
        let result = bpf_timer_set_callback(timer, timer_fired as *mut c_void);
        if result != 0 {
            return result as i32;
        }
        bpf_timer_start(timer, SWEEP_NS, 0) as i32
    }
}

extern "C" fn timer_fired(_: *mut c_void, _: *mut u32, sweeper: *mut Sweeper) -> i32 {
    let visits = records::slot_count() / SWEEP_STEPS + 1;
    sweep::<V4>(visits);
    sweep::<V6>(visits);
    // SAFETY: the map's value, which the kernel hands over.
    unsafe {
        let timer: *mut bpf_timer = (&raw mut (*sweeper).timer).cast();
        bpf_timer_start(timer, SWEEP_NS, 0);
    }
    0
}
