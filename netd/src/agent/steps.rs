//! How each step is done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use tokio::time::Instant;
use uuid::Uuid;

use netd_common::abi::{CONTROL_FORWARDS, CONTROL_WHOLE_ADDRESSES};

use super::host::{ActiveData, KernelHost};
use crate::api::ApiError;
use crate::datapath::records::{Change, Record};
use crate::datapath::{Attachment, bpffs};
use crate::link::{LinkError, Links, Snapshot, routes_at_risk, sysctl};
use crate::managers::networkd;
use crate::model::Family;
use crate::plan::{DatapathAct, DeviceAct, Intent, Noted, ServiceAct, StepError};
use crate::services::namespace;
use crate::shaping::{shaper, tc};

pub(super) type Result<T> = std::result::Result<T, StepError>;

/// May the host start to forward packets of this family now, or does it already? Devices that
/// listen to routers were told to go on before; one where that failed loses its routes.
fn check_forwarding(family: Family, snapshot: &Snapshot) -> std::result::Result<(), ApiError> {
    if family == Family::Ipv4 || sysctl::forwarding(family).map_err(ApiError::internal)? {
        return Ok(());
    }
    match routes_at_risk(snapshot) {
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
            DeviceAct::EnableForwarding { family, others } => {
                self.enable_forwarding(*family, others).await
            }
            DeviceAct::ListenToRouters { index, device, on } => {
                self.listen_to_routers(*index, device, *on)
            }
            DeviceAct::LeaveToNetd(devices) => self.leave_to_netd(devices).await,
            DeviceAct::ForwardFrom { bridge, family } => {
                tracing::warn!(%act, "somebody kept a network's bridge from forwarding");
                sysctl::set_device_forwarding(*family, bridge).map_err(StepError::internal)
            }
            DeviceAct::RestoreForwarding(family, was) => {
                sysctl::set_forwarding(*family, *was).map_err(StepError::internal)?;
                *self.notes.forwarding_was(*family) = None;
                self.write_notes()
            }
            DeviceAct::ProxyNeighbour {
                index, address, on, ..
            } => self.listen_for((*index, *address), *on).await,
            DeviceAct::Enslave { port, bridge } => {
                let links = &self.links;
                let bridge = index(links, bridge, act).await?;
                let port = index(links, port, act).await?;
                let set = links.set_controller(port, Some(bridge)).await;
                set.map_err(StepError::internal)?;
                self.lost_ports.note_return(port, Instant::now());
                Ok(())
            }
            DeviceAct::ForwardPorts { index, ports, .. } => {
                let forwarded = self.links.forward_ports_now(*index, ports).await;
                forwarded.map_err(StepError::internal)
            }
            DeviceAct::IsolatePort { index, on, .. } => {
                of_link(self.links.set_isolated(*index, *on).await)
            }
            DeviceAct::ManageTable { index, mac, on, .. } => {
                of_link(self.links.manage_table(*index, *mac, *on).await)
            }
            DeviceAct::DeleteBridge { index, .. } => match self.links.delete(*index).await {
                Err(error) if !error.is_gone() => Err(StepError::internal(error)),
                _ => Ok(()),
            },
            DeviceAct::RemoveNamespace { bridge, mac } => {
                let removed = namespace::remove(&self.links, &self.paths, bridge, *mac).await;
                removed.map_err(StepError::internal)
            }
            _ => self.on_rates(act).await,
        }
    }

    /// What is done about rates, or to a bridge by its name.
    async fn on_rates(&self, act: &DeviceAct) -> Result<()> {
        match act {
            DeviceAct::MakeShaper { bridge, mac } => {
                let made = shaper::make(&self.links, bridge, *mac).await;
                made.map_err(StepError::internal)
            }
            DeviceAct::RemoveShaper { bridge, mac } => {
                let removed = shaper::remove(&self.links, bridge, *mac).await;
                removed.map_err(StepError::internal)
            }
            DeviceAct::Shape {
                index,
                device,
                shape,
            } => tc::apply(*index, device, shape).map_err(StepError::internal),
            DeviceAct::Unshape { index, device } => {
                tc::remove(*index, device).map_err(StepError::internal)
            }
            _ => self.on_bridge(act).await,
        }
    }

    async fn listen_for(&mut self, proxy: (u32, Ipv6Addr), on: bool) -> Result<()> {
        // On disk first: what an agent forgets nobody gives back.
        if on && self.notes.nd_proxies.insert(proxy) {
            self.write_notes()?;
        }
        let set = self.links.listen_for(proxy.0, proxy.1, on).await;
        set.map_err(StepError::internal)?;
        if on {
            self.proxies.insert(proxy);
            return Ok(());
        }
        self.proxies.remove(&proxy);
        self.notes.nd_proxies.remove(&proxy);
        self.write_notes()
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
            DeviceAct::FilterVlans { bridge, on } => {
                let bridge = index(links, bridge, act).await?;
                links.filter_vlans(bridge, *on).await
            }
            DeviceAct::SetMtu { bridge, mtu } => {
                links.set_mtu(index(links, bridge, act).await?, *mtu).await
            }
            DeviceAct::SetMac { bridge, mac } => {
                links.set_mac(index(links, bridge, act).await?, *mac).await
            }
            DeviceAct::SetUp { bridge } => {
                links.set_up(index(links, bridge, act).await?, true).await
            }
            DeviceAct::AddAddress { .. }
            | DeviceAct::AddConnectedRoute { .. }
            | DeviceAct::AddRoute { .. }
            | DeviceAct::RemoveAddress { .. }
            | DeviceAct::RemoveRoute { .. } => return self.on_addresses(act).await,
            DeviceAct::SetIpv6 { bridge, on } => {
                // A kernel without IPv6 has nothing to switch off. Where it is to be switched on,
                // the addresses that follow will fail.
                return sysctl::set_accept_ra(bridge, 0)
                    .and_then(|_| sysctl::set_autoconf(bridge, false))
                    .and_then(|_| sysctl::set_disable_ipv6(bridge, !on))
                    .map(drop)
                    .map_err(StepError::internal);
            }
            // They are made together, before.
            DeviceAct::MakeNamespace(_) | DeviceAct::FurnishNamespace(_) => Ok(()),
            DeviceAct::DeleteBridge { .. }
            | DeviceAct::Enslave { .. }
            | DeviceAct::RemoveNamespace { .. }
            | DeviceAct::EnableForwarding { .. }
            | DeviceAct::RestoreForwarding(..)
            | DeviceAct::ForwardFrom { .. }
            | DeviceAct::LeaveToNetd(_)
            | DeviceAct::ListenToRouters { .. }
            | DeviceAct::ForwardPorts { .. }
            | DeviceAct::IsolatePort { .. }
            | DeviceAct::Shape { .. }
            | DeviceAct::Unshape { .. }
            | DeviceAct::MakeShaper { .. }
            | DeviceAct::RemoveShaper { .. }
            | DeviceAct::ManageTable { .. }
            | DeviceAct::ProxyNeighbour { .. } => Ok(()),
        };
        done.map_err(StepError::internal)
    }

    /// What is done to a bridge's addresses and routes.
    async fn on_addresses(&self, act: &DeviceAct) -> Result<()> {
        let links = &self.links;
        let done = match act {
            DeviceAct::AddAddress {
                bridge,
                address,
                prefix,
            } => {
                let bridge = index(links, bridge, act).await?;
                links.add_address(bridge, *address, *prefix).await
            }
            DeviceAct::AddConnectedRoute {
                bridge,
                address,
                prefix,
            } => {
                let bridge = index(links, bridge, act).await?;
                links.add_connected_route(bridge, *address, *prefix).await
            }
            DeviceAct::RemoveAddress {
                bridge,
                address,
                prefix,
            } => {
                let bridge = index(links, bridge, act).await?;
                links.del_address(bridge, *address, *prefix).await
            }
            DeviceAct::RemoveRoute { bridge, route } => {
                let bridge = index(links, bridge, act).await?;
                let (to, by) = (route.destination, route.gateway);
                links.del_route(bridge, to, by, route.metric).await
            }
            DeviceAct::AddRoute { bridge, route } => {
                let bridge = index(links, bridge, act).await?;
                let (to, by) = (route.destination, route.gateway);
                links.add_route(bridge, to, by, route.metric).await
            }
            _ => Ok(()),
        };
        done.map_err(StepError::internal)
    }

    async fn enable_forwarding(&mut self, family: Family, others: &[String]) -> Result<()> {
        let snapshot = self.links.snapshot().await.map_err(StepError::internal)?;
        check_forwarding(family, &snapshot).map_err(StepError::Failed)?;
        let was = sysctl::forwarding(family).map_err(StepError::internal)?;
        let name = sysctl::forwarding_name(family);
        if self.notes.forwarding_was(family).is_some() {
            tracing::warn!("{name} was set to 0, but networks need it: set to 1 again");
        }
        if !others.is_empty() {
            tracing::warn!(
                "{name} is set to 1 for the networks; with it the host forwards between {} as \
                 well, as far as its firewall lets it",
                others.join(", ")
            );
        }
        // On disk first: a crash in between must not forget what to give back. That is what the
        // administrator set last: who finds it 0 may not have been the one who set it to 1.
        self.notes.forwarding_was(family).get_or_insert(was);
        self.write_notes()?;
        sysctl::set_forwarding(family, true).map_err(StepError::internal)
    }

    async fn leave_to_netd(&self, devices: &BTreeSet<String>) -> Result<()> {
        let Some(networkd) = &self.networkd else {
            return Ok(());
        };
        let set = networkd.set_unmanaged(devices);
        set.map_err(|error| StepError::Failed(error.into()))?;
        // The file is there for the next time that it starts.
        if let Err(error) = networkd::reload().await {
            tracing::warn!(%error, "systemd-networkd may take ports out of bridges: it did not reload");
        }
        Ok(())
    }

    fn listen_to_routers(&mut self, index: u32, device: &str, on: bool) -> Result<()> {
        if on && self.notes.listeners.insert(index) {
            self.write_notes()?;
        }
        let now = sysctl::accept_ra(device).map_err(StepError::internal)?;
        let (from, to) = if on { (1, 2) } else { (2, 1) };
        // The device may have gone, and somebody may want something else by now.
        if now == Some(from) {
            sysctl::set_accept_ra(device, to).map_err(StepError::internal)?;
        }
        if !on && self.notes.listeners.remove(&index) {
            self.write_notes()?;
        }
        Ok(())
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
                let attached = attached.inspect(|()| self.at_sockets = true);
                let forwards = CONTROL_FORWARDS | CONTROL_WHOLE_ADDRESSES;
                if let (Err(error), Ok(flags)) = (&attached, datapath.maps.flags())
                    && flags & forwards == 0
                {
                    // Networks do without: guests are served all the same.
                    if !self.deaf_host {
                        tracing::warn!(%error, "the host cannot ask networks' gateways for names");
                        self.deaf_host = true;
                    }
                    return Err(StepError::Moot(error.to_string()));
                }
                attached
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

    /// Change what the record of a network says beside its definition, on disk first.
    fn change_record(
        &mut self,
        uuid: Uuid,
        network: &str,
        change: impl FnOnce(&mut Noted),
    ) -> Result<()> {
        let Some(known) = self.noted.get_mut(&uuid) else {
            return Ok(());
        };
        let mut noted = known.clone();
        change(&mut noted);
        let saved = self
            .store
            .save_active_data(network, &ActiveData::from(&noted));
        saved.map_err(|error| StepError::Failed(error.into()))?;
        *known = noted;
        Ok(())
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
            ServiceAct::NoteNetwork { .. } => {
                let Some(member) = intent.member(uuid) else {
                    return Ok(());
                };
                let noted = match self.noted.get(&uuid) {
                    None => Noted::new(member),
                    Some(known) => {
                        let mut noted = known.clone();
                        noted.redefine(member);
                        noted
                    }
                };
                let saved = self
                    .store
                    .save_active(member.network, &ActiveData::from(&noted));
                saved.map_err(|error| failed(error.into()))?;
                self.noted.insert(uuid, noted);
            }
            ServiceAct::SettleNetwork { network } => {
                self.change_record(uuid, network, |noted| noted.former = None)?;
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
                self.change_record(uuid, network, |noted| {
                    noted.bridge = Some(*bridge);
                    noted.ports.clone_from(ports);
                })?;
            }
            ServiceAct::StopDnsmasq { .. } => self.stop_service(uuid, intent).await?,
            ServiceAct::ReloadDnsmasq { bridge, .. } => {
                self.reload_service(uuid, bridge, intent).await?;
            }
            ServiceAct::StopRelay { bridge, .. } => self.stop_relay(uuid, bridge).await?,
            // These are started together, before.
            ServiceAct::StartDnsmasq { .. } | ServiceAct::StartRelay { .. } => {}
        }
        Ok(())
    }
}
