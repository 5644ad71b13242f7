//! Clients that the server does not go on with: who it is, and that the log says why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use netd::rpc::Limits;
use netd::rpc::message::{KEEPALIVE_PING, Message, TYPE_CALL_WITH_FDS};
use netd::rpc::procedures::{NetworkRef, XmlDescArgs};
use netd::rpc::xdr::from_bytes;
use tokio::io::AsyncWriteExt;

use crate::log;
use crate::raw::{PATIENCE, Raw, against};

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// Defines a network whose XML has so many bytes; returns the call that asks for it.
async fn large(socket: &Path, bytes: usize) -> XmlDescArgs {
    let mut raw = Raw::open(socket).await;
    let padding = "x".repeat(bytes);
    let xml = format!("<network><name>big</name>{padding}</network>");
    let network: NetworkRef = from_bytes(raw.ok(41, xml.as_str()).await).unwrap();
    XmlDescArgs { network, flags: 0 }
}

/// Asks for the XML and does not read it; returns when the server has begun to send it.
async fn ask(raw: &mut Raw, args: &XmlDescArgs) {
    let header = raw.header(43);
    raw.send(&Message::new(header, args).unwrap()).await;
    raw.writer.as_ref().readable().await.unwrap();
}

/// Writes what needs no reading until the server has closed the connection.
async fn let_go(raw: &mut Raw) {
    let ping = Message::keepalive(KEEPALIVE_PING).to_bytes();
    let gone = async {
        while raw.writer.write_all(&ping).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

/// The same with many, until the server has closed so many of their connections; returns the others.
async fn let_go_of(mut clients: Vec<Raw>, number: usize) -> Vec<Raw> {
    let ping = Message::keepalive(KEEPALIVE_PING).to_bytes();
    let left = clients.len() - number;
    let gone = async {
        while clients.len() > left {
            let mut others = Vec::new();
            for mut raw in clients {
                if raw.writer.write_all(&ping).await.is_ok() {
                    others.push(raw);
                }
            }
            clients = others;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        clients
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap()
}

#[test]
fn those_who_do_not_read_give_way_to_those_who_do() {
    const SIZE: usize = 1 << 20;
    const ROOM: usize = 8;
    const CLIENTS: usize = 3 * ROOM;
    let limits = Limits {
        replies: ROOM * (SIZE + 1000),
        write: FOREVER,
        ..Limits::default()
    };
    log::keep();
    against(limits, |socket| async move {
        let args = large(&socket, SIZE).await;
        let mut silent = Vec::new();
        for _ in 0..CLIENTS {
            let mut raw = Raw::open(&socket).await;
            ask(&mut raw, &args).await;
            silent.push(raw);
        }
        // Who reads is served, however often it asks.
        let mut reading = Raw::open(&socket).await;
        for _ in 0..3 * ROOM {
            assert!(reading.ok(43, &args).await.len() > SIZE);
        }
        // A reply that is under way is in the kernel in part, and counts as a whole. Which of them give way
        // depends on what the kernel took when.
        let mut kept = let_go_of(silent, CLIENTS - ROOM).await;
        let last = kept.last_mut().unwrap();
        assert!(last.next().await.unwrap().payload.len() > SIZE);
        log::wait_for(&["take too much memory", &who()]).await;
    });
}

#[test]
fn a_client_may_leave_as_much_unread_as_it_can_ask_for_where_it_is_alone() {
    const SIZE: usize = 1 << 20;
    let limits = Limits {
        replies: SIZE,
        ..Limits::default()
    };
    against(limits, |socket| async move {
        let args = large(&socket, SIZE).await;
        let mut raw = Raw::open(&socket).await;
        for _ in 0..5 {
            ask(&mut raw, &args).await;
        }
        // The server has gone on to answer others.
        Raw::open(&socket).await.ok(46, "n1").await;
        for _ in 0..5 {
            assert!(raw.next().await.unwrap().payload.len() > SIZE);
        }
    });
}

/// This process, as the log names it.
fn who() -> String {
    let (uid, pid) = (rustix::process::getuid(), rustix::process::getpid());
    format!("client=uid {}, pid {}", uid.as_raw(), pid.as_raw_pid())
}

/// The connection of a client that did something ends.
async fn ends(mut raw: Raw) {
    while raw.next().await.is_some() {}
}

#[test]
fn the_log_says_who_is_disconnected_and_why() {
    // Times that no other test has.
    let limits = Limits {
        message: Duration::from_millis(6_803),
        handshake: Duration::from_millis(8_507),
        write: Duration::from_millis(4_509),
        keepalive_interval: Duration::from_millis(1_511),
        keepalive_count: 4,
        ..Limits::default()
    };
    log::keep();
    against(limits, |socket| async move {
        let half_a_message = async {
            let mut raw = Raw::open(&socket).await;
            raw.writer.write_all(&[0, 0, 0, 40, 1]).await.unwrap();
            ends(raw).await;
        };
        let no_message = async {
            let mut raw = Raw::open(&socket).await;
            raw.writer.write_all(&[0, 0, 0, 17]).await.unwrap();
            ends(raw).await;
        };
        let no_open = async { ends(Raw::connect(&socket).await).await };
        let descriptors = async {
            let mut raw = Raw::open(&socket).await;
            let mut header = raw.header(46);
            header.kind = TYPE_CALL_WITH_FDS;
            raw.send(&Message::new(header, "n1").unwrap()).await;
            ends(raw).await;
        };
        let no_pongs = async {
            let mut raw = Raw::open(&socket).await;
            raw.ok(60, &10_i32).await;
            ends(raw).await;
        };
        let no_reading = async {
            let args = large(&socket, 1 << 20).await;
            let mut raw = Raw::open(&socket).await;
            ask(&mut raw, &args).await;
            let_go(&mut raw).await;
        };
        tokio::join!(
            half_a_message,
            no_message,
            no_open,
            descriptors,
            no_pongs,
            no_reading
        );
        for why in [
            "a message did not arrive whole within 6.803s",
            "a message cannot be 17 bytes long",
            "it did not open the connection within 8.507s",
            "it sends file descriptors, which no call here takes",
            "it left 4 pings unanswered",
            "it did not read a reply within 4.509s",
        ] {
            log::wait_for(&["a client is disconnected: ", why, &who()]).await;
        }
    });
}

#[test]
fn the_log_says_who_finds_no_place() {
    let limits = Limits {
        clients: 1,
        per_process: 1,
        reserve: 0,
        waiting: 1,
        handshake: Duration::from_millis(5_701),
        ..Limits::default()
    };
    log::keep();
    against(limits, |socket: PathBuf| async move {
        let _served = Raw::open(&socket).await;
        let waiting = Raw::connect(&socket).await;
        let turned_away = Raw::connect(&socket).await;
        ends(turned_away).await;
        log::wait_for(&["too many clients wait for a place already", &who()]).await;
        ends(waiting).await;
        log::wait_for(&["no other client left within 5.701s", &who()]).await;
    });
}
