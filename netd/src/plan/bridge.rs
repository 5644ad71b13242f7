//! The steps of bridges.

use std::net::IpAddr;

use super::given::Given;
use super::spec::{BridgeSpec, DEFAULT_MTU, RouteSpec};
use super::step::DeviceAct;
use crate::link::{Address, Ipv6Conf, Link, Snapshot, readdress};
use crate::model::network_address;

/// A device has the name of a network's bridge and is not that bridge. It is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a device named {0} is in the way of the network's bridge of that name; rename or remove it"
)]
pub struct InTheWay(pub String);

/// The bridge, where it is there. `known` is its number when it was last seen.
///
/// # Errors
/// Another device has its name.
pub fn find_bridge<'a>(
    spec: &BridgeSpec,
    links: &'a Snapshot,
    known: Option<u32>,
) -> Result<Option<&'a Link>, InTheWay> {
    match links.by_name(&spec.name) {
        Some(link) if !spec.is(link, known) => Err(InTheWay(spec.name.clone())),
        link => Ok(link),
    }
}

/// What makes a bridge, or mends its attributes, and gives it its addresses. What `former` definitions
/// gave it goes.
#[must_use]
pub fn make(
    spec: &BridgeSpec,
    link: Option<&Link>,
    former: Option<&Given>,
    links: &Snapshot,
) -> Vec<DeviceAct> {
    let bridge = || spec.name.clone();
    let mut acts = match link {
        None => create(spec),
        Some(link) => mend(spec, link, links),
    };
    let stale = link
        .into_iter()
        .flat_map(|link| stale_routes(spec, link, former, links));
    acts.extend(stale.map(|route| DeviceAct::RemoveRoute {
        bridge: bridge(),
        route,
    }));
    let present = link
        .into_iter()
        .flat_map(|link| links.addresses_of(link.index));
    let change = readdress(present, &spec.addresses, |address| {
        former.is_some_and(|former| former.addresses.contains(address))
    });
    let removed = change.removed.into_iter();
    acts.extend(removed.map(|(address, prefix)| DeviceAct::RemoveAddress {
        bridge: bridge(),
        address,
        prefix,
    }));
    let added = change.added.into_iter();
    acts.extend(added.map(|(address, prefix)| DeviceAct::AddAddress {
        bridge: bridge(),
        address,
        prefix,
    }));
    acts
}

/// Is anything left at a bridge of what `former` definitions gave it and the present one does not?
#[must_use]
pub fn has_leftovers(spec: &BridgeSpec, link: &Link, former: &Given, links: &Snapshot) -> bool {
    let mut addresses = links.addresses_of(link.index);
    let is_left =
        |pair: &(IpAddr, u8)| former.addresses.contains(pair) && !spec.addresses.contains(pair);
    addresses.any(|address| is_left(&(address.address, address.prefix)))
        || stale_routes(spec, link, Some(former), links)
            .next()
            .is_some()
}

fn stale_routes<'a>(
    spec: &'a BridgeSpec,
    link: &'a Link,
    former: Option<&'a Given>,
    links: &'a Snapshot,
) -> impl Iterator<Item = RouteSpec> + 'a {
    let routes = former.into_iter().flat_map(|former| &former.routes);
    let stale = routes.filter(|route| !spec.routes.contains(route));
    stale.filter(|route| has_route(route, link, links)).copied()
}

fn has_route(route: &RouteSpec, link: &Link, links: &Snapshot) -> bool {
    let mut present = links.routes.iter();
    present.any(|present| {
        present.destination == route.destination
            && present.index == Some(link.index)
            && present.gateway == Some(route.gateway)
            && present.metric == Some(route.metric)
    })
}

fn create(spec: &BridgeSpec) -> Vec<DeviceAct> {
    vec![
        DeviceAct::CreateBridge {
            bridge: spec.name.clone(),
            mac: spec.mac,
            mtu: spec.mtu,
        },
        spanning_tree(spec),
        DeviceAct::SetIpv6 {
            bridge: spec.name.clone(),
            on: spec.has_ipv6(),
        },
    ]
}

fn spanning_tree(spec: &BridgeSpec) -> DeviceAct {
    DeviceAct::SetSpanningTree {
        bridge: spec.name.clone(),
        stp: spec.stp,
        delay_ms: spec.effective_delay_ms(),
    }
}

fn mend(spec: &BridgeSpec, link: &Link, links: &Snapshot) -> Vec<DeviceAct> {
    let bridge = || spec.name.clone();
    let mut acts = Vec::new();
    let delay = spec.effective_delay_ms();
    let same = link
        .bridge
        .is_some_and(|attrs| attrs.stp == spec.stp && attrs.forward_delay_ms == delay);
    if !same {
        acts.push(spanning_tree(spec));
    }
    let mtu = spec.mtu.unwrap_or_else(|| mtu_of_ports(link, links));
    if link.mtu != mtu {
        acts.push(DeviceAct::SetMtu {
            bridge: bridge(),
            mtu,
        });
    }
    if link.mac != Some(spec.mac) {
        acts.push(DeviceAct::SetMac {
            bridge: bridge(),
            mac: spec.mac,
        });
    }
    if link.conf.ipv6.is_some_and(|conf| conf != ipv6_conf(spec)) {
        acts.push(DeviceAct::SetIpv6 {
            bridge: bridge(),
            on: spec.has_ipv6(),
        });
    }
    acts
}

/// IPv6 on a bridge: its addresses are the definition's, and no guest is a router of the host's.
fn ipv6_conf(spec: &BridgeSpec) -> Ipv6Conf {
    Ipv6Conf {
        disabled: !spec.has_ipv6(),
        accept_ra: 0,
        autoconf: false,
    }
}

/// The MTU that a bridge has by itself: the least of its ports (`br_mtu_min`). The kernel stops to
/// follow them when somebody sets another one.
fn mtu_of_ports(link: &Link, links: &Snapshot) -> u32 {
    let ports = links.ports_of(link.index);
    ports.map(|port| port.mtu).min().unwrap_or(DEFAULT_MTU)
}

/// What lets guests use a bridge that is guarded: it is switched on, and has its routes.
#[must_use]
pub fn open(spec: &BridgeSpec, link: &Link, links: &Snapshot) -> Vec<DeviceAct> {
    let bridge = || spec.name.clone();
    let mut acts = Vec::new();
    if !link.up {
        acts.push(DeviceAct::SetUp { bridge: bridge() });
    }
    // They come when it is switched on.
    let connected = spec.addresses.iter().filter(|_| link.up);
    for &(address, prefix) in connected {
        let has_address = |a: &Address| a.address == address && a.prefix == prefix;
        if prefix != alone(address)
            && links.addresses_of(link.index).any(has_address)
            && !has_connected_route(link, (address, prefix), links)
        {
            acts.push(DeviceAct::AddConnectedRoute {
                bridge: bridge(),
                address,
                prefix,
            });
        }
    }
    for route in &spec.routes {
        if !has_route(route, link, links) {
            acts.push(DeviceAct::AddRoute {
                bridge: bridge(),
                route: *route,
            });
        }
    }
    acts
}

/// The length of the prefix that is one address, which has no subnet to lead to.
fn alone(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Is the way to the subnet of a bridge's address there, in whatever table?
fn has_connected_route(link: &Link, (address, prefix): (IpAddr, u8), links: &Snapshot) -> bool {
    let subnet = (network_address(address, prefix), prefix);
    links.routes.iter().any(|route| {
        route.destination == subnet && route.index == Some(link.index) && route.gateway.is_none()
    })
}
