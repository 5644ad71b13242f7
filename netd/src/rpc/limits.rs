//! What bounds the clients of a server.

use std::time::Duration;

use crate::rpc::message::MESSAGE_MAX;

/// What clients may take, and how long the server waits for them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at one time; more wait for a place.
    pub clients: usize,
    /// Of these, places that only a process of root gets which has none yet.
    pub reserve: usize,
    /// Clients of all users but root.
    pub users: usize,
    /// Clients of one user other than root.
    pub per_user: usize,
    /// Clients of one process.
    pub per_process: usize,
    /// Clients of users other than root that have not opened yet; the oldest gives way to the next.
    pub unopened: usize,
    /// Clients that wait for a place: so many of root's and so many of others'. More are turned away.
    pub waiting: usize,
    /// Calls of one client being worked on or whose replies it has not taken; its next one is not
    /// read meanwhile.
    pub calls: usize,
    /// Memory for messages larger than 4 KiB that arrive or are worked on, of root's clients together
    /// and of the others' together, in bytes. There is always room for one of each.
    pub memory: usize,
    /// Memory for replies larger than 4 KiB that were not read yet, of root's clients together and of the
    /// others' together, in bytes, beside those of the client that was answered last. Who has read
    /// nothing for the longest time gives way.
    pub replies: usize,
    /// Longest message before OPEN, in bytes.
    pub before_open: usize,
    /// Longest message over a read-only connection, in bytes: no call that looks is larger.
    pub read_only: usize,
    /// Time to the OPEN of a new client, and for one that waits for its place.
    pub handshake: Duration,
    /// Time from the first byte of a message to its last.
    pub message: Duration,
    /// Time for what is left of it once it needs memory that others may wait for.
    pub large_message: Duration,
    /// Time a client may take to read one reply.
    pub write: Duration,
    /// Silence after which a client is pinged, and between two pings.
    pub keepalive_interval: Duration,
    /// Pings without an answer after which a client is given up.
    pub keepalive_count: u32,
    /// Time for the calls being worked on when the server stops.
    pub shutdown: Duration,
}

/// Clients at one time, unless somebody says otherwise: as many as libvirt's daemons serve.
pub const CLIENTS: usize = 5000;

impl Limits {
    /// The limits for so many clients at one time.
    #[must_use]
    pub fn for_clients(clients: usize) -> Self {
        Self {
            clients,
            reserve: clients / 50,
            users: clients / 5 * 4,
            per_user: clients / 5,
            per_process: clients / 2,
            unopened: clients.min(100),
            waiting: clients / 10,
            calls: 5,
            memory: 2 * MESSAGE_MAX,
            replies: 2 * MESSAGE_MAX,
            before_open: 4 * 1024,
            read_only: 64 * 1024,
            handshake: Duration::from_secs(30),
            message: Duration::from_secs(30),
            large_message: Duration::from_secs(5),
            write: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 5,
            shutdown: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::for_clients(CLIENTS)
    }
}
