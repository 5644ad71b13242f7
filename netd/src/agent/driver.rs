//! Calls from clients.

use uuid::Uuid;

use super::Agent;
use super::controller::Controller;
use super::lifecycle::check_host;
use super::reconcile::Planned;
use crate::api::{
    Affect, ApiError, Changed, Driver, Drops, ErrorCode, ForwardChange, HookStatus, KernelStatus,
    LackStatus, Lease, MapStatus, Metadata, NetworkForwards, NetworkInfo, NetworkStatus,
    NewMetadata, ProgramStatus, Reloaded, Result, SCHEMA, Status, Unknown,
};
use crate::datapath::attach::Programs;
use crate::datapath::{Device, Kernel, bpffs, names};
use crate::dnsmasq::{Running, leases};
use crate::model::{self, FormatOptions, ForwardMode, Network, Update};

/// Reads a client's definition.
fn read(xml: &str, unknown: Unknown) -> Result<Network> {
    let parsed = model::parse_whole(xml)?;
    let name = &parsed.network.name;
    if unknown == Unknown::Refuse && !parsed.unknown.is_empty() {
        let pieces: Vec<String> = parsed.unknown.iter().map(ToString::to_string).collect();
        return Err(ApiError::new(
            ErrorCode::XmlInvalidSchema,
            format!("network '{}', {}", name.escape_debug(), pieces.join("; ")),
        ));
    }
    for piece in &parsed.unknown {
        tracing::warn!(network = name, "ignored in the definition, {piece}");
    }
    Ok(parsed.network)
}

impl Driver for Agent {
    async fn list(&self) -> Result<Vec<NetworkInfo>> {
        let controller = self.controller.lock().await;
        controller
            .networks
            .iter()
            .map(|(uuid, _)| controller.networks.info(*uuid))
            .collect()
    }

    async fn by_name(&self, name: &str) -> Result<NetworkInfo> {
        let controller = self.controller.lock().await;
        controller.networks.info(controller.uuid_of(name)?)
    }

    async fn by_uuid(&self, uuid: Uuid) -> Result<NetworkInfo> {
        self.controller.lock().await.networks.info(uuid)
    }

    async fn define(&self, xml: &str, unknown: Unknown) -> Result<NetworkInfo> {
        let network = read(xml, unknown)?;
        let mut controller = self.controller.lock().await;
        let uuid = controller.define_network(network).await?;
        controller.networks.info(uuid)
    }

    async fn create(&self, xml: &str, unknown: Unknown) -> Result<NetworkInfo> {
        let network = read(xml, unknown)?;
        let mut controller = self.controller.lock().await;
        let uuid = controller.create_network(network).await?;
        controller.networks.info(uuid)
    }

    async fn start(&self, uuid: Uuid) -> Result<()> {
        self.controller.lock().await.start(uuid).await
    }

    async fn destroy(&self, uuid: Uuid) -> Result<()> {
        self.controller.lock().await.destroy(uuid).await
    }

    async fn undefine(&self, uuid: Uuid) -> Result<()> {
        self.controller.lock().await.undefine(uuid)
    }

    async fn set_autostart(&self, uuid: Uuid, on: bool) -> Result<()> {
        self.controller.lock().await.set_autostart(uuid, on)
    }

    async fn xml(&self, uuid: Uuid, inactive: bool) -> Result<String> {
        let controller = self.controller.lock().await;
        let entry = controller.networks.get(uuid)?;
        // A transient network has no other definition than its live one.
        let stored = entry.config.as_ref().filter(|_| inactive);
        let network = stored
            .or(entry.network())
            .ok_or_else(|| ApiError::internal(format_args!("network {uuid} has no definition")))?;
        Ok(model::format(
            network,
            FormatOptions {
                inactive,
                connections: None,
            },
        ))
    }

    async fn metadata(&self, uuid: Uuid, what: &Metadata, affect: Affect) -> Result<String> {
        self.controller.lock().await.metadata(uuid, what, affect)
    }

    async fn set_metadata(
        &self,
        uuid: Uuid,
        what: &Metadata,
        new: &NewMetadata,
        affect: Affect,
    ) -> Result<()> {
        let mut controller = self.controller.lock().await;
        controller.set_metadata(uuid, what, new, affect).await
    }

    async fn update(&self, uuid: Uuid, update: &Update, affect: Affect) -> Result<()> {
        self.controller
            .lock()
            .await
            .update(uuid, update, affect)
            .await
    }

    async fn forwards(&self, name: Option<&str>) -> Result<Vec<NetworkForwards>> {
        self.controller.lock().await.forwards(name)
    }

    async fn change_forward(&self, change: &ForwardChange) -> Result<Changed> {
        self.controller.lock().await.change_forward(change).await
    }

    async fn reload(&self) -> Result<Reloaded> {
        Ok(self.controller.lock().await.reload().await)
    }

    async fn leases(&self, uuid: Uuid, mac: Option<&str>) -> Result<Vec<Lease>> {
        if let Some(mac) = mac
            && mac.parse::<model::Mac>().is_err()
        {
            return Err(ApiError::new(
                ErrorCode::InvalidMac,
                format_args!("invalid MAC address: {mac}"),
            ));
        }
        let controller = self.controller.lock().await;
        let Some(live) = &controller.networks.get(uuid)?.live else {
            return Ok(Vec::new());
        };
        let Some(bridge) = &live.network.bridge.name else {
            return Ok(Vec::new());
        };
        let dir = controller.paths.dnsmasq_dir();
        let now = jiff::Timestamp::now().as_second();
        leases::read(&dir, bridge, &live.network, mac, now).map_err(|error| {
            ApiError::internal(format_args!(
                "cannot read the leases of network '{}' in {}: {error}",
                live.network.name,
                dir.display()
            ))
        })
    }

    async fn plan(&self, name: Option<&str>) -> Result<Vec<String>> {
        let controller = self.controller.lock().await;
        let snapshot = controller
            .links
            .snapshot()
            .await
            .map_err(ApiError::internal)?;
        let running: Vec<Planned<'_>> = controller
            .networks
            .live()
            .map(|live| Planned {
                network: &live.network,
                bridge: live.bridge,
                ports: &live.ports,
                dnsmasq_runs: live.dnsmasq.as_ref().is_some_and(Running::is_alive),
            })
            .collect();
        let steps = |networks: &[Planned<'_>]| {
            let steps = controller.plan_steps(networks, &snapshot);
            steps.map_err(ApiError::internal)
        };
        let mut planned = steps(&running)?;
        if let Some(name) = name {
            let entry = controller.networks.get(controller.uuid_of(name)?)?;
            // What runs beside an active network asks for its share of what both use.
            if let (None, Some(config)) = (&entry.live, &entry.config) {
                model::check_start(config)?;
                check_host(config, &snapshot)?;
                let ports = controller.host.detached.get(&config.name);
                let mut networks = running;
                networks.push(Planned {
                    network: config,
                    bridge: None,
                    ports: ports.map_or(&[], Vec::as_slice),
                    dnsmasq_runs: false,
                });
                let mut with = steps(&networks)?;
                with.retain(|step| !planned.contains(step));
                planned = with;
            }
        }
        Ok(planned.iter().map(ToString::to_string).collect())
    }

    async fn status(&self) -> Result<Status> {
        self.controller.lock().await.status().await
    }

    async fn drops(&self, since: u64) -> Result<Drops> {
        self.controller.lock().await.drops(since).await
    }
}

impl Controller {
    pub(super) fn uuid_of(&self, name: &str) -> Result<Uuid> {
        self.networks.uuid_of(name).ok_or_else(|| {
            ApiError::new(
                ErrorCode::NoNetwork,
                format_args!("no network with matching name '{name}'"),
            )
        })
    }

    async fn status(&self) -> Result<Status> {
        let snapshot = self.links.snapshot().await.map_err(ApiError::internal)?;
        let usage = self.datapath.maps.usage().map_err(ApiError::internal)?;
        let networks = self
            .networks
            .live()
            .map(|live| {
                let network = &live.network;
                let bridge = network.bridge.name.clone().unwrap_or_default();
                let index = snapshot.by_name(&bridge).map(|link| link.index);
                let ports = index.map_or_else(Vec::new, |index| {
                    snapshot
                        .ports_of(index)
                        .map(|port| port.name.clone())
                        .collect()
                });
                let mode = match network.mode() {
                    ForwardMode::None => "isolated".to_owned(),
                    mode => mode.to_string(),
                };
                let dnsmasq = live
                    .dnsmasq
                    .as_ref()
                    .filter(|d| d.is_alive())
                    .map(Running::pid);
                let [flows_ipv4, flows_ipv6] = index
                    .and_then(|index| usage.get(&index))
                    .map_or([0; 2], |usage| usage.flows);
                NetworkStatus {
                    name: network.name.clone(),
                    mode,
                    bridge,
                    ports,
                    dnsmasq,
                    flows_ipv4,
                    flows_ipv6,
                }
            })
            .collect();
        let mut hooks = Vec::new();
        for link in snapshot.links.values() {
            let device = Device {
                ifindex: link.index,
                name: &link.name,
                xdp: link.xdp,
            };
            match self.datapath.programs_of(device) {
                Ok(places) => {
                    hooks.extend(places.into_iter().map(|place| hook_status(device, place)));
                }
                // The device went since the snapshot was taken.
                Err(error) => tracing::debug!(device = link.name, %error, "no hooks"),
            }
        }
        let maps = bpffs::pinned_maps(self.datapath.dir()).map_err(ApiError::internal)?;
        // Each connection has an entry for either direction.
        let max_flows = maps
            .iter()
            .find(|map| map.name == names::FLOWS4)
            .map_or(0, |map| map.max_entries / 2);
        let maps = maps.into_iter().map(|map| MapStatus {
            name: map.name,
            path: map.path.display().to_string(),
            max_entries: map.max_entries,
        });
        Ok(Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_flows,
            kernel: Some(kernel_status(&self.datapath.kernel)),
            networks,
            hooks,
            maps: maps.collect(),
            drops: self.drop_counts()?,
        })
    }
}

fn kernel_status(kernel: &Kernel) -> KernelStatus {
    let lacks = kernel.lacks.iter().map(|feature| LackStatus {
        feature: feature.to_string(),
        cost: feature.cost().to_owned(),
    });
    KernelStatus {
        release: kernel.release.clone(),
        attach: kernel.tc.to_string(),
        lacks: lacks.collect(),
    }
}

fn hook_status(device: Device<'_>, place: Programs) -> HookStatus {
    let programs = place.programs.into_iter().map(|program| ProgramStatus {
        id: program.id,
        name: program.name,
        ours: program.ours,
    });
    HookStatus {
        device: device.name.to_owned(),
        ifindex: device.ifindex,
        hook: place.place.to_owned(),
        programs: programs.collect(),
    }
}
