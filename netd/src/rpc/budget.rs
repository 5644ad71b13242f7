//! Memory for messages that arrive. It is taken for what was received, never for what was announced.
//!
//! If everybody took from one pool until it is empty, several messages could each have half of what they
//! need and wait for each other for ever. So there is room for one whole message beside the pool, the
//! lane: who finds the pool empty waits for either, and whoever has the lane needs nothing more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::rpc::message::MESSAGE_MAX;

/// What memory is counted in, in bytes.
const UNIT: usize = 1024;

/// Memory for the messages of many clients.
#[derive(Debug)]
pub struct Budget {
    pool: Arc<Semaphore>,
    lane: Arc<Semaphore>,
}

/// What one client has of a [`Budget`] for the message that is arriving.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: Held,
}

/// Memory of a [`Budget`], which gets it back when this is dropped.
#[derive(Debug, Default)]
pub struct Held {
    pool: Option<OwnedSemaphorePermit>,
    lane: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// So many bytes in all, or room for one message where that is more.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            pool: Arc::new(Semaphore::new(bytes.saturating_sub(MESSAGE_MAX) / UNIT)),
            lane: Arc::new(Semaphore::new(1)),
        }
    }

    /// Nothing yet, for one client.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            held: Held::default(),
        }
    }
}

impl Share {
    /// Is there memory for so many bytes of a message already?
    #[must_use]
    pub fn covers(&self, bytes: usize) -> bool {
        self.held.lane.is_some() || bytes.div_ceil(UNIT) <= self.held.units()
    }

    /// Waits for memory for so many bytes of a message. A wait that is given up costs nothing but the
    /// place in the queue.
    pub async fn cover(&mut self, bytes: usize) {
        if self.covers(bytes) {
            return;
        }
        let units = bytes.div_ceil(UNIT) - self.held.units();
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let pool = Arc::clone(&self.budget.pool).acquire_many_owned(units);
        let lane = Arc::clone(&self.budget.lane).acquire_owned();
        // Neither is ever closed.
        tokio::select! {
            biased;
            Ok(more) = pool => match &mut self.held.pool {
                Some(held) => held.merge(more),
                none => *none = Some(more),
            },
            Ok(lane) = lane => self.held = Held { pool: None, lane: Some(lane) },
            else => {}
        }
    }

    /// What was taken for a message that is whole.
    pub fn take(&mut self) -> Held {
        std::mem::take(&mut self.held)
    }
}

impl Held {
    fn units(&self) -> usize {
        self.pool
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn at_once(share: &mut Share, bytes: usize) -> bool {
        share.cover(bytes).now_or_never().is_some()
    }

    #[test]
    fn what_was_taken_comes_back() {
        let budget = Arc::new(Budget::new(MESSAGE_MAX + 64 * UNIT));
        let mut share = budget.share();
        assert!(at_once(&mut share, 1), "a part of a unit");
        assert!(at_once(&mut share, 40 * UNIT));
        assert!(share.covers(40 * UNIT) && !share.covers(40 * UNIT + 1));
        assert_eq!(budget.pool.available_permits(), 24);
        let held = share.take();
        assert!(!share.covers(1));
        drop(held);
        assert_eq!(budget.pool.available_permits(), 64);
    }

    #[test]
    fn half_messages_do_not_wait_for_each_other_for_ever() {
        let budget = Arc::new(Budget::new(MESSAGE_MAX + 64 * UNIT));
        let mut shares: Vec<_> = (0..4).map(|_| budget.share()).collect();
        for share in &mut shares {
            assert!(at_once(share, 16 * UNIT));
        }
        // The pool is empty, and each wants more.
        let (first, rest) = shares.split_first_mut().unwrap();
        assert!(at_once(first, MESSAGE_MAX), "the lane");
        assert!(first.covers(MESSAGE_MAX));
        // What it had is the others'.
        assert!(at_once(&mut rest[0], 32 * UNIT));
        assert!(!at_once(&mut rest[1], 32 * UNIT));
        drop(first.take());
        assert!(at_once(&mut rest[1], 32 * UNIT), "the lane is free again");
    }

    #[test]
    fn who_waits_gets_what_comes_back_first() {
        let budget = Arc::new(Budget::new(0));
        let mut first = budget.share();
        assert!(at_once(&mut first, 5), "one message always has room");
        let (mut second, mut third) = (budget.share(), budget.share());
        {
            let mut waiting = pin!(second.cover(5));
            assert!(waiting.as_mut().now_or_never().is_none());
            drop(first);
            assert!(!at_once(&mut third, 5), "the second waits longer");
            assert!(waiting.now_or_never().is_some());
        }
        drop(second);
        assert!(at_once(&mut third, 5));
    }
}
