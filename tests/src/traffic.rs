//! Traffic whose losses are counted: servers outside, senders in guests.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};

use crate::questions::WHO;
pub use crate::questions::{
    Verdict, answered, answered_from, ask_udp, ask_udp_from, connect, refused, try_connect,
};
use crate::socket::any;
use crate::{Netns, SOON};

/// How often a server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);
/// When a datagram that has not come back after the last one was sent is lost.
const LATEST: Duration = Duration::from_secs(5);
/// What a handshake takes less than, by the kernel's own measure, unless the answer had to be sent again: that is
/// after a second (RFC 6298, section 2.1).
const HANDSHAKE: Duration = Duration::from_millis(900);

sockopt_impl!(
    /// What the kernel knows of a connection.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// A server on a thread; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn spawn(serve: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let thread = {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            std::thread::spawn(move || serve(&stop, &received))
        };
        Self {
            stop,
            received,
            thread: Some(thread),
        }
    }

    /// Datagrams or connections that arrived so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A UDP server that sends everything back, and tells who asks.
    ///
    /// # Errors
    /// The address is in use or not one of the namespace.
    pub fn udp(netns: &Netns, address: impl Into<SocketAddr>) -> Result<Self> {
        let address = address.into();
        let socket = netns.udp(address)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self::spawn(move |stop, received| {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                // Errors here are ICMP messages about earlier answers, or the timeout.
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                received.fetch_add(1, Ordering::Relaxed);
                let _ = if &buffer[..length] == WHO {
                    socket.send_to(peer.to_string().as_bytes(), peer)
                } else {
                    socket.send_to(&buffer[..length], peer)
                };
            }
        }))
    }

    /// A TCP server that calls `serve` with each connection, on a thread of its own.
    ///
    /// # Errors
    /// The address is in use or not one of the namespace.
    pub fn tcp(
        netns: &Netns,
        address: impl Into<SocketAddr>,
        serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Clone + 'static,
    ) -> Result<Self> {
        let address = address.into();
        let listener = netns.listen(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::spawn(move |stop, received| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        received.fetch_add(1, Ordering::Relaxed);
                        let serve = serve.clone();
                        // The client sees a failure as a connection that ends too early.
                        std::thread::spawn(move || {
                            let _ = stream
                                .set_nonblocking(false)
                                // A client may be silent for as long as it likes.
                                .and_then(|()| stream.set_read_timeout(None))
                                .and_then(|()| serve(stream));
                        });
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }))
    }

    /// A TCP server that sends everything back.
    ///
    /// # Errors
    /// As [`Server::tcp`].
    pub fn tcp_echo(netns: &Netns, address: impl Into<SocketAddr>) -> Result<Self> {
        Self::tcp(netns, address, |mut stream| {
            stream.set_nodelay(true)?;
            let mut buffer = [0; 65_536];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    length => stream.write_all(&buffer[..length])?,
                }
            }
        })
    }

    /// A web server with one page.
    ///
    /// # Errors
    /// As [`Server::tcp`].
    pub fn http(netns: &Netns, address: impl Into<SocketAddr>, page: &str) -> Result<Self> {
        let answer = format!(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{page}",
            page.len()
        );
        Self::tcp(netns, address, move |mut stream| {
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 65_536 {
                match stream.read(&mut buffer)? {
                    0 => break,
                    length => request.extend_from_slice(&buffer[..length]),
                }
            }
            stream.write_all(answer.as_bytes())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends `length` bytes to an echo server and compares the checksum of what comes back.
///
/// # Errors
/// The connection fails or the bytes differ.
pub fn transfer(netns: &Netns, to: impl Into<SocketAddr>, length: usize) -> Result<()> {
    let mut stream = connect(netns, to)?;
    let data: Vec<u8> = (0..length)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8)
        .collect();
    let mut sender = stream.try_clone()?;
    let sent = data.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent)?;
        sender.shutdown(Shutdown::Write)
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).context("receiving")?;
    sending
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .context("sending")?;
    ensure!(
        back.len() == length,
        "{} of {length} bytes came back",
        back.len()
    );
    ensure!(digest(&back) == digest(&data), "the checksums differ");
    Ok(())
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What a sender of numbered packets found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Numbers that never came back, or attempts that failed, in order.
    pub lost: Vec<u64>,
}

/// Traffic that goes on until it is asked for its report.
#[derive(Debug)]
pub struct Load {
    progress: Arc<Progress>,
    thread: JoinHandle<Result<Report>>,
}

/// How far traffic has come, and whether it is to go on.
#[derive(Debug, Default)]
struct Progress {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Progress {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

impl Load {
    fn spawn(work: impl FnOnce(&Progress) -> Result<Report> + Send + 'static) -> Self {
        let progress = Arc::new(Progress::default());
        let thread = {
            let progress = Arc::clone(&progress);
            std::thread::spawn(move || work(&progress))
        };
        Self { progress, thread }
    }

    /// Packets that were sent, or attempts made, so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many packets were sent, or attempts made, since the start.
    ///
    /// # Errors
    /// It takes too long.
    pub fn reach(&self, count: u64) -> Result<()> {
        crate::eventually(SOON, || {
            let sent = self.sent();
            ensure!(sent >= count, "{sent} of {count} were sent");
            Ok(())
        })
    }

    /// Ends the traffic and counts.
    ///
    /// # Errors
    /// The traffic broke down altogether.
    pub fn finish(self) -> Result<Report> {
        self.progress.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Numbered datagrams of one established flow, about 2000 a second, to a server that sends
    /// them back. It begins once a first one has come back: until the way's neighbours are known,
    /// hosts keep no more than 0.1 s of it.
    ///
    /// # Errors
    /// The socket cannot be made, or nothing comes back.
    pub fn udp(netns: &Netns, to: impl Into<SocketAddr>) -> Result<Self> {
        let to = to.into();
        let socket = netns.udp(any(to, 0))?;
        socket.connect(to)?;
        establish(&socket).with_context(|| format!("a flow to {to}"))?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self::spawn(move |progress| {
            numbered_datagrams(&socket, progress)
        }))
    }

    /// One new UDP flow after the other, each asking once.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn new_udp_flows(netns: &Netns, to: impl Into<SocketAddr>) -> Result<Self> {
        let to = to.into();
        let factory = Factory::start(netns, move || {
            let socket = UdpSocket::bind(any(to, 0))?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        Ok(Self::spawn(move |progress| {
            attempts(progress, || {
                let socket = factory.next()?;
                socket.set_read_timeout(Some(SOON))?;
                socket.send(b"new flow")?;
                let mut buffer = [0; 16];
                socket.recv(&mut buffer)?;
                Ok(())
            })
        }))
    }

    /// One new TCP connection after the other, each with one question and one answer. One counts as lost whose
    /// handshake was not done at the first attempt, as the kernel tells: how long the caller took to hear of it
    /// says nothing on a busy machine.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn new_tcp_flows(netns: &Netns, to: impl Into<SocketAddr>) -> Result<Self> {
        let to = to.into();
        let factory = Factory::start(netns, move || {
            let stream = TcpStream::connect_timeout(&to, SOON)?;
            let info = getsockopt(&stream, TcpInfo)?;
            let took = Duration::from_micros(info.tcpi_rtt.into());
            if info.tcpi_total_retrans > 0 || took >= HANDSHAKE {
                return Err(std::io::Error::other("a packet of the handshake was lost"));
            }
            Ok(stream)
        })?;
        Ok(Self::spawn(move |progress| {
            attempts(progress, || {
                let mut stream = factory.next()?;
                stream.set_read_timeout(Some(SOON))?;
                stream.write_all(b"new flow")?;
                let mut buffer = [0; 8];
                stream.read_exact(&mut buffer)?;
                Ok(())
            })
        }))
    }

    /// Numbered messages over one TCP connection; a lost one is one that came back wrong. TCP
    /// repairs losses, so what is counted here are connections that break, not packets.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub fn tcp(netns: &Netns, to: impl Into<SocketAddr>) -> Result<Self> {
        let mut stream = connect(netns, to)?;
        Ok(Self::spawn(move |progress| {
            let mut report = Report::default();
            let mut back = [0; 8];
            while progress.goes_on() {
                stream.write_all(&report.sent.to_be_bytes())?;
                stream.read_exact(&mut back)?;
                if back != report.sent.to_be_bytes() {
                    report.lost.push(report.sent);
                }
                report.sent += 1;
                progress.sent.store(report.sent, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(report)
        }))
    }
}

/// Repeats an attempt until told to stop.
fn attempts(
    progress: &Progress,
    mut attempt: impl FnMut() -> std::io::Result<()>,
) -> Result<Report> {
    let mut report = Report::default();
    while progress.goes_on() {
        if attempt().is_err() {
            report.lost.push(report.sent);
        }
        report.sent += 1;
        progress.sent.store(report.sent, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(report)
}

/// Asks until an answer comes. Further ones are shorter than what is numbered, and are not counted.
fn establish(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    crate::eventually(SOON, || {
        socket.send(&[0])?;
        socket.recv(&mut [0])?;
        Ok(())
    })
}

fn numbered_datagrams(socket: &UdpSocket, progress: &Progress) -> Result<Report> {
    let receiver = socket.try_clone()?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut seen = HashSet::new();
            let mut buffer = [0; 8];
            let mut quiet_since = Instant::now();
            loop {
                let all_sent = done.load(Ordering::Acquire);
                let received = matches!(receiver.recv(&mut buffer), Ok(8));
                if received {
                    seen.insert(u64::from_be_bytes(buffer));
                    quiet_since = Instant::now();
                }
                // What is still on its way after the last one was sent gets its time. It is over when there
                // is nothing to read: a busy machine may not have let this thread read for long.
                let is_all = seen.len() as u64 == progress.sent.load(Ordering::Relaxed);
                if all_sent && (is_all || !received && quiet_since.elapsed() > LATEST) {
                    return seen;
                }
            }
        });
        let mut sent: u64 = 0;
        let mut failure = Ok(());
        while progress.goes_on() {
            // A refusal that ICMP told about an earlier one shows as an error here; the number
            // counts as lost, as it never comes back.
            match socket.send(&sent.to_be_bytes()) {
                Ok(_) => {}
                // A REJECT: by policy, or because something was used up or missing.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable
                    ) => {}
                Err(error) => {
                    failure = Err(error);
                    break;
                }
            }
            sent += 1;
            progress.sent.store(sent, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(450));
        }
        done.store(true, Ordering::Release);
        let seen = receiving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        failure.context("sending")?;
        let lost = (0..sent).filter(|number| !seen.contains(number)).collect();
        Ok(Report { sent, lost })
    })
}

/// A thread that lives in a namespace and makes one socket after the other there.
struct Factory<T> {
    orders: std::sync::mpsc::SyncSender<()>,
    goods: std::sync::mpsc::Receiver<std::io::Result<T>>,
}

impl<T: Send + 'static> Factory<T> {
    fn start(
        netns: &Netns,
        mut make: impl FnMut() -> std::io::Result<T> + Send + 'static,
    ) -> Result<Self> {
        let (orders, incoming) = std::sync::mpsc::sync_channel::<()>(1);
        let (outgoing, goods) = std::sync::mpsc::sync_channel(1);
        netns.spawn(move || {
            while incoming.recv().is_ok() {
                if outgoing.send(make()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders, goods })
    }

    fn next(&self) -> std::io::Result<T> {
        let gone = || std::io::Error::other("the factory's thread is gone");
        self.orders.send(()).map_err(|_| gone())?;
        self.goods.recv().map_err(|_| gone())?
    }
}
