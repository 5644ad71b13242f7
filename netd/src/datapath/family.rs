//! The maps that there are one of for each address family.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie};
use netd_common::abi::{Endpoint, EndpointKey, Forward, ForwardKey, Subnet};

use super::error::Result;
use super::forwards::Forwards;
use super::records::{FamilyRecord, FamilyRecords};
use super::sync::{entries, error, remove, write};

/// Handles of the maps, each with its name.
pub(super) struct FamilyMaps<A: Pod>
where
    EndpointKey<A>: Pod,
    ForwardKey<A>: Pod,
    Forward<A>: Pod,
{
    pub addresses: (&'static str, HashMap<MapData, A, u32>),
    pub subnets: (&'static str, LpmTrie<MapData, A, Subnet>),
    pub pools: (&'static str, LpmTrie<MapData, A, Subnet>),
    pub endpoints: (&'static str, HashMap<MapData, EndpointKey<A>, Endpoint>),
    pub forwards: Forwards<A>,
}

impl<A: Pod + Ord + PartialEq> FamilyMaps<A>
where
    EndpointKey<A>: Pod,
    ForwardKey<A>: Pod,
    Forward<A>: Pod,
{
    /// What the maps hold, but for bindings.
    pub fn read(&mut self) -> Result<FamilyRecords<A>> {
        Ok(FamilyRecords {
            addresses: entries(&self.addresses.1, self.addresses.0)?,
            subnets: prefixes(&self.subnets)?,
            pools: prefixes(&self.pools)?,
            forwards: self.forwards.held()?.clone(),
            bindings: BTreeMap::new(),
        })
    }

    /// Write a record; bindings are the guards'.
    pub fn set(&mut self, record: &FamilyRecord<A>) -> Result<()> {
        match record {
            FamilyRecord::Address(key, value) => {
                write(&mut self.addresses.1, self.addresses.0, key, value)
            }
            FamilyRecord::Pool(prefix, bridge) => set_prefix(&mut self.pools, *prefix, *bridge),
            FamilyRecord::Subnet(prefix, bridge) => set_prefix(&mut self.subnets, *prefix, *bridge),
            FamilyRecord::Forward(entry, forward) => self.forwards.set(*entry, *forward),
            FamilyRecord::Binding(..) => Ok(()),
        }
    }

    /// Remove a record.
    pub fn remove(&mut self, record: &FamilyRecord<A>) -> Result<()> {
        match record {
            FamilyRecord::Address(key, _) => remove(&mut self.addresses.1, self.addresses.0, key),
            FamilyRecord::Pool(prefix, _) => remove_prefix(&mut self.pools, *prefix),
            FamilyRecord::Subnet(prefix, _) => remove_prefix(&mut self.subnets, *prefix),
            FamilyRecord::Forward(entry, _) => self.forwards.remove(*entry),
            FamilyRecord::Binding(..) => Ok(()),
        }
    }

    /// Where guests were last seen, by their addresses.
    pub fn endpoints(&self) -> Result<Vec<(A, Endpoint)>> {
        let (name, endpoints) = &self.endpoints;
        let entries = endpoints
            .iter()
            .map(|entry| entry.map_err(error("read", name)));
        entries
            .map(|entry| entry.map(|(key, endpoint)| (key.address, endpoint)))
            .collect()
    }

    /// Forget where the guests are of whom `is_gone` says so; returns their addresses and ports.
    pub fn forget_endpoints(
        &mut self,
        is_gone: impl Fn(&Endpoint) -> bool,
    ) -> Result<Vec<(A, u32)>> {
        let (name, endpoints) = &mut self.endpoints;
        let mut gone = Vec::new();
        for entry in endpoints.iter() {
            let (key, endpoint) = entry.map_err(error("read", name))?;
            if is_gone(&endpoint) {
                gone.push((key, endpoint.ifindex));
            }
        }
        for (key, _) in &gone {
            remove(endpoints, name, key)?;
        }
        let gone = gone.into_iter();
        Ok(gone.map(|(key, port)| (key.address, port)).collect())
    }
}

/// A trie of prefixes, and its name.
type Prefixes<A> = (&'static str, LpmTrie<MapData, A, Subnet>);

fn prefixes<A: Pod + Ord>((name, map): &Prefixes<A>) -> Result<BTreeMap<(A, u8), u32>> {
    map.iter()
        .map(|entry| {
            let (key, value) = entry.map_err(error("read", name))?;
            // A packed struct: copy before use.
            let (len, data) = (key.prefix_len(), key.data());
            Ok(((data, len as u8), value.bridge_ifindex))
        })
        .collect()
}

fn set_prefix<A: Pod>(
    (name, map): &mut Prefixes<A>,
    (prefix, len): (A, u8),
    bridge_ifindex: u32,
) -> Result<()> {
    let key = lpm_trie::Key::new(u32::from(len), prefix);
    map.insert(&key, Subnet { bridge_ifindex }, 0)
        .map_err(error("write", name))
}

fn remove_prefix<A: Pod>((name, map): &mut Prefixes<A>, (prefix, len): (A, u8)) -> Result<()> {
    match map.remove(&lpm_trie::Key::new(u32::from(len), prefix)) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(e) => Err(error("remove from", name)(e)),
    }
}
