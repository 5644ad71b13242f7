//! The flow table's entries.

use netd_common::abi::{Flow, FlowKey};

use crate::family::Family;

/// Entry of the packet's direction.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut Flow<F::Addr>> {
    // SAFETY: entries are preallocated and shared by all CPUs without a lock. Fields change one
    // at a time, and each write is correct on its own: a lost one is made good by a later packet
    // (counters, last_seen, path) or is the same on every CPU (state).
    F::flows().get_ptr_mut(key).map(|p| unsafe { &mut *p })
}
