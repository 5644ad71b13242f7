//! Who takes part: the same guests and peers, with the same addresses, on both sides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::{HOST, OUTSIDE};

/// A MAC address.
pub type Mac = [u8; 6];

/// MAC address of the NAT network's bridge.
pub const NAT_BRIDGE: Mac = [0x52, 0x54, 0, 0, 0, 0x81];
/// MAC address of the routed network's bridge.
pub const ROUTED_BRIDGE: Mac = [0x52, 0x54, 0, 0, 0, 0x82];
/// MAC address of the hypervisor's uplink.
pub const UPLINK: Mac = [0x02, 0, 0, 0, 0, 0x02];
/// MAC address of the router outside.
pub const ROUTER: Mac = [0x02, 0, 0, 0, 0, 0x01];
/// The hypervisor's address in the NAT network.
pub const NAT_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 122, 1);
/// The hypervisor's address in the routed network.
pub const ROUTED_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 30, 1);
/// The hypervisor's IPv6 address in the NAT network.
pub const NAT_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x122, 0, 0, 0, 0, 0, 1);
/// The hypervisor's IPv6 address in the routed network.
pub const ROUTED_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 1);
/// The hypervisor's IPv6 address on the uplink.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// The router's IPv6 address.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// MTU of the uplink: less than the guests', so that some packets are too big for it.
pub const UPLINK_MTU: usize = 1400;
/// Wires that are observed: one per guest, the last one is the outside.
pub const WIRES: usize = 4;
/// The wire outside.
pub const OUTSIDE_WIRE: usize = 3;
/// Names of the wires.
pub const WIRE_NAMES: [&str; WIRES] = ["vm1", "vm2", "vm3", "outside"];

/// Where somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A guest of the NAT network.
    Nat,
    /// A guest of the routed network.
    Routed,
    /// Beyond the uplink.
    Outside,
    /// The hypervisor itself, which the harness does not play.
    Host,
}

/// Somebody who sends and receives.
#[derive(Debug)]
pub struct Actor {
    /// Name for reports.
    pub name: &'static str,
    /// Where.
    pub place: Place,
    /// Number of the wire.
    pub wire: usize,
    /// Source of the frames.
    pub mac: Mac,
    /// Destination of the frames: the hypervisor.
    pub gateway: Mac,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Actor {
    /// Its address.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The address its router would report errors from, where that is not itself.
    #[must_use]
    pub fn router(&self, family: Family) -> Option<IpAddr> {
        (self.place == Place::Outside).then_some(match family {
            Family::V4 => OUTSIDE.into(),
            Family::V6 => OUTSIDE6.into(),
        })
    }
}

const fn nat_guest(name: &'static str, number: u8) -> Actor {
    Actor {
        name,
        place: Place::Nat,
        wire: number as usize - 1,
        mac: [0x52, 0x54, 0, 0, 1, number],
        gateway: NAT_BRIDGE,
        v4: Ipv4Addr::new(192, 168, 122, 10 + number),
        v6: Ipv6Addr::new(0xfd00, 0x122, 0, 0, 0, 0, 0, 0x10 + number as u16),
    }
}

const fn peer(name: &'static str, mac: u8, v4: Ipv4Addr, v6: Ipv6Addr) -> Actor {
    Actor {
        name,
        place: Place::Outside,
        wire: OUTSIDE_WIRE,
        mac: [0x02, 0, 0, 0, 0, mac],
        gateway: UPLINK,
        v4,
        v6,
    }
}

/// An address of the hypervisor; nothing is sent from there.
const fn host(name: &'static str, v4: Ipv4Addr, v6: Ipv6Addr) -> Actor {
    Actor {
        name,
        place: Place::Host,
        wire: usize::MAX,
        mac: [0; 6],
        gateway: [0; 6],
        v4,
        v6,
    }
}

/// Everybody.
pub const CAST: &[Actor] = &[
    nat_guest("vm1", 1),
    nat_guest("vm2", 2),
    Actor {
        name: "vm3 (routed)",
        place: Place::Routed,
        wire: 2,
        mac: [0x52, 0x54, 0, 0, 1, 3],
        gateway: ROUTED_BRIDGE,
        v4: Ipv4Addr::new(10, 20, 30, 13),
        v6: Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x13),
    },
    peer(
        "peer1",
        0x11,
        Ipv4Addr::new(198, 51, 100, 11),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11),
    ),
    peer(
        "peer2",
        0x12,
        Ipv4Addr::new(198, 51, 100, 12),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x12),
    ),
    // Behind the router.
    peer(
        "far",
        0x01,
        Ipv4Addr::new(203, 0, 113, 5),
        Ipv6Addr::new(0x2001, 0xdb8, 0xfa, 0, 0, 0, 0, 5),
    ),
    host("gateway", NAT_GATEWAY, NAT_GATEWAY6),
    host("host", HOST, HOST6),
];

/// Numbers of those at a place.
#[must_use]
pub fn at(place: Place) -> Vec<usize> {
    (0..CAST.len())
        .filter(|number| CAST[*number].place == place)
        .collect()
}
