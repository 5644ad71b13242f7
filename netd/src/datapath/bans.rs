//! The tries of bans as the agent writes them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::{LpmTrie, MapData, MapError, lpm_trie};
use netd_common::abi::{Addr4, Addr6, Ban, BanKey};

use super::error::Result;
use super::sync::error;

/// Who may not reach whom, until when: bridge (0: the whole host), address and length of the prefix;
/// the end in seconds since boot ([`Ban::until`]).
pub type BanRecord = ((u32, IpAddr, u8), u32);

/// Keys with their prefix lengths, and until when.
type Entries<A> = BTreeMap<(BanKey<A>, u32), u32>;

/// Both tries.
pub(super) struct Bans {
    pub v4: BanTrie<Addr4>,
    pub v6: BanTrie<Addr6>,
}

impl Bans {
    /// Let exactly these be banned. `true` where somebody is banned now, or for longer, who was not.
    pub fn hold(&mut self, bans: impl IntoIterator<Item = BanRecord>) -> Result<bool> {
        let (mut v4, mut v6) = (Entries::new(), Entries::new());
        for ((bridge, address, len), until) in bans {
            let len = BanKey::<Addr4>::SCOPE + u32::from(len);
            match address {
                IpAddr::V4(address) => {
                    let address = address.octets();
                    v4.insert((BanKey { bridge, address }, len), until);
                }
                IpAddr::V6(address) => {
                    let address = address.octets();
                    v6.insert((BanKey { bridge, address }, len), until);
                }
            }
        }
        Ok(self.v4.hold(v4)? | self.v6.hold(v6)?)
    }

    /// Is nobody banned, as far as the tries hold?
    pub fn is_empty(&mut self) -> Result<bool> {
        Ok(self.v4.held()?.is_empty() && self.v6.held()?.is_empty())
    }
}

/// Handle of a trie, and what it holds: there may be 65,536 entries, and nobody else writes them.
pub(super) struct BanTrie<A: Pod>
where
    BanKey<A>: Pod,
{
    name: &'static str,
    map: LpmTrie<MapData, BanKey<A>, Ban>,
    held: Option<Entries<A>>,
}

impl<A: Pod + Ord> BanTrie<A>
where
    BanKey<A>: Pod,
{
    pub fn new(name: &'static str, map: LpmTrie<MapData, BanKey<A>, Ban>) -> Self {
        Self {
            name,
            map,
            held: None,
        }
    }

    /// What it holds; after an error it is read again.
    fn held(&mut self) -> Result<&Entries<A>> {
        let held = match self.held.take() {
            Some(held) => held,
            None => self.read()?,
        };
        Ok(self.held.insert(held))
    }

    /// Make it hold these. Who goes makes room for who comes, and nobody else is away in between.
    fn hold(&mut self, wanted: Entries<A>) -> Result<bool> {
        self.held()?;
        let held = self.held.take().unwrap_or_default();
        for (key, len) in held.keys().filter(|entry| !wanted.contains_key(entry)) {
            match self.map.remove(&lpm_trie::Key::new(*len, *key)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(error("remove from", self.name)(e)),
            }
        }
        let mut longer = false;
        for (entry, until) in &wanted {
            let before = held.get(entry).copied();
            if before == Some(*until) {
                continue;
            }
            let (key, len) = *entry;
            self.map
                .insert(&lpm_trie::Key::new(len, key), Ban { until: *until }, 0)
                .map_err(error("write", self.name))?;
            longer |= before.is_none_or(|before| before < *until);
        }
        self.held = Some(wanted);
        Ok(longer)
    }

    fn read(&self) -> Result<Entries<A>> {
        self.map
            .iter()
            .map(|entry| {
                let (key, ban) = entry.map_err(error("read", self.name))?;
                // A packed struct: copy before use.
                Ok(((key.data(), key.prefix_len()), ban.until))
            })
            .collect()
    }
}
