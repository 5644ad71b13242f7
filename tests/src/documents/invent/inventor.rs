//! Who thinks of definitions, and of what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::differential::random::Random;

/// Cards that definitions name, beside `uplink`.
pub const DEVICES: [&str; 5] = ["eth0", "enp3s0", "eth7", "eth8", "eth9"];
/// Bridges of the host's that definitions name.
pub const BRIDGES: [&str; 2] = ["br0", "hostbr1"];

/// Whoever thinks of definitions.
pub struct Inventor<'a> {
    /// What chance decides.
    pub random: &'a mut Random,
}

/// Who carries a network's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `<forward mode='nat'>`.
    Nat,
    /// `<forward mode='route'>`.
    Route,
    /// No `<forward>`.
    Isolated,
    /// `<forward mode='open'>`.
    Open,
    /// `<forward mode='bridge'>` with a bridge of the host's.
    Bridge,
    /// The modes with a pool of devices, by name.
    Pool(&'static str),
}

impl Mode {
    /// Does the network have a bridge of its own?
    #[must_use]
    pub fn is_managed(self) -> bool {
        matches!(self, Self::Nat | Self::Route | Self::Isolated | Self::Open)
    }
}

/// A subnet, which elements of the definition have addresses in.
#[derive(Clone, Copy, Debug)]
pub enum Subnet {
    /// Network address and length of the prefix.
    V4(u32, u8),
    /// The same.
    V6(u128, u8),
}

impl Subnet {
    /// The subnet of an address that an `<ip>` has.
    #[must_use]
    pub fn around(address: IpAddr, prefix: Option<&str>, netmask: Option<&str>) -> Self {
        let prefix = prefix.and_then(|text| text.parse::<u8>().ok());
        let mask = netmask.and_then(|text| text.parse::<Ipv4Addr>().ok());
        match address {
            IpAddr::V4(address) => {
                let given = mask
                    .map(|mask| u32::from(mask).leading_ones() as u8)
                    .or(prefix);
                let prefix = given.unwrap_or(24).clamp(8, 30);
                Self::V4(u32::from(address) & (u32::MAX << (32 - prefix)), prefix)
            }
            IpAddr::V6(address) => {
                let prefix = prefix.unwrap_or(64).clamp(16, 120);
                Self::V6(u128::from(address) & (u128::MAX << (128 - prefix)), prefix)
            }
        }
    }

    /// An address in it, by its number there.
    #[must_use]
    pub fn address(self, number: u64) -> String {
        match self {
            Self::V4(net, _) => Ipv4Addr::from(net | number as u32).to_string(),
            Self::V6(net, _) => Ipv6Addr::from(net | u128::from(number)).to_string(),
        }
    }

    /// The largest number of an address in it that ranges of 16 bits have room for.
    #[must_use]
    pub fn last(self) -> u64 {
        let bits = match self {
            Self::V4(_, prefix) => 32 - prefix,
            Self::V6(_, prefix) => 128 - prefix,
        };
        (1 << bits.min(16)) - 1
    }
}

impl Inventor<'_> {
    /// True in so many of a hundred cases, and then what `make` gives.
    pub(super) fn maybe<T>(
        &mut self,
        percent: usize,
        make: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        self.random.chance(percent).then(|| make(self))
    }

    /// `yes` or `no` in so many of a hundred cases.
    pub(super) fn yes_no(&mut self, percent: usize) -> Option<&'static str> {
        self.maybe(percent, |this| *this.random.pick(&["yes", "no"]))
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.random.below(at + 1));
        }
    }
}
