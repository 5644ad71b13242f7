//! Memory for replies that clients have not read yet.
//!
//! One client cannot have many replies under way, but thousands of clients could each leave theirs
//! unread. So the large replies of all of them together have a bound. A reply cannot wait for memory as
//! a message that arrives can, since it is there already; so a client gives way: the one that has read
//! nothing for the longest time loses its connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A reply up to this size, in bytes, is not counted: the number of clients bounds those.
const SMALL: usize = 4 * 1024;

/// The unread replies of many clients.
#[derive(Debug)]
pub(super) struct Backlog {
    /// In bytes.
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of those who were not told to give way.
    bytes: usize,
    clients: HashMap<u64, Client>,
    /// Grows with everything that happens.
    now: u64,
}

/// What one client has to read.
#[derive(Debug)]
struct Client {
    bytes: usize,
    /// When it last read something, or began to have something to read.
    since: u64,
    /// Gone when it has to give way.
    keep: Option<oneshot::Sender<()>>,
}

/// The unread replies of one client.
#[derive(Debug)]
pub(super) struct Unread {
    backlog: Arc<Backlog>,
    number: u64,
}

/// A reply that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    unread: Arc<Unread>,
    bytes: usize,
}

impl Backlog {
    /// So many bytes in all, beside the replies of the client that was answered last.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// A new client. The receiver ends when it has to give way.
    pub fn client(self: &Arc<Self>) -> (Arc<Unread>, oneshot::Receiver<()>) {
        let (keep, give_way) = oneshot::channel();
        let mut state = self.lock();
        let number = state.tick();
        let client = Client {
            bytes: 0,
            since: number,
            keep: Some(keep),
        };
        state.clients.insert(number, client);
        drop(state);
        let unread = Unread {
            backlog: Arc::clone(self),
            number,
        };
        (Arc::new(unread), give_way)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unread {
    /// There is a reply of so many bytes for this client. Others give way to it where all of them
    /// together have too much.
    pub fn count(self: &Arc<Self>, bytes: usize) -> Option<Counted> {
        if bytes <= SMALL {
            return None;
        }
        let mut state = self.backlog.lock();
        let now = state.tick();
        let State {
            bytes: all,
            clients,
            ..
        } = &mut *state;
        if let Some(client) = clients.get_mut(&self.number) {
            if client.bytes == 0 {
                client.since = now;
            }
            client.bytes += bytes;
            if client.keep.is_some() {
                *all += bytes;
            }
        }
        while state.bytes > self.backlog.limit && state.tell_slowest_but(self.number) {}
        drop(state);
        Some(Counted {
            unread: Arc::clone(self),
            bytes,
        })
    }
}

impl Counted {
    /// Its client has read something.
    pub fn progress(&self) {
        let mut state = self.unread.backlog.lock();
        let now = state.tick();
        if let Some(client) = state.clients.get_mut(&self.unread.number) {
            client.since = now;
        }
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Has the client give way that has read nothing for the longest time, of those who have something
    /// to read. False where there is none.
    fn tell_slowest_but(&mut self, number: u64) -> bool {
        let slowest = self
            .clients
            .iter_mut()
            .filter(|(other, client)| {
                **other != number && client.bytes > 0 && client.keep.is_some()
            })
            .min_by_key(|(_, client)| client.since);
        let Some((_, client)) = slowest else {
            return false;
        };
        // Its receiver is woken by that.
        client.keep = None;
        self.bytes -= client.bytes;
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.unread.backlog.lock();
        let State {
            bytes: all,
            clients,
            ..
        } = &mut *state;
        if let Some(client) = clients.get_mut(&self.unread.number) {
            client.bytes -= self.bytes;
            if client.keep.is_some() {
                *all -= self.bytes;
            }
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // Whatever is counted holds this, so there is nothing any more.
        self.backlog.lock().clients.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LARGE: usize = 10 * SMALL;

    fn gives_way(receiver: &mut oneshot::Receiver<()>) -> bool {
        receiver.now_or_never().is_some()
    }

    #[test]
    fn who_has_read_nothing_for_the_longest_time_gives_way() {
        let backlog = Arc::new(Backlog::new(3 * LARGE));
        let mut clients: Vec<_> = (0..4).map(|_| backlog.client()).collect();
        let mut held = Vec::new();
        for (unread, _) in &clients {
            assert!(unread.count(SMALL).is_none(), "too small to count");
        }
        for (unread, _) in &clients[..3] {
            held.push(unread.count(LARGE));
        }
        assert!(!clients.iter_mut().any(|(_, it)| gives_way(it)), "it fits");
        held.first().and_then(Option::as_ref).unwrap().progress();
        held.push(clients[3].0.count(LARGE));
        let told: Vec<bool> = clients.iter_mut().map(|(_, it)| gives_way(it)).collect();
        assert_eq!(told, [false, true, false, false]);
        assert_eq!(backlog.lock().bytes, 3 * LARGE);
        drop(held);
        assert_eq!(backlog.lock().bytes, 0);
        drop(clients);
        assert!(backlog.lock().clients.is_empty());
    }

    #[test]
    fn nobody_gives_way_to_replies_of_its_own() {
        let backlog = Arc::new(Backlog::new(LARGE));
        let ((one, mut first), (other, mut second)) = (backlog.client(), backlog.client());
        let held: Vec<_> = (0..5).map(|_| one.count(LARGE)).collect();
        assert!(!gives_way(&mut first), "it is alone");
        let more = other.count(LARGE);
        assert!(gives_way(&mut first) && !gives_way(&mut second));
        // What it still has until its connection is gone is not counted twice.
        assert_eq!(backlog.lock().bytes, LARGE);
        let late = one.count(LARGE);
        assert_eq!(backlog.lock().bytes, LARGE);
        drop((held, late));
        assert_eq!(backlog.lock().bytes, LARGE);
        drop(more);
        assert_eq!(backlog.lock().bytes, 0);
    }
}
