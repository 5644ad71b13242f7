//! Devices without link-layer header, as VPNs have them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::ioctl::{Opcode, Setter, ioctl};

use crate::Netns;

/// `TUNSETIFF`.
const SET_INTERFACE: Opcode = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI`.
const BARE_PACKETS: u16 = 0x1001;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A device whose other end is the test.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// A device of that name in a namespace, down. It goes away with this value.
    ///
    /// # Errors
    /// The name is in use, or the machine has no tun driver.
    pub fn new(netns: &Netns, name: &str) -> Result<Self> {
        ensure!(name.len() < 16, "{name:?} is too long for a device");
        let mut request = Request {
            name: [0; 16],
            flags: BARE_PACKETS,
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
                let set = Setter::<SET_INTERFACE, Request>::new(request);
                ioctl(file.as_fd(), set).context("TUNSETIFF")?;
            }
            Ok(file)
        })??;
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self(file))
    }

    /// Lets a packet arrive at the device.
    ///
    /// # Errors
    /// The device is down.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        (&self.0).write_all(packet).context("writing to a tunnel")
    }

    /// What the namespace has sent into the device, if anything.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 65_536];
        match (&self.0).read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("reading from a tunnel"),
        }
    }
}

/// Two such devices of one name, one in each of two namespaces, that are each other's far end.
#[derive(Debug)]
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnel {
    /// They are down, and go away with this value.
    ///
    /// # Errors
    /// As [`Tun::new`].
    pub fn new(one: &Netns, other: &Netns, name: &str) -> Result<Self> {
        let (one, other) = (Tun::new(one, name)?, Tun::new(other, name)?);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let mut idle = true;
                for (from, to) in [(&one, &other), (&other, &one)] {
                    // A device that is not up yet loses packets, as a wire does.
                    if let Ok(Some(packet)) = from.receive() {
                        idle = false;
                        let _ = to.send(&packet);
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
