//! What the agent works with on the host that it runs on, and what it knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::lost_ports::LostPorts;
use super::starting::Starting;
use crate::api::ApiError;
use crate::datapath::{Attachment, Datapath};
use crate::dnsmasq::{self, Digest, Dnsmasq, Running};
use crate::link::Links;
use crate::managers::networkd::Networkd;
use crate::model::{Family, Network};
use crate::netns::NetnsId;
use crate::paths::Paths;
use crate::plan::{Given, Noted, Port};
use crate::services::{self, relay::Relay};
use crate::store::{Store, StoreError};

/// What the agent notes about an active network, beside its live definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveData {
    /// Number of its bridge.
    #[serde(default)]
    pub bridge: Option<u32>,
    /// Ports of its bridge.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// What definitions gave it that it ran with before and that may not be gone yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Given>,
    /// It ran with a definition by which it was routed.
    #[serde(default)]
    pub was_routed: bool,
}

impl From<&Noted> for ActiveData {
    fn from(noted: &Noted) -> Self {
        Self {
            bridge: noted.bridge,
            ports: noted.ports.clone(),
            former: noted.former.clone(),
            was_routed: noted.was_routed,
        }
    }
}

/// What the agent changed on the host and has to give back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostData {
    /// net.ipv4.ip_forward before the agent set it to 1.
    pub ip_forward_was: Option<bool>,
    /// net.ipv6.conf.all.forwarding before the agent set it to 1.
    #[serde(default)]
    pub ipv6_forwarding_was: Option<bool>,
    /// Devices that it had listen to router advertisements while the host forwards: `accept_ra` was
    /// 1 and is 2.
    #[serde(default)]
    pub listeners: BTreeSet<u32>,
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
    /// It does without the host's name servers, since nothing led to them when it started.
    pub without_servers: bool,
    /// The network namespace that it was started in, where that is known.
    pub netns: Option<NetnsId>,
}

impl Process {
    /// A dnsmasq that runs for a network.
    pub fn new(running: Running, network: &Network, serves: Option<Digest>, paths: &Paths) -> Self {
        Self {
            netns: dnsmasq::process::netns_of(network, paths, &running),
            running,
            serves,
            without_servers: dnsmasq::process::is_without_servers(network, paths),
        }
    }
}

/// Everything the agent works with, and what it knows of it beyond what can be looked up.
pub struct KernelHost {
    pub(super) paths: Paths,
    pub(super) store: Store,
    pub(super) links: Links,
    /// None for a teardown, which needs no programs.
    pub(super) loaded: Option<Datapath>,
    pub(super) dnsmasq: Arc<Dnsmasq>,
    /// The running binary, for dnsmasq's lease helper.
    pub(super) binary: PathBuf,
    /// What has to be given back.
    pub(super) notes: HostData,
    /// The records of active networks.
    pub(super) noted: BTreeMap<Uuid, Noted>,
    pub(super) processes: BTreeMap<Uuid, Process>,
    /// Those that are not daemons yet.
    pub(super) starting: BTreeMap<Uuid, Starting>,
    /// Is everybody to wait until a dnsmasq runs, however long that takes?
    pub(super) waits_for_services: bool,
    /// Configurations with which a dnsmasq was seen to start, by network.
    pub(super) proven: BTreeMap<Uuid, u64>,
    /// When to look whether something leads to the host's name servers.
    pub(super) servers_look: Option<Instant>,
    /// When a dnsmasq was last started that had died or could not be started.
    pub(super) tried: BTreeMap<Uuid, Instant>,
    /// What runs beside each dnsmasq.
    pub(super) relays: BTreeMap<Uuid, Relay>,
    /// As `tried`, of those.
    pub(super) relays_tried: BTreeMap<Uuid, Instant>,
    /// Programs that this agent has put in place.
    pub(super) attached: BTreeSet<Attachment>,
    /// Programs in drivers that these did not take.
    pub(super) refused: BTreeSet<Attachment>,
    /// Has this agent put its programs at the host's sockets?
    pub(super) at_sockets: bool,
    /// systemd-networkd's folder, where the host has systemd.
    pub(super) networkd: Option<Networkd>,
    /// Ports that are out of their bridges.
    pub(super) lost_ports: LostPorts,
    /// Ports of bridges with DHCP that lead out of the host, as far as that was said.
    pub(super) lans: BTreeSet<u32>,
    /// Uplinks that were told of since somebody has filters there.
    pub(super) filtered: BTreeSet<u32>,
    /// It was said that these cannot be put there.
    pub(super) deaf_host: bool,
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
            dnsmasq: Arc::new(Dnsmasq::new()),
            binary,
            notes,
            noted: BTreeMap::new(),
            processes: BTreeMap::new(),
            starting: BTreeMap::new(),
            waits_for_services: false,
            proven: BTreeMap::new(),
            servers_look: None,
            tried: BTreeMap::new(),
            relays: BTreeMap::new(),
            relays_tried: BTreeMap::new(),
            attached: BTreeSet::new(),
            refused: BTreeSet::new(),
            at_sockets: false,
            networkd: Networkd::find(),
            lost_ports: LostPorts::default(),
            lans: BTreeSet::new(),
            filtered: BTreeSet::new(),
            deaf_host: false,
            proxies: BTreeSet::new(),
            unchecked: true,
            unswept: false,
            wake,
        }
    }

    /// Remove what an agent that was killed was about to give to others.
    pub(super) fn remove_leftovers(&self) -> Result<(), StoreError> {
        self.networkd
            .as_ref()
            .map_or(Ok(()), Networkd::remove_leftovers)
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
        let mut noted = Noted {
            name: network.name.clone(),
            generation: 0,
            bridge: data.bridge,
            ports: data.ports,
            given: Given::by(network),
            former: data.former,
            was_routed: data.was_routed,
            furnished: false,
        };
        noted.adopt();
        self.noted.insert(network.uuid, noted);
    }

    /// Look for a dnsmasq that runs for a network, and for what is beside it.
    pub(super) fn adopt_process(&mut self, network: &Network) {
        if let Some(bridge) = &network.bridge.name
            && let Some(relay) = services::relay::adopt(&self.paths, bridge)
        {
            self.watch_process(relay.running.clone());
            self.relays.insert(network.uuid, relay);
        }
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
        self.watch_process(running.clone());
        let process = Process::new(running, network, serves, &self.paths);
        self.processes.insert(network.uuid, process);
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

    /// Wake the event loop when this process ends.
    pub(super) fn watch_process(&self, running: Running) {
        let wake = Arc::clone(&self.wake);
        tokio::spawn(async move {
            if let Err(error) = running.exited().await {
                tracing::warn!(pid = running.pid(), %error, "cannot watch a process");
                return;
            }
            wake.notify_one();
        });
    }
}

fn not_loaded() -> ApiError {
    ApiError::internal("no programs are loaded")
}
