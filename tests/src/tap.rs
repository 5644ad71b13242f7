//! A tap device as a virtual machine monitor drives it: every frame has virtio's header.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::Netns;

/// `TUNSETIFF`.
const SET_INTERFACE: rustix::ioctl::Opcode = 0x4004_54ca;
/// `TUNSETOFFLOAD`.
const SET_OFFLOAD: rustix::ioctl::Opcode = 0x4004_54d0;
/// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
/// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6`: what the guest can take from us
/// unfinished. Linux has the last two since 6.2.
const OFFLOADS: usize = 1 | 2 | 4 | 0x20 | 0x40;
const HEADER: usize = 10;
/// Header and frame at most.
const LONGEST: usize = 70_000;
const NEEDS_CHECKSUM: u8 = 1;
const TCP_V4: u8 = 1;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// The monitor's end of a tap device.
#[derive(Debug)]
pub struct Tap(File);

/// What virtio's header says about a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Payload of the segments into which the frame is to be cut; 0 where it is whole.
    pub segment: u16,
    /// Where the sum starts and how far behind that its field lies, if it is still to be made.
    pub checksum: Option<(u16, u16)>,
    /// Length of all headers, for a frame that is to be cut.
    pub headers: u16,
}

impl Tap {
    /// A device of that name in a namespace, down and plugged into nothing. It goes away with
    /// this value.
    ///
    /// # Errors
    /// The name is in use, or the machine has no tun driver.
    pub fn new(netns: &Netns, name: &str) -> Result<Self> {
        Self::with(netns, name, OFFLOADS)
    }

    /// The same of a guest that takes nothing unfinished.
    ///
    /// # Errors
    /// As [`Tap::new`].
    pub fn without_offloads(netns: &Netns, name: &str) -> Result<Self> {
        Self::with(netns, name, 0)
    }

    fn with(netns: &Netns, name: &str, offloads: usize) -> Result<Self> {
        ensure!(name.len() < 16, "{name:?} is too long for a device");
        let mut request = Request {
            name: [0; 16],
            flags: FLAGS,
            rest: [0; 22],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // The device belongs to the namespace in which the file is opened.
        let file = netns.enter(|| -> Result<File> {
            let file = File::options()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .context("opening /dev/net/tun")?;
            // SAFETY: TUNSETIFF reads a `struct ifreq`, which `Request` is as long as.
            unsafe {
                let set = rustix::ioctl::Setter::<SET_INTERFACE, Request>::new(request);
                rustix::ioctl::ioctl(file.as_fd(), set).context("TUNSETIFF")?;
            }
            // SAFETY: TUNSETOFFLOAD takes its flags by value.
            unsafe {
                let set = rustix::ioctl::IntegerSetter::<SET_OFFLOAD>::new_usize(offloads);
                rustix::ioctl::ioctl(file.as_fd(), set).context("TUNSETOFFLOAD")?;
            }
            Ok(file)
        })??;
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self(file))
    }

    /// Sends a frame as the guest's card would.
    ///
    /// # Errors
    /// The device is down, or the header does not fit the frame.
    pub fn send(&mut self, offload: Offload, frame: &[u8]) -> Result<()> {
        let mut bytes = vec![0; HEADER];
        if let Some((start, offset)) = offload.checksum {
            bytes[0] = NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        if offload.segment > 0 {
            bytes[1] = TCP_V4;
            bytes[2..4].copy_from_slice(&offload.headers.to_ne_bytes());
            bytes[4..6].copy_from_slice(&offload.segment.to_ne_bytes());
        }
        bytes.extend(frame);
        let sent = self.0.write(&bytes).context("writing to the tap device")?;
        ensure!(sent == bytes.len(), "{sent} of {} bytes sent", bytes.len());
        Ok(())
    }

    /// The next frame for the guest, if there is one.
    ///
    /// # Errors
    /// The device went away.
    pub fn receive(&mut self) -> Result<Option<(Offload, Vec<u8>)>> {
        let mut bytes = vec![0; LONGEST];
        let Some(length) = self.read(&mut bytes)? else {
            return Ok(None);
        };
        ensure!(length >= HEADER, "{length} bytes are no frame");
        let frame = bytes[HEADER..length].to_vec();
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let offload = Offload {
            segment: if bytes[1] == 0 { 0 } else { number(4) },
            checksum: (bytes[0] & NEEDS_CHECKSUM != 0).then(|| (number(6), number(8))),
            headers: number(2),
        };
        Ok(Some((offload, frame)))
    }

    /// Moves the next frame, as it is, into another device: what the header says of one that the
    /// kernel hands out is what it takes from a monitor. Returns whether there was one.
    ///
    /// # Errors
    /// One of the devices went away.
    pub(crate) fn pass_on(&self, to: &Self, buffer: &mut Buffer) -> Result<bool> {
        let Some(length) = self.read(&mut buffer.0)? else {
            return Ok(false);
        };
        match (&to.0).write(&buffer.0[..length]) {
            // A device that is down takes nothing, like a card without a link.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {}
            written => {
                written.context("writing to the tap device")?;
            }
        }
        Ok(true)
    }

    fn read(&self, bytes: &mut [u8]) -> Result<Option<usize>> {
        match (&self.0).read(bytes) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("reading from the tap device"),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for a frame on its way from one device to another.
#[derive(Debug)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; LONGEST])
    }
}
