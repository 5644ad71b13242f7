//! Sockets in the two namespaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::UdpSocket as StdUdpSocket;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::link::sysctl;
use crate::netns::Netns;

/// Connections that wait to be taken.
const BACKLOG: i32 = 64;

/// How often another port is tried.
const ATTEMPTS: usize = 32;

/// A network namespace.
#[derive(Debug)]
pub enum Place {
    /// The process's own: the host's.
    Here,
    /// That of a network's services.
    Netns(Netns),
}

impl Place {
    /// Make sockets there.
    pub fn make<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match self {
            Self::Here => make(),
            Self::Netns(netns) => netns.run(make),
        }
    }
}

/// Where questions come from, and where they go.
#[derive(Clone, Debug)]
pub struct Side {
    /// Who asks is here.
    pub near: Arc<Place>,
    /// Who answers is there.
    pub far: Arc<Place>,
    /// Who that is; `None` where it is whom the question was sent to.
    pub to: Option<SocketAddr>,
}

impl Side {
    /// Questions go to whom they were sent to.
    pub fn new(near: Arc<Place>, far: Arc<Place>) -> Self {
        Self {
            near,
            far,
            to: None,
        }
    }

    /// All questions go to one server.
    pub fn to(near: Arc<Place>, far: Arc<Place>, to: SocketAddr) -> Self {
        Self {
            near,
            far,
            to: Some(to),
        }
    }

    /// A socket that exchanges datagrams with the server.
    pub fn connect(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.far.make(|| {
            let socket = StdUdpSocket::bind(any(to.ip()))?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        into_tokio(socket)
    }

    /// A connection to the server.
    pub async fn open(&self, to: SocketAddr) -> io::Result<TcpStream> {
        // Where the socket is made counts, not where it is connected.
        let socket = self.far.make(|| new_socket(to.ip(), SocketType::STREAM))?;
        TcpSocket::from_std_stream(std::net::TcpStream::from(socket))
            .connect(to)
            .await
    }

    /// A socket that sends with an address of somebody else's, by which dnsmasq knows whose an answer
    /// is.
    pub fn speak_as(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.near.make(|| foreign(server, SocketType::DGRAM))?;
        into_tokio(StdUdpSocket::from(socket))
    }
}

fn any(family_of: IpAddr) -> SocketAddr {
    let any = match family_of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, 0)
}

fn into_tokio(socket: StdUdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn new_socket(family_of: IpAddr, kind: SocketType) -> io::Result<std::os::fd::OwnedFd> {
    let family = match family_of {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, kind, flags, None)?)
}

/// A socket bound to an address that need not be one of the namespace's, and whose packets may have it
/// as their source all the same (IP_TRANSPARENT).
fn foreign(address: SocketAddr, kind: SocketType) -> io::Result<std::os::fd::OwnedFd> {
    let socket = new_socket(address.ip(), kind)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // IPV6_TRANSPARENT is the same switch.
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// A socket for datagrams and one for connections.
pub type Pair = (UdpSocket, TcpListener);

/// The sockets that get what dnsmasq sends to foreign addresses, for IPv4 and, where the kernel has it,
/// for IPv6.
pub fn for_foreign(place: &Place) -> io::Result<Vec<Pair>> {
    let mut families = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    if sysctl::has_ipv6().map_err(io::Error::other)? {
        families.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    let sockets = place.make(|| {
        let mut sockets = Vec::new();
        for family in families {
            let datagrams = StdUdpSocket::from(foreign(any(family), SocketType::DGRAM)?);
            // Whom it was sent to comes with each datagram.
            if family.is_ipv4() {
                setsockopt(&datagrams, sockopt::Ipv4OrigDstAddr, &true)?;
            } else {
                setsockopt(&datagrams, sockopt::Ipv6OrigDstAddr, &true)?;
            }
            let streams = foreign(any(family), SocketType::STREAM)?;
            rustix::net::listen(&streams, BACKLOG)?;
            sockets.push((datagrams, TcpListener::from(streams)));
        }
        Ok(sockets)
    })?;
    sockets
        .into_iter()
        .map(|(datagrams, streams)| Ok((into_tokio(datagrams)?, streams)))
        .collect()
}

/// Sockets at one port, of the kernel's choice, of all these addresses, and the port.
pub fn at_one_port(addresses: &[IpAddr]) -> io::Result<(u16, Vec<Pair>)> {
    let mut last = Ok((0, Vec::new()));
    for _ in 0..ATTEMPTS {
        last = at_some_port(addresses);
        match &last {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => return last,
        }
    }
    last
}

fn at_some_port(addresses: &[IpAddr]) -> io::Result<(u16, Vec<Pair>)> {
    let mut port = 0;
    let mut pairs = Vec::new();
    for address in addresses {
        let streams = TcpListener::bind(SocketAddr::new(*address, port))?;
        streams.set_nonblocking(true)?;
        port = streams.local_addr()?.port();
        let datagrams = StdUdpSocket::bind(SocketAddr::new(*address, port))?;
        pairs.push((into_tokio(datagrams)?, streams));
    }
    Ok((port, pairs))
}
