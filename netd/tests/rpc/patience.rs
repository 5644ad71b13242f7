//! What one client can take from the others, in time and in memory, and what ends when.

use std::io;
use std::time::{Duration, Instant};

use netd::rpc::Limits;
use netd::rpc::message::{
    HEADER_LEN, Header, KEEPALIVE_PING, KEEPALIVE_PONG, MESSAGE_MAX, Message, PROGRAM_KEEPALIVE,
    PROGRAM_REMOTE, STATUS_ERROR, STATUS_OK, TYPE_CALL,
};
use netd::rpc::procedures::{NetworkRef, XmlDescArgs};
use netd::rpc::xdr::{from_bytes, to_bytes};
use tokio::io::AsyncWriteExt;

use crate::Server;
use crate::raw::{PATIENCE, Raw, against, slow};

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
        per_process: 20,
        reserve: 0,
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
