//! The server behind the agent's socket: it accepts clients and bounds what they can take.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::rpc::connection::{self, Shared};
use crate::rpc::driver::Driver;
use crate::rpc::message::{BUDGET_UNIT, MESSAGE_MAX};

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

/// Serves clients on `listener` until `shutdown` turns true or its sender is gone. Calls being
/// worked on then are finished and answered first. A call whose client disconnects is finished,
/// too: nothing is half-done because somebody pressed Ctrl-C.
pub async fn serve<D: Driver>(
    listener: UnixListener,
    driver: Arc<D>,
    shutdown: watch::Receiver<bool>,
) {
    serve_with(listener, driver, Limits::default(), shutdown).await;
}

/// [`serve`] with other limits.
pub async fn serve_with<D: Driver>(
    listener: UnixListener,
    driver: Arc<D>,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) {
    let clients = Arc::new(Semaphore::new(limits.clients));
    // A message that takes more than the whole budget would wait for ever.
    let memory = limits.memory.max(MESSAGE_MAX).div_ceil(BUDGET_UNIT);
    let shared = Arc::new(Shared {
        driver,
        limits,
        budget: Arc::new(Semaphore::new(memory)),
    });
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let stop = shutdown.clone();

    let accept = async {
        loop {
            if clients.available_permits() == 0 {
                tracing::warn!(
                    clients = limits.clients,
                    "no room for more clients; they wait"
                );
            }
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let slot = Arc::new(Slot {
                        _client: permit,
                        _alive: alive.clone(),
                    });
                    tokio::spawn(connection::run(
                        stream,
                        Arc::clone(&shared),
                        slot,
                        stop.clone(),
                    ));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: the next attempt fails at once, too.
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    drop(listener);
    drop(alive);
    if tokio::time::timeout(limits.shutdown, all_gone.recv())
        .await
        .is_err()
    {
        tracing::warn!("stopping while calls are still being worked on");
    }
}
