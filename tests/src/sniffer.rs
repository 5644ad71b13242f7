//! Everything that passes any device of a namespace.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with,
};

use crate::packet::Ipv4;
use crate::packet6::Ipv6;
use crate::{Netns, SOON};

/// Bytes kept of each frame.
const KEPT: usize = 2048;
/// Room for what arrives while the capturing thread waits for a processor.
const BUFFER: usize = 64 << 20;

/// Time to read what arrived before the end.
const LEFT_OVER: Duration = Duration::from_secs(1);

/// A running capture of packets, of one family or any, on all devices of one namespace.
#[derive(Debug)]
pub struct Sniffer<P = Ipv4> {
    stop: Arc<AtomicBool>,
    packets: Arc<Mutex<Vec<P>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sniffer<Ipv4> {
    /// Starts to capture IPv4; from the return on nothing is missed.
    ///
    /// # Errors
    /// No packet socket can be opened.
    pub fn start(netns: &Netns) -> Result<Self> {
        Self::with(netns, Ipv4::from_frame)
    }
}

impl Sniffer<Ipv6> {
    /// Starts to capture IPv6; from the return on nothing is missed.
    ///
    /// # Errors
    /// No packet socket can be opened.
    pub fn start6(netns: &Netns) -> Result<Self> {
        Self::with(netns, Ipv6::from_frame)
    }
}

impl Sniffer<Vec<u8>> {
    /// Starts to capture whole frames, but for their outermost VLAN tag, which the kernel takes off;
    /// from the return on nothing is missed.
    ///
    /// # Errors
    /// No packet socket can be opened.
    pub fn frames(netns: &Netns) -> Result<Self> {
        Self::with(netns, |frame| Some(frame.to_vec()))
    }
}

impl<P: Send + 'static> Sniffer<P> {
    fn with(netns: &Netns, read: fn(&[u8]) -> Option<P>) -> Result<Self> {
        let socket = netns.enter(|| packet_socket(BUFFER))??;
        let stop = Arc::new(AtomicBool::new(false));
        let packets = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let (stop, packets) = (Arc::clone(&stop), Arc::clone(&packets));
            std::thread::spawn(move || capture(&socket, &stop, &packets, read))
        };
        Ok(Self {
            stop,
            packets,
            thread: Some(thread),
        })
    }

    /// As [`Sniffer::finish`], as soon as what was captured is all that is awaited, and after
    /// [`SOON`] at the latest. Where something is not to come, what is awaited is something sent
    /// later that does.
    ///
    /// # Errors
    /// The capture failed on the way.
    pub fn finish_when(self, is_all: impl Fn(&[P]) -> bool) -> Result<Vec<P>> {
        let start = Instant::now();
        let so_far = || is_all(&self.packets.lock().unwrap_or_else(PoisonError::into_inner));
        while !so_far() && start.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.finish()
    }

    /// Stops and returns what was captured, in order.
    ///
    /// # Errors
    /// The capture failed on the way.
    pub fn finish(mut self) -> Result<Vec<P>> {
        std::thread::sleep(Duration::from_millis(50)); // what is on its way
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .context("a capture ends once")?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut packets))
    }
}

impl<P> Drop for Sniffer<P> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A socket that gets a copy of every frame that passes a device of the namespace.
pub(crate) fn packet_socket(buffer: usize) -> Result<OwnedFd> {
    let protocol: NonZeroU32 = eth::ALL.as_raw();
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(Protocol::from_raw(protocol)),
    )
    .context("opening a packet socket")?;
    set_socket_recv_buffer_size_force(&socket, buffer).context("enlarging its buffer")?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(20)))?;
    Ok(socket)
}

fn capture<P>(
    socket: &OwnedFd,
    stop: &AtomicBool,
    packets: &Mutex<Vec<P>>,
    read: fn(&[u8]) -> Option<P>,
) -> Result<()> {
    let mut frame = [0; KEPT];
    let mut stopped = None;
    loop {
        // What is in the buffer is read before the end, but traffic that goes on has none.
        if stop.load(Ordering::Relaxed)
            && stopped.get_or_insert_with(Instant::now).elapsed() > LEFT_OVER
        {
            return Ok(());
        }
        match recv(socket, &mut frame, RecvFlags::empty()) {
            Ok((length, _)) => {
                let packet = read(&frame[..length]);
                let mut packets = packets.lock().unwrap_or_else(PoisonError::into_inner);
                packets.extend(packet);
            }
            Err(rustix::io::Errno::AGAIN) if stop.load(Ordering::Relaxed) => return Ok(()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // The device went away; others go on.
            Err(rustix::io::Errno::NETDOWN) => {}
            Err(error) => return Err(error).context("capturing"),
        }
    }
}
