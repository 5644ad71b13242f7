//! The programs and records that active networks ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_common::abi::{
    self, DEVICE_BRIDGED_RULES, DEVICE_ETHERNET, DEVICE_FILTERED, Device, FamilyConfig,
    NETWORK_DHCP, NETWORK_DNS, NETWORK_ENDPOINT_INDEPENDENT, NETWORK_FILTER_ADDRESS,
    NETWORK_FILTER_NONE, NETWORK_PREFIX, NETWORK_ROUTES_BEHIND, NETWORK_TFTP, NETWORK_WAS_ROUTED,
    PORT_BY_BRIDGE, PORT_ISOLATED, PORT_QUEUED, PORT_SERVICES, PORT_SHAPER, PORT_SIBLINGS,
};

use super::shaping::ShaperEnds;
use super::spec::mode;
use super::{Guests, forwards, guards, prefixes};
use crate::datapath::records::Records;
use crate::datapath::{Attachment, Hook};
use crate::dnsmasq::{self, Offers};
use crate::link::{Address, Link, Scope, Snapshot};
use crate::model::{Family, Filtering, Firewall, Mapping, Network, NetworkPorts, network_address};

/// What the programs are to know of a network; `None` for one whose bridge is not netd's.
fn network_record(
    bridge: Bridge<'_>,
    uplink: u32,
    firewall: Option<Firewall>,
) -> Option<abi::Network> {
    let Bridge {
        network,
        ports: guests,
        link,
        services,
        was_routed,
        shaper,
    } = bridge;
    let gateway = network.ipv4_subnets().next();
    let gateway6 = network.ipv6_subnets().next();
    let pool = network.nat_addresses();
    let ports = network.nat_ports();
    let behaviour = network.netd.nat.unwrap_or_default();
    let mut flags = guards::network_flags(network, guests, firewall);
    if behaviour.mapping == Mapping::EndpointIndependent {
        flags |= NETWORK_ENDPOINT_INDEPENDENT;
    }
    flags |= match behaviour.filtering {
        Filtering::AddressAndPortDependent => 0,
        Filtering::AddressDependent => NETWORK_FILTER_ADDRESS,
        Filtering::EndpointIndependent => NETWORK_FILTER_NONE,
    };
    if services.is_some() {
        flags |= offers_flags(network);
    }
    if network.prefix_pair().is_some() {
        flags |= NETWORK_PREFIX;
    }
    if was_routed {
        flags |= NETWORK_WAS_ROUTED;
    }
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
        services_ifindex: services.map_or(0, |end| end.ifindex),
        services_netns: services.map_or(0, |end| end.netns),
        shaper_ifindex: shaper.map_or(0, |ends| ends.out),
        resolver_port: services
            .and_then(|end| end.resolver)
            .map_or([0; 2], u16::to_be_bytes),
        pad: [0; 2],
    })
}

/// `NETWORK_*` bits of what a network's services do.
fn offers_flags(network: &Network) -> u32 {
    let Offers { dns, dhcp, tftp } = dnsmasq::offers(network);
    [
        (dns, NETWORK_DNS),
        (dhcp, NETWORK_DHCP),
        (tftp, NETWORK_TFTP),
    ]
    .into_iter()
    .filter_map(|(on, flag)| on.then_some(flag))
    .sum()
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
    /// The way to its services.
    pub services: Option<ServicesEnd>,
    /// Did it run with a definition by which it was routed, in some family?
    pub was_routed: bool,
    /// Where what its guests send waits.
    pub shaper: Option<ShaperEnds>,
}

/// The host's end of the link to a network's services.
#[derive(Clone, Copy)]
pub(super) struct ServicesEnd {
    /// The device.
    pub ifindex: u32,
    /// The number of the namespace at the other end.
    pub netns: u32,
    /// The port for the host's own questions.
    pub resolver: Option<u16>,
}

/// Bridges that are there, by index.
pub(super) type Bridges<'a> = BTreeMap<u32, Bridge<'a>>;

/// What the bridges' networks find around them.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// What the kernel has.
    pub snapshot: &'a Snapshot,
    /// Where guests are that go by a name.
    pub guests: &'a Guests,
    /// As in [`Intent::firewall`](super::Intent::firewall).
    pub firewall: Option<Firewall>,
    /// As in [`Observed::filtered`](super::Observed::filtered).
    pub filtered: &'a BTreeSet<u32>,
    /// As in [`Observed::bridged_rules`](super::Observed::bridged_rules).
    pub bridged_rules: bool,
}

/// The records that the programs need for the networks of `bridges`.
///
/// A network bound to a device (`<forward dev>`) that does not exist gets that device's number as
/// `u32::MAX`, so that nothing may leave by another one.
#[must_use]
pub(super) fn records(bridges: &Bridges<'_>, around: &Around<'_>) -> Records {
    let &Around {
        snapshot,
        guests,
        firewall,
        filtered,
        bridged_rules,
    } = around;
    let mut records = Records::default();
    if bridges.is_empty() {
        return records;
    }
    for (&index, &bridge) in bridges {
        let network = bridge.network;
        let uplink = network
            .forward
            .as_ref()
            .and_then(|forward| forward.interfaces.first())
            .map_or(0, |name| {
                snapshot.by_name(name).map_or(u32::MAX, |link| link.index)
            });
        let Some(record) = network_record(bridge, uplink, firewall) else {
            continue;
        };
        records.usage.insert(index);
        records.networks.insert(index, record);
        add_subnets(&mut records, network, index);
        prefixes::add(&mut records, network, snapshot);
        add_ports(&mut records, index, bridge, around);
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
            let mut record = device_record(link, snapshot);
            if filtered.contains(&link.index) {
                record.flags |= DEVICE_FILTERED;
            }
            if bridged_rules && link.bridge.is_some() {
                record.flags |= DEVICE_BRIDGED_RULES;
            }
            records.devices.insert(link.index, record);
        }
    }
    records.route_mtus = route_mtus(&records.devices, snapshot);
    note_routes_behind(&mut records, snapshot);
    records
}

/// Note by which bridges the host has routes to others than their guests. What comes from there would be
/// refused, so what goes there is judged, and refused at once.
fn note_routes_behind(records: &mut Records, snapshot: &Snapshot) {
    for route in &snapshot.routes {
        let (destination, len) = route.destination;
        let bridge = route.index.unwrap_or_default();
        if let Some(network) = records.networks.get(&bridge)
            && network.flags & NETWORK_ROUTES_BEHIND == 0
            && !stays_on_link(destination)
            && !records.has_subnet(destination, len, bridge)
            && let Some(network) = records.networks.get_mut(&bridge)
        {
            network.flags |= NETWORK_ROUTES_BEHIND;
        }
    }
}

/// Does no router forward packets to the address?
fn stays_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_multicast() || a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
    }
}

/// What the programs are to know of a bridge's ports, and of the devices that are there like ports.
fn add_ports(records: &mut Records, index: u32, bridge: Bridge<'_>, around: &Around<'_>) {
    let Bridge {
        network,
        ports,
        link,
        services,
        shaper,
        ..
    } = bridge;
    for port in around.snapshot.ports_of(index) {
        let mut record = guards::port(network, ports, link, port);
        if around.filtered.contains(&port.index) {
            record.flags |= PORT_BY_BRIDGE;
        }
        // Queues stand at the bridge, and see what goes by it alone.
        if network.is_shaped() {
            record.flags |= PORT_QUEUED;
        }
        if around.bridged_rules && record.flags & (PORT_ISOLATED | PORT_BY_BRIDGE) == 0 {
            record.flags |= PORT_SIBLINGS;
        }
        records.ports.insert(port.index, record);
    }
    let services = services.map(|end| (end.ifindex, PORT_SERVICES));
    let shaper = shaper.map(|ends| (ends.back, PORT_SHAPER));
    for (ifindex, flags) in services.into_iter().chain(shaper) {
        let record = abi::BridgePort {
            bridge_ifindex: index,
            flags,
            ..abi::BridgePort::default()
        };
        records.ports.insert(ifindex, record);
    }
}

/// Routes with an MTU for each device; more of them are one, with the least of all.
const ROUTE_MTUS: usize = 256;

/// The IPv4 routes that hold packets to less than their device takes. Which table a packet's route is
/// in the programs do not know: a larger packet takes the stack, which does.
fn route_mtus(
    devices: &BTreeMap<u32, Device>,
    snapshot: &Snapshot,
) -> BTreeMap<(abi::RouteKey, u32), u32> {
    let mut all = BTreeMap::new();
    for (&ifindex, device) in devices {
        let mut own: BTreeMap<(abi::RouteKey, u32), u32> = BTreeMap::new();
        let mut note = |destination: [u8; 4], len: u8, mtu: u32| {
            let key = abi::RouteKey {
                ifindex,
                destination,
            };
            let least = own
                .entry((key, abi::RouteKey::DEFAULT + u32::from(len)))
                .or_insert(mtu);
            *least = mtu.min(*least);
        };
        for route in &snapshot.routes {
            if let ((IpAddr::V4(destination), len), Some(mtu)) = (route.destination, route.mtu)
                // A next hop that is an object of its own may lead anywhere.
                && route.index.is_none_or(|index| index == ifindex)
                && mtu < u32::from(device.mtu)
            {
                note(destination.octets(), len, mtu);
            }
        }
        if own.len() > ROUTE_MTUS {
            let least = own.values().copied().min().unwrap_or_default();
            own.clear();
            let key = abi::RouteKey {
                ifindex,
                destination: [0; 4],
            };
            own.insert((key, abi::RouteKey::DEFAULT), least);
        }
        all.extend(own);
    }
    all
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
    // Neighbours are in an address's subnet: one that stands alone, as a cluster's does, is the host's
    // choice only where there is no other, whatever order they came in.
    let mut addresses: Vec<&Address> = snapshot
        .addresses_of(link.index)
        .filter(|a| a.primary && matches!(a.scope, Scope::Global | Scope::Site))
        .collect();
    addresses.sort_by_key(|a| a.stands_alone());
    let address = addresses.iter().find_map(|a| match a.address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let address6 = addresses.iter().find_map(|a| match a.address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address.octets()),
    });
    Device {
        address: address.unwrap_or_default(),
        address6: address6.unwrap_or_default(),
        flags: if link.ether { DEVICE_ETHERNET } else { 0 },
        mac: link.mac.unwrap_or_default().0,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
    }
}

/// May packets from or to guests be routed by way of this device? It has an address or route of a
/// family that the networks have, and is none of netd's own, nor a port of something else. A
/// guest's new tap has neither, and so is left alone until somebody makes it a port: the IPv6
/// address and routes that every device makes for its own link do not count.
fn carries_routed_traffic(link: &Link, snapshot: &Snapshot, bridges: &Bridges<'_>) -> bool {
    // What has another kind of header than Ethernet's cannot be read at egress. It is left out, so
    // nothing is masqueraded by it.
    if bridges.contains_key(&link.index)
        || !(link.ether || link.headerless)
        || !snapshot.stands_alone(link)
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
    for (&bridge, with) in bridges {
        let Bridge {
            services, shaper, ..
        } = with;
        add(bridge, Hook::BridgeIngress);
        add(bridge, Hook::BridgeEgress);
        if let Some(ServicesEnd { ifindex, .. }) = services {
            add(*ifindex, Hook::ServicesIngress);
        }
        if let Some(ShaperEnds { back, .. }) = shaper {
            add(*back, Hook::ShaperIngress);
        }
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
