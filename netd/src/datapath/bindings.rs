//! Whose addresses are, and who is at which port, where ports are guarded. The programs fill these
//! maps as well: what they have seen stays until its port or network goes.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{HashMap, MapData};
use netd_common::abi::{Binding, BindingKey, PortMac};

use super::error::Result;
use super::sync::{entries, remove, write};

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

    /// All that it holds.
    pub fn read(&self) -> Result<BTreeMap<BindingKey<A>, Binding>> {
        entries(&self.map, self.name)
    }

    pub fn set(&mut self, key: &BindingKey<A>, binding: &Binding) -> Result<()> {
        write(&mut self.map, self.name, key, binding)
    }

    pub fn remove(&mut self, key: &BindingKey<A>) -> Result<()> {
        remove(&mut self.map, self.name, key)
    }
}

/// The maps of guarded ports.
pub(super) struct Guards {
    pub port_macs: HashMap<MapData, u32, PortMac>,
    pub v4: Bindings<netd_common::abi::Addr4>,
    pub v6: Bindings<netd_common::abi::Addr6>,
    /// May the maps hold anything?
    pub used: bool,
}
