//! The host that the agent runs on: what it has, as a plan compares it, and how a step is done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::guests::guests;
use crate::api::ApiError;
use crate::datapath::ports::Ports;
use crate::datapath::{Attachment, Datapath, DatapathError, bpffs, maps, pin_dir};
use crate::dnsmasq::{self, Digest, Dnsmasq, Running};
use crate::link::{Links, Snapshot, sysctl};
use crate::model::{Family, Network};
use crate::paths::Paths;
use crate::plan::{
    Act, FAMILIES, Failure, Host, Intent, Noted, Observed, Port, Scope, Service, Sockets, Step,
    StepError,
};
use crate::store::Store;

/// A dnsmasq that dies is started again at once, but not more often than this.
const DNSMASQ_PAUSE: Duration = Duration::from_secs(5);

/// dnsmasq processes that start at the same time.
const DNSMASQS: usize = 4;

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

    fn services(&self) -> BTreeMap<Uuid, Service> {
        let mut services: BTreeMap<Uuid, Service> = BTreeMap::new();
        for (uuid, process) in &self.processes {
            let service = Service {
                alive: process.running.is_alive(),
                serves: process.serves,
                held_back: false,
            };
            services.insert(*uuid, service);
        }
        let now = Instant::now();
        for (uuid, tried) in &self.tried {
            let service = services.entry(*uuid).or_default();
            let until = *tried + DNSMASQ_PAUSE;
            if service.alive || until <= now {
                continue;
            }
            service.held_back = true;
            let wake = Arc::clone(&self.wake);
            tokio::spawn(async move {
                tokio::time::sleep_until(until).await;
                wake.notify_one();
            });
        }
        services
    }

    fn observe_datapath(
        &mut self,
        observed: &mut Observed,
        guarded: bool,
    ) -> Result<(), DatapathError> {
        let Some(datapath) = &mut self.loaded else {
            return observe_pins(&self.paths, observed);
        };
        let pinned = datapath.attached()?;
        // Somebody may have removed a pin, which detaches the program.
        self.attached.retain(|at| pinned.contains(at));
        let is_own = |at| (at, self.attached.contains(&at));
        observed.programs = pinned.into_iter().map(is_own).collect();
        // What went may come back as another device.
        let links = &observed.links.links;
        let can = |at: &Attachment| links.get(&at.ifindex).is_some_and(|l| l.driver.redirects);
        self.refused.retain(can);
        observed.refused.clone_from(&self.refused);
        observed.records = datapath.maps.read(guarded)?;
        observed.flags = datapath.maps.flags()?;
        observed.published_held = Some(datapath.maps.published()?.clone());
        observed.reserved_held = Some(datapath.maps.reserved()?.clone());
        observed.sockets = match datapath.has_sockets()? {
            true if self.at_sockets => Sockets::Attached,
            _ if datapath.has_some_sockets()? => Sockets::Stale,
            _ => Sockets::Detached,
        };
        observed.datapath = true;
        match Ports::read() {
            Ok(ports) => observed.reserved = Some(ports),
            Err(error) => observed.unread.push(Failure::of_all(error)),
        }
        Ok(())
    }

    /// Start dnsmasqs, a few at a time.
    pub(super) async fn start_all(
        &mut self,
        networks: &[(Uuid, String)],
        intent: &Intent<'_>,
    ) -> BTreeMap<Uuid, Result<(), StepError>> {
        let known =
            |uuid: &Uuid| self.processes.contains_key(uuid) || self.tried.contains_key(uuid);
        let again: BTreeSet<Uuid> = networks
            .iter()
            .map(|(uuid, _)| *uuid)
            .filter(known)
            .collect();
        let now = Instant::now();
        self.tried.extend(again.iter().map(|uuid| (*uuid, now)));
        let (dnsmasq, paths, binary) = (&self.dnsmasq, &self.paths, &self.binary);
        let mut starts = Vec::new();
        for (uuid, bridge) in networks {
            if let Some(member) = intent.member(*uuid) {
                let start = dnsmasq.start(member.network, bridge, paths, binary);
                starts.push(async move { (*uuid, start.await) });
            }
        }
        let starts = stream::iter(starts).buffer_unordered(DNSMASQS);
        let started: Vec<_> = starts.collect().await;
        let mut results = BTreeMap::new();
        for (uuid, started) in started {
            let member = intent.member(uuid);
            let network = member.map(|member| member.network.name.as_str());
            let result = started.map(|running| {
                if again.contains(&uuid) {
                    tracing::info!(network, pid = running.pid(), "dnsmasq started again");
                }
                self.watch_dnsmasq(running.clone());
                let serves = member.and_then(|member| member.service);
                self.processes.insert(uuid, Process { running, serves });
            });
            if let Err(error) = &result {
                tracing::error!(network, %error, "no DHCP and DNS");
                self.tried.insert(uuid, Instant::now());
            }
            let result = result.map_err(|error| StepError::Failed(error.into()));
            results.insert(uuid, result);
        }
        results
    }
}

/// What a teardown has to know of the datapath, without loading it: which bridges it guards, in
/// whatever layout.
fn observe_pins(paths: &Paths, observed: &mut Observed) -> Result<(), DatapathError> {
    let current = pin_dir(&paths.bpffs);
    let mut layouts = bpffs::other_layouts(&paths.bpffs, &current).unwrap_or_default();
    layouts.push(current);
    for layout in layouts {
        match maps::pinned_networks(&layout) {
            Ok(networks) => observed.records.networks.extend(networks),
            Err(error) => observed.unread.push(Failure::of_all(error)),
        }
    }
    observed.datapath = paths.bpffs.exists();
    Ok(())
}

fn not_loaded() -> ApiError {
    ApiError::internal("no programs are loaded")
}

impl Host for KernelHost {
    async fn observe(&mut self, intent: &Intent<'_>) -> Result<Observed, ApiError> {
        let mut observed = Observed {
            noted: self.noted.clone(),
            services: self.services(),
            unchecked: self.unchecked,
            unswept: self.unswept,
            ..Observed::default()
        };
        if matches!(intent.scope, Scope::Service(_)) {
            return Ok(observed);
        }
        observed.links = self.links().await?;
        let mut members = intent.members.iter();
        let guarded = members.any(|member| member.network.netd.antispoof.is_some());
        self.observe_datapath(&mut observed, guarded)
            .map_err(ApiError::internal)?;
        let noted = self.notes.nd_proxies.iter().map(|proxy| (*proxy, false));
        observed.proxies = noted.collect();
        for proxy in &self.proxies {
            observed.proxies.insert(*proxy, true);
        }
        for family in FAMILIES {
            // Where it cannot be read, who has to set it tells why.
            observed.forwarding[family as usize] = sysctl::forwarding(family).ok();
            observed.forwarding_was[family as usize] = *self.notes.forwarding_was(family);
        }
        if intent.scope == Scope::Host {
            observed.guests = guests(intent, &self.paths);
        }
        Ok(observed)
    }

    async fn links(&mut self) -> Result<Snapshot, ApiError> {
        self.links.snapshot().await.map_err(ApiError::internal)
    }

    async fn apply(&mut self, steps: &[Step], intent: &Intent<'_>) -> Vec<Result<(), StepError>> {
        let starts: Vec<(Uuid, String)> = steps.iter().filter_map(super::steps::start).collect();
        let mut started = self.start_all(&starts, intent).await;
        let mut results = Vec::new();
        for step in steps {
            let start = step.network.and_then(|uuid| started.remove(&uuid));
            let result = match start {
                Some(result) => result,
                None => match &step.act {
                    Act::Device(act) => self.on_device(act).await,
                    Act::Datapath(act) => self.on_datapath(act).await,
                    Act::Service(act) => self.on_service(act, step.network, intent).await,
                },
            };
            results.push(result);
        }
        results
    }
}
