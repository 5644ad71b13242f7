//! What the agent works with on the host that it runs on, and what it knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::ApiError;
use crate::datapath::{Attachment, Datapath};
use crate::dnsmasq::{self, Digest, Dnsmasq, Running};
use crate::link::Links;
use crate::model::{Family, Network};
use crate::paths::Paths;
use crate::plan::{Noted, Port};
use crate::store::Store;

/// What the agent notes about an active network, beside its live definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveData {
    /// Number of its bridge.
    #[serde(default)]
    pub bridge: Option<u32>,
    /// Ports of its bridge.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// What the agent changed on the host and has to give back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostData {
    /// net.ipv4.ip_forward before the agent set it to 1.
    pub ip_forward_was: Option<bool>,
    /// net.ipv6.conf.all.forwarding before the agent set it to 1.
    #[serde(default)]
    pub ipv6_forwarding_was: Option<bool>,
    /// Devices that it had listen to solicitations for published addresses.
    #[serde(default)]
    pub nd_proxies: BTreeSet<(u32, Ipv6Addr)>,
    /// Ports of networks that were stopped: they get them back when they start again.
    pub detached: BTreeMap<String, Vec<Port>>,
    /// Networks that somebody stopped since boot; autostart leaves them alone.
    pub stopped: BTreeSet<String>,
}

impl HostData {
    /// What forwarding of a family was before the agent switched it on.
    pub(super) fn forwarding_was(&mut self, family: Family) -> &mut Option<bool> {
        match family {
            Family::Ipv4 => &mut self.ip_forward_was,
            Family::Ipv6 => &mut self.ipv6_forwarding_was,
        }
    }
}

/// A dnsmasq that this agent started or adopted.
#[derive(Debug)]
pub(super) struct Process {
    pub running: Running,
    /// What it was given to serve, where that is known.
    pub serves: Option<Digest>,
}

/// Everything the agent works with, and what it knows of it beyond what can be looked up.
pub struct KernelHost {
    pub(super) paths: Paths,
    pub(super) store: Store,
    pub(super) links: Links,
    /// None for a teardown, which needs no programs.
    pub(super) loaded: Option<Datapath>,
    pub(super) dnsmasq: Dnsmasq,
    /// The running binary, for dnsmasq's lease helper.
    pub(super) binary: PathBuf,
    /// What has to be given back.
    pub(super) notes: HostData,
    /// The records of active networks.
    pub(super) noted: BTreeMap<Uuid, Noted>,
    pub(super) processes: BTreeMap<Uuid, Process>,
    /// When a dnsmasq was last started that had died or could not be started.
    pub(super) tried: BTreeMap<Uuid, Instant>,
    /// Programs that this agent has put in place.
    pub(super) attached: BTreeSet<Attachment>,
    /// Programs in drivers that these did not take.
    pub(super) refused: BTreeSet<Attachment>,
    /// Has this agent put its programs at the host's sockets?
    pub(super) at_sockets: bool,
    /// Devices that this agent had listen to solicitations.
    pub(super) proxies: BTreeSet<(u32, Ipv6Addr)>,
    /// Records may have changed since flows last looked. An agent that starts does not know.
    pub(super) unchecked: bool,
    /// Flows may be over that nobody has freed.
    pub(super) unswept: bool,
    /// Asks the event loop for a reconciliation.
    pub(super) wake: Arc<Notify>,
}

impl KernelHost {
    /// A host of which nothing is known but what an agent noted.
    pub fn new(
        paths: Paths,
        binary: PathBuf,
        store: Store,
        links: Links,
        loaded: Option<Datapath>,
        notes: HostData,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            paths,
            store,
            links,
            loaded,
            dnsmasq: Dnsmasq::new(),
            binary,
            notes,
            noted: BTreeMap::new(),
            processes: BTreeMap::new(),
            tried: BTreeMap::new(),
            attached: BTreeSet::new(),
            refused: BTreeSet::new(),
            at_sockets: false,
            proxies: BTreeSet::new(),
            unchecked: true,
            unswept: false,
            wake,
        }
    }

    /// The programs and maps.
    pub(super) fn datapath(&self) -> Result<&Datapath, ApiError> {
        self.loaded.as_ref().ok_or_else(not_loaded)
    }

    /// The programs and maps, to change.
    pub(super) fn datapath_mut(&mut self) -> Result<&mut Datapath, ApiError> {
        self.loaded.as_mut().ok_or_else(not_loaded)
    }

    /// Take note of a record that is on disk.
    pub(super) fn adopt(&mut self, network: &Network, data: ActiveData) {
        let noted = Noted {
            name: network.name.clone(),
            generation: 0,
            bridge: data.bridge,
            ports: data.ports,
        };
        self.noted.insert(network.uuid, noted);
    }

    /// Look for a dnsmasq that runs for a network.
    pub(super) fn adopt_process(&mut self, network: &Network) {
        let Some(running) = dnsmasq::process::adopt_network(network, &self.paths) else {
            return;
        };
        tracing::info!(
            network = network.name,
            pid = running.pid(),
            "took over the running dnsmasq"
        );
        // An earlier agent may have died after it noted a change and before it told it.
        let serves = dnsmasq::process::served(network, &self.paths).ok();
        self.watch_dnsmasq(running.clone());
        self.processes
            .insert(network.uuid, Process { running, serves });
    }

    /// What the dnsmasq of a network is to serve; none for a network without.
    ///
    /// # Errors
    /// The definition cannot be given to dnsmasq.
    pub(super) fn service_of(&self, network: &Network) -> Result<Option<Digest>, ApiError> {
        let wants = dnsmasq::wants_dnsmasq(network) && network.bridge.name.is_some();
        let digest = wants.then(|| dnsmasq::process::digest(network, &self.paths));
        Ok(digest.transpose()?)
    }

    /// Number of the process that serves a network.
    pub(super) fn dnsmasq_of(&self, uuid: Uuid) -> Option<u32> {
        let process = self.processes.get(&uuid)?;
        process.running.is_alive().then(|| process.running.pid())
    }

    /// Write down what has to be given back; a failure is reported, since nothing else waits for
    /// it.
    pub(super) fn save_notes(&self) {
        if let Err(error) = self.store.save_host(&self.notes) {
            tracing::error!(%error, "forwarding sysctls may not be restored after a restart");
        }
    }

    /// Wake the event loop when this dnsmasq ends.
    pub(super) fn watch_dnsmasq(&self, running: Running) {
        let wake = Arc::clone(&self.wake);
        tokio::spawn(async move {
            if let Err(error) = running.exited().await {
                tracing::warn!(pid = running.pid(), %error, "cannot watch dnsmasq");
                return;
            }
            wake.notify_one();
        });
    }
}

fn not_loaded() -> ApiError {
    ApiError::internal("no programs are loaded")
}
