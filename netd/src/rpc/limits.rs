//! What bounds the clients of a server.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::rpc::message::MESSAGE_MAX;

/// What clients may take, and how long the server waits for them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at one time; more wait to be accepted.
    pub clients: usize,
    /// Calls of one client being worked on or whose replies it has not taken; its next one is not
    /// read meanwhile.
    pub calls: usize,
    /// Memory for messages larger than 64 KiB, of all clients together, in bytes.
    pub memory: usize,
    /// Time to the OPEN of a new client.
    pub handshake: Duration,
    /// Time from the first byte of a message to its last.
    pub message: Duration,
    /// Time a client may take to read one reply.
    pub write: Duration,
    /// Silence after which a client is pinged, and between two pings.
    pub keepalive_interval: Duration,
    /// Pings without an answer after which a client is given up.
    pub keepalive_count: u32,
    /// Time for the calls being worked on when the server stops.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 500,
            calls: 5,
            memory: 4 * MESSAGE_MAX,
            handshake: Duration::from_secs(30),
            message: Duration::from_secs(30),
            write: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 5,
            shutdown: Duration::from_secs(30),
        }
    }
}

/// What every task of one client holds: the server counts clients and waits for calls by it.
#[derive(Debug)]
pub(super) struct Slot {
    _client: OwnedSemaphorePermit,
    _alive: mpsc::Sender<()>,
}

impl Slot {
    /// A place among the clients, and a sender whose end the server waits for.
    pub fn new(client: OwnedSemaphorePermit, alive: mpsc::Sender<()>) -> Self {
        Self {
            _client: client,
            _alive: alive,
        }
    }
}
