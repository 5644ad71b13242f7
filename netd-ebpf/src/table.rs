//! The flow table: which entries may stay, who makes room for whom, and the sweep.
//!
//! A flow has a slot beside its two entries. Whoever opens a flow takes the next slot in turn that
//! is free, or whose flow is dead; where many are in use it takes that of a flow which has not
//! been answered or is over (netfilter's early drop). So the table never stays full of dead
//! flows, agent or not, and a flood costs the flows that it consists of. The sweep visits the
//! slots in turn, some every quarter of a second, from a timer of the kernel's.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xsub};

use aya_ebpf::bindings::bpf_timer;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use netd_common::Reason;
use netd_common::abi::{FLOW_REPLY, FlowKey, Slot, Sweeper};
use netd_common::flow::{State, expired};

use crate::family::{Family, V4, V6};
use crate::flow::{find, now};
use crate::maps;

/// Slots looked at before a flow that may go is made to go.
const EASY: u32 = 8;
/// Slots looked at before a new flow is refused.
const TRIES: u32 = 256;
/// A new flow is refused this soon where its network has used up what it may have.
const EXHAUSTED_TRIES: u32 = 1024;

/// Ordering of an addition whose result is used. For a relaxed one LLVM emits the instruction that
/// returns nothing, and takes the addend for the result.
const FETCHES: AtomicOrdering = AtomicOrdering::AcqRel;

/// Values of `Slot::used`.
const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Between the decision to take it and the flow's entries being there. A program that does this
/// runs to its end.
const RESERVED: u32 = 2;

/// Interval of the sweep in nanoseconds, and in how many steps it goes round.
const SWEEP_NS: u64 = 250_000_000;
const SWEEP_STEPS: u32 = 256;
/// Slots that one run of the program `sweep` visits.
pub const SWEEP_RUN: u32 = 4096;

/// What becomes of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It may go when room is needed.
    MayGo,
    Dead,
}

/// Is the flow that has this slot alive? An entry that names another slot is of a later flow.
#[inline(always)]
fn fate<F: Lives>(key: &FlowKey<F::Addr>, slot: u32) -> Fate {
    let Some(flow) = find::<F>(key) else {
        return Fate::Dead;
    };
    if flow.slot != slot || flow.flags & FLOW_REPLY != 0 {
        return Fate::Dead;
    }
    if F::is_dead(key) {
        Fate::Dead
    } else if State::from_u8(flow.state).may_go() {
        Fate::MayGo
    } else {
        Fate::Stays
    }
}

/// Has the flow that has this entry outlived its time, its network or its other half? (Once both
/// halves are gone, too.)
#[inline(always)]
fn has_died<F: Family>(key: &FlowKey<F::Addr>) -> bool {
    let Some(flow) = find::<F>(key) else {
        return true;
    };
    if flow.counted != 0 && maps::network(flow.counted).is_none() {
        return true;
    }
    let Some(partner) = find::<F>(&flow.partner(key.proto)) else {
        return true;
    };
    let timeout = maps::timeout_of(u32::from(key.proto), u32::from(flow.state));
    partner.partner(key.proto) != *key || expired(timeout, flow.last_seen, partner.last_seen, now())
}

/// Remove a flow by its opener's key, if it has this slot. Its network is told.
#[inline(always)]
fn remove_slot<F: Lives>(key: &FlowKey<F::Addr>, slot: u32) {
    let Some(flow) = find::<F>(key) else {
        return;
    };
    if flow.slot == slot && flow.flags & FLOW_REPLY == 0 {
        F::remove(key);
    }
}

/// Remove both entries of the flow that has this one. Its slot is found free by whoever looks at it
/// next.
#[inline(always)]
fn take_out<F: Family>(key: &FlowKey<F::Addr>) {
    let Some(flow) = find::<F>(key) else {
        return;
    };
    let partner = flow.partner(key.proto);
    let mut counted = flow.counted;
    // Two CPUs may both be at it: whoever removes the opener's entry tells the network.
    let removed = if flow.flags & FLOW_REPLY != 0 {
        counted = find::<F>(&partner).map_or(0, |opener| opener.counted);
        let _ = F::flows().remove(key);
        F::flows().remove(&partner)
    } else {
        let _ = F::flows().remove(&partner);
        F::flows().remove(key)
    };
    if removed.is_ok() {
        count::<F>(counted, false);
    }
}

/// Functions of a family that the verifier checks once, instead of wherever they are called.
macro_rules! verified_once {
    ($family:ident: $is_dead:ident, $remove:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $is_dead(key: *const FlowKey<<$family as Family>::Addr>) -> u32 {
            // SAFETY: callers pass references; null is checked.
            unsafe { key.as_ref() }.map_or(1, |key| u32::from(has_died::<$family>(key)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $remove(key: *const FlowKey<<$family as Family>::Addr>) -> u32 {
            // SAFETY: as above.
            if let Some(key) = unsafe { key.as_ref() } {
                take_out::<$family>(key);
            }
            0
        }

        impl Lives for $family {
            #[inline(always)]
            fn is_dead(key: &FlowKey<Self::Addr>) -> bool {
                $is_dead(key) != 0
            }

            #[inline(always)]
            fn remove(key: &FlowKey<Self::Addr>) {
                $remove(key);
            }
        }
    };
}

verified_once!(V4: flow_is_dead4, flow_remove4);
verified_once!(V6: flow_is_dead6, flow_remove6);

/// Life and death of flows, by the key of either entry.
pub trait Lives: Family {
    /// Has it outlived its time, its network or its other half?
    fn is_dead(key: &FlowKey<Self::Addr>) -> bool;
    /// Remove both entries.
    fn remove(key: &FlowKey<Self::Addr>);
}

/// One flow more or less in a network.
#[inline(always)]
pub fn count<F: Family>(bridge: u32, more: bool) {
    if bridge == 0 {
        return;
    }
    if let Some(usage) = maps::USAGE.get_ptr_mut(bridge) {
        // SAFETY: a map value; the addition is atomic.
        unsafe {
            let flows = &raw mut (*usage).flows[F::INDEX];
            if more {
                atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(flows, 1);
            } else {
                atomic_xsub::<u32, u32, { AtomicOrdering::Relaxed }>(flows, 1);
            }
        }
    }
}

/// Change a slot's `used`; `false` when another CPU was faster.
#[inline(always)]
fn exchange<A>(slot: &mut Slot<A>, from: u32, to: u32) -> bool {
    // SAFETY: a map value.
    let (_, changed) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::Relaxed }, { AtomicOrdering::Relaxed }>(
            &raw mut slot.used,
            from,
            to,
        )
    };
    changed
}

#[inline(always)]
fn slot<F: Family>(index: u32) -> Option<&'static mut Slot<F::Addr>> {
    // SAFETY: entries are shared by all CPUs; `used` says who may write one.
    F::slots().get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

#[inline(always)]
fn sweeper() -> Option<*mut Sweeper> {
    maps::SWEEPER.get_ptr_mut(0)
}

/// The search for a slot.
struct Search {
    count: u32,
    /// Only flows of this network (bridge) may go; 0 for any.
    only: u32,
    /// A slot whose flow may go, plus one; 0 for none yet.
    candidate: u32,
    /// The slot found, plus one; 0 for none yet.
    found: u32,
}

/// Take a slot for a flow that will be counted for the network of `bridge`.
#[inline(always)]
pub fn take_slot<F: Lives>(bridge: u32) -> Result<u32, Reason> {
    let limit = maps::max_per_network();
    // SAFETY: values are replaced as a whole by the agent, if at all.
    let used = unsafe { maps::USAGE.get(bridge) }.map_or(0, |usage| usage.flows[F::INDEX]);
    let exhausted = limit != 0 && bridge != 0 && used >= limit;
    let mut search = Search {
        count: maps::slot_count(),
        only: if exhausted { bridge } else { 0 },
        candidate: 0,
        found: 0,
    };
    let tries = if exhausted { EXHAUSTED_TRIES } else { TRIES };
    // SAFETY: `search` outlives the call, and the callback has the signature the helper calls.
    unsafe {
        bpf_loop(
            tries,
            try_slot::<F> as *mut c_void,
            (&raw mut search).cast(),
            0,
        );
    }
    if search.found == 0 && search.candidate != 0 {
        evict::<F>(&mut search);
    }
    match search.found {
        0 if exhausted => Err(Reason::NetworkFull),
        0 => Err(Reason::TableFull),
        found => Ok(found - 1),
    }
}

/// One round of [`take_slot`]; 1 ends it.
extern "C" fn try_slot<F: Lives>(attempt: u32, search: *mut Search) -> i64 {
    // SAFETY: the `Search` that `take_slot` handed to bpf_loop.
    let search = unsafe { &mut *search };
    let Some(sweeper) = sweeper() else {
        return 1;
    };
    // SAFETY: a map value; the addition is atomic. The other helper takes no pointers.
    let turn = unsafe {
        if attempt < EASY || search.only != 0 {
            let hand = &raw mut (*sweeper).open[F::INDEX];
            atomic_xadd::<u32, u32, FETCHES>(hand, 1)
        } else {
            // Connections that were opened one after the other lie together: look elsewhere.
            bpf_get_prandom_u32()
        }
    };
    let index = turn.checked_rem(search.count).unwrap_or(0);
    let Some(slot) = slot::<F>(index) else {
        return 1;
    };
    let used = slot.used;
    match used {
        FREE if search.only == 0 && exchange(slot, FREE, RESERVED) => {
            search.found = index + 1;
            return 1;
        }
        TAKEN => {
            let theirs = search.only == 0
                || find::<F>(&slot.key).is_some_and(|flow| flow.counted == search.only);
            let fate = fate::<F>(&slot.key, index);
            if theirs && fate == Fate::Dead && exchange(slot, TAKEN, RESERVED) {
                remove_slot::<F>(&slot.key, index);
                search.found = index + 1;
                return 1;
            }
            if theirs && fate == Fate::MayGo {
                search.candidate = index + 1;
            }
        }
        _ => {}
    }
    if search.candidate != 0 && (attempt >= EASY || search.only != 0) {
        evict::<F>(search);
    }
    i64::from(search.found != 0)
}

/// Take the slot of the candidate.
#[inline(always)]
fn evict<F: Lives>(search: &mut Search) {
    let index = search.candidate - 1;
    search.candidate = 0;
    if let Some(slot) = slot::<F>(index)
        && exchange(slot, TAKEN, RESERVED)
    {
        remove_slot::<F>(&slot.key, index);
        search.found = index + 1;
    }
}

/// Give the slot to the flow.
#[inline(always)]
pub fn occupy<F: Family>(index: u32, key: &FlowKey<F::Addr>) {
    if let Some(slot) = slot::<F>(index) {
        slot.key = *key;
        slot.used = TAKEN;
    }
}

/// Give a slot back that was taken in vain.
#[inline(always)]
pub fn release<F: Family>(index: u32) {
    if let Some(slot) = slot::<F>(index) {
        slot.used = FREE;
    }
}

/// One run of the sweep.
struct Sweep {
    count: u32,
    removed: u32,
}

/// Visit so many slots and free those whose flows are dead; returns how many.
#[inline(always)]
fn sweep<F: Lives>(visits: u32) -> u32 {
    let mut run = Sweep {
        count: maps::slot_count(),
        removed: 0,
    };
    // SAFETY: as in `take_slot`.
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
extern "C" fn sweep_slot<F: Lives>(_: u32, run: *mut Sweep) -> i64 {
    // SAFETY: the `Sweep` that `sweep` handed to bpf_loop.
    let run = unsafe { &mut *run };
    let Some(sweeper) = sweeper() else {
        return 1;
    };
    // SAFETY: as in `try_slot`.
    let turn = unsafe {
        let hand = &raw mut (*sweeper).sweep[F::INDEX];
        atomic_xadd::<u32, u32, FETCHES>(hand, 1)
    };
    let index = turn.checked_rem(run.count).unwrap_or(0);
    if let Some(slot) = slot::<F>(index)
        && slot.used == TAKEN
        && fate::<F>(&slot.key, index) == Fate::Dead
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
    let visits = maps::slot_count() / SWEEP_STEPS + 1;
    sweep::<V4>(visits);
    sweep::<V6>(visits);
    // SAFETY: the map's value, which the kernel hands over.
    unsafe {
        let timer: *mut bpf_timer = (&raw mut (*sweeper).timer).cast();
        bpf_timer_start(timer, SWEEP_NS, 0);
    }
    0
}
