//! Buckets of tokens: what a CPU may do so many times a second, and no more, however many packets
//! ask for it.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

use crate::context::TokenBucket;

const NS: u64 = 1_000_000_000;

/// Take a token from this CPU's bucket, which gets `per_second` of them and holds as many.
#[inline(always)]
pub fn take(bucket: &PerCpuArray<TokenBucket, 1>, per_second: u64) -> bool {
    let Some(bucket_state) = bucket.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: takes no pointers; the entry is this CPU's alone.
    unsafe {
        let now = bpf_ktime_get_coarse_ns();
        let elapsed = now.wrapping_sub((*bucket_state).filled);
        let tokens = if elapsed >= NS {
            (*bucket_state).filled = now;
            per_second
        } else {
            let more = elapsed * per_second / NS;
            if more > 0 {
                (*bucket_state).filled = now;
            }
            let sum = (*bucket_state).tokens + more;
            if sum > per_second { per_second } else { sum }
        };
        if tokens == 0 {
            (*bucket_state).tokens = 0;
            return false;
        }
        (*bucket_state).tokens = tokens - 1;
    }
    true
}
