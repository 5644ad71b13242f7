//! The clock that the programs and the agent share.

/// The datapath's clock: 2^30 nanoseconds (about 1.07 s) of CLOCK_MONOTONIC since boot.
#[inline(always)]
#[must_use]
pub fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 30) as u32
}

/// `seconds` in [`tick`]s, rounded up.
#[must_use]
pub const fn ticks(seconds: u64) -> u32 {
    (seconds * 1_000_000_000).div_ceil(1 << 30) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_round_up() {
        assert_eq!(ticks(0), 0);
        assert_eq!(ticks(1), 1);
        assert_eq!(ticks(30), 28);
        assert_eq!(tick(30_000_000_000), 27);
    }
}
