//! Whether a subnet is already somebody else's on this host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::snapshot::{Route, Snapshot};
use crate::model::{in_subnet, network_address};

/// IPv4 prefixes up to this length mean "everywhere": the default route, and the two halves of it by
/// which VPN clients override the default without replacing it.
const DEFAULT_ROUTE_PREFIX: u8 = 1;

/// The routing table that everybody asks. What another one says holds for those whom a rule sends
/// there: a VRF, one device, packets with a mark.
const MAIN: u32 = 254;

/// What is for private use (RFC 1918), the one that libvirt's networks are in first.
const PRIVATE: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
];

/// Subnets of a block that are tried at most: nobody has so many.
const TRIED: u32 = 1 << 12;

/// Who holds a subnet, or part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// A device's name, or "route via …" for a route that names no device.
    pub interface: String,
    /// What it has there.
    pub holding: Holding,
}

/// What somebody has in a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// The subnet, or one that lies in it or around it: network address and prefix length.
    Subnet(IpAddr, u8),
    /// An address of the host's own, with the length of its subnet's prefix.
    Address(IpAddr, u8),
    /// The router that packets are sent to.
    Router(IpAddr),
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interface = &self.interface;
        write!(f, "Network is already in use by interface {interface} (")?;
        match self.holding {
            Holding::Subnet(network, prefix) => write!(f, "{network}/{prefix})"),
            Holding::Address(address, prefix) => write!(f, "its address {address}/{prefix})"),
            Holding::Router(router) => write!(f, "its router {router})"),
        }
    }
}

/// Something on the host that another device than a network's own bridge has.
struct Foreign {
    index: Option<u32>,
    gateway: Option<IpAddr>,
    subnet: (IpAddr, u8),
    /// The host's own address, where it is one.
    address: Option<IpAddr>,
}

/// Finds what keeps a network from having a subnet: `subnet` is its address there and the length of
/// the prefix. That is, on another device than `own_bridge`,
///
/// - the same subnet, or one in it, as an address's or as a route's destination: packets for guests
///   would go there;
/// - of IPv4, an address of the host's, or a router that it sends packets to: those would be guests'
///   from then on.
///
/// A wider subnet around it is no hindrance, since the bridge's own route is the more exact one; see
/// [`subnet_around`]. Other routing tables than the main one, and VRFs, do not count.
#[must_use]
pub fn subnet_in_use(
    subnet: (IpAddr, u8),
    own_bridge: Option<&str>,
    snapshot: &Snapshot,
) -> Option<InUse> {
    let mut foreign = foreign(own_bridge, snapshot);
    foreign.find_map(|theirs| {
        let holding = collide(subnet, &theirs)?;
        let interface = holder(theirs.index, theirs.gateway, snapshot);
        Some(InUse { interface, holding })
    })
}

fn collide(ours: (IpAddr, u8), theirs: &Foreign) -> Option<Holding> {
    let (network, prefix) = theirs.subnet;
    let is_ours = |address: IpAddr| in_subnet(address, ours.0, ours.1);
    if prefix >= ours.1 && is_ours(network) && !is_default(theirs.subnet) {
        return Some(Holding::Subnet(network_address(network, prefix), prefix));
    }
    if let Some(address) = theirs.address.filter(|a| a.is_ipv4() || *a == ours.0)
        && is_ours(address)
    {
        return Some(Holding::Address(address, prefix));
    }
    let router = theirs.gateway.filter(|gateway| gateway.is_ipv4());
    router
        .filter(|router| is_ours(*router))
        .map(Holding::Router)
}

/// The most exact IPv4 subnet around `subnet` that another device than `own_bridge` leads to: what
/// was sent there goes to guests once the network runs. A host's IPv6 prefix is its own, and giving
/// guests a part of it is how such hosts are set up.
#[must_use]
pub fn subnet_around(
    subnet: (IpAddr, u8),
    own_bridge: Option<&str>,
    snapshot: &Snapshot,
) -> Option<InUse> {
    let around = foreign(own_bridge, snapshot).filter(|theirs| {
        let (network, prefix) = theirs.subnet;
        network.is_ipv4()
            && prefix < subnet.1
            && in_subnet(subnet.0, network, prefix)
            && !is_default(theirs.subnet)
    });
    let closest = around.max_by_key(|theirs| theirs.subnet.1)?;
    let (network, prefix) = closest.subnet;
    Some(InUse {
        interface: holder(closest.index, closest.gateway, snapshot),
        holding: Holding::Subnet(network_address(network, prefix), prefix),
    })
}

/// A subnet of as many addresses as `subnet` for private use that nothing on the host touches, nor
/// any of `taken`; `None` for IPv6, or where there is none.
#[must_use]
pub fn free_subnet(
    subnet: (IpAddr, u8),
    taken: &[(IpAddr, u8)],
    snapshot: &Snapshot,
) -> Option<(IpAddr, u8)> {
    let (IpAddr::V4(_), prefix @ 8..=30) = subnet else {
        return None;
    };
    let addresses = snapshot.addresses.iter().map(|a| (a.address, a.prefix));
    let routes = snapshot.routes.iter().map(|route| route.destination);
    let held = addresses.chain(routes).filter(|held| !is_default(*held));
    let held: Vec<(IpAddr, u8)> = held.chain(taken.iter().copied()).collect();
    let is_free = |candidate: &IpAddr| {
        let overlaps = |&(other, len): &(IpAddr, u8)| {
            let common = len.min(prefix);
            in_subnet(*candidate, other, common)
        };
        !held.iter().any(overlaps)
    };
    let blocks = PRIVATE.iter().filter(|(_, len)| *len <= prefix);
    let mut candidates = blocks.flat_map(|(block, len)| {
        let count = 1u32 << (prefix - len);
        // From where libvirt's own networks are, as far as that block has so many.
        let first = if *len == 16 && prefix == 24 { 122 } else { 0 };
        (0..count.min(TRIED)).map(move |number| {
            let number = (number + first) % count;
            IpAddr::V4(Ipv4Addr::from(u32::from(*block) | number << (32 - prefix)))
        })
    });
    candidates.find(is_free).map(|subnet| (subnet, prefix))
}

fn foreign<'a>(
    own_bridge: Option<&str>,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = Foreign> + 'a {
    let own = own_bridge.and_then(|name| snapshot.by_name(name));
    let own = own.map(|link| link.index);
    let addresses = snapshot.addresses.iter().filter(|address| {
        let link = snapshot.links.get(&address.index);
        !link.is_some_and(|link| snapshot.is_of_vrf(link))
    });
    let addresses = addresses.map(|address| Foreign {
        index: Some(address.index),
        gateway: None,
        subnet: (address.address, address.prefix),
        address: Some(address.address),
    });
    let routes = snapshot.routes.iter().filter(|route| route.table == MAIN);
    let routes = routes.map(|route: &Route| Foreign {
        index: route.index,
        gateway: route.gateway,
        subnet: route.destination,
        address: None,
    });
    let all = addresses.chain(routes);
    all.filter(move |theirs| theirs.index.is_none() || theirs.index != own)
}

fn is_default((network, prefix): (IpAddr, u8)) -> bool {
    prefix
        <= if network.is_ipv4() {
            DEFAULT_ROUTE_PREFIX
        } else {
            0
        }
}

fn holder(index: Option<u32>, gateway: Option<IpAddr>, snapshot: &Snapshot) -> String {
    match (index, gateway) {
        (Some(index), _) => snapshot
            .links
            .get(&index)
            .map_or_else(|| format!("number {index}"), |link| link.name.clone()),
        (None, Some(gateway)) => format!("route via {gateway}"),
        (None, None) => "route without a device".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::link::{Address, Dump, Link, Route, Scope};

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            ..Link::default()
        }
    }

    fn address(index: u32, address: [u8; 4], prefix: u8) -> Address {
        Address {
            index,
            address: IpAddr::from(address),
            prefix,
            primary: true,
            scope: Scope::Global,
        }
    }

    fn route(index: Option<u32>, to: [u8; 4], prefix: u8, via: Option<[u8; 4]>) -> Route {
        Route {
            destination: (IpAddr::from(to), prefix),
            index,
            gateway: via.map(IpAddr::from),
            table: 254,
            advertised: false,
            mtu: None,
            metric: None,
        }
    }

    fn host() -> Dump {
        Dump {
            links: [(2, link(2, "eth0")), (3, link(3, "virbr0"))].into(),
            addresses: vec![
                address(2, [10, 1, 2, 3], 16),
                address(3, [192, 168, 122, 1], 24),
            ],
            routes: vec![
                route(Some(2), [0, 0, 0, 0], 0, Some([10, 1, 0, 1])),
                route(Some(2), [128, 0, 0, 0], 1, Some([10, 1, 0, 1])),
                route(Some(2), [172, 16, 0, 0], 12, Some([10, 1, 0, 2])),
                route(None, [198, 51, 100, 0], 24, Some([10, 1, 0, 9])),
            ],
        }
    }

    fn check(subnet: [u8; 4], prefix: u8) -> Option<String> {
        subnet_in_use((subnet.into(), prefix), Some("virbr0"), &host().into())
            .map(|used| used.to_string())
    }

    #[test]
    fn names_the_interface_and_its_subnet() {
        for (subnet, prefix, by) in [
            ([10, 1, 0, 1], 16, "eth0 (10.1.0.0/16)"),
            ([10, 0, 0, 1], 8, "eth0 (10.1.0.0/16)"),
            ([10, 1, 2, 1], 24, "eth0 (its address 10.1.2.3/16)"),
            ([10, 1, 2, 3], 32, "eth0 (its address 10.1.2.3/16)"),
            ([10, 1, 0, 9], 29, "eth0 (its router 10.1.0.9)"),
            ([10, 1, 0, 5], 29, "eth0 (its router 10.1.0.1)"),
            ([172, 16, 0, 1], 12, "eth0 (172.16.0.0/12)"),
            ([198, 51, 0, 1], 16, "route via 10.1.0.9 (198.51.100.0/24)"),
        ] {
            let expected = format!("Network is already in use by interface {by}");
            let expected = expected.replace(
                "eth0 (its router 10.1.0.9)",
                "route via 10.1.0.9 (its router 10.1.0.9)",
            );
            assert_eq!(check(subnet, prefix), Some(expected), "{subnet:?}/{prefix}");
        }
    }

    #[test]
    fn a_part_of_a_wider_subnet_is_free_but_told() {
        let links = Snapshot::from(host());
        let around = |subnet: [u8; 4], prefix| {
            let around = subnet_around((subnet.into(), prefix), Some("virbr0"), &links);
            around.map(|around| (around.interface, around.holding))
        };
        let holds = |interface: &str, network: [u8; 4], prefix| {
            let holding = Holding::Subnet(network.into(), prefix);
            Some((interface.to_owned(), holding))
        };
        assert_eq!(check([10, 1, 64, 1], 24), None);
        assert_eq!(around([10, 1, 64, 1], 24), holds("eth0", [10, 1, 0, 0], 16));
        assert_eq!(check([172, 20, 0, 1], 24), None);
        assert_eq!(
            around([172, 20, 0, 1], 24),
            holds("eth0", [172, 16, 0, 0], 12)
        );
        for free in [[203, 0, 113, 1], [128, 9, 0, 1]] {
            assert_eq!(
                around(free, 24),
                None,
                "a default route is around everything"
            );
        }
        assert_eq!(around([192, 168, 122, 1], 25), None, "it is its own bridge");
    }

    #[test]
    fn other_tables_and_vrfs_do_not_count() {
        let mut dump = host();
        let vrf = Link {
            kind: Some("vrf".to_owned()),
            ..link(8, "red")
        };
        let of_vrf = Link {
            controller: Some(8),
            ..link(9, "eth9")
        };
        dump.links.extend([(8, vrf), (9, of_vrf)]);
        dump.addresses.push(address(9, [172, 31, 0, 1], 24));
        dump.addresses.push(address(8, [172, 30, 0, 1], 24));
        dump.routes.push(Route {
            table: 1000,
            ..route(Some(2), [192, 168, 5, 0], 24, None)
        });
        let snapshot = Snapshot::from(dump);
        for subnet in [[172, 31, 0, 1], [172, 30, 0, 1], [192, 168, 5, 1]] {
            let found = subnet_in_use((subnet.into(), 24), None, &snapshot);
            assert_eq!(found, None, "{subnet:?}");
        }
    }

    #[test]
    fn a_free_subnet_touches_nothing() {
        let links = Snapshot::from(host());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let free = |prefix, taken: &[(IpAddr, u8)]| {
            let subnet = (ip("10.1.0.1"), prefix);
            free_subnet(subnet, taken, &links)
                .map(|(network, prefix)| format!("{network}/{prefix}"))
        };
        assert_eq!(free(24, &[]).as_deref(), Some("192.168.123.0/24"));
        let taken = [(ip("192.168.123.1"), 24), (ip("192.168.124.0"), 23)];
        assert_eq!(free(24, &taken).as_deref(), Some("192.168.126.0/24"));
        assert_eq!(free(16, &[]).as_deref(), Some("10.0.0.0/16"));
        assert_eq!(
            free(24, &[(ip("192.168.0.0"), 16)]).as_deref(),
            Some("10.0.0.0/24")
        );
        assert_eq!(
            free(24, &[(ip("192.168.0.0"), 16), (ip("10.0.0.0"), 8)]),
            None
        );
        assert_eq!(free(8, &[]), None);
        assert_eq!(free_subnet((ip("fd00::1"), 64), &[], &links), None);
    }

    #[test]
    fn the_default_route_and_its_halves_do_not_count() {
        assert_eq!(check([203, 0, 113, 0], 24), None);
        assert_eq!(check([100, 64, 0, 0], 24), None);
    }

    #[test]
    fn the_own_bridge_does_not_count_but_another_does() {
        let subnet = (IpAddr::from([192, 168, 122, 0]), 24);
        assert_eq!(subnet_in_use(subnet, Some("virbr0"), &host().into()), None);
        for other in [None, Some("virbr1"), Some("eth0")] {
            let used = subnet_in_use(subnet, other, &host().into()).unwrap();
            assert_eq!(used.interface, "virbr0");
        }
    }

    #[test]
    fn a_part_of_the_hosts_ipv6_prefix_is_free() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let route = |to: &str, prefix| Route {
            destination: (ip(to), prefix),
            index: Some(2),
            gateway: None,
            table: 254,
            advertised: false,
            mtu: None,
            metric: None,
        };
        let mut dump = host();
        dump.addresses.push(Address {
            index: 2,
            address: ip("2001:db8:1::2"),
            prefix: 64,
            primary: true,
            scope: Scope::Global,
        });
        dump.routes.extend([
            route("::", 0),
            route("2000::", 3),
            route("fd00:1::", 48),
            route("fe80::", 64),
        ]);
        let snapshot = Snapshot::from(dump);
        let check = |subnet: &str, prefix| {
            subnet_in_use((ip(subnet), prefix), Some("virbr0"), &snapshot)
                .map(|used| used.to_string())
        };
        assert_eq!(
            check("2001:db8:1::1", 64).unwrap(),
            "Network is already in use by interface eth0 (2001:db8:1::/64)"
        );
        assert_eq!(
            check("fd00::1", 16).unwrap(),
            "Network is already in use by interface eth0 (fd00:1::/48)"
        );
        for free in [
            ("2001:db8:1:0:1::1", 80),
            ("fd00:1:0:5::1", 64),
            ("2001:db8:2::1", 64),
        ] {
            assert_eq!(check(free.0, free.1), None, "{free:?}");
        }
    }

    #[test]
    fn families_do_not_meet() {
        let mut dump = Dump::default();
        dump.addresses.push(Address {
            index: 1,
            address: "::".parse().unwrap(),
            prefix: 0,
            primary: true,
            scope: Scope::Global,
        });
        let subnet = (IpAddr::from([192, 168, 122, 0]), 24);
        assert_eq!(subnet_in_use(subnet, None, &dump.into()), None);
    }

    /// Bit by bit: two subnets share an address unless a bit that both fix differs.
    fn share_an_address(a: (u32, u8), b: (u32, u8)) -> bool {
        (0..32u8).all(|bit| {
            let value = |address: u32| address >> (31 - bit) & 1;
            bit >= a.1 || bit >= b.1 || value(a.0) == value(b.0)
        })
    }

    /// Addresses that agree in their first bits often enough to overlap.
    fn near() -> impl Strategy<Value = (u32, u8)> {
        (any::<u32>(), 0u32..=32, 0u8..=32).prop_map(|(bits, differ, prefix)| {
            let low = 1u64
                .checked_shl(differ)
                .map_or(u32::MAX, |b| (b - 1) as u32);
            ((0xc0a8_7a00 & !low) | (bits & low), prefix)
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_bits(ours in near(), theirs in near(), as_route: bool) {
            let theirs_text = Ipv4Addr::from(theirs.0).octets();
            let mut dump = Dump {
                links: [(7, link(7, "lan"))].into(),
                ..Dump::default()
            };
            if as_route {
                dump.routes.push(route(Some(7), theirs_text, theirs.1, None));
            } else {
                dump.addresses.push(address(7, theirs_text, theirs.1));
            }
            let covers = |a: (u32, u8), b: (u32, u8)| {
                a.1 <= b.1 && share_an_address(a, b)
            };
            let expected = if as_route {
                covers(ours, theirs) && theirs.1 > 1
            } else {
                covers(ours, (theirs.0, 32))
            };
            let is_around = covers(theirs, ours) && theirs.1 < ours.1 && theirs.1 > 1;
            let ours_is = (Ipv4Addr::from(ours.0).into(), ours.1);
            let snapshot = Snapshot::from(dump);
            let found = subnet_in_use(ours_is, None, &snapshot);
            prop_assert_eq!(found.is_some(), expected);
            prop_assert!(found.is_none_or(|used| used.interface == "lan"));
            prop_assert_eq!(subnet_around(ours_is, None, &snapshot).is_some(), is_around);
        }
    }
}
