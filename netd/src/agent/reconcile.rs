//! Making the kernel what the active networks ask for.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::controller::{ActiveData, Controller};
use super::registry::Port;
use crate::api::ApiError;
use crate::datapath::Records;
use crate::datapath::ports::Ports;
use crate::datapath::{Attachment, DatapathError, Hook};
use crate::dnsmasq::{self, Running};
use crate::link::{Snapshot, routes_at_risk, sysctl};
use crate::model::{Family, ForwardMode, Network};
use crate::plan::{self, Step};

/// A dnsmasq that dies is started again at once, but not more often than this.
const DNSMASQ_PAUSE: Duration = Duration::from_secs(5);

/// Both families, for what is done for each.
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Does a network need the host to forward packets of this family? An isolated one does where
/// something from outside is let in.
pub(super) fn needs_forwarding(network: &Network, family: Family) -> bool {
    let lets_in = || {
        let mut forwards = network.netd.forwards().iter();
        forwards.any(|forward| forward.may_have(family))
    };
    let routes = matches!(
        network.mode(),
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open
    );
    network.has(family) && (routes || lets_in())
}

/// May the host start to forward packets of this family now, or does it already?
pub(super) fn check_forwarding(family: Family, snapshot: &Snapshot) -> Result<(), ApiError> {
    if family == Family::Ipv4 || sysctl::forwarding(family).map_err(ApiError::internal)? {
        return Ok(());
    }
    match routes_at_risk(snapshot).map_err(ApiError::internal)? {
        None => Ok(()),
        Some(devices) => Err(ApiError::internal(devices)),
    }
}

/// Something that could not be made what the networks ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The only network that lacks it; `None` where any may.
    pub network: Option<Uuid>,
    /// What and why.
    pub error: ApiError,
}

impl Failure {
    /// One that any network may suffer from.
    pub fn of_all(error: impl Display) -> Self {
        Self {
            network: None,
            error: ApiError::internal(error),
        }
    }

    /// One of a network.
    pub fn of(network: Uuid, error: impl Display) -> Self {
        Self {
            network: Some(network),
            error: ApiError::internal(error),
        }
    }

    /// Does a network lack something by it?
    pub fn concerns(&self, network: Uuid) -> bool {
        self.network.is_none_or(|only| only == network)
    }

    /// Tell the log of those that concern none of these networks, and keep the others.
    pub fn keep(failures: &mut Vec<Self>, networks: &[Uuid]) {
        failures.retain(|failure| {
            let keep = networks.iter().any(|uuid| failure.concerns(*uuid));
            if !keep {
                tracing::error!(error = %failure.error, "cannot make the host what the networks ask for");
            }
            keep
        });
    }
}

/// A network whose steps are planned.
pub(super) struct Planned<'a> {
    /// Its definition.
    pub network: &'a Network,
    /// Number of its bridge when it was last seen.
    pub bridge: Option<u32>,
    /// The ports its bridge had then.
    pub ports: &'a [Port],
    /// Does its dnsmasq run?
    pub dnsmasq_runs: bool,
}

impl Controller {
    /// Compare and mend; whatever cannot be mended is reported, and the rest goes on.
    pub async fn reconcile(&mut self) {
        // Nobody else makes room for new records while nobody asks for them.
        self.datapath.events.drain();
        for Failure { error, .. } in self.converge().await {
            tracing::error!(%error, "cannot make the host what the networks ask for");
        }
        self.ensure_dnsmasq().await;
    }

    /// One pass of links, programs and maps over all active networks. Returns what failed.
    pub(super) async fn converge(&mut self) -> Vec<Failure> {
        let mut failures = Vec::new();
        let mut snapshot = match self.links.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => return vec![Failure::of_all(error)],
        };
        let mut late = Vec::new();
        let mut changed = false;
        for live in self.networks.live() {
            let Some(spec) = plan::bridge_spec(&live.network) else {
                continue;
            };
            let uuid = live.network.uuid;
            let (before, after) =
                match plan::plan_bridge(&spec, &snapshot, live.bridge, &live.ports) {
                    Ok(steps) => steps,
                    Err(error) => {
                        failures.push(Failure::of(uuid, error));
                        continue;
                    }
                };
            late.extend(after.into_iter().map(|step| (uuid, step)));
            for step in before {
                changed = true;
                if let Err(error) = plan::apply(&self.links, &step).await {
                    failures.push(Failure::of(uuid, error));
                    break;
                }
                tracing::debug!(%step, "done");
            }
        }
        if changed {
            match self.links.snapshot().await {
                Ok(new) => snapshot = new,
                Err(error) => failures.push(Failure::of_all(error)),
            }
        }
        failures.extend(self.sync_datapath(&snapshot).await);
        let plugged = !late.is_empty();
        for (uuid, step) in late {
            if let Err(error) = plan::apply(&self.links, &step).await {
                failures.push(Failure::of(uuid, error));
            } else {
                tracing::debug!(%step, "done");
            }
        }
        if plugged {
            // Ports that were just given back are to forward before their network counts as
            // started.
            match self.links.snapshot().await {
                Ok(new) => snapshot = new,
                Err(error) => failures.push(Failure::of_all(error)),
            }
        }
        for family in FAMILIES {
            if let Err(error) = self.forwarding(family, &snapshot) {
                failures.push(Failure {
                    network: None,
                    error,
                });
            }
        }
        failures.extend(self.forward_edge_ports(&snapshot).await);
        failures.extend(self.isolate_ports(&snapshot).await);
        self.remember_ports(&snapshot);
        failures
    }

    /// Attach programs and fill the maps. New hooks come before the records that lead packets to
    /// them (a device is used for masquerading only once its egress is guarded), and records go
    /// before the hooks they belong to.
    async fn sync_datapath(&mut self, snapshot: &Snapshot) -> Vec<Failure> {
        let mut failures = Vec::new();
        let networks: Vec<&Network> = self.networks.live().map(|live| &live.network).collect();
        let mut wanted = plan::hooks(&networks, snapshot);
        let mut express = plan::express(&wanted, snapshot, &self.xdp);
        // What went may come back as another device.
        self.refused
            .retain(|attachment| express.hooks.contains(attachment));
        express.hooks.retain(|hook| !self.refused.contains(hook));
        wanted.extend(express.hooks);
        let pinned = match self.datapath.attached() {
            Ok(pinned) => pinned,
            Err(error) => return vec![Failure::of_all(error)],
        };
        // Somebody may have removed a pin, which detaches the program.
        self.attached
            .retain(|attachment| pinned.contains(attachment));
        self.orphans
            .retain(|index| snapshot.links.contains_key(index));
        let prune = self.orphans.is_empty();
        let mut records = plan::records(&networks, snapshot, &self.guests());
        records.express = express.targets;
        for &attachment in wanted.difference(&self.attached.clone()) {
            let device = snapshot
                .links
                .get(&attachment.ifindex)
                .map_or("", |link| &link.name);
            match self.datapath.attach(attachment, device) {
                Ok(()) => {
                    self.attached.insert(attachment);
                }
                Err(error) if attachment.hook.is_optional() => {
                    tracing::warn!(%error, "no XDP fast path on this device; it uses TC");
                    self.refused.insert(attachment);
                }
                Err(error) => {
                    records.devices.remove(&attachment.ifindex);
                    // It may have gone since the snapshot; an event will follow.
                    let there = self.links.index_of(device).await;
                    if there.is_ok_and(|index| index != Some(attachment.ifindex)) {
                        tracing::debug!(%error, "the device has gone");
                        continue;
                    }
                    let network = self.network_of(attachment.ifindex, snapshot);
                    let error = ApiError::internal(error);
                    failures.push(Failure { network, error });
                }
            }
        }
        // Before networks get flows.
        if let Err(error) = Ports::read().and_then(|ports| self.datapath.maps.reserve(&ports)) {
            failures.push(Failure::of_all(error));
        }
        // Before flows look again, which they do when the maps change.
        if prune {
            let gone = self.datapath.maps.forget_endpoints_without(&records);
            match gone {
                Ok(gone) => failures.extend(self.forget_neighbours(&records, gone).await),
                Err(error) => failures.push(Failure::of_all(error)),
            }
        }
        if let Err(error) = self.datapath.maps.apply(&records, prune) {
            failures.push(Failure::of_all(error));
        }
        failures.extend(
            self.proxy_neighbours(plan::nd_proxies(&records, snapshot))
                .await,
        );
        if let Err(error) = self.watch_sockets(records.has_forwards()) {
            failures.push(Failure::of_all(error));
        }
        let gone = |a: &&Attachment| !snapshot.links.contains_key(&a.ifindex);
        let stale: Vec<Attachment> = pinned
            .union(&self.attached)
            .filter(|a| !wanted.contains(a))
            .filter(|a| prune || gone(a))
            .copied()
            .collect();
        for attachment in stale {
            match self.datapath.detach(attachment) {
                Ok(()) => {
                    self.attached.remove(&attachment);
                }
                Err(error) => failures.push(Failure::of_all(error)),
            }
        }
        failures
    }

    /// The network whose bridge, or a port of it, a device is.
    fn network_of(&self, device: u32, snapshot: &Snapshot) -> Option<Uuid> {
        let link = snapshot.links.get(&device)?;
        let bridge = match link.controller {
            Some(controller) => snapshot.links.get(&controller)?,
            None => link,
        };
        let is_its = |network: &&Network| network.bridge.name.as_ref() == Some(&bridge.name);
        let mut networks = self.networks.live().map(|live| &live.network);
        Some(networks.find(is_its)?.uuid)
    }

    /// Let exactly these devices listen to neighbours' solicitations, as far as this agent knows.
    async fn proxy_neighbours(&mut self, wanted: BTreeSet<(u32, Ipv6Addr)>) -> Vec<Failure> {
        let mut failures = Vec::new();
        let all: Vec<_> = self.nd_proxies.union(&wanted).copied().collect();
        for (index, address) in all {
            let on = wanted.contains(&(index, address));
            if on == self.nd_proxies.contains(&(index, address)) {
                continue;
            }
            match self.links.listen_for(index, address, on).await {
                Ok(()) if on => {
                    self.nd_proxies.insert((index, address));
                }
                Ok(()) => {
                    self.nd_proxies.remove(&(index, address));
                }
                Err(error) => failures.push(Failure::of_all(error)),
            }
        }
        failures
    }

    /// The host's own sockets are looked at while something is published. An earlier agent's
    /// programs are replaced by this one's.
    fn watch_sockets(&mut self, wanted: bool) -> Result<(), DatapathError> {
        if !wanted {
            self.at_sockets = false;
            return self.datapath.detach_sockets();
        }
        if !self.at_sockets || !self.datapath.has_sockets()? {
            self.datapath.attach_sockets()?;
            self.at_sockets = true;
        }
        Ok(())
    }

    /// Routes or neighbours changed: flows look for their path again at their next packet.
    pub fn paths_changed(&mut self) {
        if self.networks.live().next().is_none() {
            return;
        }
        if let Err(error) = self.datapath.maps.raise_epoch() {
            tracing::error!(%error, "connections may use an old path for some seconds");
        }
    }

    /// Switch forwarding on, noting what it was, or give it back when no network needs it.
    pub(super) fn forwarding(
        &mut self,
        family: Family,
        snapshot: &Snapshot,
    ) -> Result<(), ApiError> {
        let needed = self
            .networks
            .live()
            .any(|live| needs_forwarding(&live.network, family));
        if needed {
            let was = sysctl::forwarding(family).map_err(ApiError::internal)?;
            if !was {
                check_forwarding(family, snapshot)?;
                // On disk first: a crash in between must not forget what to give back.
                self.host.forwarding_was(family).get_or_insert(false);
                self.store.save_host(&self.host)?;
                sysctl::set_forwarding(family, true).map_err(ApiError::internal)?;
            }
        } else if let Some(was) = *self.host.forwarding_was(family) {
            sysctl::set_forwarding(family, was).map_err(ApiError::internal)?;
            *self.host.forwarding_was(family) = None;
            self.store.save_host(&self.host)?;
        }
        Ok(())
    }

    /// Guests whose ports are gone may come back at another, or somebody else with their address.
    /// Until then packets for them are not to be sent to the MAC address that the host remembers:
    /// the bridge does not know it any more, and would show them to everybody.
    async fn forget_neighbours(&self, records: &Records, gone: Vec<IpAddr>) -> Vec<Failure> {
        let mut failures = Vec::new();
        for address in gone {
            if let Some(bridge) = records.bridge_of(address)
                && let Err(error) = self.links.forget_neighbour(bridge, address).await
            {
                failures.push(Failure::of_all(error));
            }
        }
        failures
    }

    /// Guests' ports of bridges with `stp='on' delay='0'` forward at once.
    async fn forward_edge_ports(&self, snapshot: &Snapshot) -> Vec<Failure> {
        let mut failures = Vec::new();
        for live in self.networks.live() {
            let Some(spec) = plan::bridge_spec(&live.network) else {
                continue;
            };
            let Some(bridge) = snapshot.by_name(&spec.name) else {
                continue;
            };
            let ports = snapshot.edge_ports(bridge.index);
            if !spec.has_edge_ports() || ports.is_empty() {
                continue;
            }
            if let Err(error) = self.links.forward_ports_now(bridge.index, &ports).await {
                failures.push(Failure::of(live.network.uuid, error));
            }
        }
        failures
    }

    /// Ports of networks with `<port isolated='yes'/>` are isolated from each other.
    async fn isolate_ports(&self, snapshot: &Snapshot) -> Vec<Failure> {
        let mut failures = Vec::new();
        for live in self.networks.live() {
            let name = live.network.bridge.name.as_deref();
            let Some(bridge) = name.and_then(|name| snapshot.by_name(name)) else {
                continue;
            };
            if live.network.port_isolated != Some(true) || !live.network.is_managed() {
                continue;
            }
            for port in snapshot
                .ports_of(bridge.index)
                .filter(|port| !port.isolated)
            {
                match self.links.isolate(port.index).await {
                    Err(error) if !error.is_gone() => {
                        failures.push(Failure::of(live.network.uuid, error))
                    }
                    _ => {}
                }
            }
        }
        failures
    }

    /// Note the ports of every bridge that is there, so that they can be given back.
    fn remember_ports(&mut self, snapshot: &Snapshot) {
        for live in self.networks.live_mut() {
            let name = live.network.bridge.name.as_deref();
            let Some(bridge) = name.and_then(|name| snapshot.by_name(name)) else {
                continue;
            };
            let Some(spec) = plan::bridge_spec(&live.network) else {
                continue;
            };
            if !spec.is(bridge, live.bridge) {
                continue;
            }
            let ports: Vec<Port> = snapshot
                .ports_of(bridge.index)
                .map(|p| (p.index, p.name.clone()))
                .collect();
            if ports == live.ports && live.bridge == Some(bridge.index) {
                continue;
            }
            live.ports = ports;
            live.bridge = Some(bridge.index);
            let data = ActiveData {
                bridge: live.bridge,
                ports: live.ports.clone(),
            };
            if let Err(error) = self.store.save_active_data(&live.network.name, &data) {
                tracing::error!(%error, "guests may have to be connected again after a restart");
            }
        }
    }

    /// Start dnsmasq where it should run and does not.
    async fn ensure_dnsmasq(&mut self) {
        let mut started = Vec::new();
        for live in self.networks.live_mut() {
            if !dnsmasq::wants_dnsmasq(&live.network) {
                continue;
            }
            if live.dnsmasq.as_ref().is_some_and(Running::is_alive) {
                continue;
            }
            live.dnsmasq = None;
            let Some(bridge) = live.network.bridge.name.clone() else {
                continue;
            };
            let now = Instant::now();
            if let Some(last) = live.dnsmasq_restarted
                && now < last + DNSMASQ_PAUSE
            {
                let wake = std::sync::Arc::clone(&self.wake);
                tokio::spawn(async move {
                    tokio::time::sleep_until(last + DNSMASQ_PAUSE).await;
                    wake.notify_one();
                });
                continue;
            }
            live.dnsmasq_restarted = Some(now);
            let name = &live.network.name;
            match self
                .dnsmasq
                .start(&live.network, &bridge, &self.paths, &self.binary)
                .await
            {
                Ok(running) => {
                    tracing::info!(network = name, pid = running.pid(), "dnsmasq started");
                    started.push(running.clone());
                    live.dnsmasq = Some(running);
                }
                Err(error) => tracing::error!(network = name, %error, "no DHCP and DNS"),
            }
        }
        for running in started {
            self.watch_dnsmasq(running);
        }
    }

    /// Wake the event loop when this dnsmasq ends.
    pub(super) fn watch_dnsmasq(&self, running: Running) {
        let wake = std::sync::Arc::clone(&self.wake);
        tokio::spawn(async move {
            if let Err(error) = running.exited().await {
                tracing::warn!(pid = running.pid(), %error, "cannot watch dnsmasq");
                return;
            }
            wake.notify_one();
        });
    }

    /// What [`converge`](Self::converge) and dnsmasq would do for `networks`, as steps.
    pub(super) fn plan_steps(
        &self,
        networks: &[Planned<'_>],
        snapshot: &Snapshot,
    ) -> Result<Vec<Step>, plan::InTheWay> {
        let mut steps = Vec::new();
        let mut late = Vec::new();
        for planned in networks {
            let network = planned.network;
            let Some(spec) = plan::bridge_spec(network) else {
                continue;
            };
            let (before, after) =
                plan::plan_bridge(&spec, snapshot, planned.bridge, planned.ports)?;
            steps.extend(before);
            if snapshot.by_name(&spec.name).is_none() {
                for hook in [Hook::BridgeIngress, Hook::BridgeEgress] {
                    steps.push(Step::Attach {
                        device: spec.name.clone(),
                        hook,
                    });
                }
            }
            late.extend(after);
            if dnsmasq::wants_dnsmasq(network) && !planned.dnsmasq_runs {
                late.push(Step::StartDnsmasq {
                    network: network.name.clone(),
                    bridge: spec.name.clone(),
                });
            }
        }
        for family in FAMILIES {
            let needed = networks
                .iter()
                .any(|planned| needs_forwarding(planned.network, family));
            if needed && sysctl::forwarding(family).is_ok_and(|on| !on) {
                late.push(Step::EnableForwarding(family));
            }
        }
        let definitions: Vec<&Network> = networks.iter().map(|p| p.network).collect();
        let mut hooks = plan::hooks(&definitions, snapshot);
        let express = plan::express(&hooks, snapshot, &self.xdp);
        hooks.extend(express.hooks.difference(&self.refused));
        steps.extend(plan::plan_hooks(&hooks, &self.attached, snapshot));
        steps.extend(late);
        Ok(steps)
    }
}
