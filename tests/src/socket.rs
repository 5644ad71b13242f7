//! Sockets inside a namespace.

use std::io::ErrorKind;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket,
};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_reuseaddr, set_socket_timeout,
};
use rustix::net::{AddressFamily, SocketType};

use crate::{Netns, SOON};

/// What a UDP socket holds for a reader that a busy machine does not let run for a while: seconds of
/// what these tests send, where the kernel's own limit is 0.1 s of it.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Receiving that ends with a datagram or when the time is over. A wait with a limit is not taken up again after
/// a signal, not even one without a handler (signal(7)).
pub trait Receive {
    /// As [`UdpSocket::recv`].
    ///
    /// # Errors
    /// The time is over, or ICMP told of an earlier datagram.
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize>;

    /// As [`UdpSocket::recv_from`].
    ///
    /// # Errors
    /// As [`Receive::receive`].
    fn receive_from(&self, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)>;
}

impl Receive for UdpSocket {
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.receive_from(buffer).map(|(length, _)| length)
    }

    fn receive_from(&self, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
        loop {
            match self.recv_from(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

/// Any address of the peer's family, with that port.
#[must_use]
pub fn any(peer: SocketAddr, port: u16) -> SocketAddr {
    let address = match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(address, port)
}

impl Netns {
    /// A UDP socket at an address inside. It waits for what it receives, but not for ever.
    ///
    /// # Errors
    /// The address is in use or not one of the namespace.
    pub fn udp(&self, address: impl ToSocketAddrs) -> Result<UdpSocket> {
        let socket = self.bound("UDP", resolved(address)?, UdpSocket::bind)?;
        socket.set_read_timeout(Some(SOON))?;
        set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)
            .context("enlarging a socket's buffer")?;
        Ok(socket)
    }

    /// A TCP socket that listens at an address inside. Neither it nor a connection that it accepts
    /// waits for ever.
    ///
    /// # Errors
    /// The address is in use or not one of the namespace.
    pub fn listen(&self, address: impl ToSocketAddrs) -> Result<TcpListener> {
        let listener = self.bound("TCP", resolved(address)?, TcpListener::bind)?;
        // Connections inherit it.
        set_socket_timeout(&listener, Timeout::Recv, Some(SOON))?;
        Ok(listener)
    }

    /// A TCP connection out of the namespace from a source port of one's choice.
    ///
    /// # Errors
    /// The port is in use, or the connection is refused or not answered in time.
    pub fn connect_from(&self, port: u16, to: impl Into<SocketAddr>) -> Result<TcpStream> {
        let to = to.into();
        let socket = self.bound("TCP", any(to, port), |own| {
            let family = match own {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let socket = rustix::net::socket_with(
                family,
                SocketType::STREAM,
                rustix::net::SocketFlags::CLOEXEC,
                None,
            )?;
            set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &own)?;
            Ok(socket)
        })?;
        set_socket_timeout(&socket, Timeout::Send, Some(SOON))?;
        rustix::net::connect(&socket, &to)
            .map_err(std::io::Error::from)
            .with_context(|| format!("connecting from port {port} to {to}"))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// Binds as soon as the address is free: a command that another test starts at this moment
    /// holds copies of this program's sockets until it is executed, so one that was closed a moment
    /// ago may still be in use.
    fn bound<T: Send>(
        &self,
        what: &str,
        address: SocketAddr,
        bind: impl Fn(SocketAddr) -> std::io::Result<T> + Sync,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            match self.enter(|| bind(address))? {
                Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < SOON => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                outcome => return outcome.with_context(|| format!("{what} socket at {address}")),
            }
        }
    }
}

fn resolved(address: impl ToSocketAddrs) -> Result<SocketAddr> {
    let address = address.to_socket_addrs()?.next();
    address.context("a socket has an address")
}
