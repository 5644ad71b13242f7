//! What passes between libvirt's own network driver and the agent when a host is switched from one to
//! the other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::Network;

/// One part of the switch, done whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handover {
    /// Take over a network that libvirt's driver runs, with its bridge, ports and leases as they are;
    /// its dnsmasq is replaced by the agent's.
    TakeOver {
        /// The definition that it runs with.
        xml: String,
        /// libvirt's dnsmasq.
        service: StockService,
    },
    /// Let libvirt's dnsmasq serve a network in place of the agent's, with its leases. The agent goes
    /// on with the rest of the network until it lets it go.
    GiveService {
        /// The definition that it runs with.
        xml: String,
        /// libvirt's dnsmasq.
        service: StockService,
    },
    /// The way back from that.
    TakeService {
        /// The definition that it runs with.
        xml: String,
        /// libvirt's dnsmasq.
        service: StockService,
    },
    /// Answer libvirt's clients in the place of its network daemon from now on, after the agent's restarts
    /// too, or no longer.
    Serve {
        /// From now on.
        on: bool,
    },
    /// Leave a network's bridge and ports as they are, without the agent's programs, and forget that
    /// it runs.
    LetGo {
        /// The network's name.
        network: String,
    },
}

/// Where libvirt's driver has the dnsmasq of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockService {
    /// Directory of its configuration, host files and leases.
    pub dir: PathBuf,
    /// Directory of its pid file.
    pub pid_dir: PathBuf,
    /// libvirt's lease helper.
    pub helper: PathBuf,
}

impl StockService {
    /// The pid file of a network's dnsmasq.
    #[must_use]
    pub fn pid_file(&self, network: &Network) -> PathBuf {
        self.pid_dir.join(format!("{}.pid", network.name))
    }
}
