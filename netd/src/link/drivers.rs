//! What drivers can do with frames before there is an skb, by the kernel's `netdev` family (generic
//! netlink, Linux 6.3).

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;

use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, Nla, NlasIterator, Parseable, ParseableParametrized,
};

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
}

/// Numbers of linux/netdev.h.
mod netdev {
    pub const NAME: &[u8] = b"netdev\0";
    pub const DEV_GET: u8 = 1;
    pub const IFINDEX: u16 = 1;
    pub const XDP_FEATURES: u16 = 3;
    /// Runs programs that redirect.
    pub const RECEIVES: u64 = 1 | 2;
    /// Sends what others received.
    pub const SENDS: u64 = 4;
}

/// The family's number with this kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drivers {
    family: u16,
}

impl Drivers {
    /// Finds the family.
    pub(super) fn find() -> io::Result<Self> {
        let families = dump(Attributes::request(control::FAMILY, control::GET_FAMILY))?;
        let family = families
            .iter()
            .find(|family| family.value(control::FAMILY_NAME).as_deref() == Some(netdev::NAME))
            .and_then(|family| family.number(control::FAMILY_ID))
            .and_then(|id| u16::try_from(id).ok());
        Ok(Self {
            family: family.ok_or(io::ErrorKind::Unsupported)?,
        })
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

/// All objects that the question is about.
///
/// By a socket of its own, and not by one as in `netlink.rs`: the answers of this family are several
/// without being marked as such (NLM_F_MULTI), and netlink-proto takes the first for the last.
fn dump(question: Attributes) -> io::Result<Vec<Attributes>> {
    let objects = super::dump::objects(NETLINK_GENERIC, GenlMessage::from_payload(question))?;
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
