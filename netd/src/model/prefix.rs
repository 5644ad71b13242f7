//! Prefixes: addresses that begin with the same bits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::address::{in_subnet, network_address};

/// A prefix in canonical form: bits behind its length are zero, and an IPv4 address mapped into IPv6
/// is IPv4. Sorted such that a prefix comes before those inside it, and they follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// What is no prefix.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no address and no prefix; write 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32")]
pub struct PrefixError(String);

impl Prefix {
    /// The prefix of this length around an address; `None` where the family has no such length.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (len <= bits).then(|| Self {
            address: network_address(address, len),
            len,
        })
    }

    /// The first of its addresses.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The last of its addresses.
    #[must_use]
    pub fn last(self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(self.len.into()).unwrap_or(0);
                Ipv4Addr::from(u32::from(address) | host).into()
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(self.len.into()).unwrap_or(0);
                Ipv6Addr::from(u128::from(address) | host).into()
            }
        }
    }

    /// Is the address one of its own?
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        in_subnet(address, self.address, self.len)
    }

    /// Its length in bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.len
    }

    /// Is it every address of its family?
    #[must_use]
    pub fn is_everything(self) -> bool {
        self.len == 0
    }

    /// Are all addresses of `other` its own?
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.len <= other.len && in_subnet(other.address, self.address, self.len)
    }

    /// Have the two an address in common?
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.escape_debug().to_string());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        // A sign is none of a length's.
        let digits = |len: &&str| len.bytes().all(|byte| byte.is_ascii_digit());
        let len = match len {
            Some(len) => Some(len)
                .filter(digits)
                .and_then(|len| len.parse().ok())
                .filter(|len| *len <= bits)
                .ok_or_else(error)?,
            None => bits,
        };
        match (address, address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if len >= 96 => Self::new(v4, len - 96),
            _ => Self::new(address, len),
        }
        .ok_or_else(error)
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        if self.len == bits {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_they_are_meant() {
        for (text, canonical) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7/32", "203.0.113.7"),
            ("203.0.113.7/24", "203.0.113.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8:1::1/32", "2001:db8::/32"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7/120", "203.0.113.0/24"),
            ("::/0", "::/0"),
        ] {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), canonical);
            assert_eq!(canonical.parse::<Prefix>().unwrap(), prefix);
        }
        for text in [
            "",
            "/",
            "example",
            "203.0.113.7/33",
            "203.0.113.7/",
            "203.0.113.7/+8",
            "1.2.3",
            "::1/129",
            "203.0.113.0/24/8",
            " 203.0.113.7",
            "203.0.113.7/1e1",
        ] {
            text.parse::<Prefix>().unwrap_err();
        }
    }

    #[test]
    fn a_prefix_comes_before_those_inside_it() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let sorted = [
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.0.0.0",
            "10.0.1.0/24",
            "11.0.0.0/8",
        ];
        let sorted = sorted.map(prefix);
        assert!(sorted.is_sorted());
        assert!(sorted[0].contains(sorted[3]) && !sorted[1].contains(sorted[3]));
        assert!(!sorted[3].contains(sorted[0]) && sorted[3].overlaps(sorted[0]));
        assert!(!prefix("::/0").overlaps(prefix("0.0.0.0/0")), "families");
    }
}
