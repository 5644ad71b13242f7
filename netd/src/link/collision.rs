//! Whether a subnet is already somebody else's on this host.

use std::fmt;
use std::net::IpAddr;

use super::snapshot::Snapshot;
use crate::model::network_address;

/// IPv4 prefixes up to this length mean "everywhere": the default route, and the two halves of it by
/// which VPN clients override the default without replacing it.
const DEFAULT_ROUTE_PREFIX: u8 = 1;

/// Who holds a subnet, or part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// A device's name, or "route via …" for a route that names no device.
    pub interface: String,
    /// What it holds, as network address and prefix length.
    pub subnet: (IpAddr, u8),
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (network, prefix) = self.subnet;
        write!(
            f,
            "Network is already in use by interface {} ({network}/{prefix})",
            self.interface
        )
    }
}

/// Finds an interface address or a route of another device than `own_bridge` that the network's
/// `subnet` would collide with.
///
/// For IPv4 that is any overlap, but for default routes, which cover everything: private prefixes
/// are few, and a wider one on the host means the same addresses in two places. A host's IPv6
/// prefix is its own, and giving guests a part of it is how such hosts are set up, so there only
/// what lies within `subnet` collides.
#[must_use]
pub fn subnet_in_use(
    subnet: (IpAddr, u8),
    own_bridge: Option<&str>,
    snapshot: &Snapshot,
) -> Option<InUse> {
    let own = own_bridge
        .and_then(|name| snapshot.by_name(name))
        .map(|link| link.index);
    let addresses = snapshot
        .addresses
        .iter()
        .map(|address| (Some(address.index), address.address, address.prefix, None));
    let routes = snapshot
        .routes
        .iter()
        .filter(|route| route.destination.1 > DEFAULT_ROUTE_PREFIX)
        .map(|route| {
            let (destination, prefix) = route.destination;
            (route.index, destination, prefix, route.gateway)
        });
    addresses
        .chain(routes)
        .filter(|(index, ..)| index.is_none() || *index != own)
        .find_map(|(index, address, prefix, gateway)| {
            collide(subnet, (address, prefix)).then(|| InUse {
                interface: holder(index, gateway, snapshot),
                subnet: (network_address(address, prefix), prefix),
            })
        })
}

fn collide(ours: (IpAddr, u8), theirs: (IpAddr, u8)) -> bool {
    let prefix = match (ours.0, theirs.0) {
        (IpAddr::V4(_), IpAddr::V4(_)) => ours.1.min(theirs.1),
        (IpAddr::V6(_), IpAddr::V6(_)) if theirs.1 >= ours.1 => ours.1,
        _ => return false,
    };
    network_address(ours.0, prefix) == network_address(theirs.0, prefix)
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
        assert_eq!(
            check([10, 1, 64, 0], 24).unwrap(),
            "Network is already in use by interface eth0 (10.1.0.0/16)"
        );
        assert_eq!(
            check([172, 20, 0, 0], 24).unwrap(),
            "Network is already in use by interface eth0 (172.16.0.0/12)"
        );
        assert_eq!(
            check([198, 51, 0, 0], 16).unwrap(),
            "Network is already in use by interface route via 10.1.0.9 (198.51.100.0/24)"
        );
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
            let expected = share_an_address(ours, theirs) && !(as_route && theirs.1 <= 1);
            let ours_is = (Ipv4Addr::from(ours.0).into(), ours.1);
            let found = subnet_in_use(ours_is, None, &dump.into());
            prop_assert_eq!(found.is_some(), expected);
            if let Some(used) = found {
                prop_assert_eq!(&used.interface, "lan");
                let IpAddr::V4(subnet) = used.subnet.0 else {
                    panic!("{used:?}");
                };
                prop_assert!(share_an_address(ours, (subnet.into(), used.subnet.1)));
            }
        }
    }
}
