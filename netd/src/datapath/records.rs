//! What the maps hold, as plain data, and what has to change in them.

use std::collections::{BTreeMap, BTreeSet};

use netd_common::abi::{
    Addr4, Addr6, BINDING_FCFS, BINDING_STATIC, Binding, BindingKey, BridgePort, CONTROL_FORWARDS,
    CONTROL_MAPPINGS, CONTROL_PREFIXES, CONTROL_ROUTES_BEHIND, CONTROL_SHAPERS,
    CONTROL_WHOLE_ADDRESSES, Device, Forward, ForwardKey, NETWORK_DNS,
    NETWORK_ENDPOINT_INDEPENDENT, NETWORK_ROUTES_BEHIND, Network, PORT_GUARD, PortMac, PrefixPair,
    RouteKey,
};

use super::names;
use super::ports::Ports;

/// The records that follow from definitions and from the kernel's links and addresses, or those
/// that the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// `usage`: bridges whose networks' flows are counted, by ifindex.
    pub usage: BTreeSet<u32>,
    /// `networks` by ifindex of the bridge.
    pub networks: BTreeMap<u32, Network>,
    /// `ports` by ifindex.
    pub ports: BTreeMap<u32, BridgePort>,
    /// `devices` by ifindex.
    pub devices: BTreeMap<u32, Device>,
    /// `xdp_targets`: devices by ifindex.
    pub xdp_targets: BTreeSet<u32>,
    /// `route_mtus`: key, prefix length, MTU.
    pub route_mtus: BTreeMap<(RouteKey, u32), u32>,
    /// `prefixes6`: either prefix of a pair with its length, and the pair.
    pub prefixes: BTreeMap<(Addr6, u8), PrefixPair<Addr6>>,
    /// `port_macs` by ifindex of the port. The programs fill it: nobody asks for one.
    pub port_macs: BTreeMap<u32, PortMac>,
    /// What is by IPv4 address.
    pub v4: FamilyRecords<Addr4>,
    /// What is by IPv6 address.
    pub v6: FamilyRecords<Addr6>,
}

/// Records by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyRecords<A> {
    /// `addresses4`, `addresses6`: the host's own, with the device that has them.
    pub addresses: BTreeMap<A, u32>,
    /// `subnets4`, `subnets6`: address, prefix length, bridge.
    pub subnets: BTreeMap<(A, u8), u32>,
    /// `pools4`, `pools6`: prefixes that ranges to masquerade with are made of, likewise.
    pub pools: BTreeMap<(A, u8), u32>,
    /// `forwards4`, `forwards6`: key, prefix length, where to.
    pub forwards: BTreeMap<(ForwardKey<A>, u32), Forward<A>>,
    /// `bindings4`, `bindings6`: whose addresses are, where ports are guarded.
    pub bindings: BTreeMap<BindingKey<A>, Binding>,
}

impl<A> FamilyRecords<A> {
    /// `CONTROL_*` bits that follow from what is published.
    fn forward_flags(&self) -> u32 {
        self.forwards.keys().fold(0, |flags, (key, _)| {
            flags
                | match key.proto {
                    0 => CONTROL_WHOLE_ADDRESSES,
                    _ => CONTROL_FORWARDS,
                }
        })
    }

    /// Add the ports that are published.
    pub(super) fn publish(&self, ports: &mut Ports) {
        for (key, len) in self.forwards.keys().filter(|(key, _)| key.proto != 0) {
            let first = u16::from_be_bytes(key.port);
            // Bits of the port that the entry leaves open.
            let open = ForwardKey::<A>::BITS.saturating_sub(*len).min(16);
            let others = ((1u32 << open) - 1) as u16;
            ports.insert(first, first | others);
        }
    }
}

/// One record of one map: its key and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Of `usage`.
    Usage(u32),
    /// Of `networks`.
    Network(u32, Network),
    /// Of `devices`.
    Device(u32, Device),
    /// Of `ports`.
    Port(u32, BridgePort),
    /// Of `xdp_targets`.
    XdpTarget(u32),
    /// Of `route_mtus`: key with its length, and MTU.
    RouteMtu((RouteKey, u32), u32),
    /// Of `prefixes6`: prefix with its length, and the pair.
    Prefix((Addr6, u8), PrefixPair<Addr6>),
    /// Of `port_macs`.
    PortMac(u32, PortMac),
    /// Of a map of IPv4 addresses.
    V4(FamilyRecord<Addr4>),
    /// Of a map of IPv6 addresses.
    V6(FamilyRecord<Addr6>),
}

/// One record of a map that there is one of for each address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyRecord<A> {
    /// Of `addresses4`, `addresses6`: address and device.
    Address(A, u32),
    /// Of `pools4`, `pools6`: prefix and bridge.
    Pool((A, u8), u32),
    /// Of `subnets4`, `subnets6`: prefix and bridge.
    Subnet((A, u8), u32),
    /// Of `forwards4`, `forwards6`: key with its length, and where to.
    Forward((ForwardKey<A>, u32), Forward<A>),
    /// Of `bindings4`, `bindings6`.
    Binding(BindingKey<A>, Binding),
}

/// What is to become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The map is to hold it.
    Set(Record),
    /// The map is not to hold it any more.
    Remove(Record),
}

impl Change {
    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        match self {
            Self::Set(record) | Self::Remove(record) => record,
        }
    }
}

impl Record {
    /// The map.
    #[must_use]
    pub fn map(&self) -> &'static str {
        match self {
            Self::Usage(_) => names::USAGE,
            Self::Network(..) => names::NETWORKS,
            Self::Device(..) => names::DEVICES,
            Self::Port(..) => names::PORTS,
            Self::XdpTarget(_) => names::XDP_TARGETS,
            Self::RouteMtu(..) => names::ROUTE_MTUS,
            Self::Prefix(..) => names::PREFIXES6,
            Self::PortMac(..) => names::PORT_MACS,
            Self::V4(FamilyRecord::Address(..)) => names::ADDRESSES4,
            Self::V4(FamilyRecord::Pool(..)) => names::POOLS4,
            Self::V4(FamilyRecord::Subnet(..)) => names::SUBNETS4,
            Self::V4(FamilyRecord::Forward(..)) => names::FORWARDS4,
            Self::V4(FamilyRecord::Binding(..)) => names::BINDINGS4,
            Self::V6(FamilyRecord::Address(..)) => names::ADDRESSES6,
            Self::V6(FamilyRecord::Pool(..)) => names::POOLS6,
            Self::V6(FamilyRecord::Subnet(..)) => names::SUBNETS6,
            Self::V6(FamilyRecord::Forward(..)) => names::FORWARDS6,
            Self::V6(FamilyRecord::Binding(..)) => names::BINDINGS6,
        }
    }

    /// The bridge whose network it belongs to; `None` for what is all networks'.
    #[must_use]
    pub fn bridge(&self) -> Option<u32> {
        match self {
            Self::Usage(bridge) | Self::Network(bridge, _) => Some(*bridge),
            Self::Port(_, port) => Some(port.bridge_ifindex),
            Self::Device(..)
            | Self::XdpTarget(_)
            | Self::RouteMtu(..)
            | Self::Prefix(..)
            | Self::PortMac(..) => None,
            Self::V4(record) => record.bridge(),
            Self::V6(record) => record.bridge(),
        }
    }

    /// Does a flow's policy or path depend on it? Flows are to look again when it changes.
    #[must_use]
    pub fn decides(&self) -> bool {
        !matches!(
            self,
            Self::Usage(_)
                | Self::XdpTarget(_)
                | Self::PortMac(..)
                | Self::V4(FamilyRecord::Binding(..))
                | Self::V6(FamilyRecord::Binding(..))
        )
    }
}

impl<A> FamilyRecord<A> {
    fn bridge(&self) -> Option<u32> {
        match self {
            Self::Address(..) => None,
            Self::Pool(_, bridge) | Self::Subnet(_, bridge) => Some(*bridge),
            Self::Forward(_, forward) => Some(forward.bridge_ifindex),
            Self::Binding(key, _) => Some(key.bridge_ifindex),
        }
    }
}

impl Records {
    /// `CONTROL_*` bits that follow from the networks, routes and forwards.
    #[must_use]
    pub fn flags(&self) -> u32 {
        let independent = |network: &Network| network.flags & NETWORK_ENDPOINT_INDEPENDENT != 0;
        let mut flags = self.v4.forward_flags() | self.v6.forward_flags();
        if self.networks.values().any(independent) {
            flags |= CONTROL_MAPPINGS;
        }
        if self.networks.values().any(|n| n.shaper_ifindex != 0) {
            flags |= CONTROL_SHAPERS;
        }
        if !self.prefixes.is_empty() {
            flags |= CONTROL_PREFIXES;
        }
        let leads_behind = |network: &Network| network.flags & NETWORK_ROUTES_BEHIND != 0;
        if self.networks.values().any(leads_behind) {
            flags |= CONTROL_ROUTES_BEHIND;
        }
        flags
    }

    /// Is anything published, be it by a prefix?
    #[must_use]
    pub fn has_forwards(&self) -> bool {
        self.flags() & (CONTROL_FORWARDS | CONTROL_WHOLE_ADDRESSES | CONTROL_PREFIXES) != 0
    }

    /// Does a network answer questions for names, which the host may have, too?
    #[must_use]
    pub fn has_resolvers(&self) -> bool {
        let answers = |network: &Network| network.flags & NETWORK_DNS != 0;
        self.networks.values().any(answers)
    }

    /// The published ports, as the map `dnat_ports` holds them.
    #[must_use]
    pub fn published(&self) -> Ports {
        let mut published = Ports::default();
        self.v4.publish(&mut published);
        self.v6.publish(&mut published);
        published
    }

    /// Is a port held to what is known of its guest?
    #[must_use]
    pub fn is_guarded(&self, port: u32) -> bool {
        let port = self.ports.get(&port);
        port.is_some_and(|port| port.flags & PORT_GUARD != 0)
    }

    /// What has to change so that maps that hold these records hold `wanted`; without `prune` at
    /// least that. What is judged and counted by comes before what leads packets to it, and whose
    /// an address is before ports are held to it.
    #[must_use]
    pub fn changes(&self, wanted: &Self, prune: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        let out = &mut changes;
        let set = |set: &BTreeSet<u32>| set.iter().map(|key| (*key, ())).collect();
        let (used, counted): (BTreeMap<u32, ()>, BTreeMap<u32, ()>) =
            (set(&self.usage), set(&wanted.usage));
        additions(&used, &counted, |key, ()| Record::Usage(key), out);
        // No network is without what its addresses are translated by.
        additions(&self.prefixes, &wanted.prefixes, Record::Prefix, out);
        let all = |out: &mut Vec<Change>| {
            compare(
                &self.networks,
                &wanted.networks,
                prune,
                Record::Network,
                out,
            );
            compare(&self.devices, &wanted.devices, prune, Record::Device, out);
            if prune {
                self.learned(wanted, out);
            }
            compare(&self.ports, &wanted.ports, prune, Record::Port, out);
            let mtus = (&self.route_mtus, &wanted.route_mtus);
            compare(mtus.0, mtus.1, prune, Record::RouteMtu, out);
            let (held, targets) = (set(&self.xdp_targets), set(&wanted.xdp_targets));
            compare(
                &held,
                &targets,
                prune,
                |key, ()| Record::XdpTarget(key),
                out,
            );
            family(&self.v4, &wanted.v4, prune, Record::V4, out);
            family(&self.v6, &wanted.v6, prune, Record::V6, out);
        };
        all(out);
        // The count stays as long as anything may be counted.
        if prune {
            removals(&self.prefixes, &wanted.prefixes, Record::Prefix, out);
            removals(&used, &counted, |key, ()| Record::Usage(key), out);
        }
        changes
    }

    /// Whose addresses are. What the programs saw stays until its network goes, and what a guest
    /// took for itself until the guest does. The claims go before the port's MAC address, so that
    /// whoever stops in between finds them again.
    fn learned(&self, wanted: &Self, out: &mut Vec<Change>) {
        let gone = self.port_macs.iter();
        let gone: Vec<_> = gone
            .filter(|(port, _)| !wanted.is_guarded(**port))
            .map(|(port, mac)| {
                let bridge = self.ports.get(port).map(|port| port.bridge_ifindex);
                (*port, bridge, *mac)
            })
            .collect();
        let left = |bridge: u32, mac| {
            let is_it = |&(_, at, who): &(u32, Option<u32>, PortMac)| {
                who.mac == mac && at.is_none_or(|at| at == bridge)
            };
            gone.iter().any(is_it)
        };
        let is_live = |bridge: u32| wanted.networks.contains_key(&bridge);
        bindings(&self.v4, &wanted.v4, is_live, left, Record::V4, out);
        bindings(&self.v6, &wanted.v6, is_live, left, Record::V6, out);
        for (port, _, mac) in &gone {
            out.push(Change::Remove(Record::PortMac(*port, *mac)));
        }
    }

    /// Note a change that was made.
    pub fn apply(&mut self, change: &Change) {
        match *change {
            Change::Set(record) => match record {
                Record::Usage(key) => {
                    self.usage.insert(key);
                }
                Record::Network(key, value) => {
                    self.networks.insert(key, value);
                }
                Record::Device(key, value) => {
                    self.devices.insert(key, value);
                }
                Record::Port(key, value) => {
                    self.ports.insert(key, value);
                }
                Record::XdpTarget(key) => {
                    self.xdp_targets.insert(key);
                }
                Record::RouteMtu(key, value) => {
                    self.route_mtus.insert(key, value);
                }
                Record::Prefix(key, value) => {
                    self.prefixes.insert(key, value);
                }
                Record::PortMac(key, value) => {
                    self.port_macs.insert(key, value);
                }
                Record::V4(record) => self.v4.set(record),
                Record::V6(record) => self.v6.set(record),
            },
            Change::Remove(record) => match record {
                Record::Usage(key) => {
                    self.usage.remove(&key);
                }
                Record::Network(key, _) => {
                    self.networks.remove(&key);
                }
                Record::Device(key, _) => {
                    self.devices.remove(&key);
                }
                Record::Port(key, _) => {
                    self.ports.remove(&key);
                }
                Record::XdpTarget(key) => {
                    self.xdp_targets.remove(&key);
                }
                Record::RouteMtu(key, _) => {
                    self.route_mtus.remove(&key);
                }
                Record::Prefix(key, _) => {
                    self.prefixes.remove(&key);
                }
                Record::PortMac(key, _) => {
                    self.port_macs.remove(&key);
                }
                Record::V4(record) => self.v4.remove(record),
                Record::V6(record) => self.v6.remove(record),
            },
        }
    }
}

impl<A: Ord> FamilyRecords<A> {
    fn set(&mut self, record: FamilyRecord<A>) {
        match record {
            FamilyRecord::Address(key, value) => {
                self.addresses.insert(key, value);
            }
            FamilyRecord::Pool(key, value) => {
                self.pools.insert(key, value);
            }
            FamilyRecord::Subnet(key, value) => {
                self.subnets.insert(key, value);
            }
            FamilyRecord::Forward(key, value) => {
                self.forwards.insert(key, value);
            }
            FamilyRecord::Binding(key, value) => {
                self.bindings.insert(key, value);
            }
        }
    }

    fn remove(&mut self, record: FamilyRecord<A>) {
        match record {
            FamilyRecord::Address(key, _) => {
                self.addresses.remove(&key);
            }
            FamilyRecord::Pool(key, _) => {
                self.pools.remove(&key);
            }
            FamilyRecord::Subnet(key, _) => {
                self.subnets.remove(&key);
            }
            FamilyRecord::Forward(key, _) => {
                self.forwards.remove(&key);
            }
            FamilyRecord::Binding(key, _) => {
                self.bindings.remove(&key);
            }
        }
    }
}

fn additions<K: Ord + Copy, V: PartialEq + Copy>(
    held: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    record: impl Fn(K, V) -> Record,
    out: &mut Vec<Change>,
) {
    for (key, value) in wanted {
        if held.get(key) != Some(value) {
            out.push(Change::Set(record(*key, *value)));
        }
    }
}

fn removals<K: Ord + Copy, V: Copy>(
    held: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    record: impl Fn(K, V) -> Record,
    out: &mut Vec<Change>,
) {
    for (key, value) in held {
        if !wanted.contains_key(key) {
            out.push(Change::Remove(record(*key, *value)));
        }
    }
}

/// What is to lead elsewhere does so at once, without having been away.
fn compare<K: Ord + Copy, V: PartialEq + Copy>(
    held: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    prune: bool,
    record: impl Fn(K, V) -> Record,
    out: &mut Vec<Change>,
) {
    additions(held, wanted, &record, out);
    if prune {
        removals(held, wanted, &record, out);
    }
}

fn family<A: Ord + Copy>(
    held: &FamilyRecords<A>,
    wanted: &FamilyRecords<A>,
    prune: bool,
    record: impl Fn(FamilyRecord<A>) -> Record,
    out: &mut Vec<Change>,
) {
    let address = |key, value| record(FamilyRecord::Address(key, value));
    compare(&held.addresses, &wanted.addresses, prune, address, out);
    let pool = |key, value| record(FamilyRecord::Pool(key, value));
    compare(&held.pools, &wanted.pools, prune, pool, out);
    let subnet = |key, value| record(FamilyRecord::Subnet(key, value));
    compare(&held.subnets, &wanted.subnets, prune, subnet, out);
    let forward = |key, value| record(FamilyRecord::Forward(key, value));
    compare(&held.forwards, &wanted.forwards, prune, forward, out);
}

fn bindings<A: Ord + Copy>(
    held: &FamilyRecords<A>,
    wanted: &FamilyRecords<A>,
    is_live: impl Fn(u32) -> bool,
    left: impl Fn(u32, netd_common::abi::MacAddr) -> bool,
    record: impl Fn(FamilyRecord<A>) -> Record,
    out: &mut Vec<Change>,
) {
    for (key, binding) in &held.bindings {
        let stale = match binding.kind {
            BINDING_STATIC => !wanted.bindings.contains_key(key),
            BINDING_FCFS => left(key.bridge_ifindex, binding.mac),
            _ => false,
        };
        let replaced = wanted.bindings.contains_key(key);
        if (stale && !replaced) || !is_live(key.bridge_ifindex) {
            out.push(Change::Remove(record(FamilyRecord::Binding(
                *key, *binding,
            ))));
        }
    }
    let set = |key, value| record(FamilyRecord::Binding(key, value));
    additions(&held.bindings, &wanted.bindings, set, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(bridge: u32) -> BridgePort {
        BridgePort {
            bridge_ifindex: bridge,
            flags: PORT_GUARD,
            ..BridgePort::default()
        }
    }

    /// Of two networks with a guest of the same MAC address each, one guest goes.
    #[test]
    fn what_a_guest_claimed_goes_with_it_in_its_network_alone() {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut held = Records::default();
        let key = |bridge| BindingKey {
            bridge_ifindex: bridge,
            address: [10, 0, 0, 5],
        };
        let claimed = Binding {
            mac,
            kind: BINDING_FCFS,
            pad: 0,
        };
        for (bridge, port) in [(1, 11), (2, 12)] {
            held.networks.insert(bridge, Network::default());
            held.ports.insert(port, guarded(bridge));
            held.port_macs.insert(
                port,
                PortMac {
                    mac,
                    fcfs_addresses: 1,
                },
            );
            held.v4.bindings.insert(key(bridge), claimed);
        }
        let mut wanted = held.clone();
        wanted.ports.remove(&11);
        wanted.port_macs.clear();
        wanted.v4.bindings.clear();
        let changes = held.changes(&wanted, true);
        let gone = |index: usize| match changes[index] {
            Change::Remove(record) => record,
            Change::Set(record) => panic!("{record:?} is set"),
        };
        assert_eq!(gone(0), Record::V4(FamilyRecord::Binding(key(1), claimed)));
        assert_eq!(
            gone(1),
            Record::PortMac(
                11,
                PortMac {
                    mac,
                    fcfs_addresses: 1
                }
            )
        );
        assert_eq!(gone(2), Record::Port(11, guarded(1)));
        assert_eq!(changes.len(), 3, "{changes:?}");
        for change in &changes {
            held.apply(change);
        }
        assert!(held.changes(&wanted, true).is_empty());
    }

    #[test]
    fn what_leads_packets_comes_last_and_nothing_goes_beside_an_orphan() {
        let mut wanted = Records::default();
        wanted.usage.insert(1);
        wanted.networks.insert(1, Network::default());
        wanted.v4.subnets.insert(([10, 0, 0, 0], 24), 1);
        let changes = Records::default().changes(&wanted, true);
        let maps: Vec<_> = changes.iter().map(|change| change.record().map()).collect();
        assert_eq!(maps, ["usage", "networks", "subnets4"]);
        assert!(wanted.changes(&Records::default(), false).is_empty());
        let changes = wanted.changes(&Records::default(), true);
        let maps: Vec<_> = changes.iter().map(|change| change.record().map()).collect();
        assert_eq!(maps, ["networks", "subnets4", "usage"]);
    }
}
