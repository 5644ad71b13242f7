//! The server behind the agent's socket: it accepts clients and bounds what they can take.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::api::Driver;
use crate::rpc::connection::{self, Shared};
use crate::rpc::limits::{Limits, Slot};
use crate::rpc::message::{BUDGET_UNIT, MESSAGE_MAX};

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
                    let slot = Arc::new(Slot::new(permit, alive.clone()));
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
        tracing::warn!("stopping while calls are still running");
    }
}
