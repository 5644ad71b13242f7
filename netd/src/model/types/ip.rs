//! `<ip>` with its `<dhcp>`, and `<route>`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `<ip>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// `address`: the bridge's own.
    pub address: IpAddr,
    /// `family` as written (printed again when given).
    pub family: Option<Family>,
    /// How the size of the subnet was written.
    pub mask: IpMask,
    /// `localPtr`.
    pub local_ptr: Option<bool>,
    /// `<tftp root>`.
    pub tftp_root: Option<String>,
    /// `<dhcp>`.
    pub dhcp: Dhcp,
}

/// Address family as written in XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `ipv4`.
    Ipv4,
    /// `ipv6`.
    Ipv6,
}

/// How the size of a subnet is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpMask {
    /// Neither `netmask` nor `prefix`: classful for IPv4, 64 for IPv6.
    #[default]
    Implied,
    /// `netmask`.
    Netmask(Ipv4Addr),
    /// `prefix`.
    Prefix(u8),
}

/// `<dhcp>` of one `<ip>`; empty when the element is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// `<range>` list.
    pub ranges: Vec<DhcpRange>,
    /// `<host>` list.
    pub hosts: Vec<DhcpHost>,
    /// `<bootp>`.
    pub bootp: Option<Bootp>,
}

/// `<range>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpRange {
    /// `start`.
    pub start: IpAddr,
    /// `end`, inclusive.
    pub end: IpAddr,
    /// `<lease>`.
    pub lease: Option<LeaseTime>,
}

/// `<host>` of `<dhcp>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpHost {
    /// `mac`, as written.
    pub mac: Option<String>,
    /// `id`: DUID, IPv6 only.
    pub id: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// `ip`.
    pub ip: Option<IpAddr>,
    /// `<lease>`.
    pub lease: Option<LeaseTime>,
}

/// `<lease expiry unit>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// `expiry`; 0 is infinite.
    pub expiry: u32,
    /// `unit`.
    pub unit: LeaseUnit,
}

/// `unit` of `<lease>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseUnit {
    /// `seconds`.
    Seconds,
    /// `minutes`.
    #[default]
    Minutes,
    /// `hours`.
    Hours,
}

/// `<bootp>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bootp {
    /// `file`.
    pub file: String,
    /// `server`.
    pub server: Option<String>,
}

/// `<route>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `family` as written.
    pub family: Option<Family>,
    /// `address`: a network address.
    pub address: IpAddr,
    /// Size of the destination.
    pub mask: IpMask,
    /// `gateway`.
    pub gateway: IpAddr,
    /// `metric`; absent is 1.
    pub metric: Option<u32>,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl Ip {
    /// Length of the subnet's prefix in bits; what libvirt implies when none is written.
    /// A class D or E address without a mask has none and gives 32 (the parser refuses it).
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        prefix_len(self.address, self.mask)
    }
}

impl Route {
    /// Length of the destination's prefix in bits.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        prefix_len(self.address, self.mask)
    }
}

fn prefix_len(address: IpAddr, mask: IpMask) -> u8 {
    match (mask, address) {
        (IpMask::Prefix(len), _) => len,
        // The parser refuses a netmask with holes.
        (IpMask::Netmask(mask), _) => u32::from(mask).leading_ones() as u8,
        (IpMask::Implied, IpAddr::V4(a)) => match a.octets()[0] {
            _ if a.is_unspecified() => 0,
            0..=127 => 8,
            128..=191 => 16,
            192..=223 => 24,
            _ => 32,
        },
        (IpMask::Implied, IpAddr::V6(a)) => {
            if a == Ipv6Addr::UNSPECIFIED {
                0
            } else {
                64
            }
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}
