//! The bans that are in force.

use std::collections::BTreeMap;

use rustix::time::{ClockId, clock_gettime};

use super::ban_set::{BanSet, Now};
use crate::model::{Network, Prefix};
use crate::store::Store;

/// The bans, and what of them is in force.
#[derive(Debug, Default)]
pub(super) struct Bans {
    /// None where the file cannot be read: then what the maps hold stays in force.
    pub set: Option<BanSet>,
    /// Bridges by network, as the maps were last written for; none where that failed.
    pub applied: Option<BTreeMap<String, u32>>,
}

impl Bans {
    /// What earlier agents were told.
    pub fn load(store: &Store) -> Self {
        let set = store
            .load_bans()
            .inspect_err(|error| {
                tracing::error!(
                    %error,
                    "the bans cannot be read; those in force stay so. Repair or remove the file and \
                     restart the agent"
                );
            })
            .ok()
            .map(|listed| BanSet::new(listed, now()));
        Self { set, applied: None }
    }
}

/// The time by both clocks.
pub(super) fn now() -> Now {
    let boot = clock_gettime(ClockId::Boottime);
    let wall = clock_gettime(ClockId::Realtime);
    Now {
        wall: wall.tv_sec + i64::from(wall.tv_nsec > 0),
        boot: u32::try_from(boot.tv_sec + i64::from(boot.tv_nsec > 0)).unwrap_or(u32::MAX),
    }
}

/// What a network's guests have addresses of.
pub(super) fn subnets(network: &Network) -> impl Iterator<Item = Prefix> {
    let prefix = |ip: &crate::model::Ip| Prefix::new(ip.address, ip.prefix_len());
    network.all_ips().filter_map(prefix)
}
