//! Events for one client: what it registered for, and the messages it gets.

use std::future::pending;

use uuid::Uuid;

use crate::api::{
    ApiError, Driver, ErrorCode, ErrorDomain, EventKind, Lagged, Lifecycle, Metadata, NetworkEvent,
    Subscription,
};
use crate::rpc::answer::{Answer, result};
use crate::rpc::message::{Header, Message, PROGRAM_REMOTE, STATUS_OK, TYPE_MESSAGE, VERSION};
use crate::rpc::procedures::{
    EVENT_ID_LIFECYCLE, EVENT_ID_METADATA_CHANGE, EVENT_LIFECYCLE, EVENT_METADATA_CHANGE,
    EventRegisterArgs, LifecycleMessage, METADATA_DESCRIPTION, METADATA_ELEMENT, METADATA_TITLE,
    MetadataMessage, NetworkRef,
};
use crate::rpc::remote_error::RemoteError;
use crate::rpc::xdr::{self, XdrError};

/// Most registrations of one client: one event is as many messages. libvirt's library registers once
/// for each kind of event and each network that somebody asks for.
pub const REGISTRATIONS_MAX: usize = 1024;

/// The serial of events, as libvirt's daemons send it. Clients do not look at it.
const SERIAL: u32 = 1;

/// What a client registered for.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    callbacks: Vec<Callback>,
    /// The next callback's number.
    next: i32,
    /// What happens, as long as there is a callback.
    subscription: Option<Subscription>,
}

/// One registration.
#[derive(Debug)]
struct Callback {
    id: i32,
    kind: Kind,
    /// Of this network alone.
    network: Option<Uuid>,
}

/// What a registration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lifecycle,
    Metadata,
}

fn refuse(detail: impl std::fmt::Display) -> RemoteError {
    ApiError::internal(detail)
        .in_domain(ErrorDomain::Rpc)
        .into()
}

impl Registrations {
    /// Answers NETWORK_EVENT_REGISTER_ANY. Nobody asks whether there is such a network, so that a client
    /// may wait for one to be defined.
    pub fn register<D: Driver>(&mut self, driver: &D, args: EventRegisterArgs) -> Answer {
        let kind = match args.event {
            EVENT_ID_LIFECYCLE => Kind::Lifecycle,
            EVENT_ID_METADATA_CHANGE => Kind::Metadata,
            other => return Err(refuse(format_args!("unsupported network event ID {other}"))),
        };
        let network = args.network.map(|network| network.uuid);
        let same = |one: &Callback| one.kind == kind && one.network == network;
        if self.callbacks.iter().any(same) {
            let error = ApiError::new(ErrorCode::InvalidArg, "event callback already tracked");
            return Err(error.in_domain(ErrorDomain::None).into());
        }
        if self.callbacks.len() >= REGISTRATIONS_MAX {
            return Err(ApiError::new(
                ErrorCode::OperationFailed,
                format_args!(
                    "this connection has registered for events {REGISTRATIONS_MAX} times, which is \
                     the most; register for the events of all networks"
                ),
            )
            .into());
        }
        let id = self.next;
        // A client that gets round to 0 has confused itself alone.
        self.next = id.wrapping_add(1) & i32::MAX;
        self.callbacks.push(Callback { id, kind, network });
        self.subscription.get_or_insert_with(|| driver.subscribe());
        result(&id)
    }

    /// Answers NETWORK_EVENT_DEREGISTER_ANY.
    pub fn deregister(&mut self, id: i32) -> Answer {
        let found = self.callbacks.iter().position(|callback| callback.id == id);
        let Some(index) = found else {
            return Err(refuse(format_args!(
                "network event callback {id} not registered"
            )));
        };
        self.callbacks.swap_remove(index);
        if self.callbacks.is_empty() {
            self.subscription = None;
        }
        result(&())
    }

    /// The messages of the next event that this client asked for, one for each registration; waits for
    /// ever without one. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Result<Vec<Message>, Lagged> {
        let Some(subscription) = &mut self.subscription else {
            return pending().await;
        };
        loop {
            let event = subscription.next().await?;
            let asked = self.callbacks.iter().filter(|one| one.wants(&event));
            let messages: Vec<Message> = asked.filter_map(|one| message(one.id, &event)).collect();
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }
}

impl Callback {
    fn wants(&self, event: &NetworkEvent) -> bool {
        let kind = match event.kind {
            EventKind::Lifecycle(_) => Kind::Lifecycle,
            EventKind::Metadata(_) => Kind::Metadata,
        };
        self.kind == kind && self.network.is_none_or(|uuid| uuid == event.uuid)
    }
}

/// An event as it goes to a client.
fn message(callback: i32, event: &NetworkEvent) -> Option<Message> {
    let network = NetworkRef {
        name: event.name.clone(),
        uuid: event.uuid,
    };
    let encoded = match &event.kind {
        EventKind::Lifecycle(lifecycle) => Message::new(
            header(EVENT_LIFECYCLE),
            &LifecycleMessage {
                callback,
                network,
                event: *lifecycle as i32,
                detail: 0,
            },
        ),
        EventKind::Metadata(what) => {
            let (kind, uri) = match what {
                Metadata::Description => (METADATA_DESCRIPTION, None),
                Metadata::Title => (METADATA_TITLE, None),
                Metadata::Element(uri) => (METADATA_ELEMENT, Some(uri.clone())),
            };
            Message::new(
                header(EVENT_METADATA_CHANGE),
                &MetadataMessage {
                    callback,
                    network,
                    kind,
                    uri,
                },
            )
        }
    };
    told(encoded, event)
}

/// The event that a message tells of; `None` when it is another message.
pub(super) fn read(message: &Message) -> Option<xdr::Result<NetworkEvent>> {
    if message.header.program != PROGRAM_REMOTE || message.header.kind != TYPE_MESSAGE {
        return None;
    }
    match message.header.procedure {
        EVENT_LIFECYCLE => Some(lifecycle(message)),
        EVENT_METADATA_CHANGE => Some(metadata(message)),
        _ => None,
    }
}

fn lifecycle(message: &Message) -> xdr::Result<NetworkEvent> {
    let LifecycleMessage { network, event, .. } = xdr::from_bytes(message.payload.clone())?;
    let state = Lifecycle::from_number(event).ok_or(XdrError::BadTag(event))?;
    Ok(NetworkEvent {
        name: network.name,
        uuid: network.uuid,
        kind: EventKind::Lifecycle(state),
    })
}

fn metadata(message: &Message) -> xdr::Result<NetworkEvent> {
    let MetadataMessage {
        network, kind, uri, ..
    } = xdr::from_bytes(message.payload.clone())?;
    let what = match kind {
        METADATA_DESCRIPTION => Metadata::Description,
        METADATA_TITLE => Metadata::Title,
        METADATA_ELEMENT => Metadata::Element(uri.unwrap_or_default()),
        other => return Err(XdrError::BadTag(other)),
    };
    Ok(NetworkEvent {
        name: network.name,
        uuid: network.uuid,
        kind: EventKind::Metadata(what),
    })
}

/// What cannot be sent is told in the log.
fn told(encoded: xdr::Result<Message>, event: &NetworkEvent) -> Option<Message> {
    encoded
        .inspect_err(|error| {
            tracing::error!(network = event.name, %error, "an event cannot be sent");
        })
        .ok()
}

fn header(procedure: i32) -> Header {
    Header {
        program: PROGRAM_REMOTE,
        version: VERSION,
        procedure,
        kind: TYPE_MESSAGE,
        serial: SERIAL,
        status: STATUS_OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let kinds = [
            EventKind::Lifecycle(Lifecycle::Defined),
            EventKind::Lifecycle(Lifecycle::Undefined),
            EventKind::Lifecycle(Lifecycle::Started),
            EventKind::Lifecycle(Lifecycle::Stopped),
            EventKind::Metadata(Metadata::Description),
            EventKind::Metadata(Metadata::Title),
            EventKind::Metadata(Metadata::Element("urn:x".to_owned())),
        ];
        for kind in kinds {
            let event = NetworkEvent {
                name: "n".to_owned(),
                uuid: Uuid::from_u128(7),
                kind,
            };
            let sent = message(3, &event).unwrap();
            assert_eq!(read(&sent), Some(Ok(event)));
        }
        assert_eq!(read(&Message::keepalive(1)), None);
    }
}
