//! Descriptors that a service manager has for the agent: sockets that it listens on, so that clients can
//! connect while netd starts, and what it kept for the agent before.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The descriptors that this process was given, each with its name (`FileDescriptorName=`, `FDNAME=`). To
/// be called once.
///
/// # Errors
/// The service manager's variables make no sense.
pub fn inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    let sockets = sd_notify::listen_fds_with_names()?;
    let owned = sockets.map(|(fd, name)| {
        // SAFETY: the service manager opened these descriptors for this very process, and nothing else
        // in it knows of them.
        (name, unsafe { OwnedFd::from_raw_fd(fd) })
    });
    Ok(owned.collect())
}
