//! The host as a plan takes it: what it has, compared with what networks ask for, and its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::guests::guests;
use super::host::KernelHost;
use crate::api::ApiError;
use crate::datapath::ports::Ports;
use crate::datapath::{Attachment, DatapathError, bpffs, maps, pin_dir, with_foreign_filters};
use crate::dnsmasq::{self, process::could_have_servers};
use crate::link::{Snapshot, sysctl};
use crate::managers::networkd::Networkd;
use crate::netns::NetnsId;
use crate::paths::Paths;
use crate::plan::{
    Act, FAMILIES, Failure, Host, Intent, Observed, Relay, Scope, Service, Sockets, Step,
    StepError, bridge_spec,
};
use crate::services::namespace;
use crate::shaping::tc;

/// A dnsmasq or relay that dies is started again at once, but not more often than this.
const PAUSE: Duration = Duration::from_secs(5);

/// How often a dnsmasq's way to the host's name servers is looked for that it has none to.
const SERVERS_LOOK: Duration = Duration::from_secs(2);

impl Host for KernelHost {
    async fn observe(&mut self, intent: &Intent<'_>) -> Result<Observed, ApiError> {
        let namespaces = namespace::list(&self.paths).map_err(ApiError::internal)?;
        let mut observed = Observed {
            noted: self.noted.clone(),
            services: self.services(&namespaces, intent),
            relays: self.observe_relays(),
            namespaces: match intent.scope {
                // Whoever tears down is not in the mount namespace of the agent that named them.
                Scope::Teardown => namespace::names(&self.paths).map_err(ApiError::internal)?,
                _ => namespaces.into_keys().collect(),
            },
            unchecked: self.unchecked,
            unswept: self.unswept,
            ..Observed::default()
        };
        if matches!(intent.scope, Scope::Service(_)) {
            return Ok(observed);
        }
        observed.links = self.links().await?;
        observed.bridged_rules = sysctl::bridged_rules();
        let links = &observed.links.links;
        // Ports, and what may be an uplink.
        let carries_guests = |index| {
            links.get(&index).is_some_and(|link| {
                link.controller.is_some() || observed.links.addresses_of(index).next().is_some()
            })
        };
        match with_foreign_filters(carries_guests) {
            Ok(filtered) => observed.filtered = filtered,
            Err(error) => observed.unread.push(Failure::of_all(error)),
        }
        match tc::shapes() {
            Ok(shapes) => observed.shapes = shapes,
            Err(error) => observed.unread.push(Failure::of_all(error)),
        }
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
        observed.listeners.clone_from(&self.notes.listeners);
        let unmanaged = self.networkd.as_ref().map(Networkd::unmanaged).transpose();
        match unmanaged {
            Ok(unmanaged) => observed.unmanaged = unmanaged,
            Err(error) => observed.unread.push(Failure::of_all(error)),
        }
        if intent.scope == Scope::Host {
            observed.guests = guests(intent, &self.paths);
            self.judge_lost_ports(&mut observed);
            self.warn_of_lans(intent, &observed.links);
            self.warn_of_filters(&observed);
        }
        Ok(observed)
    }

    async fn links(&mut self) -> Result<Snapshot, ApiError> {
        self.links.snapshot().await.map_err(ApiError::internal)
    }

    async fn apply(&mut self, steps: &[Step], intent: &Intent<'_>) -> Vec<Result<(), StepError>> {
        let mut together = self.start_all(steps, intent).await;
        let mut results = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let result = match together.remove(&at) {
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
    fn services(
        &mut self,
        namespaces: &BTreeMap<String, NetnsId>,
        intent: &Intent<'_>,
    ) -> BTreeMap<Uuid, Service> {
        let mut services: BTreeMap<Uuid, Service> = BTreeMap::new();
        self.collect_started(&mut services, intent);
        for (uuid, process) in &self.processes {
            let network = intent.member(*uuid).map(|member| member.network);
            let bridge = network.and_then(|network| network.bridge.name.as_ref());
            let own = bridge.and_then(|bridge| namespaces.get(bridge));
            let outdated = process.without_servers
                && network.is_some_and(|network| could_have_servers(network, &self.paths));
            let service = Service {
                alive: process.running.is_alive(),
                serves: process.serves.filter(|_| !outdated),
                held_back: false,
                in_place: own.is_some() && process.netns.as_ref() == own,
            };
            services.insert(*uuid, service);
        }
        for (uuid, tried) in &self.tried {
            let service = services.entry(*uuid).or_default();
            service.held_back = !service.alive && self.waits(*tried);
        }
        self.look_for_servers();
        services
    }

    /// Nobody tells when there are name servers of the host's, so the event loop looks again, as long as
    /// a dnsmasq does without.
    fn look_for_servers(&mut self) {
        let now = Instant::now();
        let is_waiting = self.servers_look.is_some_and(|look| look > now);
        if !is_waiting && self.processes.values().any(|p| p.without_servers) {
            let look = now + SERVERS_LOOK;
            self.servers_look = Some(look);
            self.wake_at(look);
        }
    }

    /// Look whether bridges lost ports, and come again when it is clear what that means.
    fn judge_lost_ports(&mut self, observed: &mut Observed) {
        let now = Instant::now();
        let noted = observed.noted.values();
        let verdict = self.lost_ports.judge(noted, &observed.links, now);
        observed.unsettled = verdict.unsettled;
        observed.emptied = verdict.emptied;
        if let Some(until) = verdict.look_again {
            self.wake_at(until);
        }
    }

    /// Tell once of each device that leads a network's DHCP server out of the host: it would answer
    /// in somebody's LAN.
    fn warn_of_lans(&mut self, intent: &Intent<'_>, links: &Snapshot) {
        let mut lans = BTreeSet::new();
        for member in intent.members.iter().filter(|member| member.up) {
            let bridge = bridge_spec(member.network).and_then(|spec| links.by_name(&spec.name));
            let (Some(bridge), true) = (bridge, dnsmasq::has_dhcp(member.network)) else {
                continue;
            };
            for port in links.ports_of(bridge.index).filter(|p| p.leads_outside()) {
                lans.insert(port.index);
                if !self.lans.contains(&port.index) {
                    tracing::warn!(
                        network = member.network.name,
                        bridge = bridge.name,
                        port = port.name,
                        "the network's DHCP server answers in the LAN behind this port; remove the \
                         port from the bridge, or <dhcp> from the network"
                    );
                }
            }
        }
        self.lans = lans;
    }

    /// Tell of uplinks with somebody's filters, once each: a policy of DROP, which matters to nobody else,
    /// stops what comes by them.
    fn warn_of_filters(&mut self, observed: &Observed) {
        let links = &observed.links.links;
        let uplinks = observed
            .filtered
            .iter()
            .filter_map(|index| links.get(index));
        let uplinks: Vec<_> = uplinks.filter(|link| link.controller.is_none()).collect();
        for link in &uplinks {
            if !self.filtered.contains(&link.index) {
                tracing::warn!(
                    device = link.name,
                    "filters of traffic control see what comes in here for guests; behind them the \
                     host's stack carries it, and its FORWARD rules have to let it pass"
                );
            }
        }
        self.filtered = uplinks.iter().map(|link| link.index).collect();
    }

    fn observe_relays(&self) -> BTreeMap<Uuid, Relay> {
        let mut relays: BTreeMap<Uuid, Relay> = BTreeMap::new();
        for (uuid, relay) in &self.relays {
            let relay = Relay {
                alive: relay.running.is_alive(),
                held_back: false,
                port: Some(relay.port),
            };
            relays.insert(*uuid, relay);
        }
        for (uuid, tried) in &self.relays_tried {
            let relay = relays.entry(*uuid).or_default();
            relay.held_back = !relay.alive && self.waits(*tried);
        }
        relays
    }

    /// Has a process that was started `tried` and is not there to wait? The event loop hears when it
    /// need not any more.
    fn waits(&self, tried: Instant) -> bool {
        let until = tried + PAUSE;
        if until <= Instant::now() {
            return false;
        }
        self.wake_at(until);
        true
    }

    fn wake_at(&self, until: Instant) {
        let wake = Arc::clone(&self.wake);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            wake.notify_one();
        });
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
