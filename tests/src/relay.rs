//! A cable between two tap devices: what a virtual machine monitor is to its guest's packets.

use std::io::{PipeReader, PipeWriter};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::thread::{Pid, gettid};

use crate::Tap;
use crate::tap::Buffer;

/// Frames of one direction before the other has its turn.
const BATCH: u32 = 64;

/// Moves frames between a tap device of the hypervisor's and one that is a guest's card. Large
/// segments and unfinished checksums cross as they are, as they do with virtio-net. One thread does
/// it for both directions, as one of vhost-net's does; it costs two copies and a few system calls.
///
/// Dropping it ends the thread, and the devices with it.
#[derive(Debug)]
pub struct Relay {
    thread: Option<JoinHandle<Result<()>>>,
    number: Pid,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
}

impl Relay {
    /// Begins to move frames.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn start(host: Tap, guest: Tap) -> Result<Self> {
        let (stopped, stop) = std::io::pipe().context("a pipe to end a relay by")?;
        let (told, number) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            // Who started it waits for that.
            let _ = told.send(gettid());
            carry(&host, &guest, &stopped)
        });
        Ok(Self {
            thread: Some(thread),
            number: number.recv().context("the relay ended at once")?,
            stop: Some(stop),
        })
    }

    /// The number that the kernel has for the thread.
    #[must_use]
    pub fn thread(&self) -> Pid {
        self.number
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("moving a guest's frames: {error:#}");
        }
    }
}

/// Moves frames until the other end of the pipe is closed.
fn carry(host: &Tap, guest: &Tap, stopped: &PipeReader) -> Result<()> {
    let mut buffer = Buffer::new();
    loop {
        let mut watched = [
            PollFd::new(host, PollFlags::IN),
            PollFd::new(guest, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for frames"),
        }
        let [down, up, over] = watched.map(|end| !end.revents().is_empty());
        if over {
            return Ok(());
        }
        for (ready, from, to) in [(down, host, guest), (up, guest, host)] {
            let mut left = if ready { BATCH } else { 0 };
            while left > 0 && from.pass_on(to, &mut buffer)? {
                left -= 1;
            }
        }
    }
}
