//! Buckets of tokens: what a CPU, or whoever a bucket is of, may do so many times a second, and no more, however many packets
//! ask for it.

use aya_ebpf::btf_maps::{LruHashMap, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

use crate::context::TokenBucket;

const NS: u64 = 1_000_000_000;

/// Take a token from this CPU's bucket, which gets `per_second` of them and holds as many.
#[inline(always)]
pub fn take(bucket: &PerCpuArray<TokenBucket, 1>, per_second: u64) -> bool {
    let Some(bucket_state) = bucket.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the entry is this CPU's alone.
    unsafe { take_from(bucket_state, per_second) }
}

/// The same from the bucket of `whose`, which is full at first. Of two CPUs that take at once one may take for
/// nothing.
#[inline(always)]
pub fn take_of<const N: usize>(
    buckets: &LruHashMap<u32, TokenBucket, N>,
    whose: u32,
    per_second: u64,
) -> bool {
    if let Some(bucket) = buckets.get_ptr_mut(&whose) {
        // SAFETY: a value of a map, which stays readable until the program ends (RCU).
        return unsafe { take_from(bucket, per_second) };
    }
    let bucket = TokenBucket {
        // SAFETY: takes no pointers.
        filled: unsafe { bpf_ktime_get_coarse_ns() },
        tokens: per_second - 1,
    };
    // Another CPU may have been first.
    buckets.insert(&whose, &bucket, 0).is_ok()
}

/// # Safety
/// The bucket is one.
#[inline(always)]
unsafe fn take_from(bucket_state: *mut TokenBucket, per_second: u64) -> bool {
    // SAFETY: takes no pointers; the rest is the caller's word.
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
