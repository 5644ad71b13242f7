//! What one client can take from the others, in time and in memory, and what ends when.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use netd::rpc::Limits;
use netd::rpc::message::{
    HEADER_LEN, Header, KEEPALIVE_PING, KEEPALIVE_PONG, MESSAGE_MAX, Message, PROGRAM_KEEPALIVE,
    PROGRAM_REMOTE, STATUS_ERROR, STATUS_OK, TYPE_CALL,
};
use netd::rpc::procedures::{NetworkRef, XmlDescArgs};
use netd::rpc::xdr::{from_bytes, to_bytes};
use tokio::io::AsyncWriteExt;

use crate::raw::{PATIENCE, Raw, against, slow};
use crate::{Server, nobody_listens};

/// For what is not to happen. Where it takes longer to happen, the test sees nothing wrong.
const MOMENT: Duration = Duration::from_millis(300);

#[test]
fn close_is_answered_after_what_came_before() {
    let server = Server::start();
    server.runtime.block_on(async {
        let mut raw = Raw::open(&server.socket).await;
        let start = raw.header(39);
        raw.send(&Message::new(start, &slow()).unwrap()).await;
        let close = raw.header(2);
        raw.send(&Message::new(close, &()).unwrap()).await;
        let early = tokio::time::timeout(MOMENT, raw.reader.next());
        assert!(early.await.is_err(), "the start is not over");
        server.driver.slow.let_end(1);
        assert_eq!(raw.next().await.unwrap().header, start.reply(STATUS_OK));
        assert_eq!(raw.next().await.unwrap().header, close.reply(STATUS_OK));
        assert!(raw.next().await.is_none());
    });
}

#[test]
fn a_slow_call_holds_up_no_other() {
    let server = Server::start();
    server.runtime.block_on(async {
        let mut raw = Raw::open(&server.socket).await;
        let start = raw.header(39);
        raw.send(&Message::new(start, &slow()).unwrap()).await;
        server.driver.slow.begun(1).await;
        for _ in 0..20 {
            raw.ok(46, "n1").await;
        }
        server.driver.slow.let_end(1);
        assert_eq!(raw.next().await.unwrap().header, start.reply(STATUS_OK));
    });
}

#[test]
fn more_calls_than_a_client_may_have_wait_their_turn() {
    let server = Server::start();
    let driver = &server.driver;
    server.runtime.block_on(async {
        let mut raw = Raw::open(&server.socket).await;
        for _ in 0..12 {
            let header = raw.header(39);
            raw.send(&Message::new(header, &slow()).unwrap()).await;
        }
        let header = raw.header(46);
        raw.send(&Message::new(header, "n1").unwrap()).await;
        let mut serials = Vec::new();
        for turn in [5, 10] {
            driver.slow.begun(turn).await;
            let early = tokio::time::timeout(MOMENT, raw.reader.next());
            assert!(early.await.is_err(), "the lookup waits, too");
            assert_eq!(driver.slow.begun_so_far(), turn, "five at a time");
            driver.slow.let_end(turn);
            for _ in 0..5 {
                serials.push(raw.next().await.unwrap().header.serial);
            }
        }
        driver.slow.let_end(12);
        for _ in 0..3 {
            serials.push(raw.next().await.unwrap().header.serial);
        }
        serials.sort_unstable();
        assert_eq!(serials, (2..=14).collect::<Vec<_>>());
    });
}

#[test]
fn a_start_is_finished_when_its_client_leaves_or_the_server_stops() {
    let mut server = Server::start();
    let socket = server.socket.clone();
    let driver = Arc::clone(&server.driver);
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
        driver.slow.begun(1).await;
        drop(gone);
        let mut raw = Raw::open(&socket).await;
        raw.send(&wire(7)).await;
        driver.slow.begun(2).await;
        raw
    });
    let ending = std::thread::spawn({
        let driver = Arc::clone(&driver);
        move || {
            // The server is told to stop meanwhile.
            std::thread::sleep(MOMENT);
            driver.slow.let_end(1);
            let begin = Instant::now();
            while driver.starts.load(SeqCst) == 0 && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
            driver.slow.let_end(2);
        }
    });
    server.stop();
    ending.join().unwrap();
    let reply = server.runtime.block_on(raw.next()).unwrap();
    assert_eq!(reply.header.serial, 7);
    assert_eq!(reply.header.status, STATUS_ERROR, "the first start won");
    assert!(server.runtime.block_on(raw.next()).is_none());
    assert_eq!(driver.starts.load(SeqCst), 1);
    nobody_listens(&socket);
}

#[test]
fn a_client_that_asked_for_keepalive_is_pinged_and_given_up() {
    let limits = Limits {
        keepalive_interval: Duration::from_secs(2),
        keepalive_count: 3,
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let mut raw = Raw::open(&socket).await;
        raw.ok(60, &10).await;
        // It lives as long as it answers: so far longer than silence is borne.
        let begin = Instant::now();
        while begin.elapsed() < 5 * limits.keepalive_interval {
            let ping = raw.next().await.unwrap();
            assert_eq!(ping, Message::keepalive(KEEPALIVE_PING));
            raw.send(&Message::keepalive(KEEPALIVE_PONG)).await;
        }
        // A ping that was under way meanwhile is none of those that are not answered.
        let silent = Instant::now();
        let header = raw.header(46);
        raw.send(&Message::new(header, "n1").unwrap()).await;
        let reply = raw.next_but_pings().await;
        assert_eq!(reply.header, header.reply(STATUS_OK));
        let mut pings = 0;
        while let Some(message) = raw.next().await {
            assert_eq!(message, Message::keepalive(KEEPALIVE_PING));
            pings += 1;
        }
        assert_eq!(pings, 3);
        let silent = silent.elapsed();
        assert!(silent > 3 * limits.keepalive_interval, "{silent:?}");
    });
}

#[test]
fn a_host_that_stood_still_gives_nobody_up() {
    let limits = Limits {
        keepalive_interval: Duration::from_secs(1),
        keepalive_count: 3,
        ..Limits::default()
    };
    // With one thread for both, the server stands still while the client does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = Server::on(runtime, limits);
    server.runtime.block_on(async {
        let mut raw = Raw::open(&server.socket).await;
        raw.ok(60, &10).await;
        std::thread::sleep(6 * limits.keepalive_interval);
        let ping = raw.next().await.unwrap();
        assert_eq!(ping, Message::keepalive(KEEPALIVE_PING));
        raw.send(&Message::keepalive(KEEPALIVE_PONG)).await;
        let header = raw.header(46);
        raw.send(&Message::new(header, "n1").unwrap()).await;
        let reply = raw.next_but_pings().await;
        assert_eq!(reply.header, header.reply(STATUS_OK));
    });
}

#[test]
fn a_client_that_did_not_ask_is_never_pinged() {
    let limits = Limits {
        keepalive_interval: Duration::from_millis(250),
        keepalive_count: 3,
        ..Limits::default()
    };
    against(limits, |socket| async move {
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
    let limits = Limits {
        handshake: Duration::from_secs(7),
        message: Duration::from_secs(6),
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let half = async {
            let mut raw = Raw::open(&socket).await;
            raw.writer.write_all(&[0, 0, 0, 40, 1, 2, 3]).await.unwrap();
            assert!(raw.next().await.is_none(), "half a message");
        };
        let more = async {
            let mut raw = Raw::open(&socket).await;
            let header = raw.header(46);
            let one_and_a_bit = [
                &Message::new(header, "n1").unwrap().to_bytes()[..],
                &[0, 0, 0],
            ];
            raw.writer.write_all(&one_and_a_bit.concat()).await.unwrap();
            assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
            assert!(raw.next().await.is_none(), "a bit of a second message");
        };
        let no_open = async {
            let mut raw = Raw::connect(&socket).await;
            raw.ok(66, &()).await;
            assert!(raw.next().await.is_none(), "no OPEN");
        };
        let byte_by_byte = async {
            let mut raw = Raw::open(&socket).await;
            let header = raw.header(46);
            for byte in Message::new(header, "n1").unwrap().to_bytes() {
                raw.writer.write_all(&[byte]).await.unwrap();
            }
            assert_eq!(raw.next().await.unwrap().header, header.reply(STATUS_OK));
        };
        tokio::join!(half, more, no_open, byte_by_byte);
    });
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let limits = Limits {
        write: Duration::from_secs(2),
        ..Limits::default()
    };
    against(limits, |socket| async move {
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
    let limits = Limits {
        large_message: PATIENCE,
        ..Limits::default()
    };
    against(limits, |socket| async move {
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
        large_message: PATIENCE,
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
        let answer = tokio::time::timeout(MOMENT, waiting.reader.next());
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

    against(Limits::default(), |socket| async move {
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
