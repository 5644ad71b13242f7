//! Being told when leases change: the lease helper writes a status file for each network, and a journal
//! beside a large one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for a few events; more are read in turn.
const BUFFER: usize = 4096;

/// A watch on the directory of the status files.
#[derive(Debug)]
pub struct LeaseWatch {
    events: AsyncFd<OwnedFd>,
}

impl LeaseWatch {
    /// Watches the directory, within a tokio runtime.
    ///
    /// # Errors
    /// It does not exist, or the user has too many watches.
    pub fn new(dnsmasq_dir: &Path) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The helper writes beside the file and renames, or appends to the journal; people's tools may
        // write into it.
        let changes = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
        inotify::add_watch(&events, dnsmasq_dir, changes | WatchFlags::ONLYDIR)?;
        // SAFETY: an OwnedFd keeps its one descriptor open until it is dropped.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?;
        Ok(Self { events })
    }

    /// Waits until a status file changed. Dropping the future loses nothing that happens later.
    ///
    /// # Errors
    /// The directory is gone, or the kernel says no.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.events.readable().await?;
            match guard.try_io(|events| read_all(events.get_ref())) {
                Ok(Ok(false)) | Err(_) => {}
                Ok(Ok(true)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

/// Reads events until there are none; was one of them about a status file?
fn read_all(events: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    let mut changed = false;
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::INTR) => continue,
            // The next wait has to begin with an empty queue, so this is for try_io to see.
            Err(Errno::WOULDBLOCK) if !changed => return Err(Errno::WOULDBLOCK.into()),
            Err(Errno::WOULDBLOCK) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if event.events().contains(ReadFlags::IGNORED) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the directory of the leases is gone",
            ));
        }
        let is_of_leases = event.file_name().is_some_and(|name| {
            let name = name.to_bytes();
            name.ends_with(b".status") || name.ends_with(b".journal")
        });
        changed |= is_of_leases || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn changes(watch: &mut LeaseWatch) -> bool {
        let changed = timeout(Duration::from_millis(300), watch.changed()).await;
        changed.is_ok_and(|result| result.is_ok())
    }

    #[tokio::test]
    async fn status_files_are_seen_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let mut watch = LeaseWatch::new(dir.path()).unwrap();
        assert!(!changes(&mut watch).await);
        std::fs::write(file("virbr0.pid"), "1").unwrap();
        assert!(!changes(&mut watch).await);
        std::fs::write(file("new"), "[]").unwrap();
        std::fs::rename(file("new"), file("virbr0.status")).unwrap();
        std::fs::write(file("virbr1.status"), "[]").unwrap();
        assert!(changes(&mut watch).await);
        assert!(!changes(&mut watch).await, "several changes are one");
        std::fs::write(file("virbr0.journal"), "{}").unwrap();
        assert!(changes(&mut watch).await);
        std::fs::remove_file(file("virbr0.status")).unwrap();
        assert!(changes(&mut watch).await);
    }

    #[tokio::test]
    async fn a_directory_that_goes_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = LeaseWatch::new(dir.path()).unwrap();
        drop(dir);
        watch.changed().await.unwrap_err();
        LeaseWatch::new(Path::new("/no/such/directory")).unwrap_err();
    }
}
