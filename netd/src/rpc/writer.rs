//! Sends one client its replies, events and pings, in the order in which they are queued.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::rpc::backlog::{Backlog, Counted, Unread};
use crate::rpc::crowd::Slot;
use crate::rpc::limits::Limits;
use crate::rpc::message::Message;

/// Where messages to a client are queued. The writer ends once all copies of this are gone.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    unread: Arc<Unread>,
}

/// A message to send, and the call it ends.
#[derive(Debug)]
struct Outgoing {
    message: Message,
    counted: Option<Counted>,
    _call: Option<OwnedSemaphorePermit>,
}

/// The client is gone or was given up: nobody waits for a message any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// The task that writes; it returns why it gave the client up, or nothing where the client left.
pub(super) type Writer = JoinHandle<Option<String>>;

impl Outbox {
    /// A writer for one client. It holds the client's `slot`.
    pub fn open(
        stream: OwnedWriteHalf,
        limits: &Limits,
        backlog: &Arc<Backlog>,
        slot: Arc<Slot>,
    ) -> (Self, Writer) {
        let (queue, queued) = mpsc::channel(limits.calls);
        let (unread, give_way) = backlog.client();
        let patience = limits.write;
        // The client is counted among those who read until the last message is written.
        let held = (slot, Arc::clone(&unread));
        let writer = tokio::spawn(async move {
            let _held = held;
            tokio::select! {
                why = write_all(stream, queued, patience) => why,
                _ = give_way => Some(
                    "it does not read its replies, and those that clients have not read take too \
                     much memory"
                        .to_owned(),
                ),
            }
        });
        (Self { queue, unread }, writer)
    }

    /// Queues a message, which ends `call`.
    ///
    /// # Errors
    /// Nobody sends it any more.
    pub async fn send(
        &self,
        message: Message,
        call: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Closed> {
        let outgoing = Outgoing {
            counted: self.unread.count(message.len()),
            message,
            _call: call,
        };
        self.queue.send(outgoing).await.map_err(|_| Closed)
    }

    /// Waits until nothing is sent any more.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Writes what is queued. A client that takes too long to read loses its connection, so that replies to
/// it do not pile up.
async fn write_all(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Outgoing>,
    patience: Duration,
) -> Option<String> {
    while let Some(outgoing) = queue.recv().await {
        match timeout(patience, write(&mut stream, &outgoing)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client left before its reply");
                return None;
            }
            Err(_) => return Some(format!("it did not read a reply within {patience:?}")),
        }
    }
    None
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), outgoing: &Outgoing) -> io::Result<()> {
    let Outgoing {
        message, counted, ..
    } = outgoing;
    let head = message.head();
    let mut bytes = head.chain(message.payload.clone());
    while bytes.has_remaining() {
        if stream.write_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if let Some(counted) = counted {
            counted.progress();
        }
    }
    Ok(())
}
