//! Starts that take until a test lets them end: what waits for them need not be told from a busy machine.

use std::time::Duration;

use tokio::sync::watch;

/// The starts of the network "slow".
#[derive(Default)]
pub struct SlowStarts {
    /// How many were begun.
    begun: watch::Sender<usize>,
    /// How many of these may end, in the order in which they were begun.
    may_end: watch::Sender<usize>,
}

impl SlowStarts {
    /// Waits until so many starts were begun.
    pub async fn begun(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        let enough = begun.wait_for(|begun| *begun >= count);
        let enough = tokio::time::timeout(Duration::from_secs(30), enough).await;
        enough.expect("a start is begun").unwrap();
    }

    /// Starts that were begun so far.
    pub fn begun_so_far(&self) -> usize {
        *self.begun.borrow()
    }

    /// Lets the first starts end.
    pub fn let_end(&self, count: usize) {
        self.may_end.send_replace(count);
    }

    /// A start takes until a test lets it end.
    pub async fn take_long(&self) {
        let mut turn = 0;
        self.begun.send_modify(|begun| {
            *begun += 1;
            turn = *begun;
        });
        let mut may_end = self.may_end.subscribe();
        may_end.wait_for(|count| *count >= turn).await.unwrap();
    }
}
