//! Questions and answers in datagrams.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::sockets::Side;

/// How long an answer is waited for: as long as dnsmasq does.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a socket stays once all is answered. A forged answer may have been the first.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Exchanges at a time, each of one asker's port with one server.
const EXCHANGES: usize = 2048;

/// Questions that wait for their exchange.
const QUEUE: usize = 16;

/// Servers whose addresses answers were sent with lately.
const SERVERS: usize = 64;

/// Longest datagram.
const DATAGRAM: usize = 65_535;

/// Who asks whom.
type Key = (SocketAddr, SocketAddr);

/// Exchanges that go on.
type Exchanges = Arc<Mutex<HashMap<Key, mpsc::Sender<Vec<u8>>>>>;

/// Pass on what comes to `socket`, until that breaks.
pub async fn relay(socket: UdpSocket, side: Side) {
    let socket = Arc::new(socket);
    let exchanges = Exchanges::default();
    let mut speakers = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = socket
            .async_io(Interest::READABLE, || {
                receive(&socket, &mut buffer, side.to)
            })
            .await;
        let (length, asker, server) = match received {
            Ok(Some(received)) => received,
            Ok(None) => continue,
            Err(error) => {
                // A socket that is not connected hears of nobody's refusal.
                tracing::error!(%error, "cannot receive questions");
                tokio::time::sleep(AFTERWARDS).await;
                continue;
            }
        };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        if let Err(error) = pass_on(
            question,
            (asker, server),
            &socket,
            &exchanges,
            &mut speakers,
            &side,
        ) {
            tracing::warn!(%server, %error, "a question is lost");
        }
    }
}

/// A datagram, who sent it, and to whom; `None` for one that does not say.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    to: Option<SocketAddr>,
) -> io::Result<Option<(usize, SocketAddr, SocketAddr)>> {
    let mut space = nix::cmsg_space!(libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let Some(asker) = message.address.as_ref().and_then(address) else {
        return Ok(None);
    };
    let sent_to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => {
            Some(std::net::SocketAddrV4::from(nix::sys::socket::SockaddrIn::from(to)).into())
        }
        ControlMessageOwned::Ipv6OrigDstAddr(to) => {
            Some(std::net::SocketAddrV6::from(nix::sys::socket::SockaddrIn6::from(to)).into())
        }
        _ => None,
    });
    Ok(to.or(sent_to).map(|server| (message.bytes, asker, server)))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = storage.as_sockaddr_in() {
        return Some(std::net::SocketAddrV4::from(*address).into());
    }
    let address = storage.as_sockaddr_in6()?;
    Some(std::net::SocketAddrV6::from(*address).into())
}

/// Give a question to its exchange, which is begun if there is none.
fn pass_on(
    question: Vec<u8>,
    key: Key,
    socket: &Arc<UdpSocket>,
    exchanges: &Exchanges,
    speakers: &mut HashMap<SocketAddr, Arc<UdpSocket>>,
    side: &Side,
) -> io::Result<()> {
    let (_, server) = key;
    let mut table = exchanges.lock().unwrap_or_else(PoisonError::into_inner);
    let question = match table.get(&key) {
        Some(exchange) => match exchange.try_send(question) {
            Ok(()) => return Ok(()),
            // It is over just now.
            Err(mpsc::error::TrySendError::Closed(question)) => question,
            Err(mpsc::error::TrySendError::Full(_)) => return Err(too_many()),
        },
        None => question,
    };
    if table.len() >= EXCHANGES {
        return Err(too_many());
    }
    let speaker = match (side.to, speakers.get(&server)) {
        // Who asks here asks this socket.
        (Some(_), _) => Arc::clone(socket),
        (None, Some(speaker)) => Arc::clone(speaker),
        (None, None) => {
            if speakers.len() >= SERVERS {
                speakers.clear();
            }
            let speaker = Arc::new(side.speak_as(server)?);
            speakers.insert(server, Arc::clone(&speaker));
            speaker
        }
    };
    let far = side.connect(server)?;
    let (sender, questions) = mpsc::channel(QUEUE);
    // The queue is empty.
    let _ = sender.try_send(question);
    table.insert(key, sender);
    let exchanges = Arc::clone(exchanges);
    tokio::spawn(async move {
        exchange(key.0, &speaker, &far, questions).await;
        let mut table = exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have taken its place.
        if table.get(&key).is_some_and(mpsc::Sender::is_closed) {
            table.remove(&key);
        }
    });
    Ok(())
}

fn too_many() -> io::Error {
    io::Error::other("too many questions are under way")
}

/// The number that an answer has in common with its question (RFC 1035, section 4.1.1).
fn number(message: &[u8]) -> Option<[u8; 2]> {
    message.first_chunk::<2>().copied()
}

/// Send questions to the server and answers to who asked, until all are answered or nobody answers.
async fn exchange(
    asker: SocketAddr,
    speaker: &UdpSocket,
    far: &UdpSocket,
    mut questions: mpsc::Receiver<Vec<u8>>,
) {
    let mut open = HashSet::new();
    let mut until = Instant::now() + PATIENCE;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            Some(question) = questions.recv() => {
                open.extend(number(&question));
                until = Instant::now() + PATIENCE;
                // Who cannot be reached does not answer, as anywhere.
                if let Err(error) = far.send(&question).await {
                    tracing::debug!(%error, "a question cannot be sent");
                }
            }
            received = far.recv(&mut buffer) => {
                // The server's host refuses: whoever waits finds out by himself.
                let Ok(length) = received else { continue };
                let answer = buffer.get(..length).unwrap_or_default();
                if let Err(error) = speaker.send_to(answer, asker).await {
                    tracing::warn!(%asker, %error, "an answer is lost");
                }
                if let Some(number) = number(answer) {
                    open.remove(&number);
                }
                if open.is_empty() {
                    until = until.min(Instant::now() + AFTERWARDS);
                }
            }
            () = sleep_until(until) => return,
        }
    }
}
