//! The datapath's clock.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use netd_common::clock::tick;

/// The tick that it is now.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: takes no pointers.
    tick(unsafe { bpf_ktime_get_coarse_ns() })
}
