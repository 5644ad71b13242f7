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
        let mut gone = Vec::new();
        for entry in self.map.iter() {
            let (key, flow) = entry.map_err(error("read"))?;
            let partner = self.map.get(&flow.partner(key.proto), 0).ok();
            if dead(&key, &flow, partner.as_ref()) {
                gone.push(key);
            }
        }
        for key in &gone {
            match self.map.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(error("remove from")(e)),
            }
        }
        Ok(gone.len())
    }

    /// Remove the flows that have been silent for too long, and halves of flows.
    ///
    /// # Errors
    /// The table cannot be read or written.
    pub fn expire(&mut self) -> Result<usize> {
        let now = now();
        self.remove_where(|key, flow, partner| {
            let Some(partner) = partner else {
                // The other half may be about to be written: leave it a moment.
                return now.wrapping_sub(flow.last_seen) > 2;
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
