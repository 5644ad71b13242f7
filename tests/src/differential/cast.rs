//! Who takes part: the same guests and peers, with the same addresses, on both sides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::{HOST, OUTSIDE};

/// A MAC address.
pub type Mac = [u8; 6];

/// MAC address of the hypervisor's uplink.
pub const UPLINK: Mac = [0x02, 0, 0, 0, 0, 0x02];
/// MAC address of the router outside.
pub const ROUTER: Mac = [0x02, 0, 0, 0, 0, 0x01];
/// The address that hides the guests of the network with a pool.
pub const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 40);
/// The ports it hides them behind.
pub const POOL_PORTS: (u16, u16) = (20_000, 29_999);
/// The hypervisor's IPv6 address on the uplink.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// The router's IPv6 address.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// MTU of the uplink: less than the guests', so that some packets are too big for it.
pub const UPLINK_MTU: usize = 1400;
/// The addresses that the hypervisor has instead on the first uplink, once it is readdressed.
pub const OTHER_HOST: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 3),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 3),
);
/// The hypervisor's addresses on the second uplink.
pub const SECOND: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2),
);
/// The router's there.
pub const SECOND_ROUTER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1),
);
/// What lies beyond both routers, by family.
pub const BEYOND: [&str; 2] = ["203.0.113.0/24", "2001:db8:fa::/48"];
/// Wires that are observed: one per guest, two outside, and one more where a guest may move to.
pub const WIRES: usize = 7;
/// The wire outside.
pub const OUTSIDE_WIRE: usize = 4;
/// The wire at the second uplink.
pub const SECOND_WIRE: usize = 5;
/// A port of the routed network that no guest begins at.
pub const SPARE_WIRE: usize = 6;
/// Names of the wires.
pub const WIRE_NAMES: [&str; WIRES] = ["vm1", "vm2", "vm3", "vm4", "outside", "second", "vm5"];

/// A managed network.
#[derive(Debug)]
pub struct Network {
    /// Name.
    pub name: &'static str,
    /// Are its guests hidden?
    pub nat: bool,
    /// Does a pool ([`POOL`], [`POOL_PORTS`]) hide them, instead of the uplink's address?
    pub pool: bool,
    /// Its bridge.
    pub device: &'static str,
    /// The bridge's MAC address.
    pub mac: Mac,
    /// The hypervisor's address.
    pub gateway: Ipv4Addr,
    /// The hypervisor's IPv6 address.
    pub gateway6: Ipv6Addr,
    /// Subnets by family.
    pub subnets: [&'static str; 2],
}

/// All of them.
pub static NETWORKS: [Network; 3] = [
    Network {
        name: "nat",
        nat: true,
        pool: false,
        device: "virbr0",
        mac: [0x52, 0x54, 0, 0, 0, 0x81],
        gateway: Ipv4Addr::new(192, 168, 122, 1),
        gateway6: Ipv6Addr::new(0xfd00, 0x122, 0, 0, 0, 0, 0, 1),
        subnets: ["192.168.122.0/24", "fd00:122::/64"],
    },
    Network {
        name: "routed",
        nat: false,
        pool: false,
        device: "virbr1",
        mac: [0x52, 0x54, 0, 0, 0, 0x82],
        gateway: Ipv4Addr::new(10, 20, 30, 1),
        gateway6: Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 1),
        subnets: ["10.20.30.0/24", "fd00:30::/64"],
    },
    Network {
        name: "pool",
        nat: true,
        pool: true,
        device: "virbr2",
        mac: [0x52, 0x54, 0, 0, 0, 0x83],
        gateway: Ipv4Addr::new(192, 168, 123, 1),
        gateway6: Ipv6Addr::new(0xfd00, 0x123, 0, 0, 0, 0, 0, 1),
        subnets: ["192.168.123.0/24", "fd00:123::/64"],
    },
];

/// Where somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A guest of a NAT network.
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
    /// The network of a guest.
    pub network: Option<&'static Network>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// Is it a guest of the network with a pool?
    #[must_use]
    pub fn has_pool(&self) -> bool {
        self.network.is_some_and(|network| network.pool)
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

const fn guest(number: u8, place: Place, network: &'static Network) -> Actor {
    let wire = number as usize - 1;
    let [a, b, c, _] = network.gateway.octets();
    let [p, q, ..] = network.gateway6.segments();
    Actor {
        name: WIRE_NAMES[wire],
        place,
        network: Some(network),
        wire,
        mac: [0x52, 0x54, 0, 0, 1, number],
        gateway: network.mac,
        v4: Ipv4Addr::new(a, b, c, 10 + number),
        v6: Ipv6Addr::new(p, q, 0, 0, 0, 0, 0, 0x10 + number as u16),
    }
}

const fn peer(name: &'static str, mac: u8, v4: Ipv4Addr, v6: Ipv6Addr) -> Actor {
    Actor {
        name,
        place: Place::Outside,
        network: None,
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
        network: None,
        wire: usize::MAX,
        mac: [0; 6],
        gateway: [0; 6],
        v4,
        v6,
    }
}

/// Everybody.
pub static CAST: &[Actor] = &[
    guest(1, Place::Nat, &NETWORKS[0]),
    guest(2, Place::Nat, &NETWORKS[0]),
    guest(3, Place::Routed, &NETWORKS[1]),
    guest(4, Place::Nat, &NETWORKS[2]),
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
    host("gateway", NETWORKS[0].gateway, NETWORKS[0].gateway6),
    host("host", HOST, HOST6),
];

/// Where the canaries go that tell when a change has come about: next to the routers, and beyond
/// them. Nobody converses with these.
pub const CANARY_PEERS: [(Ipv4Addr, Ipv6Addr); 2] = [
    (
        Ipv4Addr::new(198, 51, 100, 99),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99),
    ),
    (
        Ipv4Addr::new(203, 0, 113, 99),
        Ipv6Addr::new(0x2001, 0xdb8, 0xfa, 0, 0, 0, 0, 0x99),
    ),
];
/// MAC address of the one next to the routers.
pub const CANARY_MAC: Mac = [0x02, 0, 0, 0, 0, 0x99];

/// The network for which rules of the host's count.
pub static RULED_NETWORK: &Network = &NETWORKS[2];
/// Number of its guest.
pub const FILTERED: usize = 3;
/// Number of a guest that a rule may send another way than others.
pub const RULED: usize = 0;
/// Numbers of the two guests of one network.
pub const SIBLINGS: [usize; 2] = [0, 1];
/// Number of the guest of the routed network.
pub const ROUTED: usize = 2;
/// Number of the one behind the routers.
pub const FAR: usize = 6;
/// Number of the hypervisor by its address on the first uplink.
pub const HOST_NUMBER: usize = 8;

/// Numbers of those at a place.
#[must_use]
pub fn at(place: Place) -> Vec<usize> {
    (0..CAST.len())
        .filter(|number| CAST[*number].place == place)
        .collect()
}

/// A MAC address as tools write it.
#[must_use]
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
