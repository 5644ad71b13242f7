//! Many TCP connections that all keep talking: one thread per side, whatever their number.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{Timespec, epoll};

use crate::{Netns, SOON};

/// Length of a question and of its answer.
const MESSAGE: usize = 16;
/// Each connection asks once in that time.
const ROUND: Duration = Duration::from_millis(200);
/// A connection that is silent for so long is broken. TCP's first repetitions fit into it, of which a flood
/// may cost six on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Connections from one namespace to an echo server in another.
#[derive(Debug)]
pub struct TcpPool {
    stop: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    clients: Option<JoinHandle<Result<Outcome>>>,
    server: Option<JoinHandle<Result<()>>>,
}

/// What became of the connections.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Answers that each connection got.
    pub answers: Vec<u64>,
    /// The connections that broke, and how.
    pub broken: Vec<(usize, String)>,
    /// Longest time any connection waited for an answer.
    pub longest_wait: Duration,
}

impl TcpPool {
    /// Makes `count` connections and starts to talk on all of them.
    ///
    /// # Errors
    /// The address is in use, or a connection cannot be made.
    pub fn start(clients: &Netns, server: &Netns, to: SocketAddrV4, count: usize) -> Result<Self> {
        Self::with_patience(clients, server, to, count, PATIENCE)
    }

    /// The same where the clients know the server by another address than its own, `at`.
    ///
    /// # Errors
    /// As [`TcpPool::start`].
    pub fn published(
        clients: &Netns,
        to: SocketAddrV4,
        (server, at): (&Netns, SocketAddrV4),
        count: usize,
    ) -> Result<Self> {
        Self::between(clients, to, (server, at), count, PATIENCE)
    }

    /// The same where a connection may be silent for that long.
    ///
    /// # Errors
    /// As [`TcpPool::start`].
    pub fn with_patience(
        clients: &Netns,
        server: &Netns,
        to: SocketAddrV4,
        count: usize,
        patience: Duration,
    ) -> Result<Self> {
        Self::between(clients, to, (server, to), count, patience)
    }

    fn between(
        clients: &Netns,
        to: SocketAddrV4,
        (server, at): (&Netns, SocketAddrV4),
        count: usize,
        patience: Duration,
    ) -> Result<Self> {
        let listener = server.listen(at)?;
        // The kernel cuts the backlog to what the namespace allows; accept is fast enough.
        let stop_server = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let exchanges = Arc::new(AtomicU64::new(0));
        let serving = {
            let stop = Arc::clone(&stop_server);
            std::thread::spawn(move || serve(&listener, &stop))
        };
        let streams = clients.enter(|| connect(to, count))?;
        let talking = {
            let (stop, exchanges) = (Arc::clone(&stop), Arc::clone(&exchanges));
            std::thread::spawn(move || {
                let outcome =
                    streams.and_then(|streams| talk(streams, patience, &stop, &exchanges));
                stop_server.store(true, Ordering::Relaxed);
                outcome
            })
        };
        Ok(Self {
            stop,
            exchanges,
            clients: Some(talking),
            server: Some(serving),
        })
    }

    /// Answers so far, over all connections.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Lets every connection ask a last time, and closes them.
    ///
    /// # Errors
    /// A connection could not be made, or the server failed.
    pub fn finish(mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = join(self.clients.take())?;
        join(self.server.take())?;
        outcome.context("a pool ends once")
    }
}

impl Drop for TcpPool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn join<T>(thread: Option<JoinHandle<Result<T>>>) -> Result<Option<T>> {
    thread
        .map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .transpose()
}

fn connect(to: SocketAddrV4, count: usize) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|number| {
            let stream = TcpStream::connect_timeout(&to.into(), SOON)
                .with_context(|| format!("connection {number} to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
        .collect()
}

fn poll(epoll: &OwnedFd) -> Result<Vec<usize>> {
    let mut room = [MaybeUninit::uninit(); 256];
    match epoll::wait(epoll, &mut room, Some(&TICK)) {
        Ok((events, _)) => Ok(events
            .iter()
            .map(|event| event.data.u64() as usize)
            .collect()),
        Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
        Err(error) => Err(error).context("waiting for connections"),
    }
}

fn watch(epoll: &OwnedFd, number: usize, stream: &impl std::os::fd::AsFd) -> Result<()> {
    let data = epoll::EventData::new_u64(number as u64);
    epoll::add(epoll, stream, data, epoll::EventFlags::IN).context("watching a connection")
}

/// Sends everything back until told to stop.
fn serve(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    watch(&epoll, 0, listener)?;
    // Connection n is watched as n + 1.
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        for number in poll(&epoll)? {
            let Some(at) = number.checked_sub(1) else {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    watch(&epoll, streams.len() + 1, &stream)?;
                    streams.push(Some(stream));
                }
                continue;
            };
            let Some(stream) = &mut streams[at] else {
                continue;
            };
            let echoed = match stream.read(&mut buffer) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => stream.write_all(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                Err(error) => Err(error),
            };
            if echoed.is_err() {
                streams[at] = None; // the client notices
            }
        }
    }
    Ok(())
}

/// One connection of the client's side.
struct Talker {
    stream: TcpStream,
    asked: Option<Instant>,
    last: Instant,
    answers: u64,
    pending: Vec<u8>,
}

impl Talker {
    fn message(&self) -> [u8; MESSAGE] {
        let mut message = [0x5a; MESSAGE];
        message[..8].copy_from_slice(&self.answers.to_be_bytes());
        message
    }

    fn ask(&mut self) -> std::io::Result<()> {
        let message = self.message();
        self.stream.write_all(&message)?;
        self.asked = Some(Instant::now());
        Ok(())
    }

    /// Reads what is there; the time waited when the answer is complete.
    fn listen(&mut self) -> std::io::Result<Option<Duration>> {
        let mut buffer = [0; MESSAGE];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.pending.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        if self.pending.len() < MESSAGE {
            return Ok(None);
        }
        if self.pending != self.message() {
            return Err(std::io::Error::other("another answer than the question"));
        }
        self.pending.clear();
        self.answers += 1;
        self.last = Instant::now();
        Ok(self.asked.take().map(|asked| asked.elapsed()))
    }
}

fn talk(
    streams: Vec<TcpStream>,
    patience: Duration,
    stop: &AtomicBool,
    exchanges: &AtomicU64,
) -> Result<Outcome> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut outcome = Outcome::default();
    let mut talkers = Vec::new();
    for (number, stream) in streams.into_iter().enumerate() {
        watch(&epoll, number, &stream)?;
        talkers.push(Some(Talker {
            stream,
            asked: None,
            last: Instant::now(),
            answers: 0,
            pending: Vec::new(),
        }));
    }
    outcome.answers = vec![0; talkers.len()];
    let mut next_round = Instant::now();
    let mut stopped = None;
    loop {
        if stopped.is_none() && stop.load(Ordering::Relaxed) {
            stopped = Some(Instant::now());
            next_round = Instant::now();
        }
        let round = Instant::now() >= next_round;
        if round {
            next_round = Instant::now() + ROUND;
        }
        let mut broken = Vec::new();
        let mut done = stopped.is_some();
        for (number, talker) in talkers.iter_mut().enumerate() {
            let Some(talker) = talker else { continue };
            // After the end each connection has to prove once more that it works.
            let proven = stopped.is_some_and(|stopped| talker.last > stopped);
            done &= proven;
            match talker.asked {
                Some(asked) if asked.elapsed() > patience => {
                    broken.push((number, format!("no answer within {patience:?}")));
                }
                None if round && !proven => {
                    if let Err(error) = talker.ask() {
                        broken.push((number, format!("asking: {error}")));
                    }
                }
                _ => {}
            }
        }
        if done {
            return Ok(outcome);
        }
        for number in poll(&epoll)? {
            let Some(talker) = &mut talkers[number] else {
                continue;
            };
            match talker.listen() {
                Ok(None) => {}
                Ok(Some(waited)) => {
                    exchanges.fetch_add(1, Ordering::Relaxed);
                    outcome.answers[number] += 1;
                    outcome.longest_wait = outcome.longest_wait.max(waited);
                }
                Err(error) => broken.push((number, format!("listening: {error}"))),
            }
        }
        for (number, how) in broken {
            if talkers[number].take().is_some() {
                outcome.broken.push((number, how));
            }
        }
    }
}

impl Outcome {
    /// Says so when a connection broke or hardly talked.
    ///
    /// # Errors
    /// Any did.
    pub fn ensure_whole(&self) -> Result<()> {
        let least = self.answers.iter().min().copied().unwrap_or(0);
        ensure!(
            self.broken.is_empty(),
            "{} of {} connections broke, first {:?}",
            self.broken.len(),
            self.answers.len(),
            &self.broken[..self.broken.len().min(3)]
        );
        ensure!(least >= 3, "a connection got {least} answers only");
        Ok(())
    }
}
