//! Clients that take what they can get, and those who are to be served all the same.

use std::time::Duration;

use bytes::Bytes;
use netd::api::ErrorDomain;
use netd::rpc::Limits;
use netd::rpc::message::{HEADER_LEN, MESSAGE_MAX, Message, STATUS_OK};
use netd::rpc::procedures::XmlArgs;
use netd::rpc::xdr::to_bytes;
use tokio::io::AsyncWriteExt;

use crate::raw::{Raw, against, numbers, open_args};
use crate::{Server, netd, ran};

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// A lookup of n1 with so many bytes behind its argument, which everybody ignores.
fn lookup(raw: &mut Raw, len: usize) -> Message {
    let mut payload = to_bytes("n1").unwrap().to_vec();
    payload.resize(len - HEADER_LEN, 0);
    Message {
        header: raw.header(46),
        payload: Bytes::from(payload),
    }
}

/// A large message is answered.
async fn large_one_passes(socket: &std::path::Path, len: usize) {
    let mut raw = Raw::open(socket).await;
    let message = lookup(&mut raw, len);
    raw.send(&message).await;
    let answer = raw.next().await.unwrap();
    assert_eq!(answer.header, message.header.reply(STATUS_OK));
}

#[test]
fn large_messages_that_are_only_announced_take_nothing() {
    let limits = Limits {
        message: FOREVER,
        large_message: FOREVER,
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let mut silent = Vec::new();
        for _ in 0..40 {
            let mut raw = Raw::open(&socket).await;
            let head = lookup(&mut raw, MESSAGE_MAX).to_bytes().split_to(2000);
            raw.writer.write_all(&head).await.unwrap();
            silent.push(raw);
        }
        large_one_passes(&socket, MESSAGE_MAX).await;
        for raw in &mut silent {
            let more = tokio::time::timeout(Duration::from_millis(1), raw.reader.next());
            assert!(more.await.is_err(), "they are still there");
        }
    });
}

#[test]
fn half_messages_stall_others_for_a_moment_only() {
    // Of the memory there is none beyond that for one message, of whatever size, and a busy machine takes
    // its time for the largest.
    const LARGE: usize = 1 << 20;
    let limits = Limits {
        memory: MESSAGE_MAX,
        message: FOREVER,
        large_message: Duration::from_secs(4),
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let mut silent = Vec::new();
        for _ in 0..3 {
            let mut raw = Raw::open(&socket).await;
            let half = lookup(&mut raw, LARGE).to_bytes().split_to(LARGE / 2);
            silent.push(tokio::spawn(async move {
                // The last ones are read only when the first have been given up.
                let _ = raw.writer.write_all(&half).await;
                while let Ok(Some(_)) = raw.reader.next().await {}
            }));
        }
        let passed = large_one_passes(&socket, LARGE);
        tokio::time::timeout(12 * limits.large_message, passed)
            .await
            .unwrap();
        for raw in silent {
            raw.await.unwrap();
        }
    });
}

#[test]
fn nothing_large_is_kept_before_open() {
    let limits = Limits {
        large_message: FOREVER,
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        let mut uri = "network:///system?".to_owned();
        uri.push_str(&"x".repeat(5000));
        let error = raw.fails(1, &open_args(&uri, 0)).await;
        assert_eq!(numbers(&error), (39, ErrorDomain::Rpc as i32));
        assert!(error.text().contains("4096 bytes"), "{error:?}");
        // What cannot be a call at all is passed over as well.
        let message = lookup(&mut raw, MESSAGE_MAX);
        assert_eq!(
            numbers(&raw.refused(&message).await),
            (1, ErrorDomain::Rpc as i32)
        );
        raw.ok(1, &open_args("network:///system", 0)).await;
        let message = lookup(&mut raw, MESSAGE_MAX);
        raw.send(&message).await;
        assert_eq!(raw.next().await.unwrap().header.status, STATUS_OK);
    });
}

#[test]
fn a_read_only_client_is_refused_before_its_arguments_are_kept() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        raw.ok(1, &open_args("network:///system", 1)).await;
        let define = XmlArgs {
            xml: "x".repeat(1 << 20),
            flags: 0,
        };
        assert_eq!(raw.fails(432, &define).await.code, 29);
        let error = raw.fails(46, "n".repeat(1 << 20).as_str()).await;
        assert_eq!(numbers(&error), (39, ErrorDomain::Rpc as i32));
        assert!(error.text().contains("65536 bytes"), "{error:?}");
        raw.ok(46, "n1").await;
    });
}

#[test]
fn a_process_that_takes_all_it_can_leaves_room_for_the_command_line() {
    let server = Server::with_limits(Limits {
        handshake: FOREVER,
        ..Limits::for_clients(40)
    });
    let socket = server.socket.clone();
    let (mut idle, waiting) = server.runtime.block_on(async {
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(Raw::open(&socket).await);
        }
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.push(Raw::connect(&socket).await);
        }
        // One more than may wait is turned away; by then the others have been seen.
        let mut raw = Raw::connect(&socket).await;
        assert!(raw.next().await.is_none());
        (idle, waiting)
    });
    let list = ran(netd(&socket).arg("net-list"));
    assert_eq!((list.code, list.stderr.as_str()), (Some(0), ""), "{list:?}");
    server.runtime.block_on(async {
        drop(idle.split_off(10));
        for mut raw in waiting {
            raw.ok(1, &open_args("network:///system", 0)).await;
        }
    });
}
