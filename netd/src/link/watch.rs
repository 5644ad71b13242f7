//! Word that something about devices, addresses, forwarding, routes or neighbours changed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::Parseable;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::bridge_ports::{Learned, learned};
use super::error::LinkError;

/// What to look at again.
#[derive(Debug)]
pub enum Change {
    /// Devices, addresses or whether devices forward changed, or filters of traffic control came or went.
    Links,
    /// Routes, rules, next hops or neighbours changed, or whether and how large packets a device
    /// carries: paths worked out from them may be wrong now.
    Routes,
    /// Bridges saw guests at a port where they were not before.
    Moved(Moves),
    /// The kernel had more to tell than the socket could hold: look at everything again.
    Overrun,
    /// The socket is broken and there will be no further word.
    Closed(io::Error),
}

/// Where bridges saw MAC addresses: by the bridge's number and the address, the port's number.
pub type Moves = BTreeMap<(u32, [u8; 6]), u32>;

/// Subscribed groups of the kernel's announcements, all of them numbers that fit into the mask of
/// a netlink address.
const GROUPS: [MulticastGroup; 12] = [
    MulticastGroup::Link,
    MulticastGroup::Tc,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// Numbers of linux/rtnetlink.h that libc does not have.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_NEWNETCONF: u16 = 80;

/// The protocol's number is zero, which is "no protocol given".
const NETLINK_ROUTE: Option<rustix::net::Protocol> = None;

/// Room for several thousand announcements.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The kernel's announcements are below a page, but for devices with many virtual functions. Of
/// those only the first part is read, which is enough: it holds the message type.
const DATAGRAM: usize = 32 << 10;

/// Announcements read at once, so that an endless flood still gets reported.
const BATCH: usize = 4096;

/// Neighbours remembered at most; beyond that all are forgotten and changes reported once more.
const NEIGHBOURS: usize = 16 << 10;

/// A subscription to the kernel's announcements.
///
/// Nothing queues up outside the socket: [`NetlinkMonitor::next`] reads all there is and reports each kind
/// of change once, however many announcements there were.
#[derive(Debug)]
pub struct NetlinkMonitor {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    pending: Pending,
    seen: Seen,
}

/// What was announced last, to tell what is new.
#[derive(Debug, Default)]
struct Seen {
    devices: Devices,
    guests: Guests,
    neighbours: Neighbours,
}

#[derive(Debug, Default)]
struct Pending {
    links: bool,
    routes: bool,
    moved: Moves,
    overrun: bool,
}

impl NetlinkMonitor {
    /// Subscribes in the calling thread's network namespace, within a tokio runtime. Subscribe
    /// before taking the first snapshot, so that nothing happens unseen between the two.
    pub fn new() -> Result<Self, LinkError> {
        Self::with_receive_buffer(RECEIVE_BUFFER)
    }

    /// The same with another size of the socket's receive buffer.
    pub fn with_receive_buffer(bytes: usize) -> Result<Self, LinkError> {
        Ok(Self {
            socket: subscribe(bytes).map_err(LinkError::Socket)?,
            buffer: vec![0; DATAGRAM],
            pending: Pending::default(),
            seen: Seen::default(),
        })
    }

    /// Waits for the next change. Dropping the future loses nothing, so it may stand in a
    /// `select!`.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Err(error) = self.read_all() {
                return Change::Closed(error);
            }
            if let Some(change) = self.pending.take() {
                return change;
            }
            match self.socket.readable().await {
                // What is there is read above; only that can tell whether the socket is empty.
                Ok(mut guard) => guard.retain_ready(),
                Err(error) => return Change::Closed(error),
            }
        }
    }

    /// Reads until the socket is empty, or a whole batch.
    fn read_all(&mut self) -> io::Result<()> {
        for _ in 0..BATCH {
            let buffer = &mut self.buffer[..];
            let result = self.socket.try_io(Interest::READABLE, |socket| {
                Ok(rustix::net::recv(socket, buffer, RecvFlags::empty())?)
            });
            match result {
                Ok((read, _)) => {
                    self.pending.note(&self.buffer[..read], &mut self.seen);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.pending.overrun = true;
                    self.seen = Seen::default();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn subscribe(receive_buffer: usize) -> io::Result<AsyncFd<OwnedFd>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        NETLINK_ROUTE,
    )?;
    // The forced size passes net.core.rmem_max and needs CAP_NET_ADMIN.
    if sockopt::set_socket_recv_buffer_size_force(&socket, receive_buffer).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, receive_buffer)?;
    }
    let groups = GROUPS
        .into_iter()
        .fold(0, |groups, group| groups | 1 << (group as u32 - 1));
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    // SAFETY: an OwnedFd keeps its one descriptor open until it is dropped.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(socket?)
}

impl Pending {
    fn take(&mut self) -> Option<Change> {
        if self.overrun {
            *self = Self::default();
            return Some(Change::Overrun);
        }
        if std::mem::take(&mut self.links) {
            return Some(Change::Links);
        }
        if !self.moved.is_empty() {
            return Some(Change::Moved(std::mem::take(&mut self.moved)));
        }
        std::mem::take(&mut self.routes).then_some(Change::Routes)
    }

    /// Looks at the messages of one datagram, the last of which may be cut short.
    fn note(&mut self, mut datagram: &[u8], seen: &mut Seen) {
        while let Some((header, _)) = datagram.split_first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            if length < HEADER {
                return;
            }
            let body = &datagram[HEADER..length.min(datagram.len())];
            match kind {
                libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                    self.links = true;
                    // The routes by a device that goes down go without a word.
                    self.routes |= seen.devices.changed(body, kind == libc::RTM_NEWLINK);
                }
                libc::RTM_NEWADDR
                | libc::RTM_DELADDR
                // Of all parameters of devices the kernel tells of a few, forwarding among them.
                | RTM_NEWNETCONF
                // A port's frames may have to pass them.
                | libc::RTM_NEWTFILTER
                // The agent's own programs may be among them, and the rates that devices are held to.
                | libc::RTM_DELQDISC
                | libc::RTM_NEWTCLASS
                | libc::RTM_DELTCLASS
                | libc::RTM_DELTFILTER => self.links = true,
                libc::RTM_NEWROUTE
                | libc::RTM_DELROUTE
                | libc::RTM_NEWRULE
                | libc::RTM_DELRULE
                | RTM_NEWNEXTHOP
                | RTM_DELNEXTHOP => self.routes = true,
                // A bridge announces what it learned in this group too.
                libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH
                    if body.first() == Some(&(libc::AF_BRIDGE as u8)) =>
                {
                    let moved = seen.guests.moved(body, kind == libc::RTM_NEWNEIGH);
                    self.moved.extend(moved);
                }
                libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                    self.routes |= seen.neighbours.changed(body, kind == libc::RTM_NEWNEIGH);
                }
                _ => {}
            }
            // Messages start at multiples of four bytes.
            match datagram.get(length.next_multiple_of(4)..) {
                Some(rest) => datagram = rest,
                None => return,
            }
        }
    }
}

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Whether a device is up, has a carrier, and how large packets it takes.
#[derive(Debug, Default)]
struct Devices(HashMap<u32, (u32, u32)>);

/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;

impl Devices {
    /// Whether a path by this device may be another one now.
    fn changed(&mut self, body: &[u8], exists: bool) -> bool {
        let Some((info, attributes)) = body.split_first_chunk::<IFINFO>() else {
            return true;
        };
        // What a bridge says of its ports is said here as well.
        if info[0] == libc::AF_BRIDGE as u8 {
            return false;
        }
        let word =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let (index, flags) = (word(4), word(8));
        if !exists {
            return self.0.remove(&index).is_some();
        }
        let flags = flags & (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOWER_UP) as u32;
        let now = (flags, mtu(attributes).unwrap_or_default());
        self.0.insert(index, now) != Some(now)
    }
}

/// `IFLA_MTU` among the attributes of a device.
fn mtu(mut attributes: &[u8]) -> Option<u32> {
    while let Some((header, rest)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == libc::IFLA_MTU {
            let (value, _) = rest.split_first_chunk::<4>()?;
            return Some(u32::from_ne_bytes(*value));
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

/// At which port a bridge saw a MAC address last.
#[derive(Debug, Default)]
struct Guests(Moves);

impl Guests {
    /// The guest that is at another port now, or was not known.
    fn moved(&mut self, body: &[u8], exists: bool) -> Option<((u32, [u8; 6]), u32)> {
        // What cannot be read is nothing that a bridge has learned: the length of a MAC address and
        // the bridge are always there.
        let Learned { bridge, port, mac } = learned(&NeighbourMessage::parse(body).ok()?)?;
        let key = (bridge, mac.0);
        if !exists {
            // It is told of the new place first, where there is one.
            if self.0.get(&key) == Some(&port) {
                self.0.remove(&key);
            }
            return None;
        }
        if self.0.len() >= NEIGHBOURS {
            self.0.clear();
        }
        (self.0.insert(key, port) != Some(port)).then_some((key, port))
    }
}

/// The neighbours that can be sent to, so that the constant change between reachable, stale and
/// probed is not reported: all three have a usable address.
#[derive(Debug, Default)]
struct Neighbours(HashMap<(u32, IpAddr), Vec<u8>>);

impl Neighbours {
    /// Whether a neighbour got, changed or lost its link layer address.
    fn changed(&mut self, body: &[u8], exists: bool) -> bool {
        // What cannot be read is reported rather than missed.
        let Ok(message) = NeighbourMessage::parse(body) else {
            return true;
        };
        let mut address = None;
        let mut mac = None;
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    address = Some(IpAddr::V4(ip));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(ip));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(bytes),
                _ => {}
            }
        }
        let Some(address) = address else {
            return false;
        };
        let key = (message.header.ifindex, address);
        let usable = exists
            && !matches!(
                message.header.state,
                NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed
            );
        match mac.filter(|_| usable) {
            Some(mac) => {
                if self.0.len() >= NEIGHBOURS {
                    self.0.clear();
                }
                self.0.insert(key, mac.clone()) != Some(mac)
            }
            None => self.0.remove(&key).is_some(),
        }
    }
}
