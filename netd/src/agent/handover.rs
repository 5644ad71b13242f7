//! The agent's part of the switch from libvirt's own network driver and back: networks that run pass
//! from one to the other with their bridges, ports and leases.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::controller::Controller;
use super::reconcile::{intent, keep, tell};
use super::room::{Neighbours, check_host, check_subnets};
use crate::api::{ApiError, ErrorCode, Handover, Lifecycle, Result, StockService};
use crate::dnsmasq::{NetworkFiles, leases, nss, process, wants_dnsmasq};
use crate::link::Snapshot;
use crate::model::{self, Network};
use crate::plan::{self, FAMILIES, Scope, execute};

impl Controller {
    /// One part of the switch.
    pub(super) async fn hand_over(&mut self, handover: &Handover) -> Result<()> {
        // What comes after it builds upon what runs.
        self.host.waits_for_services = true;
        let done = self.hand_over_one(handover).await;
        self.host.waits_for_services = false;
        done
    }

    async fn hand_over_one(&mut self, handover: &Handover) -> Result<()> {
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
            // Of no network's; `driver.rs` has done it.
            Handover::Serve { .. } => Ok(()),
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
        model::check_take_over(&network)?;
        let snapshot = self.snapshot().await?;
        check_bridge(&network, &snapshot)?;
        self.prepare(network.clone(), &snapshot).await?;
        let bridge = bridge(&network).and_then(|name| snapshot.by_name(name));
        let bridge = bridge.map(|link| link.index);
        let Err(error) = self.take_bridge_and_service(&network, bridge, from).await else {
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

    /// The bridge first: what guests have open goes on before anybody opens something new, and libvirt's
    /// dnsmasq answers meanwhile. Its leases are there before the network's record, which an agent that is
    /// killed leaves to the next one.
    async fn take_bridge_and_service(
        &mut self,
        network: &Network,
        bridge: Option<u32>,
        from: &StockService,
    ) -> Result<()> {
        let uuid = network.uuid;
        let service = match &mut self.networks.get_mut(uuid)?.live {
            Some(live) => live.service.take(),
            None => None,
        };
        self.take_leases(network, from)?;
        self.must_converge(Scope::Host, uuid).await?;
        if let Some(bridge) = bridge {
            self.take_connections(network, bridge);
        }
        self.take_service(network, from).await?;
        if let Some(live) = &mut self.networks.get_mut(uuid)?.live {
            live.service = service;
        }
        // What leases say of guests is known by now, too.
        self.must_converge(Scope::Host, uuid).await
    }

    /// One pass over the host, which has to succeed as far as it concerns a network.
    async fn must_converge(&mut self, scope: Scope, uuid: Uuid) -> Result<()> {
        let mut failures = self.converge(scope).await.failures;
        keep(&mut failures, &[uuid]);
        let first = failures.into_iter().next();
        first.map_or(Ok(()), |failure| Err(failure.error))
    }

    /// End libvirt's dnsmasq of a network and take its leases.
    async fn take_service(&self, network: &Network, from: &StockService) -> Result<()> {
        let files = files(network, from);
        let pid_file = from.pid_file(network);
        if let Some(running) = process::adopt(&pid_file, &files.conf(&network.name)) {
            let bridge = bridge(network).unwrap_or_default();
            process::stop(&running, &files, bridge).await?;
        }
        self.take_leases(network, from)?;
        match bridge(network) {
            Some(bridge) => nss::begin(&self.host.paths.dnsmasq_dir(), bridge, &from.dir)
                .map_err(|error| no_leases(network, &error)),
            None => Ok(()),
        }
    }

    fn take_leases(&self, network: &Network, from: &StockService) -> Result<()> {
        let Some(bridge) = bridge(network) else {
            return Ok(());
        };
        let to = self.host.paths.dnsmasq_dir();
        leases::carry(bridge, &from.dir, &to).map_err(|error| no_leases(network, &error))
    }

    /// The agent's dnsmasq of a network ends, and libvirt's runs.
    async fn give_service(&mut self, network: &Network, to: &StockService) -> Result<()> {
        let Some(bridge) = bridge(network) else {
            return Ok(());
        };
        let files = files(network, to);
        let runs = process::adopt(&to.pid_file(network), &files.conf(&network.name)).is_some();
        if let Ok(entry) = self.networks.get_mut(network.uuid)
            && let Some(live) = &mut entry.live
        {
            live.service = None;
            // The programs send guests to the host again, since the namespace goes.
            self.must_converge(Scope::Host, network.uuid).await?;
            let own = self.host.paths.dnsmasq_dir();
            nss::end(&own, bridge).map_err(|error| no_leases(network, &error))?;
            // One that was not stopped knows best.
            if !runs {
                leases::carry(bridge, &own, &to.dir).map_err(|error| no_leases(network, &error))?;
            }
        }
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
        self.must_converge(Scope::Host, network.uuid).await
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
            self.give_connections(link.index);
        }
        let mut intent = intent(&self.networks, &self.xdp, self.firewall, Scope::Host);
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

/// Is the bridge there that the network runs on?
fn check_bridge(network: &Network, snapshot: &Snapshot) -> Result<()> {
    let Some(spec) = plan::bridge_spec(network) else {
        return check_host(network, snapshot, &Neighbours::default());
    };
    match snapshot.by_name(&spec.name) {
        Some(link) if spec.is(link, None) => {
            check_subnets(network, snapshot, &Neighbours::default())
        }
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
