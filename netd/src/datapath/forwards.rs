//! The tries of published ports as the agent writes them.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{LpmTrie, MapData, lpm_trie};
use netd_common::abi::{Forward, ForwardKey};

use super::Result;
use super::sync::error;

/// Keys with their prefix lengths, and where they lead.
type Entries<A> = BTreeMap<(ForwardKey<A>, u32), Forward<A>>;

/// Handle of a trie, and what it holds: there may be ten thousand entries, and nobody else writes
/// them.
pub(super) struct Forwards<A: Pod>
where
    ForwardKey<A>: Pod,
    Forward<A>: Pod,
{
    name: &'static str,
    map: LpmTrie<MapData, ForwardKey<A>, Forward<A>>,
    held: Option<Entries<A>>,
}

impl<A: Pod + Ord> Forwards<A>
where
    ForwardKey<A>: Pod,
    Forward<A>: Pod,
{
    pub fn new(name: &'static str, map: LpmTrie<MapData, ForwardKey<A>, Forward<A>>) -> Self {
        Self {
            name,
            map,
            held: None,
        }
    }

    /// Make the trie hold exactly (without `prune`: at least) `wanted`; returns whether it changed.
    /// An entry that is to lead elsewhere does so at once, without having been away.
    pub fn apply(&mut self, wanted: &Entries<A>, prune: bool) -> Result<bool> {
        // After an error it is read again.
        let mut held = match self.held.take() {
            Some(held) => held,
            None => self.read()?,
        };
        let entries = wanted.iter();
        let new: Vec<_> = entries
            .filter(|(entry, forward)| held.get(*entry) != Some(*forward))
            .collect();
        let is_stale = |entry: &&(ForwardKey<A>, u32)| prune && !wanted.contains_key(*entry);
        let stale: Vec<_> = held.keys().filter(is_stale).copied().collect();
        let changed = !new.is_empty() || !stale.is_empty();
        for ((key, len), forward) in new {
            self.map
                .insert(&lpm_trie::Key::new(*len, *key), *forward, 0)
                .map_err(error("write", self.name))?;
            held.insert((*key, *len), *forward);
        }
        for (key, len) in stale {
            self.map
                .remove(&lpm_trie::Key::new(len, key))
                .map_err(error("remove from", self.name))?;
            held.remove(&(key, len));
        }
        self.held = Some(held);
        Ok(changed)
    }

    fn read(&self) -> Result<Entries<A>> {
        self.map
            .iter()
            .map(|entry| {
                let (key, forward) = entry.map_err(error("read", self.name))?;
                // A packed struct: copy before use.
                Ok(((key.data(), key.prefix_len()), forward))
            })
            .collect()
    }
}
