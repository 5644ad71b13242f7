//! The flow table from the agent's side: dead entries are removed, those of a network that goes
//! as well.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError};
use netd_common::abi::{Flow4, FlowKey4, tick};
use netd_common::flow::{State, expired};

use super::{DatapathError, Result, chain};

/// A handle of the pinned flow table of its own, so that a long walk holds up nobody.
pub struct Flows {
    map: HashMap<MapData, FlowKey4, Flow4>,
}

fn error(operation: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |error| DatapathError::Map {
        operation,
        map: "flows4",
        message: chain(&error),
    }
}

impl Flows {
    /// Open the table pinned below `dir` (a version's directory).
    ///
    /// # Errors
    /// It is not there or has another layout.
    pub fn open(dir: &Path) -> Result<Self> {
        let data = MapData::from_pin(dir.join("maps/flows4")).map_err(error("open"))?;
        let map = Map::from_map_data(data).map_err(error("open"))?;
        Ok(Self {
            map: HashMap::try_from(map).map_err(error("use"))?,
        })
    }

    /// Remove every flow that `dead` condemns, both its entries. Returns how many entries went.
    ///
    /// # Errors
    /// The table cannot be read or written.
    fn remove_where(
        &mut self,
        dead: impl Fn(&FlowKey4, &Flow4, Option<&Flow4>) -> bool,
    ) -> Result<usize> {
        let mut condemned = Vec::new();
        for entry in self.map.iter() {
            let (key, flow) = entry.map_err(error("read"))?;
            if dead(&key, &flow, self.partner(&key, &flow).as_ref()) {
                condemned.push(key);
            }
        }
        let mut removed = 0;
        for key in &condemned {
            // The walk may have taken long, and the same ports may be in use again.
            let flow = match self.map.get(key, 0) {
                Ok(flow) => flow,
                Err(MapError::KeyNotFound) => continue,
                Err(e) => return Err(error("read")(e)),
            };
            if !dead(key, &flow, self.partner(key, &flow).as_ref()) {
                continue;
            }
            match self.map.remove(key) {
                Ok(()) => removed += 1,
                Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(error("remove from")(e)),
            }
        }
        Ok(removed)
    }

    /// The entry of the other direction, if it belongs to this one.
    fn partner(&self, key: &FlowKey4, flow: &Flow4) -> Option<Flow4> {
        let partner = self.map.get(&flow.partner(key.proto), 0).ok()?;
        (partner.partner(key.proto) == *key).then_some(partner)
    }

    /// Remove the flows that have been silent for too long, and halves of flows.
    ///
    /// # Errors
    /// The table cannot be read or written.
    pub fn expire(&mut self) -> Result<usize> {
        self.remove_where(|key, flow, partner| {
            let now = now();
            let Some(partner) = partner else {
                // The other half may be about to be written: leave it a moment. A time ahead of
                // ours is no age.
                let age = now.wrapping_sub(flow.last_seen);
                return age > 2 && age < u32::MAX / 2;
            };
            let state = State::from_u8(flow.state);
            expired(state, key.proto, flow.last_seen, partner.last_seen, now)
        })
    }

    /// Remove the flows of a bridge's guests.
    ///
    /// # Errors
    /// The table cannot be read or written.
    pub fn purge(&mut self, bridge: u32) -> Result<usize> {
        self.remove_where(|_, flow, _| flow.in_network == bridge || flow.out_network == bridge)
    }
}

fn now() -> u32 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    tick(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
