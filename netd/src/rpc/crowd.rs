//! How many clients there may be, of whom, and who waits until another one leaves.
//!
//! On libvirt's read-only socket everybody may connect, and a user with subordinate ids is many users.
//! So users other than root have a part of the places together, each of them a part of that, and each
//! process one of its own. The last places are for processes of root that have none yet: an
//! administrator's command line. And who connects and says nothing gives way to who comes after.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::rpc::limits::Limits;
use crate::rpc::peer::Peer;

/// The clients of a server.
#[derive(Debug)]
pub(super) struct Crowd {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: usize,
    users: usize,
    by_user: HashMap<u32, usize>,
    by_process: HashMap<(u32, i32), usize>,
    waiting: VecDeque<Waiting>,
    /// Users' clients that have not opened yet, the oldest first.
    unopened: BTreeMap<u64, oneshot::Sender<()>>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    who: Who,
    place: oneshot::Sender<Place>,
}

/// What of a peer is counted.
#[derive(Clone, Copy, Debug)]
struct Who {
    uid: u32,
    pid: i32,
    owner: bool,
}

/// What becomes of a client that comes.
#[derive(Debug)]
pub(super) enum Admission {
    /// It is served.
    Now(Place),
    /// It is served when its turn comes.
    Later(oneshot::Receiver<Place>),
    /// Too many wait already.
    Never,
}

/// A place among the clients; the next one gets it when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    who: Who,
    unopened: u64,
    give_way: Option<oneshot::Receiver<()>>,
}

/// What every task of one client holds: its place, and what the server waits for when it stops.
#[derive(Debug)]
pub(super) struct Slot {
    place: Place,
    _alive: mpsc::Sender<()>,
}

impl Crowd {
    /// Nobody.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    /// Somebody has connected.
    pub fn admit(self: &Arc<Self>, peer: &Peer) -> Admission {
        let who = Who {
            uid: peer.uid,
            pid: peer.pid,
            owner: peer.is_owner(),
        };
        let mut state = self.lock();
        // Nobody is overtaken: when a place becomes free, everybody who fits gets one.
        if state.fits(&self.limits, who) {
            return Admission::Now(self.place(&mut state, who));
        }
        state.waiting.retain(|other| !other.place.is_closed());
        let waiting = state.waiting.iter();
        if waiting.filter(|other| other.who.owner == who.owner).count() >= self.limits.waiting {
            return Admission::Never;
        }
        let (place, later) = oneshot::channel();
        state.waiting.push_back(Waiting { who, place });
        Admission::Later(later)
    }

    fn place(self: &Arc<Self>, state: &mut State, who: Who) -> Place {
        state.count(who);
        state.next += 1;
        let number = state.next;
        let give_way = (!who.owner).then(|| {
            if state.unopened.len() >= self.limits.unopened {
                // Its receiver is woken by that.
                state.unopened.pop_first();
            }
            let (keep, give_way) = oneshot::channel();
            state.unopened.insert(number, keep);
            give_way
        });
        Place {
            crowd: Arc::clone(self),
            who,
            unopened: number,
            give_way,
        }
    }

    /// A place is free: whoever waits longest and fits gets it.
    fn leave(self: &Arc<Self>, who: Who, unopened: u64) {
        let mut state = self.lock();
        state.uncount(who);
        state.unopened.remove(&unopened);
        let mut gone = Vec::new();
        let mut at = 0;
        while let Some(next) = state.waiting.get(at) {
            if next.place.is_closed() {
                state.waiting.remove(at);
            } else if state.fits(&self.limits, next.who) {
                let who = next.who;
                let place = self.place(&mut state, who);
                if let Some(next) = state.waiting.remove(at)
                    && let Err(place) = next.place.send(place)
                {
                    // It left this very moment. Dropped below, without the lock.
                    gone.push(place);
                }
            } else {
                at += 1;
            }
        }
        drop(state);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fits(&self, limits: &Limits, who: Who) -> bool {
        let process = self.by_process.get(&(who.uid, who.pid)).copied();
        let process = process.unwrap_or(0);
        if process >= limits.per_process {
            return false;
        }
        if who.owner {
            let kept = if process == 0 { 0 } else { limits.reserve };
            return self.all + kept < limits.clients;
        }
        let user = self.by_user.get(&who.uid).copied().unwrap_or(0);
        user < limits.per_user
            && self.users < limits.users
            && self.all + limits.reserve < limits.clients
    }

    fn count(&mut self, who: Who) {
        self.all += 1;
        *self.by_process.entry((who.uid, who.pid)).or_default() += 1;
        if !who.owner {
            self.users += 1;
            *self.by_user.entry(who.uid).or_default() += 1;
        }
    }

    fn uncount(&mut self, who: Who) {
        self.all -= 1;
        decrease(&mut self.by_process, (who.uid, who.pid));
        if !who.owner {
            self.users -= 1;
            decrease(&mut self.by_user, who.uid);
        }
    }
}

/// One fewer; what is 0 is forgotten, so that counters do not outlive whom they count.
fn decrease<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl Place {
    /// The client has opened its connection: from now on it gives way to nobody.
    pub fn opened(&self) {
        self.crowd.lock().unopened.remove(&self.unopened);
    }

    /// Waits until this client has to give way, or has opened; for ever where it is root's.
    pub fn give_way(&mut self) -> impl Future<Output = ()> + use<> {
        let receiver = self.give_way.take();
        async move {
            match receiver {
                // The sender is dropped, never used.
                Some(receiver) => drop(receiver.await),
                None => std::future::pending().await,
            }
        }
    }
}

impl Slot {
    /// A place among the clients, and a sender whose end the server waits for.
    pub fn new(place: Place, alive: mpsc::Sender<()>) -> Self {
        Self {
            place,
            _alive: alive,
        }
    }

    /// The client's place.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.leave(self.who, self.unopened);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn peer(uid: u32, pid: i32) -> Peer {
        Peer {
            uid,
            gid: uid,
            pid,
            groups: Vec::new(),
        }
    }

    fn crowd() -> Arc<Crowd> {
        Arc::new(Crowd::new(Limits {
            clients: 20,
            reserve: 2,
            users: 12,
            per_user: 6,
            per_process: 5,
            unopened: 4,
            waiting: 3,
            ..Limits::default()
        }))
    }

    /// As many as get a place at once.
    fn fill(crowd: &Arc<Crowd>, who: impl Fn(i32) -> Peer) -> Vec<Place> {
        let admitted = (0..100).map(|number| crowd.admit(&who(number)));
        let places = admitted.map_while(|admission| match admission {
            Admission::Now(place) => Some(place),
            Admission::Later(_) | Admission::Never => None,
        });
        places.collect()
    }

    /// Nobody this process could be.
    const USER: u32 = u32::MAX - 7;

    #[test]
    fn processes_users_and_all_of_them_have_their_part() {
        let crowd = crowd();
        let one = fill(&crowd, |_| peer(USER, 7));
        assert_eq!(one.len(), 5, "one process");
        let rest = fill(&crowd, |pid| peer(USER, 100 + pid));
        assert_eq!(rest.len(), 1, "one user");
        let others = fill(&crowd, |pid| peer(USER - 1 - pid as u32, 100 + pid));
        assert_eq!(others.len(), 6, "all users");
        // Root's daemon has the rest but for the reserve, which is for who has none yet.
        let daemon = fill(&crowd, |_| peer(0, 1));
        assert_eq!(daemon.len(), 5);
        let shells = fill(&crowd, |pid| peer(0, 100 + pid));
        assert_eq!(shells.len(), 3);
        drop((one, rest, others, daemon, shells));
        let state = crowd.lock();
        assert_eq!((state.all, state.users, state.unopened.len()), (0, 0, 0));
        assert!(state.by_user.is_empty() && state.by_process.is_empty());
    }

    #[test]
    fn who_waits_gets_the_place_of_who_leaves() {
        let crowd = crowd();
        let mut places = fill(&crowd, |_| peer(0, 7));
        // The one for which there was no place has left again.
        let mut waiting: Vec<_> = (0..3)
            .map(|_| match crowd.admit(&peer(0, 7)) {
                Admission::Later(place) => place,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(matches!(crowd.admit(&peer(0, 7)), Admission::Never));
        assert!(matches!(crowd.admit(&peer(0, 8)), Admission::Now(_)));
        places.pop();
        let first = waiting.remove(0).now_or_never().unwrap().unwrap();
        let mut second = waiting.remove(0);
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let second = second.now_or_never().unwrap().unwrap();
        assert_eq!(second.who.pid, 7);
    }

    #[test]
    fn a_user_who_says_nothing_gives_way() {
        let crowd = crowd();
        let mut places = fill(&crowd, |_| peer(USER, 1));
        assert_eq!(crowd.lock().unopened.len(), 4);
        let gone = places[0].give_way().now_or_never();
        assert!(gone.is_some(), "the first of five");
        assert!(places[1].give_way().now_or_never().is_none());
        places[2].opened();
        let mut more = fill(&crowd, |_| peer(USER - 1, 1));
        assert_eq!(more.len(), 5);
        assert!(more[0].give_way().now_or_never().is_some());
        assert!(more[1].give_way().now_or_never().is_none());
        let mut root = fill(&crowd, |_| peer(0, 1));
        for place in &mut root {
            assert!(place.give_way().now_or_never().is_none());
        }
    }
}
