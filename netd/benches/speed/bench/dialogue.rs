//! Short connections, and the time from a question to its answer. Both ends share one processor:
//! what it takes to wake another one up would be most of the time, and is nobody's merit.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netd_tests::Netns;
use netd_tests::lab::{OUTSIDE, at};

use super::kind::Cable;
use super::peer::Peer;
use super::report::{Case, Metric, Report};
use super::{Choice, cpu, progress};

/// The server's port.
const PORT: u16 = 7000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections one after the other: connect, a byte there, a byte back, close.
///
/// # Errors
/// A connection fails.
pub fn connections(
    choice: &Choice,
    cable: Cable,
    peers: &mut [Peer],
    report: &mut Report,
) -> Result<()> {
    progress(Case::Connections(cable).name());
    let number = choice.effort.connections;
    choice.rounds(peers, |peer| {
        if !peer.kind.carries_tcp() {
            return Ok(());
        }
        let _server = Server::tcp(&peer.lab.wan)?;
        let took = peer.guest.netns().enter(|| -> Result<_> {
            cpu::keep_to_one()?;
            let start = Instant::now();
            for _ in 0..number {
                ask(&mut connect()?)?;
            }
            Ok(start.elapsed())
        })??;
        let rate = f64::from(number) / took.as_secs_f64();
        let case = Case::Connections(cable);
        report.add(case, 1, peer.name(), Metric::PerSecond, rate);
        Ok(())
    })
}

/// One byte there and one back, by TCP and by UDP.
///
/// # Errors
/// An answer does not come.
pub fn latency(
    choice: &Choice,
    cable: Cable,
    peers: &mut [Peer],
    report: &mut Report,
) -> Result<()> {
    progress("questions and answers");
    let number = choice.effort.questions;
    choice.rounds(peers, |peer| {
        if !peer.kind.carries_tcp() {
            return Ok(());
        }
        let times = {
            let _server = Server::tcp(&peer.lab.wan)?;
            peer.guest.netns().enter(|| {
                cpu::keep_to_one()?;
                let mut stream = connect()?;
                round_trips(number, || ask(&mut stream))
            })??
        };
        let cases = [Case::LatencyTcp(cable), Case::LatencyTcp99(cable)];
        note(report, peer, cases, times);
        let times = {
            let _server = Server::udp(&peer.lab.wan)?;
            peer.guest.netns().enter(|| {
                cpu::keep_to_one()?;
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(at(OUTSIDE, PORT))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                round_trips(number, || {
                    socket.send(&[1])?;
                    socket.recv(&mut [0; 8]).context("no answer")?;
                    Ok(())
                })
            })??
        };
        let cases = [Case::LatencyUdp(cable), Case::LatencyUdp99(cable)];
        note(report, peer, cases, times);
        Ok(())
    })
}

fn note(report: &mut Report, peer: &Peer, cases: [Case; 2], mut times: Vec<Duration>) {
    times.sort_unstable();
    for (case, percent) in cases.into_iter().zip([50, 99]) {
        let time = times[(times.len() - 1) * percent / 100];
        let microseconds = time.as_secs_f64() * 1e6;
        report.add(case, 1, peer.name(), Metric::Microseconds, microseconds);
    }
}

/// Times of so many questions, after some that do not count.
fn round_trips(number: u32, mut ask: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    for _ in 0..100 {
        ask()?;
    }
    (0..number)
        .map(|_| {
            let start = Instant::now();
            ask()?;
            Ok(start.elapsed())
        })
        .collect()
}

fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect(at(OUTSIDE, PORT)).context("connecting to outside")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0]).context("no answer")
}

/// A server that sends everything back, one peer at a time; dropping it ends it. That takes a
/// connection or a datagram of its own, so that nothing is polled while others are measured.
struct Server<'a> {
    netns: &'a Netns,
    tcp: bool,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<'a> Server<'a> {
    fn tcp(netns: &'a Netns) -> Result<Self> {
        let listener = netns
            .enter(|| TcpListener::bind(at(OUTSIDE, PORT)))?
            .context("a TCP server outside")?;
        Ok(Self::start(netns, true, move || {
            // The client sees a failure as an answer that does not come.
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            let _ = stream.set_nodelay(true);
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
        }))
    }

    fn udp(netns: &'a Netns) -> Result<Self> {
        let socket = netns
            .enter(|| UdpSocket::bind(at(OUTSIDE, PORT)))?
            .context("a UDP server outside")?;
        Ok(Self::start(netns, false, move || {
            let mut buffer = [0; 8];
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }))
    }

    fn start(netns: &'a Netns, tcp: bool, mut serve: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                // Where that fails, it fails for the client too, which says so.
                let _ = cpu::keep_to_one();
                while !stop.load(Ordering::Relaxed) {
                    serve();
                }
            })
        };
        Self {
            netns,
            tcp,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let tcp = self.tcp;
        let woken = self.netns.enter(|| {
            if tcp {
                TcpStream::connect(at(OUTSIDE, PORT)).is_ok()
            } else {
                let socket = UdpSocket::bind("0.0.0.0:0");
                socket.is_ok_and(|socket| socket.send_to(&[0], at(OUTSIDE, PORT)).is_ok())
            }
        });
        // One that was not woken would be waited for in vain.
        if matches!(woken, Ok(true))
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
