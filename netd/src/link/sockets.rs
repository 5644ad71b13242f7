//! Sockets of the host that wait for whoever comes, by the kernel's `sock_diag`. It has these in tables
//! of their own, where /proc/net/tcp goes through all connections there could be.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use rtnetlink::packet_core::NLM_F_DUMP;

/// The protocol's number (linux/netlink.h).
const NETLINK_SOCK_DIAG: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// A socket that waits for whoever comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Where it waits.
    pub local: SocketAddr,
    /// The socket's number, which processes' open files show.
    pub inode: u32,
}

/// What a listener transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Sockets of both families in the calling thread's network namespace that wait for connections, or
/// for datagrams from anybody.
///
/// # Errors
/// The kernel cannot tell (CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG).
pub fn listeners(transport: Transport) -> io::Result<Vec<Listener>> {
    let (protocol, states) = match transport {
        Transport::Tcp => (IPPROTO_TCP, StateFlags::LISTEN),
        // One that is connected has a peer of its own, and is "established".
        Transport::Udp => (IPPROTO_UDP, StateFlags::CLOSE),
    };
    let mut listeners = Vec::new();
    for (family, socket_id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let question = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol,
            extensions: ExtensionFlags::empty(),
            states: states.clone(),
            socket_id,
        });
        for answer in crate::netlink::ask(Some(NETLINK_SOCK_DIAG), NLM_F_DUMP, question)? {
            if let SockDiagMessage::InetResponse(socket) = answer {
                let id = &socket.header.socket_id;
                let local = SocketAddr::new(id.source_address, id.source_port);
                let inode = socket.header.inode;
                listeners.push(Listener { local, inode });
            }
        }
    }
    Ok(listeners)
}
