//! Ports: which to try for a masqueraded flow, and those of a network's own services.

/// Lowest port handed out unless the definition says otherwise: a guest must not appear with a
/// privileged port of the host's.
pub const LOWEST: u16 = 1024;

/// So many tries hop about; what they do not find is searched for in order.
pub const QUICK_TRIES: u32 = 32;

/// Services of a network's own at its gateway: DNS, DHCP, TFTP, DHCPv6. A forward of all the host's
/// addresses does not take them away from its guests.
pub const GATEWAY_SERVICES: [u16; 4] = [53, 67, 69, 547];

/// Ports that may be handed out, host order, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First port.
    pub first: u16,
    /// Last port; not below `first`.
    pub last: u16,
}

impl Range {
    /// Every identifier (ICMP), or no port at all.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// The range of a definition (`<nat><port start end>`), whose zeros stand for none. Ends in
    /// the wrong order, which no definition has, make the whole range.
    #[inline(always)]
    #[must_use]
    pub fn new(first: u16, last: u16) -> Self {
        let first = if first == 0 { LOWEST } else { first };
        let last = if last == 0 { u16::MAX } else { last };
        if first <= last {
            Self { first, last }
        } else {
            Self {
                first: LOWEST,
                last: u16::MAX,
            }
        }
    }

    /// How many ports there are: at least one.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Is the port one of them?
    #[inline(always)]
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// So many tries see every port.
    #[inline(always)]
    #[must_use]
    pub fn tries(self) -> u32 {
        QUICK_TRIES + self.len()
    }

    /// The `attempt`-th port to try for a guest that uses `own`: its own if it is in the range,
    /// then some here and there, then all of them in order, from a random one on.
    ///
    /// `random` is one random number per flow, the same for all attempts.
    #[inline(always)]
    #[must_use]
    pub fn candidate(self, own: u16, attempt: u32, random: u32) -> u16 {
        if attempt == 0 && self.contains(own) {
            return own;
        }
        let offset = if attempt < QUICK_TRIES {
            // Weyl's sequence of the golden ratio: it spreads well over any range.
            random.wrapping_add(attempt.wrapping_mul(0x9e37_79b9)) >> 8
        } else {
            (random >> 8) + attempt - QUICK_TRIES
        };
        // Below 2^16, since the range ends there. The length is never zero, which the compiler of
        // the eBPF programs does not know.
        let offset = offset.checked_rem(self.len()).unwrap_or(0);
        (u32::from(self.first) + offset) as u16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p14_own_port_first_unless_privileged() {
        let range = Range::new(0, 0);
        assert_eq!(range.candidate(5000, 0, 77), 5000);
        assert_eq!(range.candidate(1024, 0, 77), 1024);
        assert!(range.candidate(1023, 0, 77) >= LOWEST);
        assert!(range.candidate(80, 0, 77) >= LOWEST);
        assert_eq!(Range::ALL.candidate(7, 0, 77), 7);
    }

    #[test]
    fn p15_ranges_at_both_ends() {
        for (first, last, len) in [
            (65535, 65535, 1),
            (1, 1, 1),
            (1, 65535, 65535),
            (5000, 5001, 2),
        ] {
            let range = Range::new(first, last);
            assert_eq!(range.len(), len);
            assert!(range.contains(first) && range.contains(last));
            assert!(!(first > 1 && range.contains(first - 1)));
        }
        assert_eq!(Range::ALL.len(), 65536);
        assert_eq!(Range::new(2000, 1000), Range::new(0, 0));
    }

    fn range() -> impl Strategy<Value = Range> {
        (1u16.., 1u16..).prop_map(|(a, b)| Range::new(a.min(b), a.max(b)))
    }

    proptest! {
        #[test]
        fn never_outside_the_range(range in range(), own: u16, attempt in 0u32..70_000, random: u32) {
            prop_assert!(range.contains(range.candidate(own, attempt, random)));
        }

        /// All taken but one: it is found, within the number of tries that the range names.
        #[test]
        fn p05_the_last_free_port_is_found(range in range(), own: u16, random: u32, pick: u32) {
            let free = range.first + (pick % range.len()) as u16;
            let found = (0..range.tries()).find(|a| range.candidate(own, *a, random) == free);
            prop_assert!(found.is_some());
        }
    }
}
