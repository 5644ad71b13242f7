//! The maps as the agent writes them: what the programs are to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, DevMapHash, HashMap, MapData, MapError, PerCpuArray};
use netd_common::Reason;
use netd_common::abi::{
    Addr4, Addr6, BridgePort, Control, Device, DropCount, Network, PortsWord, Usage,
};
use netd_common::clock::ticks;
use netd_common::timeout::surely_alive;

use super::bindings::{Bindings, Guards};
use super::family::FamilyMaps;
use super::forwards::Forwards;
use super::names;
use super::ports::Ports;
use super::records::Records;
use super::sync::{error, is_there, remove, sync, take};
use super::{Limits, Result};

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
    v4: FamilyMaps<Addr4>,
    v6: FamilyMaps<Addr6>,
    guards: Guards,
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

impl Maps {
    /// Take the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            control: take(ebpf, names::CONTROL)?,
            networks: take(ebpf, names::NETWORKS)?,
            ports: take(ebpf, names::PORTS)?,
            devices: take(ebpf, names::DEVICES)?,
            express: take(ebpf, names::XDP_TARGETS)?,
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
                identities: take(ebpf, names::PORT_MACS)?,
                v4: Bindings::new(names::BINDINGS4, take(ebpf, names::BINDINGS4)?),
                v6: Bindings::new(names::BINDINGS6, take(ebpf, names::BINDINGS6)?),
                used: true,
            },
            drops: take(ebpf, names::DROPS)?,
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
        changed |= sync(&mut self.networks, names::NETWORKS, &wanted.networks, prune)?;
        changed |= sync(&mut self.devices, names::DEVICES, &wanted.devices, prune)?;
        // Whose addresses are, before ports are held to it.
        if prune {
            self.guards.apply(wanted)?;
        }
        changed |= sync(&mut self.ports, names::PORTS, &wanted.ports, prune)?;
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
        let held = held.map_err(error("read", names::XDP_TARGETS))?;
        for ifindex in held.difference(wanted) {
            // The kernel removes a device that goes by itself.
            match self.express.remove(*ifindex) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(error("remove from", names::XDP_TARGETS)(e)),
            }
        }
        for &ifindex in wanted.difference(&held) {
            self.express
                .insert(ifindex, ifindex, None, 0)
                .map_err(error("write", names::XDP_TARGETS))?;
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
                Err(e) => return Err(error("write", names::USAGE)(e)),
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
            .map(|entry| entry.map_err(error("read", names::USAGE)))
            .collect()
    }

    fn close_usage(&mut self, wanted: &Records) -> Result<()> {
        let mut gone = Vec::new();
        for bridge in self.usage.keys() {
            let bridge = bridge.map_err(error("read", names::USAGE))?;
            if !wanted.networks.contains_key(&bridge) {
                gone.push(bridge);
            }
        }
        for bridge in gone {
            remove(&mut self.usage, names::USAGE, &bridge)?;
        }
        Ok(())
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
    pub fn leave_alone(&mut self) -> Result<()> {
        self.change_control(|control| control.validity = control.validity.min(LOOK_ALONE))
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
            .map(|key| key.map_err(error("read", names::NETWORKS)))
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
            goes |= !stays(key.map_err(error("read", names::PORTS))?);
        }
        for key in self.networks.keys() {
            goes |= !stays(key.map_err(error("read", names::NETWORKS))?);
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
