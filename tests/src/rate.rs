//! How fast something goes: bulk transfers by TCP, and the time that their bytes take.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::traffic::{Server, connect};
use crate::{Netns, SOON, eventually};

/// Which way bytes go, seen from the one who opens the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the client.
    Down,
    /// To the server.
    Up,
}

/// As many bytes as one TCP connection takes, until it is dropped.
#[derive(Debug)]
pub struct Bulk {
    began: Instant,
    received: Arc<AtomicU64>,
    client: TcpStream,
    thread: Option<JoinHandle<()>>,
    _server: Server,
}

/// Bytes handed over at once.
const PIECE: usize = 16 << 10;

fn pour(stream: &mut TcpStream) {
    let piece = [0x5a; PIECE];
    while stream.write_all(&piece).is_ok() {}
}

fn drain(stream: &mut TcpStream, received: &AtomicU64) {
    let mut piece = [0; PIECE];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}

impl Bulk {
    /// Starts a server at `address` in one namespace and a transfer from or to it in another.
    ///
    /// # Errors
    /// The address is in use, or no connection comes about.
    pub fn tcp(
        client: &Netns,
        server: &Netns,
        address: impl Into<SocketAddr>,
        way: Way,
    ) -> Result<Self> {
        let address = address.into();
        let began = Instant::now();
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let server = Server::tcp(server, address, move |mut stream| {
            match way {
                Way::Down => pour(&mut stream),
                Way::Up => drain(&mut stream, &counted),
            }
            Ok(())
        })?;
        let client = connect(client, address)?;
        client.set_read_timeout(None)?;
        let mut stream = client.try_clone()?;
        let counted = Arc::clone(&received);
        let thread = std::thread::spawn(move || match way {
            Way::Down => drain(&mut stream, &counted),
            Way::Up => pour(&mut stream),
        });
        Ok(Self {
            began,
            received,
            client,
            thread: Some(thread),
            _server: server,
        })
    }

    /// Bytes that have arrived so far, as their reader counts them.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes a second since it began, at least. A reader that could not run for a while reads faster than
    /// they come for a while, but never more than came.
    #[must_use]
    pub fn speed(&self) -> f64 {
        let received = self.received() as f64;
        received / self.began.elapsed().as_secs_f64()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.client.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How fast a counter of bytes rises, in bytes a second: at least, and at most. It takes some time to read
/// it, on a busy machine much, and nobody knows when in that time it was read.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Surely so fast.
    pub surely: f64,
    /// Maybe so fast.
    pub maybe: f64,
}

/// Measures over at least so many bytes from now on. What was saved up before is for the caller to have
/// used.
///
/// # Errors
/// The counter cannot be read, or does not rise that far in time.
pub fn speed(bytes: u64, mut count: impl FnMut() -> Result<u64>) -> Result<Speed> {
    let mut read = || -> Result<_> {
        let before = Instant::now();
        Ok((before, count()?, Instant::now()))
    };
    let (earliest, first, began) = read()?;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let (ended, last, latest) = read()?;
        let risen = last - first;
        if risen >= bytes {
            let over = |time: Duration| risen as f64 / time.as_secs_f64();
            return Ok(Speed {
                surely: over(latest - earliest),
                maybe: over(ended - began),
            });
        }
        let elapsed = began.elapsed();
        ensure!(
            elapsed < SOON * 2,
            "{risen} of {bytes} bytes in {elapsed:?}"
        );
    }
}

/// What a counter of bytes may and should do, as parts of a rate in bytes a second.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// More is never right.
    pub most: f64,
    /// Less is the machine's doing once, but not three times.
    pub least: f64,
}

/// Waits until a counter has begun to rise, then measures over four seconds of `rate`: never above
/// `most`, and in one of three turns not below `least`. Returns the last turn's part of the rate.
///
/// # Errors
/// It is out of bounds, or does not rise.
pub fn hold_to(rate: u64, bounds: Bounds, mut count: impl FnMut() -> Result<u64>) -> Result<f64> {
    let first = count()?;
    eventually(SOON, || {
        let risen = count()? - first;
        ensure!(risen >= rate / 2, "{risen} bytes so far");
        Ok(())
    })?;
    let mut parts = Vec::new();
    for _ in 0..3 {
        let speed = speed(rate * 4, &mut count)?;
        let [surely, maybe] = [speed.surely, speed.maybe].map(|speed| speed / rate as f64);
        ensure!(
            surely <= bounds.most,
            "{surely:.3} of {rate} bytes a second"
        );
        if maybe >= bounds.least {
            eprintln!("{surely:.3} to {maybe:.3} of {rate} bytes a second");
            return Ok(surely);
        }
        parts.push(maybe);
    }
    Err(anyhow::anyhow!("{parts:.3?} of {rate} bytes a second")).context("too slow")
}
