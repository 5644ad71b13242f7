//! Arithmetic on MAC addresses, subnets and address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use uuid::Uuid;

use super::types::{AddressRange, Ip, Mac};

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address (six hexadecimal bytes with ':' between them)")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    /// Reads `52:54:00:0a:0b:0c`; a leading zero of a byte may be missing, as libvirt allows.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacError)?;
            if !(1..=2).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(MacError),
        }
    }
}

impl Mac {
    /// A new address for a bridge: random below the prefix 52:54:00.
    #[must_use]
    pub fn random_bridge() -> Self {
        let [.., a, b, c] = *Uuid::new_v4().as_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }

    /// Does the address name a group rather than one interface?
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl AddressRange {
    /// How many addresses there are.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.end)
            .saturating_sub(u32::from(self.start))
            .saturating_add(1)
    }

    /// Is any of them in the subnet of `address`?
    #[must_use]
    pub fn overlaps(self, address: Ipv4Addr, prefix: u8) -> bool {
        let IpAddr::V4(first) = network_address(IpAddr::V4(address), prefix) else {
            return false;
        };
        self.start <= broadcast_address(address, prefix) && first <= self.end
    }
}

/// The number of leading ones of a netmask; `None` when it has holes.
pub fn netmask_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    // At most 32, so it fits.
    (ones + bits.trailing_zeros().min(32 - ones) == 32).then_some(ones as u8)
}

impl AddressRange {
    /// The range as prefixes: address and length, none overlapping another.
    pub fn prefixes(self) -> impl Iterator<Item = (Ipv4Addr, u8)> {
        let (mut next, end) = (u64::from(u32::from(self.start)), u32::from(self.end).into());
        std::iter::from_fn(move || {
            if next > end {
                return None;
            }
            // The largest block that begins here and does not go beyond the end.
            let aligned = if next == 0 {
                32
            } else {
                next.trailing_zeros().min(32)
            };
            let fits = (end - next + 1).ilog2();
            let bits = aligned.min(fits);
            let address = Ipv4Addr::from(u32::try_from(next).unwrap_or(u32::MAX));
            next += 1u64 << bits;
            Some((address, (32 - bits) as u8))
        })
    }
}

/// The subnet's own address: everything after the prefix is zero.
pub fn network_address(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
        }
    }
}

/// The last address of an IPv4 subnet.
pub fn broadcast_address(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) | host)
}

/// The one of these `<ip>` in whose subnet the address is.
pub fn subnet_of(ips: &[Ip], address: IpAddr) -> Option<&Ip> {
    let around = |ip: &&Ip| in_subnet(address, ip.address, ip.prefix_len());
    ips.iter().find(around)
}

/// Is `address` in the subnet that `member` and `prefix` describe?
pub fn in_subnet(address: IpAddr, member: IpAddr, prefix: u8) -> bool {
    address.is_ipv4() == member.is_ipv4()
        && network_address(address, prefix) == network_address(member, prefix)
}

/// Refuses a range that runs backwards, mixes families or holds more than 65536 addresses.
pub fn check_range(start: IpAddr, end: IpAddr) -> Result<(), &'static str> {
    let (first, last) = match (start, end) {
        (IpAddr::V4(s), IpAddr::V4(e)) => (u128::from(u32::from(s)), u128::from(u32::from(e))),
        (IpAddr::V6(s), IpAddr::V6(e)) => {
            if u128::from(s) >> 16 != u128::from(e) >> 16 {
                return Err("may differ in the last 16 bits only");
            }
            (u128::from(s), u128::from(e))
        }
        _ => return Err("mixes IPv4 and IPv6"),
    };
    match last.checked_sub(first) {
        None => Err("runs backwards"),
        Some(span) if span > 65535 => Err("holds more than 65536 addresses"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p15_ranges_are_made_of_prefixes() {
        let range = |start: [u8; 4], end: [u8; 4]| {
            let range = AddressRange {
                start: start.into(),
                end: end.into(),
            };
            range.prefixes().collect::<Vec<_>>()
        };
        assert_eq!(
            range([10, 0, 0, 1], [10, 0, 0, 1]),
            [([10, 0, 0, 1].into(), 32)]
        );
        assert_eq!(
            range([10, 0, 0, 1], [10, 0, 0, 6]),
            [
                ([10, 0, 0, 1].into(), 32),
                ([10, 0, 0, 2].into(), 31),
                ([10, 0, 0, 4].into(), 31),
                ([10, 0, 0, 6].into(), 32)
            ]
        );
        assert_eq!(range([0; 4], [255; 4]), [([0; 4].into(), 0)]);
        assert_eq!(range([255; 4], [255; 4]), [([255; 4].into(), 32)]);
    }

    #[test]
    fn mac_text() {
        for (text, bytes) in [
            ("52:54:00:17:3F:37", Some([0x52, 0x54, 0, 0x17, 0x3f, 0x37])),
            ("0:1:2:3:4:5", Some([0, 1, 2, 3, 4, 5])),
            ("0:1:2:3:4", None),
            ("0:1:2:3:4:5:6", None),
            ("0:1:2:3:4:", None),
            ("0:1:2:3:4:+5", None),
            ("0:1:2:3:4:100", None),
            ("0:1:2:3:4:é", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Mac>().ok().map(|m| m.0), bytes, "{text}");
        }
        assert_eq!(
            "52:54:0:a:B:cC".parse::<Mac>().unwrap().to_string(),
            "52:54:00:0a:0b:cc"
        );
    }

    #[test]
    fn random_macs_are_unicast_and_differ() {
        let (a, b) = (Mac::random_bridge(), Mac::random_bridge());
        assert_eq!(a.0[..3], [0x52, 0x54, 0]);
        assert!(!a.is_multicast());
        // Three chances in 2^24 each: a failure here means the source is not random.
        assert!(a != b || Mac::random_bridge() != a);
    }

    #[test]
    fn netmasks() {
        for (mask, len) in [
            ("0.0.0.0", Some(0)),
            ("128.0.0.0", Some(1)),
            ("255.255.255.0", Some(24)),
            ("255.255.255.255", Some(32)),
            ("255.0.255.0", None),
            ("0.0.0.255", None),
        ] {
            assert_eq!(netmask_len(mask.parse().unwrap()), len, "{mask}");
        }
    }

    #[test]
    fn subnets() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        for (address, prefix, network) in [
            ("192.168.122.1", 24, "192.168.122.0"),
            ("192.168.122.1", 32, "192.168.122.1"),
            ("192.168.122.1", 0, "0.0.0.0"),
            ("2001:db8::1:2", 64, "2001:db8::"),
            ("2001:db8::1", 128, "2001:db8::1"),
            ("2001:db8::1", 0, "::"),
        ] {
            assert_eq!(network_address(ip(address), prefix), ip(network));
        }
        let v4 = |s: &str| s.parse::<Ipv4Addr>().unwrap();
        assert_eq!(broadcast_address(v4("10.1.2.3"), 8), v4("10.255.255.255"));
        assert_eq!(broadcast_address(v4("10.1.2.3"), 0), v4("255.255.255.255"));
        assert_eq!(broadcast_address(v4("10.1.2.3"), 32), v4("10.1.2.3"));
        assert!(in_subnet(ip("10.0.0.9"), ip("10.0.0.1"), 24));
        assert!(!in_subnet(ip("10.0.1.9"), ip("10.0.0.1"), 24));
        assert!(!in_subnet(ip("::10.0.0.9"), ip("10.0.0.1"), 0));
    }
}
