//! The maps that there are one of for each address family.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{HashMap, LpmTrie, MapData, lpm_trie};
use netd_common::abi::{Endpoint, EndpointKey, Forward, ForwardKey, Subnet};

use super::Result;
use super::forwards::Forwards;
use super::records::FamilyRecords;
use super::sync::{error, remove, sync};

/// Handles of the maps, each with its name.
pub(super) struct FamilyMaps<A: Pod>
where
    ForwardKey<A>: Pod,
    Forward<A>: Pod,
    EndpointKey<A>: Pod,
{
    pub addresses: (&'static str, HashMap<MapData, A, u32>),
    pub subnets: (&'static str, LpmTrie<MapData, A, Subnet>),
    pub pools: (&'static str, LpmTrie<MapData, A, Subnet>),
    pub endpoints: (&'static str, HashMap<MapData, EndpointKey<A>, Endpoint>),
    pub forwards: Forwards<A>,
}

impl<A: Pod + Ord + PartialEq> FamilyMaps<A>
where
    ForwardKey<A>: Pod,
    Forward<A>: Pod,
    EndpointKey<A>: Pod,
{
    /// Make the maps hold exactly (without `prune`: at least) `wanted`; returns whether something
    /// changed.
    pub fn apply(&mut self, wanted: &FamilyRecords<A>, prune: bool) -> Result<bool> {
        let (name, addresses) = &mut self.addresses;
        let mut changed = sync(addresses, name, &wanted.addresses, prune)?;
        changed |= sync_prefixes(&mut self.pools, &wanted.pools, prune)?;
        changed |= sync_prefixes(&mut self.subnets, &wanted.subnets, prune)?;
        changed |= self.forwards.apply(&wanted.forwards, prune)?;
        Ok(changed)
    }

    /// Forget where guests are whose port `keep` does not know; returns their addresses.
    pub fn forget_endpoints(&mut self, keep: impl Fn(u32) -> bool) -> Result<Vec<A>> {
        let (name, endpoints) = &mut self.endpoints;
        let mut gone = Vec::new();
        for entry in endpoints.iter() {
            let (key, endpoint) = entry.map_err(error("read", name))?;
            if !keep(endpoint.ifindex) {
                gone.push(key);
            }
        }
        for key in &gone {
            remove(endpoints, name, key)?;
        }
        Ok(gone.into_iter().map(|key| key.address).collect())
    }
}

fn sync_prefixes<A: Pod + Ord>(
    (name, map): &mut (&'static str, LpmTrie<MapData, A, Subnet>),
    wanted: &BTreeMap<(A, u8), u32>,
    prune: bool,
) -> Result<bool> {
    let mut changed = false;
    let mut stale = Vec::new();
    let mut present = BTreeMap::new();
    for entry in map.iter() {
        let (key, value) = entry.map_err(error("read", name))?;
        // A packed struct: copy before use.
        let (len, data) = (key.prefix_len(), key.data());
        let prefix = (data, len as u8);
        if wanted.contains_key(&prefix) {
            present.insert(prefix, value.bridge_ifindex);
        } else if prune {
            stale.push(key);
        }
    }
    for key in stale {
        map.remove(&key).map_err(error("remove from", name))?;
        changed = true;
    }
    for (prefix, bridge) in wanted {
        if present.get(prefix) != Some(bridge) {
            let key = lpm_trie::Key::new(u32::from(prefix.1), prefix.0);
            map.insert(
                &key,
                Subnet {
                    bridge_ifindex: *bridge,
                },
                0,
            )
            .map_err(error("write", name))?;
            changed = true;
        }
    }
    Ok(changed)
}
