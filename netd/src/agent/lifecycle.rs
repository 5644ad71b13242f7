//! Defining, starting and stopping networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::stream::{self, StreamExt as _};
use uuid::Uuid;

use super::controller::{ActiveData, Controller};
use super::reconcile::{Failure, check_forwarding, needs_forwarding};
use super::registry::Live;
use crate::api::{ApiError, ErrorCode, Result};
use crate::dnsmasq::{self, Running};
use crate::link::{LinkError, Links, Snapshot, subnet_in_use, sysctl};
use crate::model::{self, Family, ForwardMode, Network};
use crate::{plan, store};

/// dnsmasq processes that start at the same time.
const DNSMASQS: usize = 4;

fn invalid(detail: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::OperationInvalid, detail)
}

impl Controller {
    async fn snapshot(&self) -> Result<Snapshot> {
        self.links.snapshot().await.map_err(ApiError::internal)
    }

    /// Check a definition, complete it and store it.
    pub(super) async fn define_network(&mut self, mut network: Network) -> Result<Uuid> {
        model::check_define(&network)?;
        let snapshot = self.snapshot().await?;
        self.networks
            .complete(&mut network, |name| snapshot.by_name(name).is_some())?;
        store::read_again(&network)?;
        self.store.save(&network)?;
        let uuid = network.uuid;
        self.networks.entry(uuid).config = Some(network);
        Ok(uuid)
    }

    /// `net-create`: start a network that is not defined, or one that is with another definition.
    pub(super) async fn create_network(&mut self, mut network: Network) -> Result<Uuid> {
        model::check_define(&network)?;
        let snapshot = self.snapshot().await?;
        self.networks
            .complete(&mut network, |name| snapshot.by_name(name).is_some())?;
        store::read_again(&network)?;
        let uuid = network.uuid;
        if self
            .networks
            .get(uuid)
            .is_ok_and(|entry| entry.live.is_some())
        {
            return Err(invalid(format_args!(
                "network is already active as '{}'",
                network.name
            )));
        }
        let result = self.activate(network).await;
        self.networks.prune(uuid);
        result.map(|()| uuid)
    }

    /// `net-start`.
    pub(super) async fn start(&mut self, uuid: Uuid) -> Result<()> {
        let entry = self.networks.get(uuid)?;
        if entry.live.is_some() {
            return Err(invalid("network is already active"));
        }
        // An entry that is not active is defined.
        let Some(network) = entry.config.clone() else {
            return Err(invalid("network has no persistent definition"));
        };
        let name = network.name.clone();
        self.activate(network).await?;
        if self.host.stopped.remove(&name) {
            self.save_host();
        }
        Ok(())
    }

    /// Bring a network up whole, or leave nothing of it.
    async fn activate(&mut self, network: Network) -> Result<()> {
        let name = network.name.clone();
        let mut outcomes = self.activate_all(vec![network]).await;
        match outcomes.pop() {
            Some((_, result)) => result,
            None => Err(ApiError::internal(format_args!(
                "network '{name}' was not started"
            ))),
        }
    }

    /// Bring networks up, each whole or nothing of it, in one pass over the host. Returns what
    /// became of each, by name.
    pub(super) async fn activate_all(
        &mut self,
        networks: Vec<Network>,
    ) -> Vec<(String, Result<()>)> {
        let mut outcomes = Vec::new();
        let mut snapshot = match self.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let refused = |network: Network| (network.name, Err(error.clone()));
                return networks.into_iter().map(refused).collect();
            }
        };
        let mut prepared = Vec::new();
        for network in networks {
            let (uuid, name) = (network.uuid, network.name.clone());
            match self.prepare(network, &mut snapshot).await {
                Ok(()) => prepared.push((uuid, name)),
                Err(error) => outcomes.push((name, Err(error))),
            }
        }
        if prepared.is_empty() {
            return outcomes;
        }
        let uuids: Vec<Uuid> = prepared.iter().map(|(uuid, _)| *uuid).collect();
        let mut failures = self.converge().await;
        Failure::keep(&mut failures, &uuids);
        let nobodys = |failure: &Failure| failure.network.is_none();
        if uuids.len() > 1 && failures.iter().any(nobodys) {
            outcomes.extend(self.activate_apart(uuids).await);
            return outcomes;
        }
        let up = uuids
            .into_iter()
            .filter(|uuid| !failures.iter().any(|failure| failure.concerns(*uuid)))
            .collect();
        let mut without_dnsmasq = self.start_dnsmasq(up).await;
        let mut have_ports = false;
        for (uuid, name) in prepared {
            let of_host = failures.iter().find(|failure| failure.concerns(uuid));
            let failed = of_host.map(|failure| failure.error.clone());
            let Some(error) = failed.or_else(|| without_dnsmasq.remove(&uuid)) else {
                have_ports |= self.host.detached.remove(&name).is_some();
                self.warn_of_port_conflicts(uuid, None);
                outcomes.push((name, Ok(())));
                continue;
            };
            tracing::warn!(network = name, %error, "failed to start; rolling back");
            for error in self.deactivate(uuid).await {
                tracing::error!(network = name, %error, "not removed after the failed start");
            }
            outcomes.push((name, Err(error)));
        }
        if have_ports {
            self.save_host();
        }
        outcomes
    }

    /// Start networks one by one that do not start together: one of them is too much for the host, a
    /// map that is full, say, but nothing tells which.
    async fn activate_apart(&mut self, uuids: Vec<Uuid>) -> Vec<(String, Result<()>)> {
        let live = self.networks.live().map(|live| &live.network);
        let apart = live.filter(|network| uuids.contains(&network.uuid));
        let mut apart: Vec<Network> = apart.cloned().collect();
        apart.sort_by(|a, b| a.name.cmp(&b.name));
        for network in &apart {
            for error in self.deactivate(network.uuid).await {
                tracing::warn!(network = network.name, %error, "while rolling back");
            }
        }
        let mut outcomes = Vec::new();
        for network in apart {
            outcomes.extend(Box::pin(self.activate_all(vec![network])).await);
        }
        outcomes
    }

    /// Look whether a network can start, and note that it is to run. What it takes of the host is
    /// taken in `snapshot` from then on.
    async fn prepare(&mut self, network: Network, snapshot: &mut Snapshot) -> Result<()> {
        model::check_start(&network)?;
        check_host(&network, snapshot)?;
        self.check_published(&network)?;
        // Refused here, before anything is made, when its files could not be written.
        if dnsmasq::wants_dnsmasq(&network) {
            self.dnsmasq.binary().await?;
            dnsmasq::process::files_of(&self.paths, &network)?;
        }
        let ports = self.host.detached.get(&network.name);
        let ports = ports.cloned().unwrap_or_default();
        // The record first: an agent that dies half way finds it and finishes the start.
        self.store.save_active(
            &network,
            &ActiveData {
                bridge: None,
                ports: ports.clone(),
            },
        )?;
        if let Some(spec) = plan::bridge_spec(&network) {
            let behind = spec.routes.iter().map(|route| route.destination);
            snapshot.reserve_bridge(&spec.name, spec.addresses.iter().copied().chain(behind));
        }
        let uuid = network.uuid;
        self.networks.entry(uuid).live = Some(Live::new(network, ports));
        Ok(())
    }

    /// Start the dnsmasq of every one of these networks that is to have one, a few at a time. Returns
    /// what failed.
    async fn start_dnsmasq(&mut self, networks: BTreeSet<Uuid>) -> BTreeMap<Uuid, ApiError> {
        let mut starts = Vec::new();
        let (dnsmasq, paths, binary) = (&self.dnsmasq, &self.paths, &self.binary);
        for live in self.networks.live() {
            let network = &live.network;
            if !networks.contains(&network.uuid) || !dnsmasq::wants_dnsmasq(network) {
                continue;
            }
            if let Some(bridge) = network.bridge.name.as_deref() {
                let start = dnsmasq.start(network, bridge, paths, binary);
                starts.push(async { (network.uuid, start.await) });
            }
        }
        let starts = stream::iter(starts).buffer_unordered(DNSMASQS);
        let started: Vec<_> = starts.collect().await;
        let mut failed = BTreeMap::new();
        for (uuid, result) in started {
            match result {
                Ok(running) => {
                    if let Some(live) = &mut self.networks.entry(uuid).live {
                        live.dnsmasq = Some(running.clone());
                    }
                    self.watch_dnsmasq(running);
                }
                Err(error) => {
                    failed.insert(uuid, error.into());
                }
            }
        }
        failed
    }

    /// Let an active network's dnsmasq serve what its definition says: start it, tell it, or stop
    /// it.
    pub(super) async fn serve(&mut self, uuid: Uuid) -> Result<()> {
        let Some(live) = self.networks.get_mut(uuid)?.live.as_mut() else {
            return Ok(());
        };
        let (network, paths) = (&live.network, &self.paths);
        let Some(bridge) = &network.bridge.name else {
            return Ok(());
        };
        let running = live.dnsmasq.clone().filter(Running::is_alive);
        let before = running.as_ref().map(Running::pid);
        let now = match (dnsmasq::wants_dnsmasq(network), running) {
            (false, None) => return Ok(()),
            (false, Some(running)) => {
                dnsmasq::process::stop_network(network, paths, Some(running)).await?;
                live.dnsmasq = None;
                return Ok(());
            }
            (true, None) => {
                let started = self.dnsmasq.start(network, bridge, paths, &self.binary);
                started.await?
            }
            (true, Some(running)) => {
                let dnsmasq = &self.dnsmasq;
                dnsmasq
                    .reload(network, bridge, paths, &self.binary, running)
                    .await?
            }
        };
        live.dnsmasq = Some(now.clone());
        if before != Some(now.pid()) {
            self.watch_dnsmasq(now);
        }
        Ok(())
    }

    /// Take a network down, past all errors, which are returned. A bridge that cannot be removed
    /// stays guarded: then the network stays active.
    async fn deactivate(&mut self, uuid: Uuid) -> Vec<ApiError> {
        let mut errors = Vec::new();
        let Ok(Some(live)) = self.networks.get_mut(uuid).map(|entry| entry.live.as_mut()) else {
            return errors;
        };
        let network = live.network.clone();
        let known = live.bridge;
        let running = live.dnsmasq.take();
        let stopped = dnsmasq::process::stop_network(&network, &self.paths, running);
        if let Err(error) = stopped.await {
            errors.push(error.into());
        }
        if let Err(error) = delete_bridge(&self.links, &network, known).await {
            errors.push(ApiError::internal(error));
            return errors;
        }
        self.networks.entry(uuid).live = None;
        if let Err(error) = self.store.remove_active(&network.name) {
            errors.push(error.into());
        }
        let mut failures = self.converge().await;
        Failure::keep(&mut failures, &[uuid]);
        errors.extend(failures.into_iter().map(|failure| failure.error));
        // Its flows are dead to the programs from here on; this gives back their memory.
        if let Err(error) = self.datapath.sweep_all() {
            errors.push(ApiError::internal(error));
        }
        errors
    }

    /// `net-destroy`.
    pub(super) async fn destroy(&mut self, uuid: Uuid) -> Result<()> {
        let entry = self.networks.get(uuid)?;
        let Some(live) = &entry.live else {
            let name = entry.network().map_or("", |network| &network.name);
            return Err(invalid(format_args!("network '{name}' is not active")));
        };
        let (network, ports) = (live.network.clone(), live.ports.clone());
        let persistent = entry.config.is_some();
        if entry.autostart {
            self.host.stopped.insert(network.name.clone());
        }
        if network.is_managed() && persistent && !ports.is_empty() {
            self.host.detached.insert(network.name.clone(), ports);
        }
        self.save_host();
        let errors = self.deactivate(uuid).await;
        if !persistent {
            self.remove_files(&network);
            self.networks.prune(uuid);
        }
        all_of(
            &errors,
            &format!("network '{}' was stopped, but", network.name),
        )
    }

    /// `net-undefine`.
    pub(super) fn undefine(&mut self, uuid: Uuid) -> Result<()> {
        let entry = self.networks.get_mut(uuid)?;
        let Some(network) = entry.config.clone() else {
            return Err(invalid("cannot undefine transient network"));
        };
        self.store.remove(&network.name)?;
        entry.config = None;
        entry.autostart = false;
        if entry.live.is_none() {
            self.remove_files(&network);
        }
        self.host.detached.remove(&network.name);
        self.host.stopped.remove(&network.name);
        self.save_host();
        self.networks.prune(uuid);
        Ok(())
    }

    fn remove_files(&self, network: &Network) {
        let Some(bridge) = network
            .bridge
            .name
            .as_deref()
            .filter(|_| network.is_managed())
        else {
            return;
        };
        if let Err(error) = dnsmasq::process::remove_files(network, bridge, &self.paths) {
            tracing::warn!(network = network.name, %error, "files of dnsmasq are left");
        }
    }

    /// `net-autostart`.
    pub(super) fn set_autostart(&mut self, uuid: Uuid, on: bool) -> Result<()> {
        let entry = self.networks.get_mut(uuid)?;
        let Some(network) = &entry.config else {
            return Err(invalid("cannot set autostart for transient network"));
        };
        self.store.set_autostart(&network.name, on)?;
        entry.autostart = on;
        Ok(())
    }
}

/// Delete the bridge of a managed network, if it is there and is that network's. Another device of
/// its name is left alone.
pub(super) async fn delete_bridge(
    links: &Links,
    network: &Network,
    known: Option<u32>,
) -> std::result::Result<(), LinkError> {
    let Some(spec) = plan::bridge_spec(network) else {
        return Ok(());
    };
    let snapshot = links.snapshot().await?;
    let Some(link) = snapshot
        .by_name(&spec.name)
        .filter(|link| spec.is(link, known))
    else {
        return Ok(());
    };
    match links.delete(link.index).await {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}

/// May the network start on this host as it is now?
pub(super) fn check_host(network: &Network, snapshot: &Snapshot) -> Result<()> {
    let name = network.bridge.name.as_deref().unwrap_or_default();
    if network.mode() == ForwardMode::Bridge {
        return match snapshot.by_name(name) {
            Some(link) if link.bridge.is_some() => Ok(()),
            Some(_) => Err(ApiError::internal(format_args!(
                "network '{}' needs the host's bridge '{name}', but that device is no bridge",
                network.name
            ))),
            None => Err(ApiError::internal(format_args!(
                "network '{}' needs the host's bridge '{name}', which does not exist; create it \
                 first",
                network.name
            ))),
        };
    }
    if snapshot.by_name(name).is_some() {
        return Err(ApiError::internal(format_args!(
            "bridge name '{name}' already in use: a device of that name exists; choose another \
             <bridge name> for network '{}' or remove the device",
            network.name
        )));
    }
    let v4 = network.ipv4_subnets().map(|(a, len)| (IpAddr::V4(a), len));
    let v6 = network.ipv6_subnets().map(|(a, len)| (IpAddr::V6(a), len));
    let behind = network.routes.iter().map(|r| (r.address, r.prefix_len()));
    for subnet in v4.chain(v6).chain(behind) {
        if let Some(in_use) = subnet_in_use(subnet, Some(name), snapshot) {
            return Err(ApiError::internal(in_use));
        }
    }
    if network.has(Family::Ipv6) {
        if !sysctl::has_ipv6().map_err(ApiError::internal)? {
            return Err(ApiError::internal(format_args!(
                "network '{}' has an IPv6 <ip>, but this kernel runs without IPv6; boot it \
                 without ipv6.disable=1 or remove the element",
                network.name
            )));
        }
        if needs_forwarding(network, Family::Ipv6) {
            check_forwarding(Family::Ipv6, snapshot)?;
        }
    }
    Ok(())
}

/// One error out of many; `Ok` when there are none.
fn all_of(errors: &[ApiError], what: &str) -> Result<()> {
    match errors {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => {
            let list: Vec<&str> = many.iter().map(|error| error.message.as_str()).collect();
            Err(ApiError::internal(format_args!(
                "{what}: {}",
                list.join("; ")
            )))
        }
    }
}
