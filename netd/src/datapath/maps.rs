//! The maps as the agent writes them: what the programs are to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie};
use netd_common::Reason;
use netd_common::abi::{Addr4, BridgePort, Control, Device, DropCount, Endpoint, Network, Subnet};

use super::{DatapathError, Result, chain};
use crate::rpc::driver::DropStatus;

/// Typed handles of the pinned maps.
pub struct Maps {
    control: Array<MapData, Control>,
    networks: HashMap<MapData, u32, Network>,
    subnets: LpmTrie<MapData, Addr4, Subnet>,
    ports: HashMap<MapData, u32, BridgePort>,
    endpoints: HashMap<MapData, Addr4, Endpoint>,
    devices: HashMap<MapData, u32, Device>,
    addresses: HashMap<MapData, Addr4, u32>,
    drops: PerCpuArray<MapData, DropCount>,
}

/// The records that follow from definitions and from the kernel's links and addresses. Applying
/// them makes the maps hold exactly these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// `networks` by ifindex of the bridge.
    pub networks: BTreeMap<u32, Network>,
    /// `subnets`: address, prefix length, bridge.
    pub subnets: BTreeMap<(Ipv4Addr, u8), u32>,
    /// `ports`: port to bridge.
    pub ports: BTreeMap<u32, u32>,
    /// `devices` by ifindex.
    pub devices: BTreeMap<u32, Device>,
    /// `addresses`: the host's own, with the device that has them.
    pub addresses: BTreeMap<Ipv4Addr, u32>,
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

fn error(operation: &'static str, map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |error| DatapathError::Map {
        operation,
        map,
        message: chain(&error),
    }
}

impl Maps {
    /// Take the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
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
        Ok(Self {
            control: take(ebpf, "control")?,
            networks: take(ebpf, "networks")?,
            subnets: take(ebpf, "subnets")?,
            ports: take(ebpf, "ports")?,
            endpoints: take(ebpf, "endpoints")?,
            devices: take(ebpf, "devices")?,
            addresses: take(ebpf, "addresses")?,
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
        // What is judged by comes first, what leads packets to it after.
        changed |= sync(&mut self.networks, "networks", &wanted.networks, prune)?;
        changed |= sync(&mut self.devices, "devices", &wanted.devices, prune)?;
        let ports = wanted
            .ports
            .iter()
            .map(|(port, bridge)| (*port, BridgePort { bridge: *bridge }));
        changed |= sync(&mut self.ports, "ports", &ports.collect(), prune)?;
        let addresses = wanted
            .addresses
            .iter()
            .map(|(address, ifindex)| (address.octets(), *ifindex));
        changed |= sync(
            &mut self.addresses,
            "addresses",
            &addresses.collect(),
            prune,
        )?;
        changed |= self.sync_subnets(wanted, prune)?;
        if changed {
            self.raise_epoch()?;
        }
        Ok(changed)
    }

    fn sync_subnets(&mut self, wanted: &Records, prune: bool) -> Result<bool> {
        let mut changed = false;
        let mut stale = Vec::new();
        let mut present = BTreeMap::new();
        for entry in self.subnets.iter() {
            let (key, value) = entry.map_err(error("read", "subnets"))?;
            // A packed struct: copy before use.
            let (len, data) = (key.prefix_len(), key.data());
            let subnet = (Ipv4Addr::from(data), len as u8);
            if wanted.subnets.contains_key(&subnet) {
                present.insert(subnet, value.bridge);
            } else if prune {
                stale.push(key);
            }
        }
        for key in stale {
            self.subnets
                .remove(&key)
                .map_err(error("remove from", "subnets"))?;
            changed = true;
        }
        for (subnet, bridge) in &wanted.subnets {
            if present.get(subnet) != Some(bridge) {
                let key = lpm_trie::Key::new(u32::from(subnet.1), subnet.0.octets());
                self.subnets
                    .insert(&key, Subnet { bridge: *bridge }, 0)
                    .map_err(error("write", "subnets"))?;
                changed = true;
            }
        }
        Ok(changed)
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
        let epoch = self
            .control
            .get(&0, 0)
            .map_err(error("read", "control"))?
            .epoch
            .wrapping_add(1);
        self.control
            .set(0, Control { epoch }, 0)
            .map_err(error("write", "control"))
    }

    /// Forget where guests are whose port is not one of `ports`.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn forget_endpoints(&mut self, keep: impl Fn(u32) -> bool) -> Result<()> {
        let mut gone = Vec::new();
        for entry in self.endpoints.iter() {
            let (address, endpoint) = entry.map_err(error("read", "endpoints"))?;
            if !keep(endpoint.ifindex) {
                gone.push(address);
            }
        }
        for address in gone {
            match self.endpoints.remove(&address) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(error("remove from", "endpoints")(e)),
            }
        }
        Ok(())
    }

    /// Drops by reason, those that never occurred left out.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn drops(&self) -> Result<Vec<DropStatus>> {
        let mut all = Vec::new();
        for reason in Reason::ALL {
            let per_cpu = self
                .drops
                .get(&(*reason as u32), 0)
                .map_err(error("read", "drops"))?;
            let packets: u64 = per_cpu.iter().map(|c: &DropCount| c.packets).sum();
            let bytes = per_cpu.iter().map(|c| c.bytes).sum();
            if packets > 0 {
                all.push(DropStatus {
                    reason: reason.name().to_owned(),
                    explanation: reason.explanation().to_owned(),
                    packets,
                    bytes,
                });
            }
        }
        Ok(all)
    }
}

/// Make a hash map hold exactly (without `prune`: at least) `wanted`; returns whether it changed.
fn sync<K: aya::Pod + Ord, V: aya::Pod + PartialEq>(
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
        match map.remove(&key) {
            Ok(()) | Err(MapError::KeyNotFound) => changed = true,
            Err(e) => return Err(error("remove from", name)(e)),
        }
    }
    Ok(changed)
}
