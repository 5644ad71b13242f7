//! What the administrator sets of the datapath.

use netd_common::abi::DEFAULT_FLOWS;
use netd_common::timeout::{DEFAULT_TIMEOUTS, TIMEOUTS};

/// How many flows there may be, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of each family, at least 1. Maps have the size they were made with: what is set
    /// later counts once they have been removed.
    pub flows: u32,
    /// Flows of one family that one network may have; 0 for no limit but the table's.
    pub per_network: u32,
    /// How long flows may be silent, by [`netd_common::timeout::Timeout`], in the datapath's ticks.
    pub timeouts: [u32; TIMEOUTS],
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: DEFAULT_FLOWS,
            per_network: 0,
            timeouts: DEFAULT_TIMEOUTS,
        }
    }
}
