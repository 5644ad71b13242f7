//! Lines of the log that clients can cause: a few at once, then one a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines at once.
const BURST: u32 = 10;

/// Time after which there may be another one.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets some lines through, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Sparingly {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spent: u32,
    since: Option<Instant>,
    left_out: u64,
}

impl Sparingly {
    /// Has `line` written, if it is not one too many, with the number of those left out before it.
    pub fn warn(&self, line: impl FnOnce(u64)) {
        let passed = self.pass(Instant::now());
        if let Some(left_out) = passed {
            line(left_out);
        }
    }

    fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *state.since.get_or_insert(now);
        let pauses = now.duration_since(since).as_secs() / PAUSE.as_secs();
        if pauses > 0 {
            state.spent = state
                .spent
                .saturating_sub(u32::try_from(pauses).unwrap_or(u32::MAX));
            state.since = Some(now);
        }
        if state.spent >= BURST {
            state.left_out += 1;
            return None;
        }
        state.spent += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_count() {
        let sparingly = Sparingly::default();
        let start = Instant::now();
        let at = |milliseconds| sparingly.pass(start + Duration::from_millis(milliseconds));
        let written = (0..1000).filter_map(|_| at(0)).count();
        assert_eq!(written, 10);
        assert_eq!(at(999), None);
        assert_eq!(at(1000), Some(991));
        assert_eq!(at(1500), None);
        assert_eq!(at(60_000), Some(1));
        assert_eq!((0..100).filter_map(|_| at(60_000)).count(), 9);
    }
}
