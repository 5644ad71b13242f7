//! Events: who hears of what, in which order, and what slow or greedy listeners can do to others.

use std::path::Path;
use std::time::Duration;

use netd::api::{EventKind, Lifecycle, Metadata, NetworkEvent};
use netd::rpc::Limits;
use netd::rpc::events::REGISTRATIONS_MAX;
use netd::rpc::message::{
    Header, KEEPALIVE_PING, KEEPALIVE_PONG, Message, PROGRAM_KEEPALIVE, PROGRAM_REMOTE, STATUS_OK,
    TYPE_MESSAGE,
};
use netd::rpc::procedures::{
    EVENT_ID_LIFECYCLE, EVENT_ID_METADATA_CHANGE, EVENT_LIFECYCLE, EVENT_METADATA_CHANGE,
    EventRegisterArgs, LifecycleMessage, METADATA_DESCRIPTION, METADATA_ELEMENT, MetadataMessage,
    NetworkRef, OPEN_READ_ONLY,
};
use netd::rpc::xdr::from_bytes;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::Server;
use crate::fake::{Fake, N1};
use crate::raw::{PATIENCE, Raw, against, n1, numbers, open_args, slow};

const START: i32 = 39;
const DESTROY: i32 = 42;
const REGISTER: i32 = 313;
const DEREGISTER: i32 = 314;
const SET_METADATA: i32 = 444;

/// The network "default", which is defined and does not run.
const DEFAULT: Uuid = Uuid::from_u128(0x29392cdd_301e_4814_bda6_7c419f326daa);

fn named(name: &str, uuid: Uuid) -> NetworkRef {
    NetworkRef {
        name: name.to_owned(),
        uuid,
    }
}

impl Raw {
    /// Registers; returns the callback's number.
    async fn register(&mut self, event: i32, network: Option<NetworkRef>) -> i32 {
        let args = EventRegisterArgs { event, network };
        from_bytes(self.ok(REGISTER, &args).await).unwrap()
    }

    /// A client that hears of every network's state.
    async fn listening(socket: &Path) -> (Self, i32) {
        let mut raw = Self::open(socket).await;
        let callback = raw.register(EVENT_ID_LIFECYCLE, None).await;
        (raw, callback)
    }

    /// The next message, an event.
    async fn event(&mut self, procedure: i32) -> Message {
        let message = self.next().await.unwrap();
        let header = Header {
            program: PROGRAM_REMOTE,
            version: 1,
            procedure,
            kind: TYPE_MESSAGE,
            serial: 1,
            status: STATUS_OK,
        };
        assert_eq!(message.header, header);
        message
    }

    /// The next event of a network's state.
    async fn lifecycle(&mut self) -> LifecycleMessage {
        from_bytes(self.event(EVENT_LIFECYCLE).await.payload).unwrap()
    }

    /// The next event of metadata.
    async fn metadata(&mut self) -> MetadataMessage {
        from_bytes(self.event(EVENT_METADATA_CHANGE).await.payload).unwrap()
    }
}

fn state(callback: i32, network: &NetworkRef, now: Lifecycle) -> LifecycleMessage {
    LifecycleMessage {
        callback,
        network: network.clone(),
        event: now as i32,
        detail: 0,
    }
}

#[test]
fn every_registration_gets_a_message_of_its_own() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let all = raw.register(EVENT_ID_LIFECYCLE, None).await;
        // By UUID: the name is an old one.
        let of_n1 = raw.register(EVENT_ID_LIFECYCLE, Some(n1())).await;
        let of_default = raw
            .register(EVENT_ID_LIFECYCLE, Some(named("x", DEFAULT)))
            .await;
        let metadata = raw.register(EVENT_ID_METADATA_CHANGE, None).await;
        assert_eq!([all, of_n1, of_default, metadata], [0, 1, 2, 3]);

        let mut other = Raw::open(&socket).await;
        let (n1, default) = (named("n1", N1), named("default", DEFAULT));
        other.ok(DESTROY, &n1).await;
        assert_eq!(raw.lifecycle().await, state(all, &n1, Lifecycle::Stopped));
        assert_eq!(raw.lifecycle().await, state(of_n1, &n1, Lifecycle::Stopped));
        other.ok(START, &default).await;
        let started = |callback| state(callback, &default, Lifecycle::Started);
        assert_eq!(raw.lifecycle().await, started(all));
        assert_eq!(raw.lifecycle().await, started(of_default));
        // Who did not register hears nothing.
        other.ok(46, "n1").await;

        raw.ok(DEREGISTER, &all).await;
        other.ok(DESTROY, &default).await;
        let stopped = state(of_default, &default, Lifecycle::Stopped);
        assert_eq!(raw.lifecycle().await, stopped);
        for callback in [of_n1, of_default, metadata] {
            raw.ok(DEREGISTER, &callback).await;
        }
        other.ok(START, &n1).await;
        raw.ok(46, "n1").await;
        // A new one has a new number, and hears of what happens from now on.
        assert_eq!(raw.register(EVENT_ID_LIFECYCLE, None).await, 4);
        other.ok(DESTROY, &n1).await;
        assert_eq!(raw.lifecycle().await, state(4, &n1, Lifecycle::Stopped));
    });
}

#[test]
fn metadata_changes_name_what_changed() {
    use netd::rpc::procedures::SetMetadataArgs;
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let callback = raw.register(EVENT_ID_METADATA_CHANGE, Some(n1())).await;
        let mut other = Raw::open(&socket).await;
        let uri = "http://e/x".to_owned();
        let set = SetMetadataArgs {
            network: n1(),
            kind: METADATA_DESCRIPTION,
            metadata: Some("words".to_owned()),
            key: None,
            uri: None,
            flags: 0,
        };
        other.ok(SET_METADATA, &set).await;
        let element = SetMetadataArgs {
            kind: METADATA_ELEMENT,
            metadata: Some("<x/>".to_owned()),
            key: Some("k".to_owned()),
            uri: Some(uri.clone()),
            ..set
        };
        other.ok(SET_METADATA, &element).await;
        let network = named("n1", N1);
        let expected = |kind, uri| MetadataMessage {
            callback,
            network: network.clone(),
            kind,
            uri,
        };
        assert_eq!(raw.metadata().await, expected(METADATA_DESCRIPTION, None));
        assert_eq!(raw.metadata().await, expected(METADATA_ELEMENT, Some(uri)));
    });
}

#[test]
fn what_nobody_registered_cannot_be_deregistered() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let error = raw.fails(DEREGISTER, &12345).await;
        assert_eq!(numbers(&error), (1, 7));
        assert_eq!(
            error.text(),
            "internal error: network event callback 12345 not registered"
        );
        for event in [2, 99, -1, i32::MAX] {
            let args = EventRegisterArgs {
                event,
                network: None,
            };
            let error = raw.fails(REGISTER, &args).await;
            assert_eq!(numbers(&error), (1, 7));
            let expected = format!("internal error: unsupported network event ID {event}");
            assert_eq!(error.text(), expected);
        }
        // Another client's callback is nobody's here.
        let (_other, callback) = Raw::listening(&socket).await;
        assert_eq!(numbers(&raw.fails(DEREGISTER, &callback).await), (1, 7));
        // What the server sends cannot be called.
        for message in [EVENT_LIFECYCLE, EVENT_METADATA_CHANGE] {
            let error = raw.fails(message, &()).await;
            assert_eq!(error.text(), format!("unknown procedure: {message}"));
        }
    });
}

#[test]
fn registrations_are_counted() {
    against(Limits::default(), |socket| async move {
        let (mut raw, first) = Raw::listening(&socket).await;
        let args = EventRegisterArgs {
            event: EVENT_ID_LIFECYCLE,
            network: None,
        };
        let error = raw.fails(REGISTER, &args).await;
        assert_eq!(numbers(&error), (8, 0));
        assert_eq!(
            error.text(),
            "invalid argument: event callback already tracked"
        );
        for number in 1..REGISTRATIONS_MAX {
            let network = named("", Uuid::from_u128(number as u128));
            raw.register(EVENT_ID_LIFECYCLE, Some(network)).await;
        }
        let another = EventRegisterArgs {
            event: EVENT_ID_METADATA_CHANGE,
            network: None,
        };
        let error = raw.fails(REGISTER, &another).await;
        assert_eq!(numbers(&error), (9, 19));
        assert!(
            error
                .text()
                .contains("registered for events 1024 times, which is the most"),
            "{error:?}"
        );
        raw.ok(DEREGISTER, &first).await;
        raw.ok(REGISTER, &args).await;
    });
}

#[test]
fn a_read_only_client_may_listen() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        raw.ok(1, &open_args("network:///system", OPEN_READ_ONLY))
            .await;
        let callback = raw.register(EVENT_ID_LIFECYCLE, None).await;
        let network = named("n1", N1);
        assert_eq!(numbers(&raw.fails(DESTROY, &network).await), (29, 19));
        Raw::open(&socket).await.ok(DESTROY, &network).await;
        let stopped = state(callback, &network, Lifecycle::Stopped);
        assert_eq!(raw.lifecycle().await, stopped);
    });
}

#[test]
fn a_client_with_all_its_calls_in_flight_hears_all_the_same() {
    let limits = Limits {
        calls: 1,
        ..Limits::default()
    };
    let server = Server::with_limits(limits);
    let socket = &server.socket;
    server.runtime.block_on(async {
        let (mut raw, callback) = Raw::listening(socket).await;
        let start = raw.header(START);
        raw.send(&Message::new(start, &slow()).unwrap()).await;
        server.driver.slow.begun(1).await;
        let network = named("n1", N1);
        Raw::open(socket).await.ok(DESTROY, &network).await;
        let stopped = state(callback, &network, Lifecycle::Stopped);
        assert_eq!(raw.lifecycle().await, stopped);
        server.driver.slow.let_end(1);
        // The reply may come before or after what it caused.
        let rest = [raw.next().await.unwrap(), raw.next().await.unwrap()];
        assert!(
            rest.iter()
                .any(|message| message.header == start.reply(STATUS_OK))
        );
        let event = rest.iter().find(|m| m.header.kind == TYPE_MESSAGE).unwrap();
        let started = state(callback, &slow(), Lifecycle::Started);
        assert_eq!(from_bytes(event.payload.clone()), Ok(started));
    });
}

/// Tells so many times that n1 was started.
fn publish(driver: &Fake, count: usize) {
    for _ in 0..count {
        driver.events.publish(NetworkEvent {
            name: "n1".to_owned(),
            uuid: N1,
            kind: EventKind::Lifecycle(Lifecycle::Started),
        });
    }
}

#[test]
fn hundreds_listen_and_one_that_does_not_read_is_let_go() {
    const LISTENERS: usize = 300;
    const EVENTS: usize = 1000;
    let server = Server::with_limits(Limits {
        // The others read, when the machine lets them.
        write: Duration::from_secs(8),
        ..Limits::default()
    });
    server.runtime.block_on(async {
        let mut listeners = Vec::new();
        for _ in 0..LISTENERS {
            listeners.push(Raw::listening(&server.socket).await);
        }
        let (mut stuck, _) = Raw::listening(&server.socket).await;
        publish(&server.driver, EVENTS);
        let network = named("n1", N1);
        let readers = listeners.into_iter().map(|(mut raw, callback)| {
            let expected = state(callback, &network, Lifecycle::Started);
            tokio::spawn(async move {
                for _ in 0..EVENTS {
                    assert_eq!(raw.lifecycle().await, expected);
                }
                raw
            })
        });
        let readers: Vec<_> = readers.collect();
        let mut others = Vec::new();
        for reader in readers {
            others.push(reader.await.unwrap());
        }
        // It is let go while it does not read a word.
        let ping = Message::keepalive(KEEPALIVE_PING).to_bytes();
        let let_go = tokio::time::timeout(PATIENCE, async {
            while stuck.writer.write_all(&ping).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let_go.await.unwrap();
        let mut heard = 0;
        while stuck.next().await.is_some() {
            heard += 1;
        }
        assert!(heard < EVENTS, "{heard}");
        for mut raw in others {
            raw.ok(46, "n1").await;
        }
    });
}

#[test]
fn a_client_that_misses_events_loses_its_connection() {
    let server = Server::start();
    server.runtime.block_on(async {
        let (mut raw, _) = Raw::listening(&server.socket).await;
        // More than is kept, and than the socket takes. Nobody waits for the client meanwhile.
        publish(&server.driver, 20_000);
        let mut heard = 0;
        while raw.next().await.is_some() {
            heard += 1;
        }
        assert!(heard < 20_000, "{heard}");
    });
}

#[test]
fn listeners_are_pinged_and_answered() {
    let limits = Limits {
        keepalive_interval: Duration::from_millis(1500),
        keepalive_count: 3,
        ..Limits::default()
    };
    let server = Server::with_limits(limits);
    server.runtime.block_on(async {
        let (mut raw, callback) = Raw::listening(&server.socket).await;
        raw.ok(60, &10).await;
        for _ in 0..2 {
            let message = raw.next().await.unwrap();
            assert_eq!(message.header, Header::keepalive(KEEPALIVE_PING));
            raw.send(&Message::keepalive(KEEPALIVE_PONG)).await;
        }
        raw.send(&Message::keepalive(KEEPALIVE_PING)).await;
        let message = raw.next_but_pings().await;
        assert_eq!(message.header, Header::keepalive(KEEPALIVE_PONG));
        publish(&server.driver, 1);
        let message = raw.next_but_pings().await;
        assert_eq!(message.header.procedure, EVENT_LIFECYCLE);
        let expected = state(callback, &named("n1", N1), Lifecycle::Started);
        assert_eq!(from_bytes(message.payload), Ok(expected));
        // Events that it gets do not show that it is there.
        let driver = std::sync::Arc::clone(&server.driver);
        let telling = tokio::spawn(async move {
            loop {
                publish(&driver, 1);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let (mut pings, mut events) = (0, 0);
        let ended = tokio::time::timeout(PATIENCE, async {
            while let Some(message) = raw.next().await {
                match message.header.program {
                    PROGRAM_KEEPALIVE => pings += 1,
                    _ => events += 1,
                }
            }
        });
        ended.await.unwrap();
        telling.abort();
        // On a busy machine the last ones go with the connection.
        assert!((1..=3).contains(&pings), "{pings}");
        assert!(events > 0);
    });
}

#[test]
fn listeners_do_not_keep_the_server_from_stopping() {
    let mut server = Server::start();
    let socket = server.socket.clone();
    let (mut raw, _) = server.runtime.block_on(Raw::listening(&socket));
    publish(&server.driver, 1);
    server.stop();
    server.runtime.block_on(async {
        while let Some(message) = raw.next().await {
            assert_eq!(message.header.procedure, EVENT_LIFECYCLE);
        }
    });
}

#[test]
fn titles_and_elements_are_told_apart() {
    // The numbers on the wire are libvirt's.
    let server = Server::start();
    server.runtime.block_on(async {
        let mut raw = Raw::open(&server.socket).await;
        let callback = raw.register(EVENT_ID_METADATA_CHANGE, None).await;
        for (what, kind, uri) in [
            (Metadata::Description, 0, None),
            (Metadata::Title, 1, None),
            (Metadata::Element("u:1".to_owned()), 2, Some("u:1")),
        ] {
            server.driver.events.publish(NetworkEvent {
                name: "n1".to_owned(),
                uuid: N1,
                kind: EventKind::Metadata(what),
            });
            let message = raw.metadata().await;
            assert_eq!((message.callback, message.kind), (callback, kind));
            assert_eq!(message.uri.as_deref(), uri);
        }
    });
}
