//! Defining, starting and stopping networks.

use uuid::Uuid;

use super::controller::Controller;
use super::reconcile::keep;
use super::room::warn_of_subnets_around;
use crate::api::{ApiError, ErrorCode, Lifecycle, Result};
use crate::dnsmasq;
use crate::link::Snapshot;
use crate::managers::firewalld;
use crate::model::{self, Network};
use crate::plan::{self, Failure, Scope};
use crate::store;

fn invalid(detail: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::OperationInvalid, detail)
}

impl Controller {
    pub(super) async fn snapshot(&self) -> Result<Snapshot> {
        self.host.links.snapshot().await.map_err(ApiError::internal)
    }

    /// Check a definition, complete it and store it.
    pub(super) async fn define_network(&mut self, mut network: Network) -> Result<Uuid> {
        model::check_define(&network)?;
        let snapshot = self.snapshot().await?;
        self.networks
            .complete(&mut network, |name| snapshot.by_name(name).is_some())?;
        store::read_again(&network)?;
        self.host.store.save(&network)?;
        let uuid = network.uuid;
        self.tell(uuid, &network.name, Lifecycle::Defined);
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
        if self.host.notes.stopped.remove(&name) {
            self.host.save_notes();
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
            match self.prepare_new(network, &mut snapshot).await {
                Ok(()) => prepared.push((uuid, name)),
                Err(error) => outcomes.push((name, Err(error))),
            }
        }
        if prepared.is_empty() {
            return outcomes;
        }
        let uuids: Vec<Uuid> = prepared.iter().map(|(uuid, _)| *uuid).collect();
        let mut failures = self.converge(Scope::Host).await.failures;
        keep(&mut failures, &uuids);
        // What one network took too much of (a map, say) may show as the failure of others.
        let failed: Vec<Uuid> = uuids
            .iter()
            .copied()
            .filter(|uuid| failures.iter().any(|failure| failure.concerns(*uuid)))
            .collect();
        if failed.len() > 1 {
            outcomes.extend(self.activate_apart(&failed).await);
            prepared.retain(|(uuid, _)| !failed.contains(uuid));
            failures.clear();
        }
        let mut have_ports = false;
        for (uuid, name) in prepared {
            let failed = failures.iter().find(|failure| failure.concerns(uuid));
            let Some(Failure { error, .. }) = failed else {
                have_ports |= self.host.notes.detached.remove(&name).is_some();
                self.networks.entry(uuid).waiting = None;
                self.warn_of_port_conflicts(uuid, None);
                match self.host.starting.contains_key(&uuid) {
                    true => drop(self.untold.insert(uuid)),
                    false => self.tell(uuid, &name, Lifecycle::Started),
                }
                outcomes.push((name, Ok(())));
                continue;
            };
            tracing::warn!(network = name, %error, "failed to start; rolling back");
            for error in self.deactivate(uuid).await {
                tracing::error!(network = name, %error, "not removed after the failed start");
            }
            outcomes.push((name, Err(error.clone())));
        }
        if have_ports {
            self.host.save_notes();
        }
        outcomes
    }

    /// Take a start back whose dnsmasq did not start in the end; returns that error.
    pub(super) async fn undo_start(&mut self, uuid: Uuid, error: ApiError) -> ApiError {
        self.untold.remove(&uuid);
        for error in self.deactivate(uuid).await {
            tracing::error!(%error, "not removed after the failed start");
        }
        self.networks.prune(uuid);
        error
    }

    /// Start networks one by one that do not start together: one of them is too much for the host, a
    /// map that is full, say, but nothing tells which.
    async fn activate_apart(&mut self, uuids: &[Uuid]) -> Vec<(String, Result<()>)> {
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

    /// Look whether a network can start, and let it be one that is to run. What it takes of the host
    /// is taken in `snapshot` from then on.
    async fn prepare_new(&mut self, network: Network, snapshot: &mut Snapshot) -> Result<()> {
        model::check_start(&network)?;
        self.check_room(&network, snapshot)?;
        let zone = firewalld::check(&network).await;
        zone.map_err(|why| ApiError::new(ErrorCode::OperationFailed, why))?;
        warn_of_subnets_around(&network, snapshot);
        let spec = plan::bridge_spec(&network);
        self.prepare(network, snapshot).await?;
        if let Some(spec) = spec {
            let behind = spec.routes.iter().map(|route| route.destination);
            snapshot.reserve_bridge(&spec.name, spec.addresses.iter().copied().chain(behind));
        }
        Ok(())
    }

    /// Let a network be one that is to run, on a host that has room for it.
    pub(super) async fn prepare(&mut self, network: Network, snapshot: &Snapshot) -> Result<()> {
        self.check_published(&network)?;
        // Refused here, before anything is made, when its files could not be written.
        if dnsmasq::wants_dnsmasq(&network) {
            self.host.dnsmasq.binary().await?;
            dnsmasq::process::files_of(&self.host.paths, &network)?;
        }
        let ports = self.host.notes.detached.get(&network.name);
        let ports = ports.cloned().unwrap_or_default();
        let network_ports = self.host.returning_ports(&network, &ports, snapshot);
        let live = self.live(network, ports, network_ports)?;
        let uuid = live.network.uuid;
        self.networks.entry(uuid).live = Some(live);
        Ok(())
    }

    /// Take a network down, past all errors, which are returned. A bridge that cannot be removed
    /// stays guarded: then the network stays active.
    async fn deactivate(&mut self, uuid: Uuid) -> Vec<ApiError> {
        let Ok(Some(live)) = self.networks.get_mut(uuid).map(|entry| entry.live.as_mut()) else {
            return Vec::new();
        };
        live.stopping = true;
        self.untold.remove(&uuid);
        let network = live.network.clone();
        let known = self.host.noted.get(&uuid).and_then(|noted| noted.bridge);
        let mut failures = self.converge(Scope::Host).await.failures;
        keep(&mut failures, &[uuid]);
        let mut errors: Vec<ApiError> = failures.into_iter().map(|f| f.error).collect();
        let stays = match self.snapshot().await {
            // Nothing of it was made, or all of it has gone.
            _ if !self.host.noted.contains_key(&uuid) => false,
            Ok(snapshot) => has_bridge(&network, known, &snapshot),
            Err(error) => {
                errors.push(error);
                true
            }
        };
        match self.networks.get_mut(uuid).map(|entry| &mut entry.live) {
            Ok(Some(live)) if stays => live.stopping = false,
            Ok(live) => *live = None,
            Err(error) => errors.push(error),
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
        let network = live.network.clone();
        let ports = self.host.noted.get(&uuid);
        let ports = ports.map(|noted| noted.ports.clone()).unwrap_or_default();
        let persistent = entry.config.is_some();
        if entry.autostart {
            self.host.notes.stopped.insert(network.name.clone());
        }
        if network.is_managed() && persistent && !ports.is_empty() {
            self.host.notes.detached.insert(network.name.clone(), ports);
        }
        self.host.save_notes();
        let errors = self.deactivate(uuid).await;
        let stopped = self.networks.get(uuid).is_ok_and(|now| now.live.is_none());
        if stopped {
            self.tell(uuid, &network.name, Lifecycle::Stopped);
        }
        // Those of guests that get back their connection at the next start are kept until then.
        if stopped && !self.host.notes.detached.contains_key(&network.name) {
            self.host.remove_ports(&network.name);
        }
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
            return Err(invalid("can't undefine transient network"));
        };
        self.host.store.remove(&network.name)?;
        entry.config = None;
        entry.autostart = false;
        if entry.live.is_none() {
            self.host.remove_ports(&network.name);
            self.remove_files(&network);
        }
        self.host.notes.detached.remove(&network.name);
        self.host.notes.stopped.remove(&network.name);
        self.host.save_notes();
        self.tell(uuid, &network.name, Lifecycle::Undefined);
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
        if let Err(error) = dnsmasq::process::remove_files(network, bridge, &self.host.paths) {
            tracing::warn!(network = network.name, %error, "files of dnsmasq are left");
        }
    }

    /// `net-autostart`.
    pub(super) fn set_autostart(&mut self, uuid: Uuid, on: bool) -> Result<()> {
        let entry = self.networks.get_mut(uuid)?;
        let Some(network) = &entry.config else {
            return Err(invalid("cannot set autostart for transient network"));
        };
        self.host.store.set_autostart(&network.name, on)?;
        entry.autostart = on;
        entry.waiting = entry.waiting.take().filter(|_| on);
        Ok(())
    }
}

/// Is the bridge of a managed network there? Another device of its name is none.
fn has_bridge(network: &Network, known: Option<u32>, snapshot: &Snapshot) -> bool {
    let spec = plan::bridge_spec(network);
    spec.is_some_and(|spec| {
        let link = snapshot.by_name(&spec.name);
        link.is_some_and(|link| spec.is(link, known))
    })
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
