//! The host as a plan takes it: what it has, compared with what networks ask for, and its steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::guests::guests;
use super::host::KernelHost;
use super::steps::start;
use crate::api::ApiError;
use crate::datapath::ports::Ports;
use crate::datapath::{Attachment, DatapathError, bpffs, maps, pin_dir};
use crate::link::{Snapshot, sysctl};
use crate::paths::Paths;
use crate::plan::{
    Act, FAMILIES, Failure, Host, Intent, Observed, Scope, Service, Sockets, Step, StepError,
};

/// A dnsmasq that dies is started again at once, but not more often than this.
const DNSMASQ_PAUSE: Duration = Duration::from_secs(5);

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
        let starts: Vec<(Uuid, String)> = steps.iter().filter_map(start).collect();
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

impl KernelHost {
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
