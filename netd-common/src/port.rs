//! Which source ports to try for a masqueraded flow.

/// How many ports are tried before a flow is refused.
pub const TRIES: u32 = 32;

/// Lowest port handed out: a guest must not appear with a privileged port of the host's.
pub const LOWEST: u16 = 1024;

const SPAN: u32 = 65536 - LOWEST as u32;

/// The `attempt`-th port to try for a guest that uses `own`: its own first unless that is
/// privileged, then a walk with an odd stride from a random start.
///
/// `random` is one random number per flow, the same for all attempts. Ports are in host order.
#[inline(always)]
#[must_use]
pub fn candidate(own: u16, attempt: u32, random: u32) -> u16 {
    if attempt == 0 && own >= LOWEST {
        return own;
    }
    // 64512 is 2^10 * 3^2 * 7: a stride that is odd and a multiple of neither 3 nor 7 visits every
    // port before it repeats one. 12 k + 1 is odd and leaves 1 by 3. Where 7 divides it, 4 more
    // leaves 2 by 3 and 4 by 7, and it stays odd.
    let mut stride = (random >> 16) % 4096 * 12 + 1;
    if stride.is_multiple_of(7) {
        stride += 4;
    }
    LOWEST + ((random % SPAN + attempt * stride) % SPAN) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_port_first_unless_privileged() {
        assert_eq!(candidate(5000, 0, 77), 5000);
        assert!(candidate(80, 0, 77) >= LOWEST);
    }

    proptest! {
        #[test]
        fn never_privileged(own in any::<u16>(), attempt in 0..TRIES, random in any::<u32>()) {
            prop_assert!(candidate(own, attempt, random) >= LOWEST);
        }

        /// The walk would visit every port: the last free one is found if tries allow.
        #[test]
        fn walk_visits_every_port(random in any::<u32>()) {
            let mut seen = vec![false; 65536];
            for attempt in 0..SPAN {
                seen[usize::from(candidate(0, attempt, random))] = true;
            }
            prop_assert_eq!(seen.iter().filter(|s| **s).count(), SPAN as usize);
        }
    }
}
