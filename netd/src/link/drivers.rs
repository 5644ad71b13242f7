//! What drivers can do with frames before there is an skb, by the kernel's `netdev` family (generic
//! netlink, Linux 6.3).

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_DUMP, Nla, NlasIterator, Parseable,
    ParseableParametrized,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a driver can do. Some say so only for as long as it is true: a veth's sends nothing of
/// others' unless its peer receives as hardware would (with an XDP program of its own, or GRO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// It runs XDP programs that redirect.
    pub redirects: bool,
    /// It sends frames that other drivers have received.
    pub sends: bool,
}

/// The protocol's number (linux/netlink.h).
const NETLINK_GENERIC: NonZeroU32 = NonZeroU32::new(16).unwrap();

/// Numbers of linux/genetlink.h.
mod control {
    pub const FAMILY: u16 = 0x10;
    pub const GET_FAMILY: u8 = 3;
    pub const FAMILY_ID: u16 = 1;
    pub const FAMILY_NAME: u16 = 2;
    pub const GROUPS: u16 = 7;
    pub const GROUP_NAME: u16 = 1;
    pub const GROUP_ID: u16 = 2;
}

/// Numbers of linux/netdev.h.
mod netdev {
    pub const NAME: &[u8] = b"netdev\0";
    /// The group that hears of changes of devices.
    pub const GROUP: &[u8] = b"mgmt\0";
    pub const DEV_GET: u8 = 1;
    pub const IFINDEX: u16 = 1;
    pub const XDP_FEATURES: u16 = 3;
    /// Runs programs that redirect.
    pub const RECEIVES: u64 = 1 | 2;
    /// Sends what others received.
    pub const SENDS: u64 = 4;
}

/// The family's number with this kernel, and its group's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drivers {
    family: u16,
    group: Option<u32>,
}

impl Drivers {
    /// Finds the family.
    pub(super) fn find() -> io::Result<Self> {
        let families = dump(Attributes::request(control::FAMILY, control::GET_FAMILY))?;
        let family = families
            .iter()
            .find(|family| family.value(control::FAMILY_NAME).as_deref() == Some(netdev::NAME))
            .ok_or(io::ErrorKind::Unsupported)?;
        let id = family.number(control::FAMILY_ID);
        let id = id.and_then(|id| u16::try_from(id).ok());
        let groups = family.list_of(control::GROUPS);
        let group = groups
            .iter()
            .find(|group| group.value(control::GROUP_NAME).as_deref() == Some(netdev::GROUP))
            .and_then(|group| group.number(control::GROUP_ID));
        Ok(Self {
            family: id.ok_or(io::ErrorKind::Unsupported)?,
            group: group.and_then(|id| u32::try_from(id).ok()),
        })
    }

    /// Subscribes to changes of what drivers can do, within a tokio runtime.
    pub(super) fn watch(self) -> io::Result<DriverWatch> {
        // The numbers that a netlink address can name; the kernel gives them in turn, from below.
        let mask = self
            .group
            .and_then(|group| 1u32.checked_shl(group.checked_sub(1)?));
        let mask = mask.ok_or(io::ErrorKind::Unsupported)?;
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(rustix::net::Protocol::from_raw(NETLINK_GENERIC)),
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, mask))?;
        // SAFETY: an OwnedFd keeps its one descriptor open until it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(DriverWatch { socket })
    }

    /// What the drivers of all devices can do now, by ifindex.
    pub(super) fn abilities(self) -> io::Result<BTreeMap<u32, Driver>> {
        let devices = dump(Attributes::request(self.family, netdev::DEV_GET))?;
        let of = |device: &Attributes| {
            let index = u32::try_from(device.number(netdev::IFINDEX)?).ok()?;
            let features = device.number(netdev::XDP_FEATURES)?;
            let driver = Driver {
                redirects: features & netdev::RECEIVES == netdev::RECEIVES,
                sends: features & netdev::SENDS != 0,
            };
            Some((index, driver))
        };
        Ok(devices.iter().filter_map(of).collect())
    }
}

/// A subscription to changes of what drivers can do.
#[derive(Debug)]
pub struct DriverWatch {
    socket: AsyncFd<OwnedFd>,
}

impl DriverWatch {
    /// Waits until the kernel tells of one, or of more than it had room for. Dropping the future loses
    /// nothing that happens later.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut told = false;
        loop {
            let mut guard = self.socket.readable().await?;
            let read = guard.try_io(|socket| {
                // Whatever it says: what is so now will be asked for.
                let read = rustix::net::recv(socket, &mut [0u8; 1], RecvFlags::empty());
                match read {
                    Ok(_) | Err(rustix::io::Errno::NOBUFS) => Ok(()),
                    Err(error) => Err(io::Error::from(error)),
                }
            });
            match read {
                Ok(Ok(())) => told = true,
                Ok(Err(error)) => return Err(error),
                Err(_) if told => return Ok(()),
                Err(_) => {}
            }
        }
    }
}

/// All objects that the question is about.
///
/// By a socket of its own, and not by one as in `netlink.rs`: the answers of this family are several
/// without being marked as such (NLM_F_MULTI), and netlink-proto takes the first for the last.
fn dump(question: Attributes) -> io::Result<Vec<Attributes>> {
    let objects: Vec<GenlMessage<Attributes>> = crate::netlink::ask(
        Some(NETLINK_GENERIC),
        NLM_F_DUMP,
        GenlMessage::from_payload(question),
    )?;
    Ok(objects.into_iter().map(|object| object.payload).collect())
}

/// A message of any generic family: a command and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attributes {
    family: u16,
    command: u8,
    list: Vec<DefaultNla>,
}

impl Attributes {
    fn request(family: u16, command: u8) -> Self {
        Self {
            family,
            command,
            list: Vec::new(),
        }
    }

    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        let found = self
            .list
            .iter()
            .find(|attribute| attribute.kind() == kind)?;
        let mut value = vec![0; found.value_len()];
        found.emit_value(&mut value);
        Some(value)
    }

    /// The members of an attribute that holds a list of attributes.
    fn list_of(&self, kind: u16) -> Vec<Self> {
        let members = self.value(kind).unwrap_or_default();
        let members = NlasIterator::new(members.as_slice()).flatten();
        let lists = members.filter_map(|member| {
            let list = NlasIterator::new(member.value()).flatten();
            let list: Result<Vec<_>, _> = list.map(|nla| DefaultNla::parse(&nla)).collect();
            Some(Self {
                list: list.ok()?,
                ..*self
            })
        });
        lists.collect()
    }

    /// An unsigned integer.
    fn number(&self, kind: u16) -> Option<u64> {
        match *self.value(kind)?.as_slice() {
            [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
            [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
            ref long => long.try_into().ok().map(u64::from_ne_bytes),
        }
    }
}

impl GenlFamily for Attributes {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn family_id(&self) -> u16 {
        self.family
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Attributes {
    fn buffer_len(&self) -> usize {
        self.list.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.list.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Attributes {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(bytes);
        let list = attributes.map(|attribute| DefaultNla::parse(&attribute?));
        Ok(Self {
            family: 0,
            command: header.cmd,
            list: list.collect::<Result<_, _>>()?,
        })
    }
}
