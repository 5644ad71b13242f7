//! Life and death of flows, by the key of either entry.
//!
//! The key is copied first: on Linux 6.1 a map takes none from a pointer that a global function was
//! given.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xsub};

use netd_common::abi::{FLOW_REPLY, FlowKey};
use netd_common::timeout::expired;

use crate::clock::now;
use crate::conntrack::lookup::find;
use crate::family::Family;
use crate::verified::verified;
use crate::{maps, records};

verified! {
    /// [`is_dead`], as a number.
    fn flow_is_dead(key: Key) -> u32 = has_died, else 1, as flow_is_dead4, flow_is_dead6;
    /// [`remove`]; returns nothing of worth.
    fn flow_remove(key: Key) -> u32 = take_out, else 0, as flow_remove4, flow_remove6;
}

/// Has the flow that has this entry outlived its time, its network or its other half? (Once both
/// halves are gone, too.)
#[inline(always)]
pub fn is_dead<F: Family>(key: &FlowKey<F::Addr>) -> bool {
    flow_is_dead::<F>(key) != 0
}

/// Remove both entries of the flow that has this one. Its slot is found free by whoever looks at it
/// next.
#[inline(always)]
pub fn remove<F: Family>(key: &FlowKey<F::Addr>) {
    flow_remove::<F>(key);
}

#[inline(always)]
fn has_died<F: Family>(key: &FlowKey<F::Addr>) -> u32 {
    u32::from(is_over::<F>(key))
}

#[inline(always)]
fn is_over<F: Family>(key: &FlowKey<F::Addr>) -> bool {
    // The copy is gone before the partner's key is made: the stack has no room for both.
    let flow = {
        let own = *key;
        find::<F>(&own)
    };
    let Some(flow) = flow else {
        return true;
    };
    let Some(partner) = find::<F>(&flow.partner(key.proto)) else {
        return true;
    };
    // The opener's entry knows whose flow it is.
    let counted_for = flow.counted_for | partner.counted_for;
    if counted_for != 0 && records::network(counted_for).is_none() {
        return true;
    }
    let timeout = records::timeout_of(u32::from(key.proto), u32::from(flow.state));
    partner.partner(key.proto) != *key || expired(timeout, flow.last_seen, partner.last_seen, now())
}

#[inline(always)]
fn take_out<F: Family>(key: &FlowKey<F::Addr>) -> u32 {
    let own = *key;
    let Some(flow) = find::<F>(&own) else {
        return 0;
    };
    let partner = flow.partner(key.proto);
    let mut counted_for = flow.counted_for;
    // Two CPUs may both be at it: whoever removes the opener's entry tells the network.
    let removed = if flow.flags & FLOW_REPLY != 0 {
        counted_for = find::<F>(&partner).map_or(0, |opener| opener.counted_for);
        let _ = F::flows().remove(&own);
        F::flows().remove(&partner)
    } else {
        let _ = F::flows().remove(&partner);
        F::flows().remove(&own)
    };
    if removed.is_ok() {
        count::<F>(counted_for, false);
    }
    0
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
