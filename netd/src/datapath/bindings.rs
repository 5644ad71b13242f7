//! Whose addresses are, and who is at which port, where ports are guarded. The programs fill these
//! maps as well: what they have seen stays until its port or network goes.

use std::collections::{BTreeMap, BTreeSet};

use aya::Pod;
use aya::maps::{HashMap, MapData};
use netd_common::abi::{
    BINDING_FCFS, BINDING_STATIC, Binding, BindingKey, MacAddr, PORT_GUARD, PortMac,
};

use super::Result;
use super::names;
use super::records::Records;
use super::sync::{error, remove};

/// Handle of `bindings4` or `bindings6`.
pub(super) struct Bindings<A: Pod>
where
    BindingKey<A>: Pod,
{
    name: &'static str,
    map: HashMap<MapData, BindingKey<A>, Binding>,
}

impl<A: Pod + Ord> Bindings<A>
where
    BindingKey<A>: Pod,
{
    pub fn new(name: &'static str, map: HashMap<MapData, BindingKey<A>, Binding>) -> Self {
        Self { name, map }
    }

    /// Hold what is `wanted`, and of what the programs saw all but what belongs to networks that
    /// `is_live` does not know or was claimed by guests that have `gone`.
    fn apply(
        &mut self,
        wanted: &BTreeMap<BindingKey<A>, Binding>,
        is_live: impl Fn(u32) -> bool,
        gone: &BTreeSet<(u32, MacAddr)>,
    ) -> Result<()> {
        let mut held = BTreeMap::new();
        for entry in self.map.iter() {
            let (key, binding) = entry.map_err(error("read", self.name))?;
            held.insert(key, binding);
        }
        for (key, binding) in &held {
            let stale = match binding.kind {
                BINDING_STATIC => !wanted.contains_key(key),
                BINDING_FCFS => gone.contains(&(key.bridge_ifindex, binding.mac)),
                _ => false,
            };
            if stale || !is_live(key.bridge_ifindex) {
                remove(&mut self.map, self.name, key)?;
            }
        }
        for (key, binding) in wanted {
            if held.get(key) != Some(binding) {
                self.map
                    .insert(key, binding, 0)
                    .map_err(error("write", self.name))?;
            }
        }
        Ok(())
    }
}

/// The maps of guarded ports.
pub(super) struct Guards {
    pub identities: HashMap<MapData, u32, PortMac>,
    pub v4: Bindings<netd_common::abi::Addr4>,
    pub v6: Bindings<netd_common::abi::Addr6>,
    /// May the maps hold anything?
    pub used: bool,
}

impl Guards {
    /// Make the maps hold what `wanted` knows, beside what the programs saw.
    pub fn apply(&mut self, wanted: &Records) -> Result<()> {
        let guarded = |port: &netd_common::abi::BridgePort| port.flags & PORT_GUARD != 0;
        let in_use = wanted.ports.values().any(guarded);
        if !in_use && !self.used {
            return Ok(());
        }
        self.used = true;
        let mut gone = BTreeMap::new();
        for entry in self.identities.iter() {
            let (port, identity) = entry.map_err(error("read", names::PORT_MACS))?;
            if !wanted.ports.get(&port).is_some_and(guarded) {
                gone.insert(port, identity.mac);
            }
        }
        for port in gone.keys() {
            remove(&mut self.identities, names::PORT_MACS, port)?;
        }
        // The port's number tells no bridge any more: whoever has that MAC address in a network has
        // gone from it.
        let gone: BTreeSet<(u32, MacAddr)> = wanted
            .networks
            .keys()
            .flat_map(|bridge| gone.values().map(|mac| (*bridge, *mac)))
            .collect();
        let is_live = |bridge: u32| wanted.networks.contains_key(&bridge);
        self.v4.apply(&wanted.v4.bindings, is_live, &gone)?;
        self.v6.apply(&wanted.v6.bindings, is_live, &gone)?;
        self.used = in_use;
        Ok(())
    }
}
