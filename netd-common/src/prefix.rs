//! IPv6 prefixes are translated (NPTv6, RFC 6296): the addresses of a network's guests stand for as many
//! outside, one for one, and nothing is remembered of packets.
//!
//! What the prefix takes from an address's sum, one more of its words gets. So no checksum notices, and
//! protocols that nobody here knows pass as well. Words are in native byte order, as in `checksum`.

use crate::abi::{Addr6, PREFIX_SUBNETS, PrefixPair};
use crate::checksum::{difference, sum6};

/// An address, four bytes at a time.
pub type Words = [u32; 4];

/// The longest prefix that is translated: behind it there have to be the words that make good its sum.
pub const MAX_LEN: u8 = 64;

/// Up to this length there is a word for subnets behind the prefix, which makes good its sum.
const SUBNETS: u8 = 48;

/// What became of an address.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// It is the other one now.
    Yes = 0,
    /// Its subnet has none: number 0xffff (RFC 6296, section 3.2).
    NoSubnet = 1,
    /// Its interface has none: the number is zero (section 3.7), or no word of it can be added to.
    NoInterface = 2,
}

/// Which way a packet goes whose address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It leaves: its source is a guest's.
    Out,
    /// It comes in: its destination stands for a guest's.
    In,
}

impl PrefixPair<Addr6> {
    /// For two prefixes of the same length, behind which both are zero.
    #[must_use]
    pub fn new(inside: Addr6, outside: Addr6, len: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        // Section 3.1: inside minus outside.
        let adjustment = difference(sum6(&outside), sum6(&inside));
        Self {
            inside,
            outside,
            mask: mask.to_be_bytes(),
            adjustment,
            flags: if len <= SUBNETS { PREFIX_SUBNETS } else { 0 },
        }
    }

    /// What stands for the address on the other side; `None` where nothing does, or where its prefix is
    /// another one.
    #[must_use]
    pub fn other(&self, address: Addr6, way: Way) -> Option<Addr6> {
        let pair = PrefixPair {
            inside: words(self.inside),
            outside: words(self.outside),
            mask: words(self.mask),
            adjustment: self.adjustment,
            flags: self.flags,
        };
        let mut address = words(address);
        if !pair.concerns(&address, way) || pair.translate(&mut address, way) != Mapped::Yes {
            return None;
        }
        let mut bytes = [0; 16];
        for (four, word) in bytes.as_chunks_mut().0.iter_mut().zip(address) {
            *four = word.to_ne_bytes();
        }
        Some(bytes)
    }
}

fn words(address: Addr6) -> Words {
    let mut words = [0; 4];
    for (word, four) in words.iter_mut().zip(address.as_chunks().0) {
        *word = u32::from_ne_bytes(*four);
    }
    words
}

impl PrefixPair<Words> {
    /// Has the address the prefix that is translated on this way?
    #[inline(always)]
    #[must_use]
    pub fn concerns(&self, address: &Words, way: Way) -> bool {
        let prefix = match way {
            Way::Out => &self.inside,
            Way::In => &self.outside,
        };
        (address[0] & self.mask[0] == prefix[0])
            & (address[1] & self.mask[1] == prefix[1])
            & (address[2] & self.mask[2] == prefix[2])
            & (address[3] & self.mask[3] == prefix[3])
    }

    /// Translate an address that has the prefix. One that has no other is left half done.
    #[inline(always)]
    #[must_use]
    pub fn translate(&self, address: &mut Words, way: Way) -> Mapped {
        let (prefix, adjustment) = match way {
            Way::Out => (&self.outside, self.adjustment),
            // -x is ~x in one's complement.
            Way::In => (&self.inside, !self.adjustment),
        };
        let is_subnet = self.flags & PREFIX_SUBNETS != 0;
        // Section 3.5 looks at the words before they change, which are none of the prefix's.
        if is_subnet && halves(address[1])[1] == 0xffff {
            return Mapped::NoSubnet;
        }
        if !is_subnet && address[2] | address[3] == 0 {
            return Mapped::NoInterface;
        }
        address[0] = address[0] & !self.mask[0] | prefix[0];
        address[1] = address[1] & !self.mask[1] | prefix[1];
        if is_subnet {
            let [first, subnet] = halves(address[1]);
            address[1] = word([first, add(subnet, adjustment)]);
            return Mapped::Yes;
        }
        if adjust(&mut address[2], adjustment) || adjust(&mut address[3], adjustment) {
            return Mapped::Yes;
        }
        Mapped::NoInterface
    }
}

/// Add to the first half that can be added to; `false` when neither can.
#[inline(always)]
fn adjust(of: &mut u32, adjustment: u16) -> bool {
    let [first, second] = halves(*of);
    if first != 0xffff {
        *of = word([add(first, adjustment), second]);
    } else if second != 0xffff {
        *of = word([first, add(second, adjustment)]);
    } else {
        return false;
    }
    true
}

/// One's complement addition, of whose two zeros the one without bits comes out (section 3.2).
#[inline(always)]
fn add(half: u16, adjustment: u16) -> u16 {
    let sum = u32::from(half) + u32::from(adjustment);
    let sum = (sum & 0xffff) + (sum >> 16);
    if sum == 0xffff { 0 } else { sum as u16 }
}

/// A word's halves, in the order of the address.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

#[inline(always)]
fn word([first, second]: [u16; 2]) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::checksum::fold;

    fn pair(inside: &str, outside: &str, len: u8) -> PrefixPair<Addr6> {
        PrefixPair::new(octets(inside), octets(outside), len)
    }

    fn octets(address: &str) -> Addr6 {
        address.parse::<Ipv6Addr>().unwrap().octets()
    }

    fn other(pair: &PrefixPair<Addr6>, address: &str, way: Way) -> Option<String> {
        let other = pair.other(octets(address), way)?;
        Some(Ipv6Addr::from(other).to_string())
    }

    /// Each address of the one side and what it is on the other.
    fn both_ways(pair: &PrefixPair<Addr6>, inside: &str, outside: &str) {
        assert_eq!(other(pair, inside, Way::Out).as_deref(), Some(outside));
        assert_eq!(other(pair, outside, Way::In).as_deref(), Some(inside));
    }

    /// RFC 6296, section 3.6.
    #[test]
    fn rfc6296_example() {
        let pair = pair("fd01:203:405::", "2001:db8:1::", 48);
        assert_eq!(pair.adjustment, u16::from_ne_bytes([0xd5, 0x4f]));
        both_ways(&pair, "fd01:203:405:1::1234", "2001:db8:1:d550::1234");
        both_ways(&pair, "fd01:203:405:2ab0::1", "2001:db8:1::1");
    }

    /// Sections 3.5 and 3.7: the first word of the interface's number that has bits to spare.
    #[test]
    fn longer_prefixes_change_the_number_of_the_interface() {
        let pair = pair("fd01:203:405:1200::", "2001:db8:1:5600::", 56);
        both_ways(
            &pair,
            "fd01:203:405:1234:1:2:3:4",
            "2001:db8:1:5634:9150:2:3:4",
        );
        both_ways(
            &pair,
            "fd01:203:405:12ff:ffff:2:3:4",
            "2001:db8:1:56ff:ffff:9151:3:4",
        );
        both_ways(
            &pair,
            "fd01:203:405:1200:ffff:ffff:ffff:4",
            "2001:db8:1:5600:ffff:ffff:ffff:9153",
        );
    }

    #[test]
    fn what_stands_for_nothing_is_not_translated() {
        let short = pair("fd01:203:405::", "2001:db8:1::", 48);
        for way in [Way::Out, Way::In] {
            for address in ["fd01:203:405:ffff::1", "2001:db8:1:ffff::1", "fd02::1"] {
                assert_eq!(other(&short, address, way), None, "{address}");
            }
        }
        // The address of all routers of a subnet has a subnet.
        assert!(other(&short, "fd01:203:405:1::", Way::Out).is_some());
        let long = pair("fd01:203:405:1::", "2001:db8:1:2::", 64);
        for (address, way) in [
            ("fd01:203:405:1::", Way::Out),
            ("fd01:203:405:1:ffff:ffff:ffff:ffff", Way::Out),
            ("2001:db8:1:2::", Way::In),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", Way::In),
        ] {
            assert_eq!(other(&long, address, way), None, "{address}");
        }
        assert!(other(&long, "fd01:203:405:1::1", Way::Out).is_some());
    }

    fn prefix(address: u128, len: u8) -> Addr6 {
        let mask = u128::MAX << (128 - u32::from(len));
        (address & mask).to_be_bytes()
    }

    proptest! {
        /// What leaves has the outside prefix and the sum that it had, and what comes back for it is the guest's.
        #[test]
        fn addresses_are_one_for_one_and_checksums_do_not_notice(
            len in 16..=MAX_LEN,
            inside in (0xfd00u128 << 112)..(0xfe00u128 << 112),
            outside in (0x2000u128 << 112)..(0x4000u128 << 112),
            host: u128,
            // Words of nothing but ones, where it comes to that.
            ones in 0u8..=255,
        ) {
            let pair = PrefixPair::new(prefix(inside, len), prefix(outside, len), len);
            let mut host = host.to_be_bytes();
            for (i, two) in host.as_chunks_mut().0.iter_mut().enumerate() {
                if ones & (1 << i) != 0 {
                    *two = [0xff; 2];
                }
            }
            let behind = u128::MAX >> len;
            let inside = u128::from_be_bytes(pair.inside) | u128::from_be_bytes(host) & behind;
            let inside = inside.to_be_bytes();
            if let Some(outside) = pair.other(inside, Way::Out) {
                prop_assert_eq!(fold(sum6(&inside)), fold(sum6(&outside)));
                prop_assert_eq!(prefix(u128::from_be_bytes(outside), len), pair.outside);
                prop_assert_eq!(pair.other(outside, Way::In), Some(inside));
            } else {
                let word = |i: usize| u16::from_be_bytes([inside[2 * i], inside[2 * i + 1]]);
                let has_none = if len <= SUBNETS {
                    word(3) == 0xffff
                } else {
                    (4..8).all(|i| word(i) == 0) || (4..8).all(|i| word(i) == 0xffff)
                };
                prop_assert!(has_none);
            }
        }
    }
}
