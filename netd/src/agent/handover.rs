//! The agent's part of the switch from libvirt's own network driver and back: networks that run pass
//! from one to the other with their bridges, ports and leases.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::controller::Controller;
use super::lifecycle::{check_host, check_subnets};
use super::reconcile::{intent, keep, tell};
use crate::api::{ApiError, ErrorCode, Handover, Lifecycle, Result, StockService};
use crate::dnsmasq::{NetworkFiles, leases, process, wants_dnsmasq};
use crate::link::{Snapshot, track};
use crate::model::{self, Network};
use crate::plan::{self, FAMILIES, Scope, execute};

impl Controller {
    /// One part of the switch.
    pub(super) async fn hand_over(&mut self, handover: &Handover) -> Result<()> {
        match handover {
            Handover::TakeOver { xml, service } => {
                self.take_over(model::parse(xml)?, service).await
            }
            Handover::GiveService { xml, service } => {
                self.give_service(&model::parse(xml)?, service).await
            }
            Handover::TakeService { xml, service } => {
                self.take_service_back(&model::parse(xml)?, service).await
            }
            Handover::LetGo { network } => match self.networks.uuid_of(network) {
                Some(uuid) => {
                    let ran = self.networks.get(uuid)?.live.is_some();
                    let gone = self.let_go(uuid).await;
                    if ran {
                        self.tell(uuid, network, Lifecycle::Stopped);
                    }
                    gone
                }
                None => Ok(()),
            },
        }
    }

    /// All of it, or the network is libvirt's as before.
    async fn take_over(&mut self, mut network: Network, from: &StockService) -> Result<()> {
        self.networks.complete(&mut network, |_| false)?;
        let (uuid, name) = (network.uuid, network.name.clone());
        if self
            .networks
            .get(uuid)
            .is_ok_and(|entry| entry.live.is_some())
        {
            let detail = format!("network '{name}' is active in netd already");
            return Err(ApiError::new(ErrorCode::OperationInvalid, detail));
        }
        model::check_start(&network)?;
        let snapshot = self.snapshot().await?;
        check_bridge(&network, &snapshot)?;
        self.prepare(network.clone(), &snapshot).await?;
        let taken = match self.take_service(&network, from).await {
            Ok(()) => {
                let mut failures = self.converge(Scope::Host).await.failures;
                keep(&mut failures, &[uuid]);
                failures
                    .into_iter()
                    .next()
                    .map_or(Ok(()), |failure| Err(failure.error))
            }
            Err(error) => Err(error),
        };
        let Err(error) = taken else {
            self.warn_of_port_conflicts(uuid, None);
            self.tell(uuid, &name, Lifecycle::Started);
            tracing::info!(network = name, "taken over from libvirt");
            return Ok(());
        };
        tracing::warn!(network = name, %error, "not taken over; giving it back");
        if let Err(error) = self.give_service(&network, from).await {
            tracing::error!(network = name, %error, "no DHCP and DNS");
        }
        if let Err(error) = self.let_go(uuid).await {
            tracing::error!(network = name, %error, "not let go");
        }
        Err(error)
    }

    /// End libvirt's dnsmasq of a network and take its leases.
    async fn take_service(&self, network: &Network, from: &StockService) -> Result<()> {
        let Some(bridge) = bridge(network) else {
            return Ok(());
        };
        let files = files(network, from);
        let pid_file = from.pid_file(network);
        if let Some(running) = process::adopt(&pid_file, &files.conf(&network.name)) {
            running.stop(&pid_file).await?;
        }
        let to = self.host.paths.dnsmasq_dir();
        leases::carry(bridge, &from.dir, &to).map_err(|error| no_leases(network, &error))
    }

    /// The agent's dnsmasq of a network ends, and libvirt's runs.
    async fn give_service(&mut self, network: &Network, to: &StockService) -> Result<()> {
        let Some(bridge) = bridge(network) else {
            return Ok(());
        };
        if let Ok(entry) = self.networks.get_mut(network.uuid)
            && let Some(live) = &mut entry.live
        {
            live.service = None;
            let mut failures = self.converge(Scope::Service(network.uuid)).await.failures;
            keep(&mut failures, &[network.uuid]);
            if let Some(failure) = failures.into_iter().next() {
                return Err(failure.error);
            }
            let from = self.host.paths.dnsmasq_dir();
            leases::carry(bridge, &from, &to.dir).map_err(|error| no_leases(network, &error))?;
        }
        let files = files(network, to);
        let runs = process::adopt(&to.pid_file(network), &files.conf(&network.name)).is_some();
        if wants_dnsmasq(network) && !runs {
            let starting = self
                .host
                .dnsmasq
                .start_as_libvirt(network, bridge, &files, &to.helper);
            starting.await?;
        }
        Ok(())
    }

    /// libvirt's dnsmasq of a network ends, and the agent's runs.
    async fn take_service_back(&mut self, network: &Network, from: &StockService) -> Result<()> {
        let service = self.host.service_of(network)?;
        let active = self.networks.get(network.uuid);
        if active.is_ok_and(|entry| {
            entry
                .live
                .as_ref()
                .is_some_and(|live| live.service.is_none())
        }) {
            self.take_service(network, from).await?;
            if let Some(live) = &mut self.networks.get_mut(network.uuid)?.live {
                live.service = service;
            }
        }
        let mut failures = self.converge(Scope::Service(network.uuid)).await.failures;
        keep(&mut failures, &[network.uuid]);
        failures
            .into_iter()
            .next()
            .map_or(Ok(()), |failure| Err(failure.error))
    }

    /// Leave a network's bridge as it is and without programs, and forget that it runs.
    async fn let_go(&mut self, uuid: Uuid) -> Result<()> {
        let Ok(Some(live)) = self.networks.get_mut(uuid).map(|entry| entry.live.take()) else {
            return Ok(());
        };
        // The host forwards for whoever has the network now.
        for family in FAMILIES {
            *self.host.notes.forwarding_was(family) = None;
        }
        self.host.save_notes();
        let snapshot = self.snapshot().await?;
        let name = live.network.bridge.name.as_deref();
        let link = name.and_then(|name| snapshot.by_name(name));
        if let Some(link) = link {
            self.track_flows(link.index);
        }
        let mut intent = intent(&self.networks, &self.xdp, Scope::Host);
        intent.let_go = link
            .map(|link| link.index)
            .into_iter()
            .collect::<BTreeSet<u32>>();
        let outcome = execute(&mut self.host, &intent).await;
        for failure in &outcome.failures {
            tell(failure);
        }
        self.host.remove_ports(&live.network.name);
        self.networks.prune(uuid);
        match self.host.noted.contains_key(&uuid) {
            false => Ok(()),
            true => Err(ApiError::internal(format_args!(
                "the record of network '{}' is still there; see the agent's log",
                live.network.name
            ))),
        }
    }
}

impl Controller {
    /// The kernel's connection tracking is to go on with what guests have opened. Without it their
    /// peers' packets would be the host's, which would refuse them.
    fn track_flows(&self, bridge: u32) {
        let flows = match self
            .host
            .datapath()
            .map(|datapath| datapath.translated(bridge))
        {
            Ok(Ok(flows)) => flows,
            Ok(Err(error)) => {
                tracing::warn!(%error, "connections of guests may break");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "connections of guests may break");
                return;
            }
        };
        match track(&flows) {
            Ok(()) => tracing::info!(
                flows = flows.len(),
                "given to the kernel's connection tracking"
            ),
            Err(error) => tracing::warn!(%error, "connections of guests may break"),
        }
    }
}

/// Is the bridge there that the network runs on?
fn check_bridge(network: &Network, snapshot: &Snapshot) -> Result<()> {
    let Some(spec) = plan::bridge_spec(network) else {
        return check_host(network, snapshot);
    };
    match snapshot.by_name(&spec.name) {
        Some(link) if spec.is(link, None) => check_subnets(network, snapshot),
        Some(_) => Err(ApiError::internal(format_args!(
            "device {} is not the bridge that network '{}' runs on: that is a bridge with MAC \
             address {}",
            spec.name, network.name, spec.mac
        ))),
        None => Err(ApiError::internal(format_args!(
            "network '{}' is said to run, but its bridge {} is not there",
            network.name, spec.name
        ))),
    }
}

/// The bridge that a network's dnsmasq serves.
fn bridge(network: &Network) -> Option<&str> {
    let name = network.bridge.name.as_deref();
    name.filter(|_| network.is_managed())
}

fn files(network: &Network, service: &StockService) -> NetworkFiles {
    NetworkFiles {
        dir: service.dir.clone(),
        pid_file: Some(service.pid_file(network)),
    }
}

fn no_leases(network: &Network, error: &std::io::Error) -> ApiError {
    ApiError::internal(format_args!(
        "cannot carry the leases of network '{}' over: {error}",
        network.name
    ))
}
