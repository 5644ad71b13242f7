//! How each step is done.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::host::{ActiveData, KernelHost, Process};
use crate::api::ApiError;
use crate::datapath::records::{Change, Record};
use crate::datapath::{Attachment, bpffs};
use crate::dnsmasq;
use crate::link::{LinkError, Links, Snapshot, routes_at_risk, sysctl};
use crate::model::Family;
use crate::plan::{Act, DatapathAct, DeviceAct, Intent, Noted, ServiceAct, Step, StepError};

/// dnsmasq processes that start at the same time.
const DNSMASQS: usize = 4;

type Result<T> = std::result::Result<T, StepError>;

/// The network whose dnsmasq a step starts, and its bridge.
pub(super) fn start(step: &Step) -> Option<(Uuid, String)> {
    match &step.act {
        Act::Service(ServiceAct::StartDnsmasq { bridge, .. }) => {
            Some((step.network?, bridge.clone()))
        }
        _ => None,
    }
}

/// May the host start to forward packets of this family now, or does it already?
pub(super) fn check_forwarding(
    family: Family,
    snapshot: &Snapshot,
) -> std::result::Result<(), ApiError> {
    if family == Family::Ipv4 || sysctl::forwarding(family).map_err(ApiError::internal)? {
        return Ok(());
    }
    match routes_at_risk(snapshot).map_err(ApiError::internal)? {
        None => Ok(()),
        Some(devices) => Err(ApiError::internal(devices)),
    }
}

fn of_link(result: std::result::Result<(), LinkError>) -> Result<()> {
    match result {
        Err(error) if error.is_gone() => Err(StepError::Moot(error.to_string())),
        result => result.map_err(StepError::internal),
    }
}

/// The number of a device that a step changes.
async fn index(links: &Links, name: &str, act: &DeviceAct) -> Result<u32> {
    let index = links.index_of(name).await.map_err(StepError::internal)?;
    index.ok_or_else(|| {
        let gone = format!("cannot {act}: there is no device of that name");
        StepError::internal(gone)
    })
}

impl KernelHost {
    pub(super) async fn on_device(&mut self, act: &DeviceAct) -> Result<()> {
        match act {
            DeviceAct::EnableForwarding(family) => self.enable_forwarding(*family).await,
            DeviceAct::RestoreForwarding(family, was) => {
                sysctl::set_forwarding(*family, *was).map_err(StepError::internal)?;
                *self.notes.forwarding_was(*family) = None;
                self.write_notes()
            }
            DeviceAct::ProxyNeighbour {
                index, address, on, ..
            } => {
                let proxy = (*index, *address);
                // On disk first: what an agent forgets nobody gives back.
                if *on && self.notes.nd_proxies.insert(proxy) {
                    self.write_notes()?;
                }
                let set = self.links.listen_for(*index, *address, *on).await;
                set.map_err(StepError::internal)?;
                if *on {
                    self.proxies.insert(proxy);
                    return Ok(());
                }
                self.proxies.remove(&proxy);
                self.notes.nd_proxies.remove(&proxy);
                self.write_notes()
            }
            DeviceAct::ForwardPorts { index, ports, .. } => {
                let forwarded = self.links.forward_ports_now(*index, ports).await;
                forwarded.map_err(StepError::internal)
            }
            DeviceAct::IsolatePort { index, .. } => of_link(self.links.isolate(*index).await),
            DeviceAct::DeleteBridge { index, .. } => match self.links.delete(*index).await {
                Err(error) if !error.is_gone() => Err(StepError::internal(error)),
                _ => Ok(()),
            },
            _ => self.on_bridge(act).await,
        }
    }

    /// What is done to a bridge by its name.
    async fn on_bridge(&self, act: &DeviceAct) -> Result<()> {
        let links = &self.links;
        let done = match act {
            DeviceAct::CreateBridge { bridge, mac, mtu } => {
                links.create_bridge(bridge, *mac, *mtu).await.map(drop)
            }
            DeviceAct::SetSpanningTree {
                bridge,
                stp,
                delay_ms,
            } => {
                let bridge = index(links, bridge, act).await?;
                links.set_bridge(bridge, *stp, *delay_ms).await
            }
            DeviceAct::SetMtu { bridge, mtu } => {
                links.set_mtu(index(links, bridge, act).await?, *mtu).await
            }
            DeviceAct::SetMac { bridge, mac } => {
                links.set_mac(index(links, bridge, act).await?, *mac).await
            }
            DeviceAct::AddAddress {
                bridge,
                address,
                prefix,
            } => {
                let bridge = index(links, bridge, act).await?;
                links.add_address(bridge, *address, *prefix).await
            }
            DeviceAct::SetUp { bridge } => {
                links.set_up(index(links, bridge, act).await?, true).await
            }
            DeviceAct::AddRoute { bridge, route } => {
                let bridge = index(links, bridge, act).await?;
                let (to, by) = (route.destination, route.gateway);
                links.add_route(bridge, to, by, route.metric).await
            }
            DeviceAct::Enslave { port, bridge } => {
                let bridge = index(links, bridge, act).await?;
                let port = index(links, port, act).await?;
                links.set_controller(port, Some(bridge)).await
            }
            DeviceAct::SetIpv6 { bridge, on } => {
                // A kernel without IPv6 has nothing to switch off. Where it is to be switched on,
                // the addresses that follow will fail.
                return sysctl::set_accept_ra(bridge, 0)
                    .and_then(|_| sysctl::set_autoconf(bridge, false))
                    .and_then(|_| sysctl::set_disable_ipv6(bridge, !on))
                    .map(drop)
                    .map_err(StepError::internal);
            }
            DeviceAct::DeleteBridge { .. }
            | DeviceAct::EnableForwarding(_)
            | DeviceAct::RestoreForwarding(..)
            | DeviceAct::ForwardPorts { .. }
            | DeviceAct::IsolatePort { .. }
            | DeviceAct::ProxyNeighbour { .. } => Ok(()),
        };
        done.map_err(StepError::internal)
    }

    async fn enable_forwarding(&mut self, family: Family) -> Result<()> {
        let snapshot = self.links.snapshot().await.map_err(StepError::internal)?;
        check_forwarding(family, &snapshot).map_err(StepError::Failed)?;
        let was = sysctl::forwarding(family).map_err(StepError::internal)?;
        // On disk first: a crash in between must not forget what to give back.
        self.notes.forwarding_was(family).get_or_insert(was);
        self.write_notes()?;
        sysctl::set_forwarding(family, true).map_err(StepError::internal)
    }

    fn write_notes(&self) -> Result<()> {
        let saved = self.store.save_host(&self.notes);
        saved.map_err(|error| StepError::Failed(error.into()))
    }

    pub(super) async fn on_datapath(&mut self, act: &DatapathAct) -> Result<()> {
        match act {
            DatapathAct::Attach { device, at } => return self.attach(*at, device).await,
            DatapathAct::ForgetGuests { ports } => return self.forget_guests(ports).await,
            DatapathAct::RemoveDatapath => {
                let errors = bpffs::clear(&self.paths.bpffs);
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                return match errors.is_empty() {
                    true => Ok(()),
                    false => Err(StepError::internal(errors.join("; "))),
                };
            }
            _ => {}
        }
        let datapath = self.loaded.as_mut();
        let datapath = datapath.ok_or_else(|| StepError::internal("no programs are loaded"))?;
        let maps = &mut datapath.maps;
        let done = match act {
            DatapathAct::ReservePorts(ports) => maps.reserve(ports),
            DatapathAct::Publish(ports) => maps.publish(ports),
            DatapathAct::Record { change, .. } => {
                self.unchecked |= change.record().decides();
                self.unswept |= matches!(change, Change::Remove(Record::Network(..)));
                maps.change(change)
            }
            DatapathAct::SetFlags(flags) => {
                self.unchecked = true;
                maps.set_flags(*flags)
            }
            DatapathAct::Revalidate => maps.raise_epoch().inspect(|()| self.unchecked = false),
            DatapathAct::SweepFlows => datapath.sweep_all().map(|_| self.unswept = false),
            DatapathAct::AttachSockets => {
                let attached = datapath.attach_sockets();
                attached.inspect(|()| self.at_sockets = true)
            }
            DatapathAct::DetachSockets => {
                self.at_sockets = false;
                datapath.detach_sockets()
            }
            DatapathAct::Detach { at, .. } => {
                let detached = datapath.detach(*at);
                detached.inspect(|()| {
                    self.attached.remove(at);
                })
            }
            DatapathAct::Attach { .. }
            | DatapathAct::ForgetGuests { .. }
            | DatapathAct::RemoveDatapath => Ok(()),
        };
        done.map_err(StepError::internal)
    }

    async fn attach(&mut self, at: Attachment, device: &str) -> Result<()> {
        let datapath = self.datapath_mut().map_err(StepError::Failed)?;
        let Err(error) = datapath.attach(at, device) else {
            self.attached.insert(at);
            return Ok(());
        };
        if at.hook.is_optional() {
            tracing::warn!(%error, "no XDP fast path on this device; it uses TC");
            self.refused.insert(at);
            return Err(StepError::Moot(error.to_string()));
        }
        // It may have gone since it was looked at; an event will follow.
        let there = self.links.index_of(device).await;
        if there.is_ok_and(|index| index != Some(at.ifindex)) {
            return Err(StepError::Moot(error.to_string()));
        }
        Err(StepError::internal(error))
    }

    /// Guests whose ports are gone may come back at another, or somebody else with their address.
    /// Until then packets for them are not to be sent to the MAC address that the host remembers:
    /// the bridge does not know it any more, and would show them to everybody.
    async fn forget_guests(&mut self, ports: &BTreeMap<u32, u32>) -> Result<()> {
        let datapath = self.datapath_mut().map_err(StepError::Failed)?;
        let gone = datapath
            .maps
            .forget_endpoints(|port| ports.contains_key(&port));
        let mut first = Ok(());
        for (address, port) in gone.map_err(StepError::internal)? {
            // A bridge that goes takes its neighbours with it.
            let bridge = ports
                .get(&port)
                .filter(|bridge| !ports.contains_key(bridge));
            if let Some(bridge) = bridge {
                let forgotten = self.links.forget_neighbour(*bridge, address).await;
                first = first.and(forgotten.map_err(StepError::internal));
            }
        }
        first
    }

    pub(super) async fn on_service(
        &mut self,
        act: &ServiceAct,
        network: Option<Uuid>,
        intent: &Intent<'_>,
    ) -> Result<()> {
        let uuid = network.ok_or_else(|| StepError::internal("a record of no network"))?;
        let failed = |error: ApiError| StepError::Failed(error);
        match act {
            ServiceAct::NoteNetwork { network } => {
                let Some(member) = intent.member(uuid) else {
                    return Ok(());
                };
                let known = self.noted.get(&uuid);
                let data = ActiveData {
                    bridge: known.and_then(|noted| noted.bridge),
                    ports: known.map_or_else(|| member.ports.to_vec(), |noted| noted.ports.clone()),
                };
                let saved = self.store.save_active(member.network, &data);
                saved.map_err(|error| failed(error.into()))?;
                let noted = Noted {
                    name: network.clone(),
                    generation: member.generation,
                    bridge: data.bridge,
                    ports: data.ports,
                };
                self.noted.insert(uuid, noted);
            }
            ServiceAct::ForgetNetwork { network } => {
                let removed = self.store.remove_active(network);
                removed.map_err(|error| failed(error.into()))?;
                self.noted.remove(&uuid);
            }
            ServiceAct::NotePorts {
                network,
                bridge,
                ports,
            } => {
                let data = ActiveData {
                    bridge: Some(*bridge),
                    ports: ports.clone(),
                };
                let saved = self.store.save_active_data(network, &data);
                saved.map_err(|error| failed(error.into()))?;
                if let Some(noted) = self.noted.get_mut(&uuid) {
                    noted.bridge = data.bridge;
                    noted.ports = data.ports;
                }
            }
            ServiceAct::StopDnsmasq { .. } => self.stop_service(uuid, intent).await?,
            ServiceAct::ReloadDnsmasq { bridge, .. } => {
                self.reload_service(uuid, bridge, intent).await?;
            }
            // These are started together, before.
            ServiceAct::StartDnsmasq { .. } => {}
        }
        Ok(())
    }

    /// Start dnsmasqs, a few at a time.
    pub(super) async fn start_all(
        &mut self,
        networks: &[(Uuid, String)],
        intent: &Intent<'_>,
    ) -> BTreeMap<Uuid, Result<()>> {
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

    async fn stop_service(&mut self, uuid: Uuid, intent: &Intent<'_>) -> Result<()> {
        self.tried.remove(&uuid);
        let running = self.processes.get(&uuid).map(|p| p.running.clone());
        if let Some(member) = intent.member(uuid) {
            let stopped = dnsmasq::process::stop_network(member.network, &self.paths, running);
            let stopped = stopped.await;
            stopped.map_err(|error| StepError::Failed(error.into()))?;
        }
        self.processes.remove(&uuid);
        Ok(())
    }

    async fn reload_service(
        &mut self,
        uuid: Uuid,
        bridge: &str,
        intent: &Intent<'_>,
    ) -> Result<()> {
        let (Some(member), Some(process)) = (intent.member(uuid), self.processes.get(&uuid)) else {
            return Ok(());
        };
        let running = process.running.clone();
        let before = running.pid();
        let reloaded =
            self.dnsmasq
                .reload(member.network, bridge, &self.paths, &self.binary, running);
        let running = match reloaded.await {
            Ok(running) => running,
            Err(error) => {
                self.tried.insert(uuid, Instant::now());
                return Err(StepError::Failed(error.into()));
            }
        };
        if running.pid() != before {
            self.watch_dnsmasq(running.clone());
        }
        let serves = member.service;
        self.processes.insert(uuid, Process { running, serves });
        Ok(())
    }
}
