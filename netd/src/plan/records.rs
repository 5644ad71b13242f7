//! The programs and records that active networks ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_common::abi::{
    self, DEVICE_ETHERNET, Device, FamilyConfig, Mode, NETWORK_ENDPOINT_INDEPENDENT,
    NETWORK_FILTER_ADDRESS, NETWORK_FILTER_NONE,
};

use super::{Guests, forwards, guards};
use crate::datapath::records::Records;
use crate::datapath::{Attachment, Hook};
use crate::link::{Link, Scope, Snapshot};
use crate::model::{
    Family, Filtering, ForwardMode, Mapping, Network, NetworkPorts, network_address,
};

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
fn network_record(bridge: Bridge<'_>, uplink: u32) -> Option<abi::Network> {
    let Bridge {
        network,
        ports: guests,
        link,
    } = bridge;
    let gateway = network.ipv4_subnets().next();
    let gateway6 = network.ipv6_subnets().next();
    let pool = network.nat_addresses();
    let ports = network.nat_ports();
    let behaviour = network.netd.nat.unwrap_or_default();
    let mut flags = guards::network_flags(network, guests);
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

/// A bridge that is there.
#[derive(Clone, Copy)]
pub(super) struct Bridge<'a> {
    /// Its network.
    pub network: &'a Network,
    /// The ports that guests of the network have.
    pub ports: &'a NetworkPorts,
    /// The device.
    pub link: &'a Link,
}

/// Bridges that are there, by index.
pub(super) type Bridges<'a> = BTreeMap<u32, Bridge<'a>>;

/// The records that the programs need for the networks of `bridges`, given what the kernel has and
/// where `guests` that go by a name are.
///
/// A network bound to a device (`<forward dev>`) that does not exist gets that device's number as
/// `u32::MAX`, so that nothing may leave by another one.
#[must_use]
pub(super) fn records(bridges: &Bridges<'_>, snapshot: &Snapshot, guests: &Guests) -> Records {
    let mut records = Records::default();
    if bridges.is_empty() {
        return records;
    }
    for (&index, &bridge) in bridges {
        let Bridge { network, ports, .. } = bridge;
        let uplink = network
            .forward
            .as_ref()
            .and_then(|forward| forward.interfaces.first())
            .map_or(0, |name| {
                snapshot.by_name(name).map_or(u32::MAX, |link| link.index)
            });
        let Some(record) = network_record(bridge, uplink) else {
            continue;
        };
        records.usage.insert(index);
        records.networks.insert(index, record);
        add_subnets(&mut records, network, index);
        for port in snapshot.ports_of(index) {
            let record = guards::port(network, ports, index, port);
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
        if bridges.contains_key(&link.index) || carries_routed_traffic(link, snapshot, bridges) {
            let record = device_record(link, snapshot);
            records.devices.insert(link.index, record);
        }
    }
    records
}

/// The prefixes that are a network's: those of its guests, and those it masquerades with.
fn add_subnets(records: &mut Records, network: &Network, bridge: u32) {
    let v4 = network.ipv4_subnets().map(|(a, len)| (IpAddr::V4(a), len));
    let v6 = network.ipv6_subnets().map(|(a, len)| (IpAddr::V6(a), len));
    let own = v4.chain(v6).map(|(a, len)| (network_address(a, len), len));
    let routes = network.routes.iter();
    let behind = routes.map(|route| (route.address, route.prefix_len()));
    for subnet in own.chain(behind) {
        match subnet {
            (IpAddr::V4(subnet), len) => {
                records.v4.subnets.insert((subnet.octets(), len), bridge);
            }
            (IpAddr::V6(subnet), len) => {
                records.v6.subnets.insert((subnet.octets(), len), bridge);
            }
        }
    }
    if let Some(pool) = network.nat_addresses() {
        for (prefix, len) in pool.prefixes() {
            records.v4.pools.insert((prefix.octets(), len), bridge);
        }
    }
}

/// What the programs are to know of a device that guests' traffic may leave by.
fn device_record(link: &Link, snapshot: &Snapshot) -> Device {
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
    Device {
        address: address.unwrap_or_default(),
        address6: address6.unwrap_or_default(),
        flags: if link.ether { DEVICE_ETHERNET } else { 0 },
        mac: link.mac.unwrap_or_default().0,
        pad: [0; 2],
    }
}

/// May packets from or to guests be routed by way of this device? It has an address or route of a
/// family that the networks have, and is none of netd's own, nor a port of something else. A
/// guest's new tap has neither, and so is left alone until somebody makes it a port: the IPv6
/// address and routes that every device makes for its own link do not count.
fn carries_routed_traffic(link: &Link, snapshot: &Snapshot, bridges: &Bridges<'_>) -> bool {
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
        .any(|bridge| bridge.network.has(Family::Ipv6));
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

/// The programs that the networks of `bridges` need, each at its device.
#[must_use]
pub(super) fn hooks(bridges: &Bridges<'_>, snapshot: &Snapshot) -> BTreeSet<Attachment> {
    let mut hooks = BTreeSet::new();
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
        if carries_routed_traffic(link, snapshot, bridges) {
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
