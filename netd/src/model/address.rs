//! Arithmetic on addresses, subnets and ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The number of leading ones of a netmask; `None` when it has holes.
pub fn netmask_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    // At most 32, so it fits.
    (ones + bits.trailing_zeros().min(32 - ones) == 32).then_some(ones as u8)
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
