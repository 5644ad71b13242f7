//! Hand-made messages, good and bad, against a live server.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netd::rpc::message::{
    HEADER_LEN, Header, KEEPALIVE_PING, KEEPALIVE_PONG, MESSAGE_MAX, Message, PROGRAM_KEEPALIVE,
    PROGRAM_NETD, PROGRAM_REMOTE, Reader, RemoteError, STATUS_ERROR, STATUS_OK, TYPE_CALL,
    TYPE_CALL_WITH_FDS, TYPE_MESSAGE, TYPE_REPLY,
};
use netd::rpc::procedures::{
    IdentityArgs, ListArgs, ListReply, NetworkRef, OpenArgs, TypedParameter, TypedValue, XmlArgs,
    XmlDescArgs,
};
use netd::rpc::server::Limits;
use netd::rpc::xdr::{Encode, List, from_bytes, to_bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::Server;
use crate::fake::N1;

const PATIENCE: Duration = Duration::from_secs(10);

/// A client without manners.
struct Raw {
    reader: Reader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    serial: u32,
}

impl Raw {
    async fn connect(socket: &Path) -> Self {
        let (reader, writer) = UnixStream::connect(socket).await.unwrap().into_split();
        Self {
            reader: Reader::new(reader),
            writer,
            serial: 0,
        }
    }

    async fn open(socket: &Path) -> Self {
        let mut raw = Self::connect(socket).await;
        raw.ok(1, &open_args("network:///system", 0)).await;
        raw
    }

    fn header(&mut self, procedure: i32) -> Header {
        self.serial += 1;
        Header {
            program: PROGRAM_REMOTE,
            version: 1,
            procedure,
            kind: TYPE_CALL,
            serial: self.serial,
            status: STATUS_OK,
        }
    }

    async fn send(&mut self, message: &Message) {
        self.writer.write_all(&message.to_bytes()).await.unwrap();
    }

    /// The next message; `None` when the server closed the connection.
    async fn next(&mut self) -> Option<Message> {
        match tokio::time::timeout(PATIENCE, self.reader.next())
            .await
            .unwrap()
        {
            Ok(received) => received.map(|received| received.message),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn call(&mut self, procedure: i32, args: &(impl Encode + ?Sized)) -> Message {
        let header = self.header(procedure);
        self.send(&Message::new(header, args).unwrap()).await;
        let reply = self.next().await.unwrap();
        assert_eq!(
            (reply.header.kind, reply.header.serial),
            (TYPE_REPLY, header.serial)
        );
        assert_eq!(reply.header.procedure, procedure);
        reply
    }

    async fn ok(&mut self, procedure: i32, args: &(impl Encode + ?Sized)) -> Bytes {
        let reply = self.call(procedure, args).await;
        assert_eq!(reply.header.status, STATUS_OK, "{:?}", error(&reply));
        reply.payload
    }

    async fn fails(&mut self, procedure: i32, args: &(impl Encode + ?Sized)) -> RemoteError {
        error(&self.call(procedure, args).await)
    }

    /// Sends a message and expects an error that copies its header.
    async fn refused(&mut self, message: &Message) -> RemoteError {
        self.send(message).await;
        let reply = self.next().await.unwrap();
        assert_eq!(reply.header, message.header.reply(STATUS_ERROR));
        error(&reply)
    }
}

fn error(reply: &Message) -> RemoteError {
    from_bytes(reply.payload.clone()).unwrap()
}

fn open_args(name: &str, flags: u32) -> OpenArgs {
    OpenArgs {
        name: Some(name.into()),
        flags,
    }
}

fn n1() -> NetworkRef {
    NetworkRef {
        name: "an old name".into(),
        uuid: N1,
    }
}

fn numbers(error: &RemoteError) -> (i32, i32) {
    (error.code, error.domain)
}

/// Runs `test` against a server with these limits.
fn against<F: Future<Output = ()>>(limits: Limits, test: impl FnOnce(std::path::PathBuf) -> F) {
    let server = Server::with_limits(limits);
    let socket = server.socket.clone();
    server.runtime.block_on(test(socket));
}

#[test]
fn impossible_lengths_end_the_connection_without_a_reply() {
    against(Limits::default(), |socket| async move {
        for len in [0_u32, 4, 27, MESSAGE_MAX as u32 + 1, u32::MAX] {
            let mut raw = Raw::open(&socket).await;
            raw.writer.write_all(&len.to_be_bytes()).await.unwrap();
            // The server may be gone before these arrive.
            let _ = raw.writer.write_all(&[0; 40]).await;
            assert!(raw.next().await.is_none(), "length {len}");
        }
    });
}

#[test]
fn strange_calls_are_answered_with_an_error() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let lookup = |header| Message::new(header, "n1").unwrap();

        let mut header = raw.header(9999);
        let error = raw.refused(&lookup(header)).await;
        assert_eq!(numbers(&error), (39, 7));
        assert_eq!(error.text(), "unknown procedure: 9999");
        header.program = PROGRAM_NETD;
        assert_eq!(
            raw.refused(&lookup(header)).await.text(),
            "unknown procedure: 9999"
        );

        let mut header = raw.header(1);
        header.program = 0x1234_5678;
        let error = raw.refused(&lookup(header)).await;
        assert_eq!(numbers(&error), (39, 7));
        assert_eq!(error.text(), "Cannot find program 305419896 version 1");

        let mut header = raw.header(46);
        header.version = 2;
        let error = raw.refused(&lookup(header)).await;
        assert_eq!(error.text(), "Cannot find program 536903814 version 2");

        let mut header = raw.header(46);
        header.status = STATUS_ERROR;
        assert_eq!(numbers(&raw.refused(&lookup(header)).await), (39, 7));

        // Not XDR at all: a length word, and three bytes that are no padded string.
        let header = raw.header(46);
        let payload = Bytes::from_static(b"\0\0\0dab");
        let error = raw.refused(&Message { header, payload }).await;
        assert_eq!(numbers(&error), (39, 7));
        assert!(
            error.text().starts_with("Unable to decode message payload"),
            "{error:?}"
        );

        let header = raw.header(46);
        let payload = Bytes::from_static(b"\0\0\0\x02n1\0\0junkjunk");
        raw.send(&Message { header, payload }).await;
        assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
    });
}

#[test]
fn messages_that_are_no_calls_are_ignored() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        for kind in [TYPE_REPLY, TYPE_MESSAGE, 3, 77] {
            let mut header = raw.header(46);
            header.kind = kind;
            raw.send(&Message::new(header, "n1").unwrap()).await;
        }
        raw.ok(46, "n1").await;

        let mut header = raw.header(46);
        header.kind = TYPE_CALL_WITH_FDS;
        raw.send(&Message::new(header, &1_u32).unwrap()).await;
        assert!(
            raw.next().await.is_none(),
            "descriptors would break the framing"
        );
    });
}

#[test]
fn only_setting_up_is_possible_before_open() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        assert_eq!(&raw.ok(66, &()).await[..], b"\0\0\0\x01\0\0\0\0");
        assert_eq!(&raw.ok(60, &10).await[..], b"\0\0\0\x01");
        for (procedure, argument) in [(60, 14), (3, 0), (52, 0), (283, 1)] {
            let error = raw.fails(procedure, &argument).await;
            assert_eq!(numbers(&error), (1, 7), "procedure {procedure}");
            assert_eq!(error.text(), "internal error: connection not open");
        }
        let mut header = raw.header(1);
        header.program = PROGRAM_NETD;
        let plan = Message::new(header, &None::<String>).unwrap();
        assert_eq!(numbers(&raw.refused(&plan).await), (1, 7));

        for (name, expected) in [
            ("", (5, 0)),
            ("qemu:///system", (5, 0)),
            ("networkx:///system", (5, 0)),
            ("network:///session", (1, 0)),
            ("network://host/system", (1, 0)),
        ] {
            let error = raw.fails(1, &open_args(name, 0)).await;
            assert_eq!(numbers(&error), expected, "{name}: {error:?}");
        }
        let nameless = OpenArgs {
            name: None,
            flags: 0,
        };
        assert_eq!(numbers(&raw.fails(1, &nameless).await), (5, 0));
        raw.ok(1, &open_args("network:///system?x=y", 4)).await;
        raw.ok(46, "n1").await;
        let error = raw.fails(1, &open_args("network:///system", 0)).await;
        assert_eq!(numbers(&error), (1, 7));
        raw.ok(46, "n1").await;
    });
}

#[test]
fn connection_calls_answer_as_libvirts_daemon_does() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        for (feature, expected) in [
            (10, 1),
            (14, 1),
            (15, 1),
            (16, 1),
            (9, 1),
            (8, 0),
            (1, 0),
            (99, 0),
        ] {
            let answer: i32 = from_bytes(raw.ok(60, &feature).await).unwrap();
            assert_eq!(answer, expected, "feature {feature}");
        }
        assert_eq!(
            from_bytes::<String>(raw.ok(3, &()).await).unwrap(),
            "network"
        );
        assert_eq!(
            from_bytes::<String>(raw.ok(110, &()).await).unwrap(),
            "network:///system"
        );
        assert_eq!(from_bytes::<i32>(raw.ok(149, &()).await).unwrap(), 1);
        assert_eq!(
            from_bytes::<u64>(raw.ok(157, &()).await).unwrap(),
            11_003_000
        );
        for procedure in [360, 360, 361, 361] {
            assert!(raw.ok(procedure, &()).await.is_empty());
        }
        let identity = IdentityArgs {
            parameters: List(vec![TypedParameter {
                field: "user-name".into(),
                value: TypedValue::String("root".into()),
            }]),
            flags: 0,
        };
        raw.ok(419, &identity).await;
        for procedure in [4, 7, 59] {
            let error = raw.fails(procedure, &()).await;
            assert_eq!(error.code, 3);
            assert!(
                error.text().starts_with(
                    "this function is not supported by the connection driver: virConnect"
                ),
                "{error:?}"
            );
        }
        // Not spoken yet: clients turn these words into "not supported".
        for procedure in [291, 313, 404, 406, 444, 445] {
            let error = raw.fails(procedure, &()).await;
            assert_eq!(numbers(&error), (39, 7));
            assert_eq!(error.level, 2);
            assert_eq!(error.text(), format!("unknown procedure: {procedure}"));
        }
    });
}

#[test]
fn unknown_flags_are_refused_by_name() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let list = ListArgs {
            need_results: 1,
            flags: 0x40,
        };
        let error = raw.fails(283, &list).await;
        assert_eq!(numbers(&error), (8, 19));
        assert_eq!(
            error.text(),
            "unsupported flags (0x40) in function networkConnectListAllNetworks"
        );
        let desc = XmlDescArgs {
            network: n1(),
            flags: 6,
        };
        assert_eq!(
            raw.fails(43, &desc).await.text(),
            "unsupported flags (0x6) in function networkGetXMLDesc"
        );
        let xml = XmlArgs {
            xml: "<network><name>f</name></network>".into(),
            flags: 2,
        };
        assert_eq!(raw.fails(432, &xml).await.code, 8);
        assert_eq!(raw.fails(437, &xml).await.code, 8);
        raw.ok(432, &XmlArgs { flags: 1, ..xml }).await;
    });
}

#[test]
fn lists_count_filter_and_cut() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let count = |bytes| from_bytes::<i32>(bytes).unwrap();
        assert_eq!(count(raw.ok(52, &()).await), 3);
        assert_eq!(count(raw.ok(50, &()).await), 4);
        let names = |bytes| from_bytes::<List<String, 100>>(bytes).unwrap().0;
        assert_eq!(names(raw.ok(38, &16).await), ["n1", "n2t", "ünï 網"]);
        assert_eq!(names(raw.ok(38, &1).await), ["n1"]);
        assert_eq!(
            names(raw.ok(36, &16).await),
            ["Zoo bare", "default", "panic", "slow"]
        );
        assert_eq!(raw.fails(36, &-1).await.code, 8);
        for (flags, expected) in [
            (0, 7),
            (3, 7),
            (2, 3),
            (1, 4),
            (4 | 8, 7),
            (8, 1),
            (16, 2),
            (1 | 16, 1),
            (32, 5),
        ] {
            for need_results in [0, 1] {
                let args = ListArgs {
                    need_results,
                    flags,
                };
                let reply: ListReply = from_bytes(raw.ok(283, &args).await).unwrap();
                assert_eq!(reply.count, expected, "flags {flags}");
                assert_eq!(
                    reply.networks.0.len() as u32,
                    expected * need_results as u32
                );
            }
        }
        // The name in a reference is not looked at.
        assert_eq!(count(raw.ok(152, &n1()).await), 1);
        assert_eq!(
            from_bytes::<String>(raw.ok(45, &n1()).await).unwrap(),
            "br-n1"
        );
        let bare = NetworkRef {
            name: String::new(),
            uuid: uuid::Uuid::from_u128(7),
        };
        let error = raw.fails(45, &bare).await;
        assert_eq!(numbers(&error), (1, 19));
    });
}

#[test]
fn a_read_only_connection_refuses_every_change() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        raw.ok(1, &open_args("network:///system", 1)).await;
        for procedure in [39, 40, 41, 42, 48, 49, 432, 437] {
            let error = raw.fails(procedure, &n1()).await;
            assert_eq!(numbers(&error), (29, 19), "procedure {procedure}");
        }
        assert_eq!(
            raw.fails(42, &n1()).await.text(),
            "operation forbidden: read only access prevents virNetworkDestroy"
        );
        raw.ok(46, "n1").await;
    });
}

#[test]
fn close_is_answered_after_what_came_before() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let start = raw.header(39);
        raw.send(&Message::new(start, &slow()).unwrap()).await;
        let close = raw.header(2);
        raw.send(&Message::new(close, &()).unwrap()).await;
        assert_eq!(raw.next().await.unwrap().header, start.reply(STATUS_OK));
        assert_eq!(raw.next().await.unwrap().header, close.reply(STATUS_OK));
        assert!(raw.next().await.is_none());
    });
}

fn slow() -> NetworkRef {
    NetworkRef {
        name: "slow".into(),
        uuid: uuid::Uuid::from_u128(9),
    }
}

#[test]
fn a_slow_call_holds_up_no_other() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let start = raw.header(39);
        raw.send(&Message::new(start, &slow()).unwrap()).await;
        for _ in 0..20 {
            let header = raw.header(46);
            raw.send(&Message::new(header, "n1").unwrap()).await;
            assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
        }
        assert_eq!(raw.next().await.unwrap().header, start.reply(STATUS_OK));
    });
}

#[test]
fn more_calls_than_a_client_may_have_wait_their_turn() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        for _ in 0..12 {
            let header = raw.header(39);
            raw.send(&Message::new(header, &slow()).unwrap()).await;
        }
        let header = raw.header(46);
        raw.send(&Message::new(header, "n1").unwrap()).await;
        let sent = Instant::now();
        let mut serials = Vec::new();
        for _ in 0..13 {
            serials.push(raw.next().await.unwrap().header.serial);
        }
        // Twelve starts of 0.4 s, five at a time, take three turns; the lookup comes in the last.
        assert!(
            sent.elapsed() >= Duration::from_millis(1100),
            "{:?}",
            sent.elapsed()
        );
        serials.sort_unstable();
        assert_eq!(serials, (2..=14).collect::<Vec<_>>());
    });
}

#[test]
fn a_call_that_panics_is_answered() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let network = NetworkRef {
            name: "panic".into(),
            uuid: uuid::Uuid::from_u128(10),
        };
        for _ in 0..10 {
            let error = raw.fails(39, &network).await;
            assert_eq!(numbers(&error), (1, 19));
        }
        raw.ok(46, "n1").await;
    });
}

#[test]
fn a_start_is_finished_when_its_client_leaves_or_the_server_stops() {
    let mut server = Server::start();
    let socket = server.socket.clone();
    let wire = |serial| {
        let header = Header {
            program: PROGRAM_REMOTE,
            version: 1,
            procedure: 39,
            kind: TYPE_CALL,
            serial,
            status: STATUS_OK,
        };
        Message::new(header, &slow()).unwrap()
    };
    let mut raw = server.runtime.block_on(async {
        let mut gone = Raw::open(&socket).await;
        gone.send(&wire(1)).await;
        gone.ok(46, "n1").await;
        drop(gone);
        // Clearly after the first.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut raw = Raw::open(&socket).await;
        raw.send(&wire(7)).await;
        raw.ok(46, "n1").await;
        raw
    });
    server.stop();
    let reply = server.runtime.block_on(raw.next()).unwrap();
    assert_eq!(reply.header.serial, 7);
    assert_eq!(reply.header.status, STATUS_ERROR, "the first start won");
    assert!(server.runtime.block_on(raw.next()).is_none());
    let starts = server
        .driver
        .starts
        .load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(starts, 1);
    assert_eq!(
        std::os::unix::net::UnixStream::connect(&socket)
            .unwrap_err()
            .kind(),
        io::ErrorKind::ConnectionRefused
    );
}

fn impatient() -> Limits {
    Limits {
        handshake: Duration::from_millis(1500),
        message: Duration::from_millis(800),
        write: Duration::from_millis(500),
        keepalive_interval: Duration::from_millis(250),
        keepalive_count: 3,
        ..Limits::default()
    }
}

#[test]
fn a_client_that_asked_for_keepalive_is_pinged_and_given_up() {
    against(impatient(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        raw.ok(60, &10).await;
        // It lives as long as it answers.
        for _ in 0..6 {
            let ping = raw.next().await.unwrap();
            assert_eq!(ping, Message::keepalive(KEEPALIVE_PING));
            raw.send(&Message::keepalive(KEEPALIVE_PONG)).await;
        }
        let silent = Instant::now();
        let mut pings = 0;
        while let Some(message) = raw.next().await {
            assert_eq!(message, Message::keepalive(KEEPALIVE_PING));
            pings += 1;
        }
        assert_eq!(pings, 3);
        assert!(
            silent.elapsed() >= Duration::from_millis(900),
            "{:?}",
            silent.elapsed()
        );
    });
}

#[test]
fn a_client_that_did_not_ask_is_never_pinged() {
    against(impatient(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let quiet = tokio::time::timeout(Duration::from_millis(1400), raw.reader.next());
        assert!(quiet.await.is_err(), "neither a ping nor the end");
        raw.send(&Message::keepalive(KEEPALIVE_PING)).await;
        let pong = raw.next().await.unwrap();
        assert_eq!(pong, Message::keepalive(KEEPALIVE_PONG));
        assert_eq!(
            (pong.header.program, pong.header.serial),
            (PROGRAM_KEEPALIVE, 0)
        );
    });
}

#[test]
fn pings_are_answered_before_open_too() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        raw.send(&Message::keepalive(KEEPALIVE_PING)).await;
        assert_eq!(
            raw.next().await.unwrap(),
            Message::keepalive(KEEPALIVE_PONG)
        );
    });
}

#[test]
fn half_a_message_and_no_open_have_their_time() {
    against(impatient(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        raw.writer.write_all(&[0, 0, 0, 40, 1, 2, 3]).await.unwrap();
        assert!(raw.next().await.is_none(), "half a message");
        let mut raw = Raw::open(&socket).await;
        let header = raw.header(46);
        let one_and_a_bit = [
            &Message::new(header, "n1").unwrap().to_bytes()[..],
            &[0, 0, 0],
        ];
        raw.writer.write_all(&one_and_a_bit.concat()).await.unwrap();
        assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
        assert!(raw.next().await.is_none(), "a bit of a second message");
        let mut raw = Raw::connect(&socket).await;
        raw.ok(66, &()).await;
        assert!(raw.next().await.is_none(), "no OPEN");
        // Bytes one by one are as good as any.
        let mut raw = Raw::open(&socket).await;
        let header = raw.header(46);
        for byte in Message::new(header, "n1").unwrap().to_bytes() {
            raw.writer.write_all(&[byte]).await.unwrap();
        }
        assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
    });
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    against(impatient(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        // A megabyte of XML, asked for again and again and never read.
        let xml = format!("<network><name>big</name>{}</network>", "x".repeat(1 << 20));
        let big: NetworkRef = from_bytes(raw.ok(41, xml.as_str()).await).unwrap();
        let args = XmlDescArgs {
            network: big,
            flags: 0,
        };
        let asked = Instant::now();
        loop {
            let header = raw.header(43);
            let bytes = Message::new(header, &args).unwrap().to_bytes();
            if raw.writer.write_all(&bytes).await.is_err() {
                break;
            }
            assert!(asked.elapsed() < PATIENCE, "still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Others were not kept waiting.
        Raw::open(&socket).await.ok(46, "n1").await;
    });
}

#[test]
fn the_largest_message_is_taken() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let mut payload = to_bytes("n1").unwrap().to_vec();
        payload.resize(MESSAGE_MAX - HEADER_LEN, 0);
        let header = raw.header(46);
        let payload = payload.into();
        raw.send(&Message { header, payload }).await;
        assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
    });
}

#[test]
fn many_large_messages_share_the_memory() {
    let limits = Limits {
        memory: MESSAGE_MAX,
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let socket = socket.clone();
            tasks.push(tokio::spawn(async move {
                let mut raw = Raw::open(&socket).await;
                let mut payload = to_bytes("n1").unwrap().to_vec();
                payload.resize(MESSAGE_MAX / 2 + 100_000, 0);
                let header = raw.header(46);
                let payload = payload.into();
                raw.send(&Message { header, payload }).await;
                assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn many_clients_are_served_and_more_than_allowed_wait() {
    let limits = Limits {
        clients: 20,
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(Raw::open(&socket).await);
        }
        let mut waiting = Raw::connect(&socket).await;
        let header = waiting.header(66);
        waiting.send(&Message::new(header, &()).unwrap()).await;
        let answer = tokio::time::timeout(Duration::from_millis(300), waiting.reader.next());
        assert!(answer.await.is_err(), "the server is full");
        for raw in &mut clients {
            raw.ok(46, "n1").await;
        }
        clients.pop();
        assert_eq!(
            waiting.next().await.unwrap().header,
            header.reply(STATUS_OK)
        );
        drop(clients);

        let burst = (0..100).map(|_| async {
            let mut raw = Raw::open(&socket).await;
            raw.ok(46, "n1").await;
            raw.ok(2, &()).await;
            assert!(raw.next().await.is_none());
        });
        futures_util::future::join_all(burst).await;
    });
}

#[test]
fn noise_does_not_hurt_the_server() {
    use proptest::strategy::{Strategy, ValueTree};
    use proptest::test_runner::TestRunner;

    against(impatient(), |socket| async move {
        let mut runner = TestRunner::deterministic();
        let noise = proptest::collection::vec(proptest::num::u8::ANY, 0..400);
        for round in 0..200 {
            let bytes = noise.new_tree(&mut runner).unwrap().current();
            let mut raw = Raw::open(&socket).await;
            if round % 2 == 0 {
                // Noise for arguments, of every procedure in turn.
                let procedure = round % 450;
                let header = raw.header(procedure);
                let payload = bytes.into();
                raw.send(&Message { header, payload }).await;
                assert!(raw.next().await.is_some(), "procedure {procedure}");
            } else {
                let _ = raw.writer.write_all(&bytes).await;
                let _ = raw.writer.shutdown().await;
                // Whatever it answers, it comes to an end.
                let end = async { while let Ok(Some(_)) = raw.reader.next().await {} };
                tokio::time::timeout(PATIENCE, end).await.unwrap();
            }
        }
        Raw::open(&socket).await.ok(46, "n1").await;
    });
}
