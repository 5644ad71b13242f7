//! The maps as the agent writes them: what the programs are to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, DevMapHash, HashMap, MapData, MapError, PerCpuArray};
use netd_common::Reason;
use netd_common::abi::{
    Addr4, Addr6, BridgePort, CONTROL_FORWARDS, CONTROL_MAPPINGS, CONTROL_WHOLE_ADDRESSES, Control,
    Device, DropCount, NETWORK_ENDPOINT_INDEPENDENT, Network, PortsWord, Usage,
};
use netd_common::clock::ticks;
use netd_common::timeout::surely_alive;

use super::bindings::{Bindings, Guards};
use super::family::{Family, FamilyRecords};
use super::forwards::Forwards;
use super::ports::Ports;
use super::{DatapathError, Limits, Result, chain};
use crate::model::network_address;

/// `BPF_NOEXIST` of linux/bpf.h: insert, never overwrite.
const NOEXIST: u64 = 1;

/// Typed handles of the pinned maps.
pub struct Maps {
    control: Array<MapData, Control>,
    networks: HashMap<MapData, u32, Network>,
    ports: HashMap<MapData, u32, BridgePort>,
    devices: HashMap<MapData, u32, Device>,
    express: DevMapHash<MapData>,
    usage: HashMap<MapData, u32, Usage>,
    reserved: PortsMap,
    published: PortsMap,
    v4: Family<Addr4>,
    v6: Family<Addr6>,
    guards: Guards,
    drops: PerCpuArray<MapData, DropCount>,
}

/// The records that follow from definitions and from the kernel's links and addresses. Applying
/// them makes the maps hold exactly these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// `networks` by ifindex of the bridge.
    pub networks: BTreeMap<u32, Network>,
    /// `ports` by ifindex.
    pub ports: BTreeMap<u32, BridgePort>,
    /// `devices` by ifindex.
    pub devices: BTreeMap<u32, Device>,
    /// `express`: devices by ifindex.
    pub express: BTreeSet<u32>,
    /// What is by IPv4 address.
    pub v4: FamilyRecords<Addr4>,
    /// What is by IPv6 address.
    pub v6: FamilyRecords<Addr6>,
}

impl Records {
    /// The bridge whose guests' subnet has the address.
    #[must_use]
    pub fn bridge_of(&self, address: IpAddr) -> Option<u32> {
        let within = |subnet: IpAddr, len: u8| network_address(address, len) == subnet;
        let v4 = self.v4.subnets.iter();
        let v4 = v4.map(|(&(subnet, len), &bridge)| (IpAddr::from(subnet), len, bridge));
        let v6 = self.v6.subnets.iter();
        let v6 = v6.map(|(&(subnet, len), &bridge)| (IpAddr::from(subnet), len, bridge));
        v4.chain(v6)
            .find(|&(subnet, len, _)| within(subnet, len))
            .map(|(_, _, bridge)| bridge)
    }

    /// `CONTROL_*` bits that follow from the networks and forwards.
    fn flags(&self) -> u32 {
        let independent = |network: &Network| network.flags & NETWORK_ENDPOINT_INDEPENDENT != 0;
        let mut flags = self.v4.forward_flags() | self.v6.forward_flags();
        if self.networks.values().any(independent) {
            flags |= CONTROL_MAPPINGS;
        }
        flags
    }

    /// Is anything published?
    #[must_use]
    pub fn has_forwards(&self) -> bool {
        self.flags() & (CONTROL_FORWARDS | CONTROL_WHOLE_ADDRESSES) != 0
    }
}

/// The networks pinned below `dir` (a version's directory), by ifindex of the bridge, for a reader
/// that loads no programs. None where nothing is pinned.
///
/// # Errors
/// The map cannot be read or has another layout.
pub fn pinned_networks(dir: &Path) -> Result<BTreeMap<u32, Network>> {
    let path = dir.join("maps/networks");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let data = MapData::from_pin(path).map_err(error("open", "networks"))?;
    let map = aya::maps::Map::from_map_data(data).map_err(error("open", "networks"))?;
    let map: HashMap<MapData, u32, Network> =
        HashMap::try_from(map).map_err(error("use", "networks"))?;
    map.iter()
        .map(|entry| entry.map_err(error("read", "networks")))
        .collect()
}

pub(super) fn error<E: std::error::Error + 'static>(
    operation: &'static str,
    map: &'static str,
) -> impl Fn(E) -> DatapathError {
    move |error| DatapathError::Map {
        operation,
        map,
        message: chain(&error),
    }
}

/// For how long a look at a flow's policy and path holds good while an agent tells of changes: there
/// is nothing to find then.
const LOOK: u32 = ticks(30);

/// For how long it does when the agent has stopped: changes are found so late at most.
const LOOK_ALONE: u32 = ticks(8);

impl Maps {
    /// Take the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            control: take(ebpf, "control")?,
            networks: take(ebpf, "networks")?,
            ports: take(ebpf, "ports")?,
            devices: take(ebpf, "devices")?,
            express: take(ebpf, "express")?,
            usage: take(ebpf, "usage")?,
            reserved: PortsMap::new("reserved", take(ebpf, "reserved")?),
            published: PortsMap::new("published", take(ebpf, "published")?),
            v4: Family {
                addresses: ("addresses4", take(ebpf, "addresses4")?),
                subnets: ("subnets4", take(ebpf, "subnets4")?),
                pools: ("pools4", take(ebpf, "pools4")?),
                endpoints: ("endpoints4", take(ebpf, "endpoints4")?),
                forwards: Forwards::new("forwards4", take(ebpf, "forwards4")?),
            },
            v6: Family {
                addresses: ("addresses6", take(ebpf, "addresses6")?),
                subnets: ("subnets6", take(ebpf, "subnets6")?),
                pools: ("pools6", take(ebpf, "pools6")?),
                endpoints: ("endpoints6", take(ebpf, "endpoints6")?),
                forwards: Forwards::new("forwards6", take(ebpf, "forwards6")?),
            },
            guards: Guards {
                identities: take(ebpf, "identities")?,
                v4: Bindings::new("bindings4", take(ebpf, "bindings4")?),
                v6: Bindings::new("bindings6", take(ebpf, "bindings6")?),
                used: true,
            },
            drops: take(ebpf, "drops")?,
        })
    }

    /// Make the maps hold exactly `wanted` (without `prune`: at least that), changing only what
    /// differs, and let flows look again when something did. Returns whether something did.
    ///
    /// # Errors
    /// The first map operation that failed; what was done before it stays.
    pub fn apply(&mut self, wanted: &Records, prune: bool) -> Result<bool> {
        let mut changed = false;
        // What is judged and counted by comes first, what leads packets to it after.
        self.open_usage(wanted)?;
        changed |= sync(&mut self.networks, "networks", &wanted.networks, prune)?;
        changed |= sync(&mut self.devices, "devices", &wanted.devices, prune)?;
        // Whose addresses are, before ports are held to it.
        if prune {
            self.guards.apply(wanted)?;
        }
        changed |= sync(&mut self.ports, "ports", &wanted.ports, prune)?;
        self.open_express(&wanted.express)?;
        changed |= self.v4.apply(&wanted.v4, prune)?;
        changed |= self.v6.apply(&wanted.v6, prune)?;
        let mut published = Ports::default();
        wanted.v4.publish(&mut published);
        wanted.v6.publish(&mut published);
        self.published.hold(&published)?;
        if prune {
            self.close_usage(wanted)?;
        }
        let flags = wanted.flags();
        self.change_control(|control| {
            let before = *control;
            // An orphan's network may still need what it says.
            control.flags = if prune { flags } else { control.flags | flags };
            if changed || control.flags != before.flags {
                control.epoch = control.epoch.wrapping_add(1);
            }
        })?;
        Ok(changed)
    }

    /// Let exactly these devices be sent what drivers received. Others are left to TC, so no flow
    /// has to look again.
    fn open_express(&mut self, wanted: &BTreeSet<u32>) -> Result<()> {
        let held = self
            .express
            .keys()
            .collect::<std::result::Result<BTreeSet<u32>, _>>();
        let held = held.map_err(error("read", "express"))?;
        for ifindex in held.difference(wanted) {
            // The kernel removes a device that goes by itself.
            match self.express.remove(*ifindex) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(error("remove from", "express")(e)),
            }
        }
        for &ifindex in wanted.difference(&held) {
            self.express
                .insert(ifindex, ifindex, None, 0)
                .map_err(error("write", "express"))?;
        }
        Ok(())
    }

    /// A network's flows are counted from its start on. The programs keep the count: an entry
    /// that exists is left alone.
    fn open_usage(&mut self, wanted: &Records) -> Result<()> {
        for bridge in wanted.networks.keys() {
            match self.usage.insert(bridge, Usage::default(), NOEXIST) {
                Ok(()) => {}
                Err(e) if is_there(&e) => {}
                Err(e) => return Err(error("write", "usage")(e)),
            }
        }
        Ok(())
    }

    /// How many flows each network has, by the ifindex of its bridge.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn usage(&self) -> Result<BTreeMap<u32, Usage>> {
        let entries = self.usage.iter();
        entries
            .map(|entry| entry.map_err(error("read", "usage")))
            .collect()
    }

    fn close_usage(&mut self, wanted: &Records) -> Result<()> {
        let mut gone = Vec::new();
        for bridge in self.usage.keys() {
            let bridge = bridge.map_err(error("read", "usage"))?;
            if !wanted.networks.contains_key(&bridge) {
                gone.push(bridge);
            }
        }
        for bridge in gone {
            remove(&mut self.usage, "usage", &bridge)?;
        }
        Ok(())
    }

    /// Change the settings that packets are treated by.
    fn change_control(&mut self, change: impl FnOnce(&mut Control)) -> Result<()> {
        let before = self.control.get(&0, 0).map_err(error("read", "control"))?;
        let mut control = before;
        change(&mut control);
        if control == before {
            return Ok(());
        }
        self.control
            .set(0, control, 0)
            .map_err(error("write", "control"))
    }

    /// Put limits and timeouts in force. `slots` is how many flows there really is room for, `netns`
    /// the cookie of the network namespace.
    pub(super) fn limit(&mut self, limits: &Limits, slots: u32, netns: u64) -> Result<()> {
        self.change_control(|control| {
            control.max_per_network = limits.per_network;
            control.timeouts = limits.timeouts;
            control.settled = LOOK.min(surely_alive(&limits.timeouts));
            control.slots = slots;
            control.netns = netns;
        })
    }

    /// Nobody tells of changes from now on: let flows look for them more often.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn leave_alone(&mut self) -> Result<()> {
        self.change_control(|control| control.settled = control.settled.min(LOOK_ALONE))
    }

    /// Hand out none of these ports from now on.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn reserve(&mut self, ports: &Ports) -> Result<()> {
        self.reserved.hold(ports)
    }

    /// Bridges that the programs have networks for.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn bridges(&self) -> Result<BTreeSet<u32>> {
        self.networks
            .keys()
            .map(|key| key.map_err(error("read", "networks")))
            .collect()
    }

    /// Let every flow check policy and path at its next packet.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn raise_epoch(&mut self) -> Result<()> {
        self.change_control(|control| control.epoch = control.epoch.wrapping_add(1))
    }

    /// Forget where guests are whose ports `wanted` does not know any more; returns their
    /// addresses. Nothing is looked for when no port or network goes.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn forget_endpoints_without(&mut self, wanted: &Records) -> Result<Vec<IpAddr>> {
        let stays = |ifindex: u32| {
            wanted.ports.contains_key(&ifindex) || wanted.networks.contains_key(&ifindex)
        };
        let mut goes = false;
        for key in self.ports.keys() {
            goes |= !stays(key.map_err(error("read", "ports"))?);
        }
        for key in self.networks.keys() {
            goes |= !stays(key.map_err(error("read", "networks"))?);
        }
        if !goes {
            return Ok(Vec::new());
        }
        let v4 = self.v4.forget_endpoints(stays)?;
        let v6 = self.v6.forget_endpoints(stays)?;
        let v4 = v4.into_iter().map(IpAddr::from);
        Ok(v4.chain(v6.into_iter().map(IpAddr::from)).collect())
    }

    /// Drops by reason, those that never occurred left out.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn drops(&self) -> Result<Vec<(Reason, DropCount)>> {
        let mut all = Vec::new();
        for &reason in Reason::ALL {
            let per_cpu = self.drops.get(&(reason as u32), 0);
            let per_cpu = per_cpu.map_err(error("read", "drops"))?;
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

pub(super) fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Map {
        operation: "find",
        map: name,
        message: "not in the object".to_owned(),
    })?;
    // The types' sizes are compared here: a map of another layout is refused.
    T::try_from(map).map_err(error("use", name))
}

/// Did an insertion fail because there is such an entry?
fn is_there(error: &MapError) -> bool {
    match error {
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::AlreadyExists,
        _ => false,
    }
}

/// Remove an entry, which may be gone already.
pub(super) fn remove<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<()> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(e) => Err(error("remove from", name)(e)),
    }
}

/// Make a hash map hold exactly (without `prune`: at least) `wanted`; returns whether it changed.
pub(super) fn sync<K: aya::Pod + Ord, V: aya::Pod + PartialEq>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    wanted: &BTreeMap<K, V>,
    prune: bool,
) -> Result<bool> {
    let mut changed = false;
    let mut stale = Vec::new();
    let mut same = BTreeSet::new();
    for entry in map.iter() {
        let (key, value) = entry.map_err(error("read", name))?;
        match wanted.get(&key) {
            None if prune => stale.push(key),
            None => {}
            Some(want) if *want == value => {
                same.insert(key);
            }
            Some(_) => {}
        }
    }
    for (key, value) in wanted.iter().filter(|(key, _)| !same.contains(key)) {
        map.insert(key, value, 0).map_err(error("write", name))?;
        changed = true;
    }
    for key in stale {
        remove(map, name, &key)?;
        changed = true;
    }
    Ok(changed)
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
