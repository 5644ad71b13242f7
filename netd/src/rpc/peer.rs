//! Who is at the other end of a connection, as the kernel says.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::net::UnixStream;

/// The process that connected, as it was at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number; 0 where it lives in a namespace of processes that netd does not see.
    pub pid: i32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Who connected to `stream`.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let who = stream.peer_cred()?;
        Ok(Self {
            uid: who.uid(),
            gid: who.gid(),
            pid: who.pid().unwrap_or(0),
            groups: groups(stream)?,
        })
    }

    /// Root, or whoever netd runs as: it could end the agent, so nothing is kept from it.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// Is it in this group?
    #[must_use]
    pub fn is_member(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}, pid {}", self.uid, self.pid)
    }
}

/// The supplementary groups of the process at the other end.
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    // Asked without room, the kernel says how much there should be. What it tells was recorded when
    // the peer connected and does not change in between.
    let mut groups: Vec<u32> = Vec::new();
    loop {
        let size = size_of::<u32>();
        let mut len = libc::socklen_t::try_from(groups.len() * size).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `len` bytes to the vector, which has that many, and the
        // number of those written to `len`.
        let failed = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        } != 0;
        let count = len as usize / size;
        if !failed {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_is_who_the_kernel_says() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.uid, rustix::process::getuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getgid().as_raw());
        assert_eq!(peer.pid, rustix::process::getpid().as_raw_pid());
        let groups = rustix::process::getgroups().unwrap();
        let groups: Vec<u32> = groups.into_iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(peer.groups, groups);
        assert!(peer.is_owner());
        assert!(peer.is_member(peer.gid));
        assert!(!peer.is_member(u32::MAX - 5));
    }
}
