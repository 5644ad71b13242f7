//! Network namespaces: making one, giving it a name in the file system, working inside.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::num::ParseIntError;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::str::FromStr;

use nix::sched::CloneFlags;
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The file system of namespaces (NSFS_MAGIC of linux/magic.h).
const NSFS: libc::c_long = 0x6e73_6673;

/// Tells namespaces apart for as long as they exist: device and number of their file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.device, self.inode)
    }
}

impl FromStr for NetnsId {
    type Err = ParseIntError;

    /// What is displayed.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (device, inode) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self {
            device: device.parse()?,
            inode: inode.parse()?,
        })
    }
}

/// A network namespace, which exists at least as long as this.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has none, or forbids it.
    pub fn new() -> io::Result<Self> {
        on_a_thread(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Self(File::open("/proc/thread-self/ns/net")?))
        })
    }

    /// The one that has a name there; `None` where there is no file, or only that.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) if rustix::fs::fstatfs(&file)?.f_type == NSFS => Ok(Some(Self(file))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which one it is.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn id(&self) -> io::Result<NetnsId> {
        Ok(id(&self.0.metadata()?))
    }

    /// Work inside. Sockets made there stay there, and so do processes.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            inside()
        })
    }

    /// Give it a name, a file that is made for it: from then on it exists without any process.
    ///
    /// # Errors
    /// The file cannot be made, or nothing be mounted there.
    pub fn mount(&self, path: &Path) -> io::Result<()> {
        File::create(path)?;
        let own = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        rustix::mount::mount_bind(own, path).map_err(|error| {
            // Without the namespace the file is nothing.
            let _ = fs::remove_file(path);
            error.into()
        })
    }
}

impl From<OwnedFd> for Netns {
    /// A descriptor of one.
    fn from(netns: OwnedFd) -> Self {
        Self(netns.into())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Take a name away; nothing there is no error.
///
/// # Errors
/// It cannot be unmounted, or the file not be removed.
pub fn unmount(path: &Path) -> io::Result<()> {
    if Netns::open(path)?.is_some() {
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn id(metadata: &fs::Metadata) -> NetnsId {
    NetnsId {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

/// On a thread of its own, which takes its namespace with it when it ends.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_namespaces_apart_reads_as_it_was_written() {
        let id = NetnsId {
            device: 4,
            inode: 4_026_532_281,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "4", "4:", ":1", "4:1:2", "a:1"] {
            assert!(text.parse::<NetnsId>().is_err(), "{text:?}");
        }
    }
}
