//! Recorded conversations with events, held again with this server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use netd::api::{EventKind, Lifecycle, Metadata, NetworkEvent};
use netd::rpc::message::{Message, PROGRAM_REMOTE, TYPE_CALL, TYPE_MESSAGE, TYPE_REPLY};
use netd::rpc::procedures::{
    EVENT_LIFECYCLE, EVENT_METADATA_CHANGE, LifecycleMessage, MetadataMessage,
};
use netd::rpc::xdr::from_bytes;

use crate::Server;
use crate::captures::captures;

/// Callbacks have other numbers here than in a recording.
#[derive(Default)]
struct Callbacks(BTreeMap<i32, i32>);

impl Callbacks {
    /// A recorded message with the numbers of this conversation.
    fn here(&self, mut message: Message) -> Message {
        let carries = matches!(
            (message.header.procedure, message.header.kind),
            (EVENT_LIFECYCLE | EVENT_METADATA_CHANGE, TYPE_MESSAGE)
                | (314, TYPE_CALL)
                | (313, TYPE_REPLY)
        );
        if carries {
            let recorded = i32::from_be_bytes(message.payload[..4].try_into().unwrap());
            let here = self.0.get(&recorded).copied().unwrap();
            let mut payload = here.to_be_bytes().to_vec();
            payload.extend_from_slice(&message.payload[4..]);
            message.payload = payload.into();
        }
        message
    }

    /// The reply to a registration names the callback.
    fn learn(&mut self, recorded: &Message, answers: &[Message]) {
        let header = recorded.header;
        if (header.procedure, header.kind) == (313, TYPE_REPLY) {
            let number = |message: &Message| from_bytes::<i32>(message.payload.clone()).unwrap();
            let answer = answers.iter().find(|answer| answer.header == header);
            self.0.insert(number(recorded), number(answer.unwrap()));
        }
    }
}

fn read_message(stream: &mut UnixStream) -> Message {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).unwrap();
    let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes.resize(len, 0);
    stream.read_exact(&mut bytes[4..]).unwrap();
    Message::from_bytes(bytes.into()).unwrap()
}

/// What somebody else did when this message was recorded.
fn happened(message: &Message) -> NetworkEvent {
    let payload = message.payload.clone();
    let (network, kind) = match message.header.procedure {
        EVENT_LIFECYCLE => {
            let body: LifecycleMessage = from_bytes(payload).unwrap();
            let all = [
                Lifecycle::Defined,
                Lifecycle::Undefined,
                Lifecycle::Started,
                Lifecycle::Stopped,
            ];
            let now = all[usize::try_from(body.event).unwrap()];
            (body.network, EventKind::Lifecycle(now))
        }
        _ => {
            let body: MetadataMessage = from_bytes(payload).unwrap();
            let what = match (body.kind, body.uri) {
                (0, None) => Metadata::Description,
                (1, None) => Metadata::Title,
                (2, Some(uri)) => Metadata::Element(uri),
                other => panic!("{other:?}"),
            };
            (body.network, EventKind::Metadata(what))
        }
    };
    NetworkEvent {
        name: network.name,
        uuid: network.uuid,
        kind,
    }
}

#[test]
fn recorded_events_are_told_the_same() {
    let Some(captures) = captures() else { return };
    for (name, expected) in [
        ("net-event", 5),
        ("net-event-one", 0),
        ("net-event-md", 2),
        ("python-event", 4),
        ("virtqemud-fwd-net-event", 0),
    ] {
        // Others caused the events of virsh's conversations, python the ones that it hears.
        let by_others = name != "python-event";
        let server = Server::start();
        let mut stream = UnixStream::connect(&server.socket).unwrap();
        let mut callbacks = Callbacks::default();
        let mut told = 0;
        let messages: Vec<(bool, Message)> = captures[name]
            .iter()
            .map(|line| {
                (
                    line.from_client,
                    Message::from_bytes(line.bytes.clone()).unwrap(),
                )
            })
            .filter(|(_, message)| message.header.program == PROGRAM_REMOTE)
            .collect();
        for turn in messages.chunk_by(|(first, _), (second, _)| first == second) {
            if turn[0].0 {
                for (_, call) in turn {
                    let call = callbacks.here(call.clone());
                    stream.write_all(&call.to_bytes()).unwrap();
                }
                continue;
            }
            let mut answers = Vec::new();
            for (_, recorded) in turn {
                let event = recorded.header.kind == TYPE_MESSAGE;
                told += usize::from(event);
                if event && by_others {
                    server.driver.events.publish(happened(recorded));
                }
                answers.push(read_message(&mut stream));
                callbacks.learn(recorded, &answers);
            }
            // An event may come before or after the reply of the call that caused it.
            let order = |message: &Message| message.header.kind == TYPE_REPLY;
            let mut recorded: Vec<Message> = turn
                .iter()
                .map(|(_, message)| callbacks.here(message.clone()))
                .collect();
            recorded.sort_by_key(order);
            answers.sort_by_key(order);
            assert_eq!(answers, recorded, "{name}");
        }
        assert_eq!(told, expected, "{name}");
    }
}
