//! The maps as the agent writes them: what the programs are to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, DevMapHash, HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie};
use netd_common::Reason;
use netd_common::abi::{
    Addr4, Addr6, BridgePort, CONTROL_BANS, CONTROL_HOLDS, CONTROL_POLICIES,
    CONTROL_SECOND_POLICIES, Control, DEVICE_FILTERED, Device, DropCount, Endpoint, GuestMoves,
    MacAddr, NETWORK_RESPECT, Network, PORTS_WORDS, PortsWord, RouteKey, Usage,
};
use netd_common::clock::ticks;
use netd_common::timeout::{TIMEOUTS, surely_alive};

use super::bans::{BanRecord, BanTrie, Bans};
use super::bindings::{Bindings, Guards};
use super::error::Result;
use super::family::FamilyMaps;
use super::forwards::Forwards;
use super::limits::Limits;
use super::names;
use super::policies::{Lists, Policies};
use super::ports::Ports;
use super::prefix_pairs::PrefixPairs;
use super::records::{Change, FamilyRecord, Record, Records};
use super::sync::{entries, error, is_there, keys, remove, take, write};
use crate::link::ipsec;

/// `BPF_NOEXIST` of linux/bpf.h: insert, never overwrite.
const NOEXIST: u64 = 1;

/// Typed handles of the pinned maps.
pub struct Maps {
    control: Array<MapData, Control>,
    guest_moves: Array<MapData, GuestMoves>,
    networks: HashMap<MapData, u32, Network>,
    ports: HashMap<MapData, u32, BridgePort>,
    devices: HashMap<MapData, u32, Device>,
    xdp_targets: DevMapHash<MapData>,
    route_mtus: LpmTrie<MapData, RouteKey, u32>,
    prefixes: PrefixPairs,
    usage: HashMap<MapData, u32, Usage>,
    reserved: PortsMap,
    published: PortsMap,
    v4: FamilyMaps<Addr4>,
    v6: FamilyMaps<Addr6>,
    guards: Guards,
    bans: Bans,
    policies: Policies,
    drops: PerCpuArray<MapData, DropCount>,
}

/// The networks pinned below `dir` (a version's directory), by ifindex of the bridge, for a reader
/// that loads no programs. None where nothing is pinned.
///
/// # Errors
/// The map cannot be read or has another layout.
pub fn pinned_networks(dir: &Path) -> Result<BTreeMap<u32, Network>> {
    let path = dir.join("maps").join(names::NETWORKS);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let data = MapData::from_pin(path).map_err(error("open", names::NETWORKS))?;
    let map = aya::maps::Map::from_map_data(data).map_err(error("open", names::NETWORKS))?;
    let map: HashMap<MapData, u32, Network> =
        HashMap::try_from(map).map_err(error("use", names::NETWORKS))?;
    map.iter()
        .map(|entry| entry.map_err(error("read", names::NETWORKS)))
        .collect()
}

/// For how long a look at a flow's policy and path holds good while an agent tells of changes: there
/// is nothing to find then.
const LOOK: u32 = ticks(30);

/// For how long it does when the agent has stopped: changes are found so late at most.
const LOOK_ALONE: u32 = ticks(8);

/// Bits of the control record that have ways of their own ([`Maps::ban`], [`Maps::hold`],
/// [`Maps::follow_policies`]).
const APART: u32 = CONTROL_BANS | CONTROL_HOLDS | CONTROL_POLICIES | CONTROL_SECOND_POLICIES;

/// How far a change of the host's rules raises the epoch.
const RULES_STEP: u32 = 1 << 10;

impl Maps {
    /// Take the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            control: take(ebpf, names::CONTROL)?,
            guest_moves: take(ebpf, names::GUEST_MOVES)?,
            networks: take(ebpf, names::NETWORKS)?,
            ports: take(ebpf, names::PORTS)?,
            devices: take(ebpf, names::DEVICES)?,
            xdp_targets: take(ebpf, names::XDP_TARGETS)?,
            route_mtus: take(ebpf, names::ROUTE_MTUS)?,
            prefixes: PrefixPairs(take(ebpf, names::PREFIXES6)?),
            usage: take(ebpf, names::USAGE)?,
            reserved: PortsMap::new(names::RESERVED, take(ebpf, names::RESERVED)?),
            published: PortsMap::new(names::DNAT_PORTS, take(ebpf, names::DNAT_PORTS)?),
            v4: FamilyMaps {
                addresses: (names::ADDRESSES4, take(ebpf, names::ADDRESSES4)?),
                subnets: (names::SUBNETS4, take(ebpf, names::SUBNETS4)?),
                pools: (names::POOLS4, take(ebpf, names::POOLS4)?),
                endpoints: (names::ENDPOINTS4, take(ebpf, names::ENDPOINTS4)?),
                forwards: Forwards::new(names::FORWARDS4, take(ebpf, names::FORWARDS4)?),
            },
            v6: FamilyMaps {
                addresses: (names::ADDRESSES6, take(ebpf, names::ADDRESSES6)?),
                subnets: (names::SUBNETS6, take(ebpf, names::SUBNETS6)?),
                pools: (names::POOLS6, take(ebpf, names::POOLS6)?),
                endpoints: (names::ENDPOINTS6, take(ebpf, names::ENDPOINTS6)?),
                forwards: Forwards::new(names::FORWARDS6, take(ebpf, names::FORWARDS6)?),
            },
            guards: Guards {
                port_macs: take(ebpf, names::PORT_MACS)?,
                v4: Bindings::new(names::BINDINGS4, take(ebpf, names::BINDINGS4)?),
                v6: Bindings::new(names::BINDINGS6, take(ebpf, names::BINDINGS6)?),
                used: true,
            },
            bans: Bans {
                v4: BanTrie::new(names::BANS4, take(ebpf, names::BANS4)?),
                v6: BanTrie::new(names::BANS6, take(ebpf, names::BANS6)?),
            },
            policies: Policies {
                v4: take(ebpf, names::POLICIES4)?,
                v6: take(ebpf, names::POLICIES6)?,
                held: None,
            },
            drops: take(ebpf, names::DROPS)?,
        })
    }

    /// What the maps hold. What the programs learn at guarded ports is read only where a port is
    /// `guarded`, or was.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(&mut self, guarded: bool) -> Result<Records> {
        let mut records = Records {
            usage: keys(&self.usage, names::USAGE)?,
            networks: entries(&self.networks, names::NETWORKS)?,
            ports: entries(&self.ports, names::PORTS)?,
            devices: entries(&self.devices, names::DEVICES)?,
            xdp_targets: self
                .xdp_targets
                .keys()
                .map(|key| key.map_err(error("read", names::XDP_TARGETS)))
                .collect::<Result<_>>()?,
            route_mtus: self
                .route_mtus
                .iter()
                .map(|entry| {
                    let (key, mtu) = entry.map_err(error("read", names::ROUTE_MTUS))?;
                    // A packed struct: copy before use.
                    let (len, data) = (key.prefix_len(), key.data());
                    Ok(((data, len), mtu))
                })
                .collect::<Result<_>>()?,
            prefixes: self.prefixes.read()?,
            v4: self.v4.read()?,
            v6: self.v6.read()?,
            ..Records::default()
        };
        if guarded || self.guards.used {
            records.port_macs = entries(&self.guards.port_macs, names::PORT_MACS)?;
            records.v4.bindings = self.guards.v4.read()?;
            records.v6.bindings = self.guards.v6.read()?;
            let holds = !records.port_macs.is_empty()
                || !records.v4.bindings.is_empty()
                || !records.v6.bindings.is_empty();
            self.guards.used = guarded || holds;
        }
        Ok(records)
    }

    /// Change one record.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn change(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Set(record) => self.set(record),
            Change::Remove(record) => self.remove(record),
        }
    }

    fn set(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Usage(bridge) => self.open_usage(*bridge),
            Record::Network(key, value) => write(&mut self.networks, names::NETWORKS, key, value),
            Record::Device(key, value) => write(&mut self.devices, names::DEVICES, key, value),
            Record::Port(key, value) => write(&mut self.ports, names::PORTS, key, value),
            Record::XdpTarget(ifindex) => self
                .xdp_targets
                .insert(*ifindex, *ifindex, None, 0)
                .map_err(error("write", names::XDP_TARGETS)),
            Record::RouteMtu((key, len), mtu) => self
                .route_mtus
                .insert(&lpm_trie::Key::new(*len, *key), *mtu, 0)
                .map_err(error("write", names::ROUTE_MTUS)),
            Record::Prefix(prefix, pair) => self.prefixes.set(*prefix, pair),
            Record::PortMac(key, value) => {
                write(&mut self.guards.port_macs, names::PORT_MACS, key, value)
            }
            Record::V4(FamilyRecord::Binding(key, value)) => self.guards.v4.set(key, value),
            Record::V6(FamilyRecord::Binding(key, value)) => self.guards.v6.set(key, value),
            Record::V4(record) => self.v4.set(record),
            Record::V6(record) => self.v6.set(record),
        }
    }

    fn remove(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Usage(key) => remove(&mut self.usage, names::USAGE, key),
            Record::Network(key, _) => remove(&mut self.networks, names::NETWORKS, key),
            Record::Device(key, _) => remove(&mut self.devices, names::DEVICES, key),
            Record::Port(key, _) => remove(&mut self.ports, names::PORTS, key),
            // The kernel removes a device that goes by itself.
            Record::XdpTarget(ifindex) => match self.xdp_targets.remove(*ifindex) {
                Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
                Err(e) => Err(error("remove from", names::XDP_TARGETS)(e)),
            },
            Record::RouteMtu((key, len), _) => {
                match self.route_mtus.remove(&lpm_trie::Key::new(*len, *key)) {
                    Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
                    Err(e) => Err(error("remove from", names::ROUTE_MTUS)(e)),
                }
            }
            Record::Prefix(prefix, _) => self.prefixes.remove(*prefix),
            Record::PortMac(key, _) => remove(&mut self.guards.port_macs, names::PORT_MACS, key),
            Record::V4(FamilyRecord::Binding(key, _)) => self.guards.v4.remove(key),
            Record::V6(FamilyRecord::Binding(key, _)) => self.guards.v6.remove(key),
            Record::V4(record) => self.v4.remove(record),
            Record::V6(record) => self.v6.remove(record),
        }
    }

    /// A network's flows are counted from its start on. The programs keep the count: an entry
    /// that exists is left alone.
    fn open_usage(&mut self, bridge: u32) -> Result<()> {
        match self.usage.insert(bridge, Usage::default(), NOEXIST) {
            Ok(()) => Ok(()),
            Err(e) if is_there(&e) => Ok(()),
            Err(e) => Err(error("write", names::USAGE)(e)),
        }
    }

    /// The flows of the networks, by bridge.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn usage(&self) -> Result<BTreeMap<u32, Usage>> {
        entries(&self.usage, names::USAGE)
    }

    /// Let exactly these ports be published.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn publish(&mut self, ports: &Ports) -> Result<()> {
        self.published.hold(ports)
    }

    /// The published ports.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn published(&mut self) -> Result<&Ports> {
        self.published.held()
    }

    /// The ports that are kept from flows.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn reserved(&mut self) -> Result<&Ports> {
        self.reserved.held()
    }

    /// `CONTROL_*` bits, but for those of bans, held frames and IPsec policies, which go their own ways.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flags(&self) -> Result<u32> {
        let control = self
            .control
            .get(&0, 0)
            .map_err(error("read", names::CONTROL))?;
        Ok(control.flags & !APART)
    }

    /// Say what the programs need not look for.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_flags(&mut self, flags: u32) -> Result<()> {
        self.change_control(|control| control.flags = flags | (control.flags & APART))
    }

    /// Let exactly these be banned. `true` where somebody is banned now, or for longer, who was not:
    /// then flows have to look again ([`Self::raise_epoch`]).
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn ban(&mut self, bans: impl IntoIterator<Item = BanRecord>) -> Result<bool> {
        let longer = self.bans.hold(bans)?;
        let bit = if self.bans.is_empty()? {
            0
        } else {
            CONTROL_BANS
        };
        self.change_control(|control| control.flags = (control.flags & !CONTROL_BANS) | bit)?;
        Ok(longer)
    }

    /// Let exactly these IPsec policies be asked, which stand in the kernel's order, and every flow look
    /// again where they are others than before.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn follow_policies(&mut self, policies: &[ipsec::Policy]) -> Result<()> {
        let lists = Lists::new(policies);
        if self.policies.held.as_ref() == Some(&lists) {
            return Ok(());
        }
        let control = self.control.get(&0, 0);
        let flags = control.map_err(error("read", names::CONTROL))?.flags;
        // Packets go on to be held to the other list meanwhile.
        let second = flags & CONTROL_SECOND_POLICIES == 0;
        self.policies.write(&lists, second)?;
        let mut bits = if second { CONTROL_SECOND_POLICIES } else { 0 };
        if !lists.is_empty() {
            bits |= CONTROL_POLICIES;
        }
        self.change_control(|control| {
            control.flags &= !(CONTROL_POLICIES | CONTROL_SECOND_POLICIES);
            control.flags |= bits;
            control.epoch = control.epoch.wrapping_add(1);
        })?;
        self.policies.held = Some(lists);
        Ok(())
    }

    /// Somebody takes frames that are to be held, or nobody does.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(super) fn hold(&mut self, holds: bool) -> Result<()> {
        let bit = if holds { CONTROL_HOLDS } else { 0 };
        self.change_control(|control| control.flags = (control.flags & !CONTROL_HOLDS) | bit)
    }

    /// Change the settings that packets are treated by.
    fn change_control(&mut self, change: impl FnOnce(&mut Control)) -> Result<()> {
        let before = self
            .control
            .get(&0, 0)
            .map_err(error("read", names::CONTROL))?;
        let mut control = before;
        change(&mut control);
        if control == before {
            return Ok(());
        }
        self.control
            .set(0, control, 0)
            .map_err(error("write", names::CONTROL))
    }

    /// Put limits and timeouts in force. `slots` is how many flows there really is room for, `netns`
    /// the cookie of the network namespace.
    pub(super) fn limit(&mut self, limits: &Limits, slots: u32, netns: u64) -> Result<()> {
        self.change_control(|control| {
            control.max_per_network = limits.per_network;
            control.timeouts = limits.timeouts;
            control.validity = LOOK.min(surely_alive(&limits.timeouts));
            control.slots = slots;
            control.netns = netns;
        })
    }

    /// Nobody tells of changes from now on: let flows look for them more often.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(super) fn leave_alone(&mut self) -> Result<()> {
        self.change_control(|control| control.validity = control.validity.min(LOOK_ALONE))
    }

    /// Hand out none of these ports from now on.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn reserve(&mut self, ports: &Ports) -> Result<()> {
        self.reserved.hold(ports)
    }

    /// Bridges of networks that respect the host's rules.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn respecting(&self) -> Result<BTreeSet<u32>> {
        let networks = entries(&self.networks, names::NETWORKS)?.into_iter();
        let respecting = networks.filter(|(_, network)| network.flags & NETWORK_RESPECT != 0);
        Ok(respecting.map(|(bridge, _)| bridge).collect())
    }

    /// Devices at whose ingress somebody else has filters: what comes by them takes the host's stack.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn filtered(&self) -> Result<BTreeSet<u32>> {
        let devices = entries(&self.devices, names::DEVICES)?.into_iter();
        let filtered = devices.filter(|(_, device)| device.flags & DEVICE_FILTERED != 0);
        Ok(filtered.map(|(ifindex, _)| ifindex).collect())
    }

    /// How long flows may be silent, by [`netd_common::timeout::Timeout`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn timeouts(&self) -> Result<[u32; TIMEOUTS]> {
        let control = self.control.get(&0, 0);
        Ok(control.map_err(error("read", names::CONTROL))?.timeouts)
    }

    /// The ports of bridges that the programs know.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn ports(&self) -> Result<BTreeMap<u32, BridgePort>> {
        entries(&self.ports, names::PORTS)
    }

    /// Where guests' addresses were last seen.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn endpoints(&self) -> Result<Vec<(IpAddr, Endpoint)>> {
        let v4 = self.v4.endpoints()?.into_iter();
        let v6 = self.v6.endpoints()?.into_iter();
        let v4 = v4.map(|(address, endpoint)| (IpAddr::from(address), endpoint));
        let v6 = v6.map(|(address, endpoint)| (IpAddr::from(address), endpoint));
        Ok(v4.chain(v6).collect())
    }

    /// Let every flow check policy and path at its next packet.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn raise_epoch(&mut self) -> Result<()> {
        self.change_control(|control| control.epoch = control.epoch.wrapping_add(1))
    }

    /// The same, and in networks that respect the host's rules flows prove again that these let them pass.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn raise_rules_epoch(&mut self) -> Result<()> {
        // What the programs add to the epoch (`GuestMoves`) can be raised meanwhile, once a tick. So the
        // threshold lies in the middle of a step that is large beside that.
        let moves = self.guest_moves.get(&0, 0);
        let moves = moves.map_err(error("read", names::GUEST_MOVES))?.epoch;
        self.change_control(|control| {
            control.rules_epoch = control
                .epoch
                .wrapping_add(moves)
                .wrapping_add(RULES_STEP / 2);
            control.epoch = control.epoch.wrapping_add(RULES_STEP);
        })
    }

    /// Forget where guests are that were seen at one of these ports; returns their addresses, each
    /// with the port.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn forget_endpoints(&mut self, at: impl Fn(u32) -> bool) -> Result<Vec<(IpAddr, u32)>> {
        let at = |endpoint: &Endpoint| at(endpoint.ifindex);
        let v4 = self.v4.forget_endpoints(at)?.into_iter();
        let v6 = self.v6.forget_endpoints(at)?.into_iter();
        let v4 = v4.map(|(address, port)| (IpAddr::from(address), port));
        Ok(v4
            .chain(v6.map(|(address, port)| (IpAddr::from(address), port)))
            .collect())
    }

    /// Forget where guests are that a bridge has seen at another of its ports since: the programs ask
    /// the kernel then, and the bridge. `moved` has the port by bridge and MAC address.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn forget_moved(&mut self, moved: &BTreeMap<(u32, MacAddr), u32>) -> Result<()> {
        let ports = &self.ports;
        let has_moved = |endpoint: &Endpoint| {
            // At the bridge itself, nobody knows the port.
            ports.get(&endpoint.ifindex, 0).is_ok_and(|port| {
                let now = moved.get(&(port.bridge_ifindex, endpoint.mac));
                now.is_some_and(|now| *now != endpoint.ifindex)
            })
        };
        let forgotten =
            self.v4.forget_endpoints(has_moved)?.len() + self.v6.forget_endpoints(has_moved)?.len();
        match forgotten {
            0 => Ok(()),
            _ => self.raise_epoch(),
        }
    }

    /// Drops by reason, those that never occurred left out.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn drops(&self) -> Result<Vec<(Reason, DropCount)>> {
        let mut all = Vec::new();
        for &reason in Reason::ALL {
            let per_cpu = self.drops.get(&(reason as u32), 0);
            let per_cpu = per_cpu.map_err(error("read", names::DROPS))?;
            let count = DropCount {
                packets: per_cpu.iter().map(|count| count.packets).sum(),
                bytes: per_cpu.iter().map(|count| count.bytes).sum(),
            };
            if count.packets > 0 {
                all.push((reason, count));
            }
        }
        Ok(all)
    }
}

/// A map that holds a set of ports, and what this agent has last put there.
struct PortsMap {
    name: &'static str,
    map: Array<MapData, PortsWord>,
    held: Option<Ports>,
}

impl PortsMap {
    fn new(name: &'static str, map: Array<MapData, PortsWord>) -> Self {
        Self {
            name,
            map,
            held: None,
        }
    }

    /// The ports that it holds.
    fn held(&mut self) -> Result<&Ports> {
        let ports = match self.held.take() {
            Some(ports) => ports,
            None => {
                let words = (0u32..).take(PORTS_WORDS);
                let words = words
                    .map(|index| self.map.get(&index, 0))
                    .collect::<std::result::Result<Vec<_>, _>>();
                Ports::from_words(&words.map_err(error("read", self.name))?)
            }
        };
        Ok(self.held.insert(ports))
    }

    /// Make it hold these ports.
    fn hold(&mut self, ports: &Ports) -> Result<()> {
        if self.held.as_ref() == Some(ports) {
            return Ok(());
        }
        self.held = None;
        for (index, word) in (0u32..).zip(ports.words()) {
            let present = self.map.get(&index, 0).map_err(error("read", self.name))?;
            if present != *word {
                self.map
                    .set(index, *word, 0)
                    .map_err(error("write", self.name))?;
            }
        }
        self.held = Some(ports.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use netd_common::timeout::DEFAULT_TIMEOUTS;

    use super::*;

    #[test]
    fn the_default_timeouts_shorten_no_look() {
        assert!(surely_alive(&DEFAULT_TIMEOUTS) >= LOOK);
    }
}
