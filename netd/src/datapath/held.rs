//! Fragments that overtook the first one of their packet: they are held for a moment, and then come in
//! again by the device that they came by (`netd-ebpf/src/conntrack/held.rs`).
//!
//! A thread of its own does that: while the agent compares and mends, such packets are not to wait.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use netd_common::abi::{HELD_BYTES, HELD_LONG, HELD_ONCE, HeldFrame};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::error::{DatapathError, Result, chain};
use super::events::age;
use super::programs;

/// The compiled program.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd-release"));

const PROGRAM: &str = "release";

/// How long a frame waits the first time (most that are out of order are so by a packet or two), and
/// the second. The programs let in as many in a second as wait at a time then (`PER_SECOND`).
const WAITS: [Duration; 2] = [Duration::from_millis(4), Duration::from_millis(120)];

/// Frames that are held in all, each of 3.5 kB at most, and of one device.
const HELD: usize = 256;
const HELD_OF_DEVICE: usize = 64;

/// A frame that was not taken for so long, since there was no agent, comes too late for anybody; its
/// device may be another one by now.
const TOO_OLD: Duration = Duration::from_secs(1);

/// Length of an Ethernet header.
const ETH_HLEN: usize = 14;

/// The thread; it ends with this.
pub(super) struct Holder {
    thread: Option<JoinHandle<()>>,
    stop: Arc<OwnedFd>,
}

impl Holder {
    /// Take the frames of `ring` from now on. `object` is the loaded [`OBJECT`].
    ///
    /// # Errors
    /// The kernel refuses the program, or a thread.
    pub(super) fn start(ring: RingBuf<MapData>, mut object: Ebpf) -> Result<Self> {
        let failed = |message: String| DatapathError::Run {
            program: PROGRAM,
            message,
        };
        let program = object
            .program_mut(PROGRAM)
            .ok_or_else(|| failed("not in the object".to_owned()))?;
        programs::load(PROGRAM, program)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.to_string()))?;
        let stop = Arc::new(stop);
        let mut held = Held {
            ring,
            object,
            stop: Arc::clone(&stop),
            queues: Default::default(),
            of_device: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("fragments".to_owned())
            .spawn(move || {
                if let Err(error) = held.run() {
                    tracing::error!(%error, "fragments out of order are not held any more");
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            thread: Some(thread),
            stop,
        })
    }

    /// Give back what is held, and end.
    pub(super) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if let Err(error) = rustix::io::write(&self.stop, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot end the thread that holds fragments");
            return;
        }
        if thread.join().is_err() {
            tracing::error!("the thread that holds fragments ended badly");
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A frame as the kernel takes it back, with an Ethernet header.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    ifindex: u32,
    tries: usize,
    age: Duration,
    bytes: Vec<u8>,
}

/// What the thread works with.
struct Held {
    ring: RingBuf<MapData>,
    object: Ebpf,
    stop: Arc<OwnedFd>,
    /// Frames that wait for the first and for the second time, in the order in which they are due.
    queues: [VecDeque<(Instant, Frame)>; WAITS.len()],
    of_device: BTreeMap<u32, usize>,
}

impl Held {
    /// Until it is to stop.
    fn run(&mut self) -> io::Result<()> {
        loop {
            let due = self.queues.iter().filter_map(|queue| queue.front());
            let due = due.map(|(due, _)| *due).min();
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            let wait = wait.map(|wait| Timespec {
                tv_sec: 0,
                // Not longer than any of `WAITS`.
                tv_nsec: i64::from(wait.subsec_nanos()),
            });
            let mut fds = [
                PollFd::new(&self.ring, PollFlags::IN),
                PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(&*self.stop), PollFlags::IN),
            ];
            match poll(&mut fds, wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let stops = !fds[1].revents().is_empty();
            self.take();
            self.release(stops);
            if stops {
                return Ok(());
            }
        }
    }

    /// Take what the programs have handed over.
    fn take(&mut self) {
        let mut at_once = Vec::new();
        while let Some(item) = self.ring.next() {
            let Some(frame) = read(&item) else {
                continue;
            };
            let of_device = self.of_device.entry(frame.ifindex).or_default();
            let held: usize = self.queues.iter().map(VecDeque::len).sum();
            let tries = frame.tries;
            if frame.age > TOO_OLD || held >= HELD || *of_device >= HELD_OF_DEVICE {
                at_once.push(frame);
            } else if let (Some(queue), Some(wait)) = (self.queues.get_mut(tries), WAITS.get(tries))
            {
                *of_device += 1;
                queue.push_back((Instant::now() + *wait, frame));
            }
        }
        for frame in at_once {
            let mark = if frame.age > TOO_OLD { 0 } else { HELD_LONG };
            self.put_back(&frame, mark);
        }
    }

    /// Give back what is due, or all.
    fn release(&mut self, all: bool) {
        let now = Instant::now();
        for tries in 0..WAITS.len() {
            while let Some(queue) = self.queues.get_mut(tries)
                && queue.front().is_some_and(|(due, _)| all || *due <= now)
                && let Some((_, frame)) = queue.pop_front()
            {
                if let Some(of_device) = self.of_device.get_mut(&frame.ifindex) {
                    *of_device -= 1;
                    if *of_device == 0 {
                        self.of_device.remove(&frame.ifindex);
                    }
                }
                let last = all || tries + 1 == WAITS.len();
                self.put_back(&frame, if last { HELD_LONG } else { HELD_ONCE });
            }
        }
    }

    /// Put a frame into the stack under a mark, or count it as lost (0).
    fn put_back(&self, frame: &Frame, mark: u32) {
        let program = self.object.program(PROGRAM).map(TryInto::try_into);
        let Some(Ok::<&SchedClassifier, _>(program)) = program else {
            return;
        };
        let run = |ifindex: u32, mark: u32| {
            program.test_run(TestRunOptions {
                data_in: Some(&frame.bytes),
                ctx_in: Some(&context(ifindex, mark)),
                ..TestRunOptions::default()
            })
        };
        // Of a device that is gone the frame is lost.
        if let Err(error) = run(frame.ifindex, mark).or_else(|_| run(0, 0)) {
            tracing::debug!(error = chain(&error), "a held fragment is lost");
        }
    }
}

/// `struct __sk_buff` (linux/bpf.h) up to `cb[0]`, with the fields that may be set.
fn context(ifindex: u32, mark: u32) -> [u8; 52] {
    let mut context = [0; 52];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[48..52].copy_from_slice(&mark.to_ne_bytes());
    context
}

/// A record of the ring buffer; `None` for one of another layout.
fn read(record: &[u8]) -> Option<Frame> {
    let (header, rest) = record.split_at_checked(HeldFrame::HEADER)?;
    let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
    let time = u64::from_ne_bytes(header.get(..8)?.try_into().ok()?);
    let bytes = rest.get(..word(12)? as usize)?;
    let frame = match half(16)? as usize {
        ETH_HLEN => bytes.to_vec(),
        // The kernel takes off again what it needs for knowing the protocol.
        0 => [&[0; ETH_HLEN - 2], header.get(18..20)?, bytes].concat(),
        _ => return None,
    };
    (rest.len() >= HELD_BYTES).then_some(Frame {
        ifindex: word(8)?,
        tries: word(20)? as usize,
        age: age(time),
        bytes: frame,
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    fn record(l3: u16, frame: &[u8]) -> Vec<u8> {
        let mut record = vec![0; size_of::<HeldFrame>()];
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset_of!(HeldFrame, ifindex), &7u32.to_ne_bytes());
        put(
            offset_of!(HeldFrame, len),
            &u32::try_from(frame.len()).unwrap().to_ne_bytes(),
        );
        put(offset_of!(HeldFrame, l3), &l3.to_ne_bytes());
        put(offset_of!(HeldFrame, ether_type), &[0x86, 0xdd]);
        put(offset_of!(HeldFrame, tries), &1u32.to_ne_bytes());
        put(offset_of!(HeldFrame, bytes), frame);
        record
    }

    #[test]
    fn a_frame_is_read_as_it_is_written() {
        let frame = read(&record(14, b"a frame with its header")).unwrap();
        assert_eq!((frame.ifindex, frame.tries), (7, 1));
        assert_eq!(frame.bytes, b"a frame with its header");
    }

    #[test]
    fn a_packet_of_a_tunnel_gets_a_header() {
        let frame = read(&record(0, b"a packet")).unwrap();
        assert_eq!(frame.bytes[..12], [0; 12]);
        assert_eq!(frame.bytes[12..14], [0x86, 0xdd]);
        assert_eq!(&frame.bytes[14..], b"a packet");
    }

    #[test]
    fn other_records_are_none() {
        let whole = record(14, b"frame");
        assert_eq!(read(&whole[..whole.len() - 1]), None);
        assert_eq!(read(&whole[..10]), None);
        assert_eq!(read(&record(3, b"frame")), None);
        let mut long = whole;
        let length = offset_of!(HeldFrame, len);
        long[length..length + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(read(&long), None);
    }
}
