//! Word from the kernel that something changed, where what it says of it does not matter.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Longer than the kernel's announcements.
const DATAGRAM: usize = 4 << 10;

/// A subscription to groups of announcements.
#[derive(Debug)]
pub struct Announcements {
    /// A change counts once nothing came after it for this long,
    quiet: Duration,
    /// or once there were changes for this long.
    longest: Duration,
    socket: AsyncFd<OwnedFd>,
    /// When the change that was heard of shall count, and when at the latest.
    due: Option<(Instant, Instant)>,
}

impl Announcements {
    /// Subscribes to the groups of a netlink protocol (bits of an address), in the calling thread's network
    /// namespace, within a tokio runtime; `None` where the kernel does not have the protocol.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new(
        protocol: NonZeroU32,
        groups: u32,
        quiet: Duration,
        longest: Duration,
    ) -> io::Result<Option<Self>> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(Protocol::from_raw(protocol)),
        );
        let socket = match socket {
            Err(rustix::io::Errno::PROTONOSUPPORT) => return Ok(None),
            socket => socket?,
        };
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        // What does not fit is heard of as well (ENOBUFS).
        sockopt::set_socket_recv_buffer_size(&socket, 64 << 10)?;
        // SAFETY: an OwnedFd keeps its one descriptor open until it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Some(Self {
            quiet,
            longest,
            socket: socket?,
            due: None,
        }))
    }

    /// Waits until there was a change. Dropping the future loses nothing, so it may stand in a
    /// `select!`.
    ///
    /// # Errors
    /// The socket is broken, and there will be no further word.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            if self.drain()? {
                let now = Instant::now();
                let latest = self.due.map_or(now + self.longest, |(_, latest)| latest);
                self.due = Some(((now + self.quiet).min(latest), latest));
            }
            let Some((due, _)) = self.due else {
                self.socket.readable().await?.retain_ready();
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    self.due = None;
                    return Ok(());
                }
                readable = self.socket.readable() => readable?.retain_ready(),
            }
        }
    }

    /// Reads until the socket is empty; was there anything?
    fn drain(&self) -> io::Result<bool> {
        let mut any = false;
        loop {
            let mut buffer = [0; DATAGRAM];
            let read = self.socket.try_io(Interest::READABLE, |socket| {
                rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
                Ok(())
            });
            match read {
                Ok(()) => any = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(error) => return Err(error),
            }
        }
    }
}
