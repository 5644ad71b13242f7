//! The server behind the agent's socket: it accepts clients and bounds what they can take.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::api::Driver;
use crate::rpc::access::Access;
use crate::rpc::connection::{self, Memory, Shared};
use crate::rpc::crowd::{Admission, Crowd};
use crate::rpc::limits::Limits;
use crate::rpc::peer::Peer;
use crate::rpc::session::Session;
use crate::rpc::socket::Door;
use crate::rpc::sparingly::Sparingly;

/// Doors that are opened and closed while the server runs.
pub type MoreDoors = watch::Receiver<Arc<Vec<Door>>>;

/// Serves clients who come in by these doors, and by those of `more`, until `shutdown` turns true or its sender is gone. Calls being
/// worked on then are finished and answered first. A call whose client disconnects is finished,
/// too: nothing is half-done because somebody pressed Ctrl-C.
pub async fn serve<D: Driver>(
    doors: Vec<Door>,
    more: MoreDoors,
    driver: Arc<D>,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) {
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let server = Server {
        crowd: Arc::new(Crowd::new(limits)),
        shared: Arc::new(Shared {
            driver,
            limits,
            root: Memory::new(&limits),
            users: Memory::new(&limits),
            refusals: Sparingly::default(),
            disconnects: Sparingly::default(),
        }),
        stop: shutdown.clone(),
        alive,
        waiting: Sparingly::default(),
    };
    tokio::select! {
        _ = join_all(doors.iter().map(|door| server.accept(door))) => {}
        () = server.accept_more(more) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    drop(doors);
    drop(server);
    if timeout(limits.shutdown, all_gone.recv()).await.is_err() {
        tracing::warn!("stopping while calls are still running");
    }
}

/// What new clients are given.
struct Server<D> {
    shared: Arc<Shared<D>>,
    crowd: Arc<Crowd>,
    stop: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
    waiting: Sparingly,
}

impl<D: Driver> Server<D> {
    async fn accept(&self, door: &Door) {
        loop {
            match door.listener.accept().await {
                Ok((stream, _)) => self.come(stream, door.access),
                Err(error) => {
                    // Out of file descriptors, most likely: the next attempt fails at once, too.
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// Clients who came in by a door stay when it is closed.
    async fn accept_more(&self, mut more: MoreDoors) {
        loop {
            let doors = Arc::clone(&more.borrow_and_update());
            let accepting = async {
                join_all(doors.iter().map(|door| self.accept(door))).await;
                std::future::pending::<()>().await;
            };
            let changed = tokio::select! {
                () = accepting => continue,
                changed = more.changed() => changed,
            };
            if changed.is_err() {
                // Nobody opens any more; those that are open stay so.
                join_all(doors.iter().map(|door| self.accept(door))).await;
                std::future::pending::<()>().await;
            }
        }
    }

    /// Serves a client, now or when there is a place for it.
    fn come(&self, stream: UnixStream, access: Access) {
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "cannot tell who connected: disconnected");
                return;
            }
        };
        let admission = self.crowd.admit(&peer);
        let session = Session::new(peer, access);
        let shared = Arc::clone(&self.shared);
        let alive = self.alive.clone();
        let mut stop = self.stop.clone();
        match admission {
            Admission::Now(place) => {
                let run = connection::run(stream, session, shared, place, alive, stop);
                tokio::spawn(run);
            }
            Admission::Later(place) => {
                self.waiting.warn(|left_out| {
                    tracing::warn!(client = %session, left_out, "no room for another client; it waits");
                });
                tokio::spawn(async move {
                    let place = tokio::select! {
                        place = timeout(shared.limits.handshake, place) => place,
                        _ = stop.wait_for(|stop| *stop) => return,
                    };
                    match place {
                        Ok(Ok(place)) => {
                            connection::run(stream, session, shared, place, alive, stop).await;
                        }
                        // The server ends.
                        Ok(Err(_)) => {}
                        Err(_) => {
                            let patience = shared.limits.handshake;
                            let why = format!("no other client left within {patience:?}");
                            shared.tell_disconnect(&session, &why);
                        }
                    }
                });
            }
            Admission::Never => {
                shared.tell_disconnect(&session, "too many clients wait for a place already");
            }
        }
    }
}
