//! One client: its messages in, replies and pings out, and the state between them.

use std::borrow::Cow;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::api::{ApiError, Driver, ErrorCode, ErrorDomain, Lagged};
use crate::rpc::access::Action;
use crate::rpc::answer::{Answer, arguments, result};
use crate::rpc::backlog::Backlog;
use crate::rpc::budget::Budget;
use crate::rpc::crowd::{Place, Slot};
use crate::rpc::dispatch;
use crate::rpc::events::Registrations;
use crate::rpc::limits::Limits;
use crate::rpc::message::{
    Header, KEEPALIVE_PING, KEEPALIVE_PONG, Message, PROGRAM_KEEPALIVE, PROGRAM_NETD,
    PROGRAM_REMOTE, STATUS_ERROR, STATUS_OK, TYPE_CALL, TYPE_CALL_WITH_FDS, TYPE_MESSAGE, VERSION,
};
use crate::rpc::polkit;
use crate::rpc::procedures::{
    FEATURE_CLOSE_CALLBACK, FEATURE_EVENT_CALLBACKS, FEATURE_KEEPALIVE,
    FEATURE_NETWORK_UPDATE_ORDER, FEATURE_TYPED_STRINGS, NetdProcedure, Procedure, Scope, not_here,
};
use crate::rpc::reader::{Patience, Reader, Received};
use crate::rpc::remote_error::RemoteError;
use crate::rpc::session::{Session, URI};
use crate::rpc::sparingly::Sparingly;
use crate::rpc::writer::{Closed, Outbox};
use crate::rpc::xdr::List;

/// What GET_LIB_VERSION answers: the release of libvirt whose answers these are, 12.8.0.
const LIB_VERSION: u64 = 12_008_000;

/// What all connections of one server share.
pub(super) struct Shared<D> {
    /// The agent.
    pub driver: Arc<D>,
    /// Bounds of this server.
    pub limits: Limits,
    /// Of root's clients.
    pub root: Memory,
    /// Of all others.
    pub users: Memory,
    /// Lines about refused calls.
    pub refusals: Sparingly,
    /// Lines about clients that were disconnected.
    pub disconnects: Sparingly,
}

/// Memory for large messages of several clients.
pub(super) struct Memory {
    /// For those that arrive or are worked on.
    received: Arc<Budget>,
    /// For replies that were not read yet.
    unread: Arc<Backlog>,
}

/// How a connection ends.
enum End {
    /// What was asked for is still answered.
    Flush,
    /// At once, and why: the client broke the protocol, or the server gave it up.
    Disconnect(Cow<'static, str>),
    /// At once: the client is gone, or the writer gave it up.
    Gone,
}

struct Connection<D> {
    session: Session,
    shared: Arc<Shared<D>>,
    slot: Arc<Slot>,
    calls: Arc<Semaphore>,
    outbox: Outbox,
    asking: Option<Asking>,
    keepalive: bool,
    events: Registrations,
}

/// A call that polkit, or a person whom that asks, has to answer.
struct Asking {
    header: Header,
    call: Option<OwnedSemaphorePermit>,
    action: Action,
    /// One task, which ends with this.
    answer: JoinSet<Result<(), ApiError>>,
}

/// Serves one client until it leaves or `shutdown` turns true.
pub(super) async fn run<D: Driver>(
    stream: UnixStream,
    session: Session,
    shared: Arc<Shared<D>>,
    mut place: Place,
    alive: mpsc::Sender<()>,
    mut shutdown: watch::Receiver<bool>,
) {
    let limits = shared.limits;
    let give_way = place.give_way();
    let slot = Arc::new(Slot::new(place, alive));
    let (read, write) = stream.into_split();
    let memory = match session.peer().is_owner() {
        true => &shared.root,
        false => &shared.users,
    };
    let (outbox, writer) = Outbox::open(write, &limits, &memory.unread, Arc::clone(&slot));
    let mut reader = Reader::new(read)
        .with_share(memory.received.share())
        .with_patience(Patience {
            small: limits.message,
            large: limits.large_message,
        });
    reader.set_limit(limits.before_open);
    let mut connection = Connection {
        calls: Arc::new(Semaphore::new(limits.calls)),
        session,
        shared: Arc::clone(&shared),
        slot,
        outbox,
        asking: None,
        keepalive: false,
        events: Registrations::default(),
    };
    let end = tokio::select! {
        end = connection.serve(reader, give_way) => end,
        _ = shutdown.wait_for(|stop| *stop) => End::Flush,
    };
    // Calls that are worked on may still queue their replies.
    let session = connection.into_session();
    let why = match end {
        End::Disconnect(why) => {
            writer.abort();
            Some(why)
        }
        End::Flush | End::Gone => match writer.await {
            Ok(why) => why.map(Cow::Owned),
            Err(error) => Some(format!("the server failed while it answered: {error}").into()),
        },
    };
    if let Some(why) = why {
        shared.tell_disconnect(&session, &why);
    }
}

impl Memory {
    /// As much as `limits` say.
    pub fn new(limits: &Limits) -> Self {
        Self {
            received: Arc::new(Budget::new(limits.memory)),
            unread: Arc::new(Backlog::new(limits.replies)),
        }
    }
}

impl<D> Shared<D> {
    /// Tells the administrator of a client that the server does not go on with.
    pub fn tell_disconnect(&self, client: &Session, why: &str) {
        self.disconnects.warn(|left_out| {
            tracing::warn!(%client, left_out, "a client is disconnected: {why}");
        });
    }
}

impl<D> Connection<D> {
    fn into_session(self) -> Session {
        self.session
    }
}

impl<D: Driver> Connection<D> {
    async fn serve(
        &mut self,
        mut reader: Reader<OwnedReadHalf>,
        give_way: impl Future<Output = ()>,
    ) -> End {
        let limits = self.shared.limits;
        let mut give_way = pin!(give_way);
        let handshake_ends = Instant::now() + limits.handshake;
        let mut call = None;
        let mut next_ping = Instant::now() + limits.keepalive_interval;
        let mut pings = 0;
        loop {
            while call.is_none() {
                // Nothing is read while this client has all its calls in flight, so its pongs
                // are not heard either: the silence before this point does not count.
                tokio::select! {
                    permit = Arc::clone(&self.calls).acquire_owned() => call = permit.ok(),
                    told = self.events.next() => if let Some(end) = self.tell(told).await {
                        return end;
                    },
                    () = self.outbox.closed() => return End::Gone,
                }
                next_ping = Instant::now() + limits.keepalive_interval;
                pings = 0;
            }
            let received = tokio::select! {
                received = reader.next() => received,
                told = self.events.next() => match self.tell(told).await {
                    Some(end) => return end,
                    None => continue,
                },
                () = self.outbox.closed() => return End::Gone,
                () = sleep_until(handshake_ends), if !self.session.is_open() && self.asking.is_none() =>
                {
                    let patience = limits.handshake;
                    return End::Disconnect(
                        format!("it did not open the connection within {patience:?}").into(),
                    );
                }
                () = &mut give_way, if !self.session.is_open() => {
                    return End::Disconnect(
                        "it has not opened the connection yet, and gives way to one that came after"
                            .into(),
                    );
                }
                answer = answered(&mut self.asking) => {
                    self.authenticate(answer).await;
                    continue;
                }
                () = sleep_until(next_ping), if self.keepalive && pings < limits.keepalive_count => {
                    pings += 1;
                    // From now on: a host that stood still had no ear for its clients.
                    next_ping = Instant::now() + limits.keepalive_interval;
                    self.send(Message::keepalive(KEEPALIVE_PING), None).await;
                    continue;
                }
                () = sleep_until(next_ping), if self.keepalive && pings == limits.keepalive_count => {
                    // An answer may have come in this very moment.
                    match reader.next().now_or_never() {
                        Some(received) => received,
                        None => {
                            let why = format!("it left {pings} pings unanswered");
                            return End::Disconnect(why.into());
                        }
                    }
                }
            };
            let received = match received {
                Ok(Some(received)) => received,
                Ok(None) => return End::Flush,
                Err(error) => return lost(&error),
            };
            next_ping = Instant::now() + limits.keepalive_interval;
            pings = 0;
            if let Some(end) = self.receive(received, &mut call).await {
                return end;
            }
            reader.set_limit(self.session.limit(&limits));
        }
    }

    async fn send(&self, message: Message, call: Option<OwnedSemaphorePermit>) {
        // The loop notices a closed queue itself.
        let _: Result<(), Closed> = self.outbox.send(message, call).await;
    }

    /// Sends the messages of an event, after the replies that were given before it. A client that
    /// missed some is better off without its connection than with a wrong picture.
    async fn tell(&self, event: Result<Vec<Message>, Lagged>) -> Option<End> {
        match event {
            Ok(messages) => {
                for message in messages {
                    self.send(message, None).await;
                }
                None
            }
            Err(error) => Some(End::Disconnect(
                format!("it does not read its events: {error}").into(),
            )),
        }
    }

    /// Handles one message, taking `call` when it is one.
    async fn receive(
        &mut self,
        received: Received,
        call: &mut Option<OwnedSemaphorePermit>,
    ) -> Option<End> {
        let header = received.message.header;
        if header.program == PROGRAM_KEEPALIVE {
            if header.kind == TYPE_MESSAGE && header.procedure == KEEPALIVE_PING {
                self.send(Message::keepalive(KEEPALIVE_PONG), None).await;
            }
            return None;
        }
        match header.kind {
            TYPE_CALL => {}
            TYPE_CALL_WITH_FDS => {
                // The descriptors come as bytes between this message and the next one.
                return Some(End::Disconnect(
                    "it sends file descriptors, which no call here takes".into(),
                ));
            }
            kind => {
                tracing::debug!(kind, "ignoring a message that is no call");
                return None;
            }
        }
        let call = call.take();
        let answer = match self.target(&received.message) {
            Err(error) => Err(error),
            Ok(_) if received.too_large => Err(self.too_large()),
            Ok(Target::Close) => {
                drop(call);
                // What was asked before is answered before.
                let all = self.shared.limits.calls as u32;
                tokio::select! {
                    _ = self.calls.acquire_many(all) => {}
                    () = self.outbox.closed() => return Some(End::Gone),
                }
                self.send(reply(header, Ok(Bytes::new())), None).await;
                return Some(End::Flush);
            }
            Ok(Target::Polkit) => match self.may_ask() {
                Err(error) => Err(error.into()),
                Ok(action) => {
                    self.ask_polkit(action, header, call);
                    return None;
                }
            },
            Ok(Target::Connection(procedure)) => {
                self.connection_call(procedure, received.message.payload)
            }
            Ok(Target::Network(procedure)) => {
                let driver = Arc::clone(&self.shared.driver);
                self.spawn(header, call, async move {
                    let payload = received.message.payload;
                    let answer = dispatch::network(&*driver, procedure, payload).await;
                    drop(received.held);
                    answer
                });
                return None;
            }
            Ok(Target::Netd(procedure)) => {
                let driver = Arc::clone(&self.shared.driver);
                self.spawn(header, call, async move {
                    let payload = received.message.payload;
                    let answer = dispatch::netd(&*driver, procedure, payload).await;
                    drop(received.held);
                    answer
                });
                return None;
            }
        };
        self.note_refusal(header.procedure, &answer);
        self.send(reply(header, answer), call).await;
        None
    }

    /// Why the arguments of a call were not kept.
    fn too_large(&self) -> RemoteError {
        let limit = self.session.limit(&self.shared.limits);
        RemoteError::rpc(format!(
            "the arguments of this call are larger than {limit} bytes, which a client may send \
             before it opens a connection, or over a read-only one"
        ))
    }

    /// What polkit is to be asked for.
    fn may_ask(&self) -> Result<Action, ApiError> {
        let action = self.session.asks()?;
        if self.asking.is_some() {
            let detail = "polkit is being asked about this client already";
            return Err(ApiError::new(ErrorCode::AuthFailed, detail).in_domain(ErrorDomain::Rpc));
        }
        Ok(action)
    }

    /// Asks polkit about this client.
    fn ask_polkit(&mut self, action: Action, header: Header, call: Option<OwnedSemaphorePermit>) {
        let peer = self.session.peer().clone();
        let mut answer = JoinSet::new();
        answer.spawn(async move { polkit::ask(&peer, action).await });
        self.asking = Some(Asking {
            header,
            call,
            action,
            answer,
        });
    }

    /// polkit has answered.
    async fn authenticate(&mut self, answer: Result<(), ApiError>) {
        let Some(asking) = self.asking.take() else {
            return;
        };
        let answer = match answer {
            Ok(()) => {
                self.session.grant(asking.action);
                // The authentication is complete.
                result(&1_i32)
            }
            Err(error) => Err(error.into()),
        };
        self.note_refusal(asking.header.procedure, &answer);
        self.send(reply(asking.header, answer), asking.call).await;
    }

    /// Tells the administrator of a call that somebody may not make.
    fn note_refusal(&self, procedure: i32, answer: &Answer) {
        let Err(error) = answer else {
            return;
        };
        if is_refusal(error) {
            self.shared.refusals.warn(|left_out| {
                let text = error.text();
                tracing::warn!(client = %self.session, procedure, left_out, "refused: {text}");
            });
        }
    }

    /// Who answers a call, or why nobody does.
    fn target(&self, message: &Message) -> Result<Target, RemoteError> {
        let Header {
            program,
            version,
            procedure,
            status,
            ..
        } = message.header;
        if !matches!(program, PROGRAM_REMOTE | PROGRAM_NETD) || version != VERSION {
            return Err(RemoteError::rpc(format!(
                "Cannot find program {program} version {version}"
            )));
        }
        if status != STATUS_OK {
            return Err(RemoteError::rpc(format!(
                "Unexpected message status {status} of a call"
            )));
        }
        if program == PROGRAM_NETD {
            let unknown = || RemoteError::rpc(format!("unknown procedure: {procedure}"));
            let procedure = NetdProcedure::from_number(procedure).ok_or_else(unknown)?;
            self.session.admit_netd(procedure)?;
            return Ok(Target::Netd(procedure));
        }
        let procedure = Procedure::from_number(procedure)
            .ok_or_else(|| not_here(procedure, message.payload.clone()))?;
        self.session.admit(procedure)?;
        Ok(match (procedure, procedure.scope()) {
            (Procedure::Close, _) => Target::Close,
            (Procedure::AuthPolkit, _) => Target::Polkit,
            (_, Scope::Agent) => Target::Network(procedure),
            (_, Scope::Handshake | Scope::Connection) => Target::Connection(procedure),
        })
    }

    /// Runs a call beside the others; it is finished even when the client does not wait for it.
    fn spawn(
        &self,
        header: Header,
        call: Option<OwnedSemaphorePermit>,
        work: impl Future<Output = Answer> + Send + 'static,
    ) {
        let outbox = self.outbox.clone();
        let slot = Arc::clone(&self.slot);
        tokio::spawn(async move {
            let answer = AssertUnwindSafe(work).catch_unwind().await;
            let answer = answer.unwrap_or_else(|_| {
                tracing::error!(procedure = header.procedure, "a call panicked");
                Err(ApiError::internal("the agent failed in this call; see its log").into())
            });
            if outbox.send(reply(header, answer), call).await == Err(Closed) {
                tracing::debug!(procedure = header.procedure, "nobody waits for this reply");
            }
            drop(slot);
        });
    }

    /// Calls about the connection itself, answered at once and in order.
    fn connection_call(&mut self, procedure: Procedure, payload: Bytes) -> Answer {
        match procedure {
            Procedure::AuthList => result(&List::<_, 1>(vec![self.session.auth_list()])),
            Procedure::Open => {
                self.session.open(arguments(payload)?)?;
                self.slot.place().opened();
                result(&())
            }
            Procedure::SupportsFeature => {
                let feature = arguments(payload)?;
                if feature == FEATURE_KEEPALIVE {
                    // Only a client that asks can answer pings.
                    self.keepalive = true;
                } else {
                    self.session.check_open()?;
                }
                result(&i32::from(matches!(
                    feature,
                    FEATURE_KEEPALIVE
                        | FEATURE_TYPED_STRINGS
                        | FEATURE_EVENT_CALLBACKS
                        | FEATURE_CLOSE_CALLBACK
                        | FEATURE_NETWORK_UPDATE_ORDER
                )))
            }
            Procedure::GetType => result("network"),
            Procedure::GetUri => result(URI),
            Procedure::IsSecure => result(&1_i32),
            Procedure::GetLibVersion => result(&LIB_VERSION),
            Procedure::SetIdentity => {
                self.session.set_identity(arguments(payload)?)?;
                result(&())
            }
            Procedure::NetworkEventRegisterAny => {
                let driver = Arc::clone(&self.shared.driver);
                self.events.register(&*driver, arguments(payload)?)
            }
            Procedure::NetworkEventDeregisterAny => self.events.deregister(arguments(payload)?),
            Procedure::RegisterCloseCallback | Procedure::UnregisterCloseCallback => result(&()),
            other => Err(ApiError::new(ErrorCode::NoSupport, other.function()).into()),
        }
    }
}

/// Who answers a call.
enum Target {
    Close,
    Polkit,
    Connection(Procedure),
    Network(Procedure),
    Netd(NetdProcedure),
}

/// The end of a connection that cannot be read from.
fn lost(error: &io::Error) -> End {
    match error.kind() {
        // What it sends is no message, or does not arrive in time.
        io::ErrorKind::InvalidData | io::ErrorKind::TimedOut => {
            End::Disconnect(error.to_string().into())
        }
        _ => {
            tracing::debug!(%error, "a client left");
            End::Gone
        }
    }
}

/// Waits for polkit's answer; for ever where it is not asked.
async fn answered(asking: &mut Option<Asking>) -> Result<(), ApiError> {
    match asking {
        Some(asking) => match asking.answer.join_next().await {
            Some(Ok(answer)) => answer,
            _ => Err(ApiError::internal("asking polkit failed; see the log")),
        },
        None => std::future::pending().await,
    }
}

/// Does this error say that the client may not do that?
fn is_refusal(error: &RemoteError) -> bool {
    [
        ErrorCode::OperationDenied,
        ErrorCode::AccessDenied,
        ErrorCode::AuthFailed,
        ErrorCode::AuthCancelled,
        ErrorCode::AuthUnavailable,
    ]
    .iter()
    .any(|code| *code as i32 == error.code)
}

/// The reply to a call. An error too large to send becomes a smaller one.
fn reply(call: Header, answer: Answer) -> Message {
    let error = match answer {
        Ok(payload) => {
            return Message {
                header: call.reply(STATUS_OK),
                payload,
            };
        }
        Err(error) => error,
    };
    let header = call.reply(STATUS_ERROR);
    Message::new(header, &error).unwrap_or_else(|_| {
        let error = RemoteError::rpc("the error of this call is too large to send");
        Message::new(header, &error).unwrap_or(Message {
            header,
            payload: Bytes::new(),
        })
    })
}
