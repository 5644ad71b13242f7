//! Frames as fast as one thread can send them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;

use crate::{Frame, SOON, Wire};

/// A flood that goes on until it is asked how many frames it was.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Sends the frames that `frame` makes of random numbers.
    #[must_use]
    pub fn start(wire: Wire, mut frame: impl FnMut(u64) -> Frame + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match wire.send(&frame(scatter(sent.load(Ordering::Relaxed)))) {
                        Ok(()) => {}
                        // The receiver's queue is full: this one is lost, as floods are.
                        Err(error) if error.downcast_ref() == Some(&Errno::ENOBUFS) => {}
                        Err(error) => return Err(error),
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Waits until so many frames were sent.
    ///
    /// # Errors
    /// It takes too long: this is no flood.
    pub fn reach(&self, frames: u64) -> Result<()> {
        crate::eventually(SOON, || {
            let sent = self.sent.load(Ordering::Relaxed);
            ensure!(sent >= frames, "{sent} of {frames} frames were sent");
            Ok(())
        })
    }

    /// Ends it and says how many frames were sent.
    ///
    /// # Errors
    /// The device did not take them.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .context("a flood ends once")?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A random address that the Internet could have, and the lab does not use.
#[must_use]
pub fn stranger(random: u64) -> Ipv4Addr {
    let [.., a, b, c] = random.to_be_bytes();
    Ipv4Addr::new(100, 64 | a & 63, b, c)
}

/// A random port that needs no privilege, from other bits than [`stranger`] takes.
#[must_use]
pub fn port(random: u64) -> u16 {
    1024 + ((random >> 32) % 64_512) as u16
}

/// The same sequence in every run, evenly spread.
fn scatter(number: u64) -> u64 {
    let mut value = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
