//! Prefixes that are translated: `prefixes6`.

use std::collections::BTreeMap;

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie};
use netd_common::abi::{Addr6, PrefixPair};

use super::error::Result;
use super::names::PREFIXES6;
use super::sync::error;

/// The map, which has each pair under both of its prefixes.
pub struct PrefixPairs(pub LpmTrie<MapData, Addr6, PrefixPair<Addr6>>);

impl PrefixPairs {
    /// What it holds: by prefix and length.
    pub fn read(&self) -> Result<BTreeMap<(Addr6, u8), PrefixPair<Addr6>>> {
        let entries = self.0.iter().map(|entry| {
            let (key, pair) = entry.map_err(error("read", PREFIXES6))?;
            // A packed struct: copy before use.
            let (len, data) = (key.prefix_len(), key.data());
            Ok(((data, len as u8), pair))
        });
        entries.collect()
    }

    /// Let it hold a pair under this prefix.
    pub fn set(&mut self, (prefix, len): (Addr6, u8), pair: &PrefixPair<Addr6>) -> Result<()> {
        let key = lpm_trie::Key::new(u32::from(len), prefix);
        let set = self.0.insert(&key, *pair, 0);
        set.map_err(error("write", PREFIXES6))
    }

    /// Let it hold none under this one.
    pub fn remove(&mut self, (prefix, len): (Addr6, u8)) -> Result<()> {
        match self.0.remove(&lpm_trie::Key::new(u32::from(len), prefix)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(e) => Err(error("remove from", PREFIXES6)(e)),
        }
    }
}
