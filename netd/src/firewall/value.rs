//! What rules compare with, and how nft writes it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::Prefix;

/// What of a packet a rule asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Name of the device it came in by.
    InName,
    /// Name of the device it goes out by.
    OutName,
    /// Number of the device it came in by.
    InIndex,
    /// Number of the device it goes out by.
    OutIndex,
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Destination port.
    Port,
    /// Anything else.
    Other,
}

/// With what it is compared. Numbers of devices are of the host's byte order, all else of the network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// These bytes, of which a name may have fewer than the field: what follows may be anything.
    Exact(Vec<u8>),
    /// From the first to the last.
    Range(Vec<u8>, Vec<u8>),
    /// What a set holds.
    Set(String),
    /// What nobody can read here: a set of ipset's.
    Foreign(String),
}

/// Text that ends where the kernel's does.
pub(super) fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// The value before another, of as many bytes.
pub(super) fn before(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for byte in bytes.iter_mut().rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            break;
        }
    }
    bytes
}

/// The address that begins with these bytes.
pub(super) fn address(bytes: &[u8], ipv6: bool) -> IpAddr {
    if ipv6 {
        let mut all = [0; 16];
        let len = bytes.len().min(16);
        all[..len].copy_from_slice(&bytes[..len]);
        Ipv6Addr::from(all).into()
    } else {
        let mut all = [0; 4];
        let len = bytes.len().min(4);
        all[..len].copy_from_slice(&bytes[..len]);
        Ipv4Addr::from(all).into()
    }
}

/// The shortest prefix that holds a range, if it is one.
pub(super) fn prefix(first: &[u8], last: &[u8], ipv6: bool) -> Option<Prefix> {
    let (low, high) = (address(first, ipv6), address(last, ipv6));
    let bits = if ipv6 { 128 } else { 32 };
    (0..=bits)
        .filter_map(|len| Prefix::new(low, len))
        .find(|prefix| prefix.address() == low && prefix.last() == high)
}

pub(super) fn show(field: Field, values: &Values, ipv6: bool) -> String {
    let one = |bytes: &[u8]| match field {
        Field::InName | Field::OutName => {
            let wildcard = if bytes.contains(&0) || bytes.len() >= 16 {
                ""
            } else {
                "*"
            };
            format!("\"{}{wildcard}\"", name(bytes).escape_debug())
        }
        Field::Source | Field::Destination => address(bytes, ipv6).to_string(),
        Field::Port => match bytes {
            [high, low] => u16::from_be_bytes([*high, *low]).to_string(),
            _ => "…".to_owned(),
        },
        Field::InIndex | Field::OutIndex => match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) => u32::from_ne_bytes(bytes).to_string(),
            Err(_) => "…".to_owned(),
        },
        Field::Other => match bytes {
            [6] => "tcp".to_owned(),
            [17] => "udp".to_owned(),
            _ => {
                let mut text = "0x".to_owned();
                for byte in bytes {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{byte:02x}");
                }
                text
            }
        },
    };
    match values {
        Values::Exact(bytes) => one(bytes),
        Values::Range(first, last) => match field {
            Field::Source | Field::Destination => match prefix(first, last, ipv6) {
                Some(prefix) => prefix.to_string(),
                None => format!("{}-{}", one(first), one(last)),
            },
            _ if first == last => one(first),
            _ => format!("{}-{}", one(first), one(last)),
        },
        Values::Set(set) if set.starts_with("__set") => "{ … }".to_owned(),
        Values::Set(set) => format!("@{set}"),
        Values::Foreign(what) => what.clone(),
    }
}
