//! What passed a hypervisor's devices last, for the one who has to find out why a test failed.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufWriter, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::sys::time::TimeSpec;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use rustix::net::netdevice::index_to_name;

use crate::Netns;
use crate::sniffer::packet_socket;

/// Bytes kept of each frame.
const KEPT: usize = 256;
/// Frames kept: the last ones.
const FRAMES: usize = 50_000;
/// Room for what arrives between two looks. What is more is lost: a flood is not to be slowed down
/// by those who watch it.
const BUFFER: usize = 1 << 20;
const LOOK: Duration = Duration::from_millis(20);

/// One frame, as a device took or gave it.
struct Passed {
    device: u32,
    out: bool,
    time: Duration,
    length: usize,
    start: Vec<u8>,
}

/// A capture that goes on until it is saved or dropped.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Frames>>>,
}

/// The last frames, and the names of their devices.
#[derive(Default)]
struct Frames {
    passed: VecDeque<Passed>,
    devices: BTreeMap<u32, String>,
}

impl Capture {
    /// Starts to note what passes any device of a namespace.
    ///
    /// # Errors
    /// No packet socket can be opened.
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.enter(|| packet_socket(BUFFER))??;
        setsockopt(&socket, ReceiveTimestampns, &true).context("asking for times of arrival")?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || capture(&socket, &stop))
        };
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it and writes a file that Wireshark and tcpdump read, named after the test.
    ///
    /// # Errors
    /// The capture failed on the way, or the file cannot be written.
    pub fn save(mut self) -> Result<PathBuf> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a capture ends once")?;
        let frames = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let directory = std::env::temp_dir().join("netd-captures");
        fs::create_dir_all(&directory)?;
        // The test harness names its threads after the tests.
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unknown").replace("::", "-");
        let path = directory.join(format!("{name}-{}.pcapng", std::process::id()));
        frames
            .write(BufWriter::new(File::create(&path)?))
            .with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Frames {
    fn write(self, file: impl std::io::Write) -> Result<()> {
        let mut writer = PcapNgWriter::new(file)?;
        let numbers: BTreeMap<u32, u32> = self.devices.keys().copied().zip(0..).collect();
        for name in self.devices.into_values() {
            writer.write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: KEPT as u32,
                // Nanoseconds.
                options: vec![
                    InterfaceDescriptionOption::IfName(name.into()),
                    InterfaceDescriptionOption::IfTsResol(9),
                ],
            })?;
        }
        for passed in self.passed {
            writer.write_pcapng_block(EnhancedPacketBlock {
                interface_id: numbers[&passed.device],
                timestamp: passed.time,
                original_len: passed.length as u32,
                data: passed.start.into(),
                options: vec![EnhancedPacketOption::Flags(if passed.out { 2 } else { 1 })],
            })?;
        }
        Ok(())
    }
}

fn capture(socket: &OwnedFd, stop: &AtomicBool) -> Result<Frames> {
    let mut frames = Frames::default();
    loop {
        let last = stop.load(Ordering::Relaxed);
        while let Some(passed) = next(socket)? {
            if let std::collections::btree_map::Entry::Vacant(unknown) =
                frames.devices.entry(passed.device)
            {
                // It may be gone by now.
                let name = index_to_name(socket, passed.device);
                unknown.insert(name.unwrap_or_else(|_| format!("device {}", passed.device)));
            }
            if frames.passed.len() == FRAMES {
                frames.passed.pop_front();
            }
            frames.passed.push_back(passed);
        }
        if last {
            return Ok(frames);
        }
        std::thread::sleep(LOOK);
    }
}

/// The next frame, when one is there.
fn next(socket: &OwnedFd) -> Result<Option<Passed>> {
    let mut start = vec![0; KEPT];
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(&mut start)];
    // The length is the frame's, not that of what fits.
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let message = loop {
        match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => break message,
            Err(Errno::EAGAIN) => return Ok(None),
            // A device went away; others go on.
            Err(Errno::ENETDOWN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("capturing"),
        }
    };
    let from = message.address.context("a frame has a device")?;
    let stamp = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    let passed = Passed {
        device: from.ifindex() as u32,
        out: from.pkttype() == nix::libc::PACKET_OUTGOING,
        time: stamp.unwrap_or_default(),
        length: message.bytes,
        start: Vec::new(),
    };
    start.truncate(passed.length.min(KEPT));
    Ok(Some(Passed { start, ..passed }))
}
