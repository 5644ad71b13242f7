//! Slots: who makes room for whom.
//!
//! A flow has a slot beside its two entries. Whoever opens a flow takes the next slot in turn that
//! is free, or whose flow is dead; where many are in use it takes that of a flow which has not
//! been answered or is over (netfilter's early drop). So the table never stays full of dead
//! flows, agent or not, and a flood costs the flows that it consists of.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use netd_common::Reason;
use netd_common::abi::{FLOW_REPLY, FlowKey, Slot, Sweeper};
use netd_common::state::State;

use crate::conntrack::life;
use crate::conntrack::lookup::find;
use crate::family::Family;
use crate::{maps, records};

/// Slots looked at before a flow that may go is made to go.
const EASY: u32 = 8;
/// Slots looked at before a new flow is refused.
const TRIES: u32 = 256;
/// A new flow is refused this soon where its network has used up what it may have.
const EXHAUSTED_TRIES: u32 = 1024;

/// Ordering of an addition whose result is used. For a relaxed one LLVM emits the instruction that
/// returns nothing, and takes the addend for the result.
pub const FETCHES: AtomicOrdering = AtomicOrdering::AcqRel;

/// Values of `Slot::used`.
pub const FREE: u32 = 0;
pub const TAKEN: u32 = 1;
/// Between the decision to take it and the flow's entries being there. A program that does this
/// runs to its end.
pub const RESERVED: u32 = 2;

/// What becomes of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    InUse,
    /// It may go when room is needed.
    Evictable,
    Dead,
}

/// Is the flow that has this slot alive? An entry that names another slot is of a later flow.
#[inline(always)]
pub fn liveness<F: Family>(key: &FlowKey<F::Addr>, slot: u32) -> Liveness {
    let Some(flow) = find::<F>(key) else {
        return Liveness::Dead;
    };
    if flow.slot != slot || flow.flags & FLOW_REPLY != 0 {
        return Liveness::Dead;
    }
    if life::is_dead::<F>(key) {
        Liveness::Dead
    } else if State::from_u8(flow.state).is_evictable() {
        Liveness::Evictable
    } else {
        Liveness::InUse
    }
}

/// Remove a flow by its opener's key, if it has this slot. Its network is told.
#[inline(always)]
pub fn remove_slot<F: Family>(key: &FlowKey<F::Addr>, slot: u32) {
    let Some(flow) = find::<F>(key) else {
        return;
    };
    if flow.slot == slot && flow.flags & FLOW_REPLY == 0 {
        life::remove::<F>(key);
    }
}

/// Change a slot's `used`; `false` when another CPU was faster.
#[inline(always)]
pub fn exchange<A>(slot: &mut Slot<A>, from: u32, to: u32) -> bool {
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
pub fn slot<F: Family>(index: u32) -> Option<&'static mut Slot<F::Addr>> {
    // SAFETY: entries are shared by all CPUs; `used` says who may write one.
    F::slots().get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

#[inline(always)]
pub fn sweeper() -> Option<*mut Sweeper> {
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
pub fn take_slot<F: Family>(bridge: u32) -> Result<u32, Reason> {
    let limit = records::max_per_network();
    // SAFETY: values are replaced as a whole by the agent, if at all.
    let used = unsafe { maps::USAGE.get(bridge) }.map_or(0, |usage| usage.flows[F::INDEX]);
    let exhausted = limit != 0 && bridge != 0 && used >= limit;
    let mut search = Search {
        count: records::slot_count(),
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
extern "C" fn try_slot<F: Family>(attempt: u32, search: *mut Search) -> i64 {
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
                || find::<F>(&slot.key).is_some_and(|flow| flow.counted_for == search.only);
            let liveness = liveness::<F>(&slot.key, index);
            if theirs && liveness == Liveness::Dead && exchange(slot, TAKEN, RESERVED) {
                remove_slot::<F>(&slot.key, index);
                search.found = index + 1;
                return 1;
            }
            if theirs && liveness == Liveness::Evictable {
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
fn evict<F: Family>(search: &mut Search) {
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
