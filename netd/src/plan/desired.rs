//! What active networks ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_common::abi::{
    self, DEVICE_ETHERNET, Device, FamilyConfig, Mode, NETWORK_ENDPOINT_INDEPENDENT,
    NETWORK_FILTER_ADDRESS, NETWORK_FILTER_NONE,
};

use super::{Guests, forwards, guards};
use crate::datapath::Records;
use crate::datapath::{Attachment, Hook};
use crate::link::{Link, Scope, Snapshot, effective_delay_ms};
use crate::model::{Family, Filtering, ForwardMode, Mac, Mapping, Network, network_address};

/// Kernel's default MTU of a bridge, when nothing says otherwise.
const DEFAULT_MTU: u32 = 1500;

/// Metric of a `<route>` that names none.
const DEFAULT_METRIC: u32 = 1;

/// The bridge of one managed network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Device name.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU; `None` leaves it to the kernel, which follows the ports.
    pub mtu: Option<u32>,
    /// Spanning tree protocol.
    pub stp: bool,
    /// Forward delay as defined, in milliseconds.
    pub delay_ms: u32,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Ways to subnets behind guests.
    pub routes: Vec<RouteSpec>,
}

/// The way to a subnet behind a guest (`<route>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The subnet, with its prefix length.
    pub destination: (IpAddr, u8),
    /// The guest.
    pub gateway: IpAddr,
    /// What the way costs.
    pub metric: u32,
}

impl BridgeSpec {
    /// Is this device the network's bridge, and not one that happens to have its name? It has the
    /// MAC address of the definition, or it is the one that was made for it (`known`).
    #[must_use]
    pub fn is(&self, link: &Link, known: Option<u32>) -> bool {
        link.bridge.is_some() && (link.mac == Some(self.mac) || Some(link.index) == known)
    }

    /// Is it to have an IPv6 address?
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|(address, _)| address.is_ipv6())
    }

    /// Do guests' ports forward at once (`stp='on' delay='0'`)?
    #[must_use]
    pub fn has_edge_ports(&self) -> bool {
        self.stp && self.delay_ms == 0
    }

    /// The forward delay the kernel will show.
    #[must_use]
    pub fn effective_delay_ms(&self) -> u32 {
        effective_delay_ms(self.stp, self.delay_ms)
    }
}

/// The bridge a definition asks for; `None` for a network whose bridge is not netd's, or one
/// without bridge name or MAC address, which it gets when it is defined.
#[must_use]
pub fn bridge_spec(network: &Network) -> Option<BridgeSpec> {
    if !network.is_managed() {
        return None;
    }
    Some(BridgeSpec {
        name: network.bridge.name.clone()?,
        mac: network.mac?,
        mtu: network.mtu,
        stp: network.bridge.stp,
        delay_ms: network.bridge.delay.saturating_mul(1000),
        addresses: network
            .ips
            .iter()
            .map(|ip| (ip.address, ip.prefix_len()))
            .collect(),
        routes: network
            .routes
            .iter()
            .map(|route| RouteSpec {
                destination: (route.address, route.prefix_len()),
                gateway: route.gateway,
                metric: route.metric.unwrap_or(DEFAULT_METRIC),
            })
            .collect(),
    })
}

/// The mode of a network for one family; `None` for one whose bridge is not netd's.
fn mode(network: &Network, family: Family) -> Option<Mode> {
    match network.mode_for(family) {
        ForwardMode::None => Some(Mode::Isolated),
        ForwardMode::Nat => Some(Mode::Nat),
        ForwardMode::Route => Some(Mode::Route),
        ForwardMode::Open => Some(Mode::Open),
        _ => None,
    }
}

/// What the programs are to know of a network; `None` for one whose bridge is not netd's.
fn network_record(network: &Network, link: &Link, uplink: u32) -> Option<abi::Network> {
    let gateway = network.ipv4_subnets().next();
    let gateway6 = network.ipv6_subnets().next();
    let pool = network.nat_addresses();
    let ports = network.nat_ports();
    let behaviour = network.netd.nat.unwrap_or_default();
    let mut flags = guards::network_flags(network);
    if behaviour.mapping == Mapping::EndpointIndependent {
        flags |= NETWORK_ENDPOINT_INDEPENDENT;
    }
    flags |= match behaviour.filtering {
        Filtering::AddressAndPortDependent => 0,
        Filtering::AddressDependent => NETWORK_FILTER_ADDRESS,
        Filtering::EndpointIndependent => NETWORK_FILTER_NONE,
    };
    Some(abi::Network {
        v4: FamilyConfig {
            gateway: gateway.map_or([0; 4], |(address, _)| address.octets()),
            first: pool.map_or([0; 4], |pool| pool.start.octets()),
            last: pool.map_or([0; 4], |pool| pool.end.octets()),
            mode: mode(network, Family::Ipv4)? as u8,
            pad: [0; 3],
        },
        v6: FamilyConfig {
            gateway: gateway6.map_or([0; 16], |(address, _)| address.octets()),
            mode: mode(network, Family::Ipv6)? as u8,
            ..FamilyConfig::default()
        },
        uplink_ifindex: uplink,
        mac: link.mac.unwrap_or_default().0,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        first_port: ports.start,
        last_port: ports.end,
        flags,
    })
}

/// Bridges of `networks` that exist, by index.
fn bridges<'a>(
    networks: &'a [&'a Network],
    snapshot: &'a Snapshot,
) -> BTreeMap<u32, (&'a Network, &'a Link)> {
    networks
        .iter()
        .filter(|network| network.is_managed())
        .filter_map(|network| {
            let spec = bridge_spec(network)?;
            let link = snapshot.by_name(&spec.name)?;
            spec.is(link, None)
                .then_some((link.index, (*network, link)))
        })
        .collect()
}

/// The records that the programs need for `networks`, given what the kernel has and where `guests`
/// that go by a name are.
///
/// A network bound to a device (`<forward dev>`) that does not exist gets that device's number as
/// `u32::MAX`, so that nothing may leave by another one.
#[must_use]
pub fn records(networks: &[&Network], snapshot: &Snapshot, guests: &Guests) -> Records {
    let mut records = Records::default();
    let bridges = bridges(networks, snapshot);
    if bridges.is_empty() {
        return records;
    }
    for (&index, (network, link)) in &bridges {
        let uplink = network
            .forward
            .as_ref()
            .and_then(|forward| forward.interfaces.first())
            .map_or(0, |name| {
                snapshot.by_name(name).map_or(u32::MAX, |link| link.index)
            });
        let Some(record) = network_record(network, link, uplink) else {
            continue;
        };
        records.networks.insert(index, record);
        for (address, prefix) in network.ipv4_subnets() {
            if let IpAddr::V4(subnet) = network_address(address.into(), prefix) {
                let subnet = (subnet.octets(), prefix);
                records.v4.subnets.insert(subnet, index);
            }
        }
        for (address, prefix) in network.ipv6_subnets() {
            if let IpAddr::V6(subnet) = network_address(address.into(), prefix) {
                let subnet = (subnet.octets(), prefix);
                records.v6.subnets.insert(subnet, index);
            }
        }
        for route in &network.routes {
            match (route.address, route.prefix_len()) {
                (IpAddr::V4(subnet), len) => {
                    records.v4.subnets.insert((subnet.octets(), len), index);
                }
                (IpAddr::V6(subnet), len) => {
                    records.v6.subnets.insert((subnet.octets(), len), index);
                }
            }
        }
        if let Some(pool) = network.nat_addresses() {
            for (prefix, len) in pool.prefixes() {
                records.v4.pools.insert((prefix.octets(), len), index);
            }
        }
        for port in snapshot.ports_of(index) {
            let record = guards::port(network, index, port);
            records.ports.insert(port.index, record);
        }
        let at = forwards::At {
            network,
            bridge: index,
            snapshot,
            guests,
        };
        forwards::add(&mut records, network.netd.forwards(), &at);
        if network.netd.antispoof.is_some() {
            guards::bind(&mut records, network, index, guests);
        }
    }
    for address in &snapshot.addresses {
        match address.address {
            IpAddr::V4(own) => records.v4.addresses.insert(own.octets(), address.index),
            IpAddr::V6(own) => records.v6.addresses.insert(own.octets(), address.index),
        };
    }
    for link in snapshot.links.values() {
        if bridges.contains_key(&link.index) || carries_routed_traffic(link, snapshot, &bridges) {
            let addresses = || {
                snapshot
                    .addresses_of(link.index)
                    .filter(|a| a.primary && matches!(a.scope, Scope::Global | Scope::Site))
            };
            let address = addresses().find_map(|a| match a.address {
                IpAddr::V4(address) => Some(address.octets()),
                IpAddr::V6(_) => None,
            });
            let address6 = addresses().find_map(|a| match a.address {
                IpAddr::V4(_) => None,
                IpAddr::V6(address) => Some(address.octets()),
            });
            let flags = if link.ether { DEVICE_ETHERNET } else { 0 };
            records.devices.insert(
                link.index,
                Device {
                    address: address.unwrap_or_default(),
                    address6: address6.unwrap_or_default(),
                    flags,
                    mac: link.mac.unwrap_or_default().0,
                    pad: [0; 2],
                },
            );
        }
    }
    records
}

/// May packets from or to guests be routed by way of this device? It has an address or route of a
/// family that the networks have, and is none of netd's own, nor a port of something else. A
/// guest's new tap has neither, and so is left alone until somebody makes it a port: the IPv6
/// address and routes that every device makes for its own link do not count.
fn carries_routed_traffic(
    link: &Link,
    snapshot: &Snapshot,
    bridges: &BTreeMap<u32, (&Network, &Link)>,
) -> bool {
    // What has another kind of header than Ethernet's cannot be read at egress. It is left out, so
    // nothing is masqueraded by it.
    if link.loopback || bridges.contains_key(&link.index) || !(link.ether || link.headerless) {
        return false;
    }
    let below_vrf = |controller: u32| {
        snapshot
            .links
            .get(&controller)
            .is_some_and(|controller| controller.kind.as_deref() == Some("vrf"))
    };
    if link
        .controller
        .is_some_and(|controller| !below_vrf(controller))
    {
        return false;
    }
    let ipv6 = bridges
        .values()
        .any(|(network, _)| network.has(Family::Ipv6));
    let counts = |address: IpAddr| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(a) => ipv6 && !a.is_unicast_link_local() && !a.is_multicast(),
    };
    snapshot.addresses_of(link.index).any(|a| counts(a.address))
        || snapshot
            .routes
            .iter()
            .any(|route| route.index == Some(link.index) && counts(route.destination.0))
}

/// The programs that `networks` need, each at its device.
#[must_use]
pub fn hooks(networks: &[&Network], snapshot: &Snapshot) -> BTreeSet<Attachment> {
    let mut hooks = BTreeSet::new();
    let bridges = bridges(networks, snapshot);
    if bridges.is_empty() {
        return hooks;
    }
    let mut add = |ifindex, hook| {
        hooks.insert(Attachment { ifindex, hook });
    };
    for &bridge in bridges.keys() {
        add(bridge, Hook::BridgeIngress);
        add(bridge, Hook::BridgeEgress);
        for port in snapshot.ports_of(bridge) {
            add(port.index, Hook::PortIngress);
        }
    }
    for link in snapshot.links.values() {
        if carries_routed_traffic(link, snapshot, &bridges) {
            let (ingress, egress) = if link.ether {
                (Hook::UplinkIngress, Hook::UplinkEgress)
            } else {
                (Hook::TunnelIngress, Hook::TunnelEgress)
            };
            add(link.index, ingress);
            add(link.index, egress);
        }
    }
    hooks
}

/// MTU of a bridge that is still to be created.
pub(super) fn mtu_or_default(spec: &BridgeSpec) -> u32 {
    spec.mtu.unwrap_or(DEFAULT_MTU)
}
