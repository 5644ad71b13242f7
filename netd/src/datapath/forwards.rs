//! The tries of published ports as the agent writes them.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{LpmTrie, MapData, MapError, lpm_trie};
use netd_common::abi::{Forward, ForwardKey};

use super::error::Result;
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

    /// What it holds; after an error it is read again.
    pub fn held(&mut self) -> Result<&Entries<A>> {
        let held = match self.held.take() {
            Some(held) => held,
            None => self.read()?,
        };
        Ok(self.held.insert(held))
    }

    /// Write an entry. One that is to lead elsewhere does so at once, without having been away.
    pub fn set(&mut self, (key, len): (ForwardKey<A>, u32), forward: Forward<A>) -> Result<()> {
        let held = self.held.take();
        self.map
            .insert(&lpm_trie::Key::new(len, key), forward, 0)
            .map_err(error("write", self.name))?;
        self.held = held.map(|mut held| {
            held.insert((key, len), forward);
            held
        });
        Ok(())
    }

    /// Remove an entry, which may be gone already.
    pub fn remove(&mut self, (key, len): (ForwardKey<A>, u32)) -> Result<()> {
        let held = self.held.take();
        match self.map.remove(&lpm_trie::Key::new(len, key)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(e) => return Err(error("remove from", self.name)(e)),
        }
        self.held = held.map(|mut held| {
            held.remove(&(key, len));
            held
        });
        Ok(())
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
