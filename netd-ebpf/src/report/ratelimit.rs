//! Buckets of tokens: what a CPU may do so many times a second, and no more, however many packets
//! ask for it.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

use crate::context::Allowance;

const NS: u64 = 1_000_000_000;

/// Take a token from this CPU's bucket, which gets `per_second` of them and holds as many.
#[inline(always)]
pub fn take(bucket: &PerCpuArray<Allowance, 1>, per_second: u64) -> bool {
    let Some(allowance) = bucket.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: takes no pointers; the entry is this CPU's alone.
    unsafe {
        let now = bpf_ktime_get_coarse_ns();
        let elapsed = now.wrapping_sub((*allowance).filled);
        let tokens = if elapsed >= NS {
            (*allowance).filled = now;
            per_second
        } else {
            let more = elapsed * per_second / NS;
            if more > 0 {
                (*allowance).filled = now;
            }
            let sum = (*allowance).tokens + more;
            if sum > per_second { per_second } else { sum }
        };
        if tokens == 0 {
            (*allowance).tokens = 0;
            return false;
        }
        (*allowance).tokens = tokens - 1;
    }
    true
}
