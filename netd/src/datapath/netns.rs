//! The network namespace that the agent works in, as the programs know it.

use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketType, socket};

/// The cookie of this thread's network namespace (SO_NETNS_COOKIE, Linux 5.14): a number that no
/// other namespace has had since boot.
///
/// # Errors
/// The kernel does not say.
pub fn cookie() -> std::io::Result<u64> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open, and `cookie` has room for the `len` bytes that the kernel writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(std::io::Error::last_os_error())
    }
}
