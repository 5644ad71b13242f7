//! What the agent tells of by itself, and how clients hear of it.
//!
//! The agent publishes and goes on: it waits for nobody who listens. Who listens too slowly is told
//! so, and has to look at everything again.

use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};
use uuid::Uuid;

use super::Metadata;

/// Events that are kept for those who have not heard them yet. A thousand networks that are started or
/// read again at once fit in.
const KEPT: usize = 4096;

/// Something happened to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkEvent {
    /// Name of the network.
    pub name: String,
    /// UUID of the network.
    pub uuid: Uuid,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is in another state.
    Lifecycle(Lifecycle),
    /// A piece of its metadata was set or removed.
    Metadata(Metadata),
}

/// States that networks get into, with libvirt's numbers (`virNetworkEventLifecycleType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Lifecycle {
    /// A definition was stored, be it the first one or another one.
    Defined = 0,
    /// The definition was removed.
    Undefined = 1,
    /// It is active.
    Started = 2,
    /// It is not active any more.
    Stopped = 3,
}

impl Lifecycle {
    /// The state with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        let all = [Self::Defined, Self::Undefined, Self::Started, Self::Stopped];
        all.into_iter().find(|state| *state as i32 == number)
    }
}

/// Where the agent publishes events.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Arc<NetworkEvent>>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Events {
    /// Tell those who listen.
    pub fn publish(&self, event: NetworkEvent) {
        // An error says that nobody listens.
        let _ = self.0.send(Arc::new(event));
    }

    /// Hear of all events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }
}

/// The events since [`Events::subscribe`].
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Arc<NetworkEvent>>);

/// So many events are lost to a subscriber that did not take them in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} events were not taken in time and are lost")]
pub struct Lagged(pub u64);

impl Subscription {
    /// The next event; waits for ever once the agent has gone. May be dropped while it waits: no event
    /// is lost.
    ///
    /// # Errors
    /// Events are lost.
    pub async fn next(&mut self) -> Result<Arc<NetworkEvent>, Lagged> {
        match self.0.recv().await {
            Ok(event) => Ok(event),
            Err(RecvError::Lagged(lost)) => Err(Lagged(lost)),
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> NetworkEvent {
        NetworkEvent {
            name: format!("n{number}"),
            uuid: Uuid::from_u128(number as u128),
            kind: EventKind::Lifecycle(Lifecycle::Defined),
        }
    }

    #[tokio::test]
    async fn everybody_hears_what_happens_after_they_asked() {
        let events = Events::default();
        events.publish(event(0));
        let mut first = events.subscribe();
        events.publish(event(1));
        let mut second = events.subscribe();
        events.publish(event(2));
        assert_eq!(*first.next().await.unwrap(), event(1));
        assert_eq!(*first.next().await.unwrap(), event(2));
        assert_eq!(*second.next().await.unwrap(), event(2));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_and_nobody_waits_for_them() {
        let events = Events::default();
        let mut slow = events.subscribe();
        for number in 0..KEPT {
            events.publish(event(number));
        }
        assert_eq!(*slow.next().await.unwrap(), event(0));
        for number in 0..3 {
            events.publish(event(number));
        }
        assert_eq!(slow.next().await, Err(Lagged(2)));
    }
}
