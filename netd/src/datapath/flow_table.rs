//! The flow table, read beside the programs that work on it.

use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use netd_common::abi::{Addr4, Addr6, Flow, FlowKey};
use netd_common::clock::tick;
use rustix::time::{ClockId, clock_gettime};

use super::batch::Batches;
use super::error::Result;
use super::names;
use super::sync::error;

/// Entries that are read at a time: some two megabytes.
const ROOM: usize = 16_384;

/// Addresses of one family, and the map of their flows.
pub trait Addresses: Copy + Default + PartialEq + Into<std::net::IpAddr> {
    /// Name of the map.
    const FLOWS: &str;
}

impl Addresses for Addr4 {
    const FLOWS: &str = names::FLOWS4;
}

impl Addresses for Addr6 {
    const FLOWS: &str = names::FLOWS6;
}

/// The flows of one family.
pub struct FlowTable<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    batches: Batches<FlowKey<A>, Flow<A>>,
    entries: FlowEntries<A>,
}

/// Its entries, one by one.
pub struct FlowEntries<A>(HashMap<MapData, FlowKey<A>, Flow<A>>)
where
    FlowKey<A>: Pod,
    Flow<A>: Pod;

impl<A: Addresses> FlowTable<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    /// Open the map below `dir`, a version's directory.
    ///
    /// # Errors
    /// It is not there, or has another layout.
    pub fn open(dir: &Path) -> Result<Self> {
        let name = A::FLOWS;
        let data = MapData::from_pin(dir.join("maps").join(name)).map_err(error("open", name))?;
        let batches = Batches::new(name, &data, ROOM)?;
        let map = Map::HashMap(data).try_into().map_err(error("use", name))?;
        Ok(Self {
            batches,
            entries: FlowEntries(map),
        })
    }

    /// Hand out the entries of the buckets from `from` on (or from the first on), some thousand; returns
    /// the bucket that comes next. Flows that are over may be among them.
    ///
    /// # Errors
    /// The map cannot be read, or `take` fails.
    pub fn each(
        &mut self,
        from: Option<u32>,
        mut take: impl FnMut(&mut FlowEntries<A>, &FlowKey<A>, &Flow<A>) -> Result<()>,
    ) -> Result<Option<u32>> {
        let batch = self.batches.read(from)?;
        for (key, flow) in batch.keys.iter().zip(batch.values) {
            take(&mut self.entries, key, flow)?;
        }
        Ok(batch.next)
    }
}

impl<A: Addresses> FlowEntries<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    /// The answering entry of a flow, by its opener's; none where the flow is over.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn answering(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<Option<Flow<A>>> {
        match self.0.get(&flow.partner(key.proto), 0) {
            Ok(answering) => Ok(Some(answering).filter(|it| it.partner(key.proto) == *key)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(failed) => Err(error("read", A::FLOWS)(failed)),
        }
    }

    /// End a flow: `false` where it was over. Without its answering entry it is dead to the programs,
    /// which remove the other one and count it off, at its next packet or in a sweep.
    ///
    /// # Errors
    /// The map cannot be changed.
    pub fn end(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool> {
        match self.0.remove(&flow.partner(key.proto)) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(failed) => Err(error("remove from", A::FLOWS)(failed)),
        }
    }
}

/// The tick that it is now, as the programs see it.
#[must_use]
pub fn now() -> u32 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    tick(
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds),
    )
}
