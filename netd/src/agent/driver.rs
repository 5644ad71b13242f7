//! Calls from clients.

use uuid::Uuid;

use super::Agent;
use super::controller::Controller;
use crate::api::{
    Affect, ApiError, Changed, Driver, Drops, ErrorCode, ForwardChange, Handover, Lease, Metadata,
    NetworkForwards, NetworkInfo, NewMetadata, PortId, PortPurpose, Reloaded, Result, Status,
    Subscription, Unknown,
};
use crate::dnsmasq::leases;
use crate::model::{self, Bandwidth, FormatOptions, Network, Update};

/// Reads a client's definition.
fn read(xml: &str, unknown: Unknown) -> Result<Network> {
    if unknown == Unknown::Refuse {
        model::validate(xml)?;
    }
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
    fn subscribe(&self) -> Subscription {
        self.events.subscribe()
    }

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
        for line in controller.pending(Some(uuid)) {
            tracing::info!("{line}");
        }
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
        let stored = entry
            .config
            .as_ref()
            .filter(|_| inactive || entry.live.is_none());
        let live = || entry.live.as_ref().map(|live| live.network.as_running());
        let network = stored
            .cloned()
            .or_else(live)
            .ok_or_else(|| ApiError::internal(format_args!("network {uuid} has no definition")))?;
        let live = entry.live.as_ref().filter(|_| !inactive);
        if let Some(live) = live {
            return Ok(model::format_live(&network, &live.network_ports));
        }
        Ok(model::format(
            &network,
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

    async fn ports(&self, network: Uuid) -> Result<Vec<Uuid>> {
        self.controller.lock().await.ports(network)
    }

    async fn find_port(&self, port: PortId) -> Result<()> {
        self.controller.lock().await.port(port).map(drop)
    }

    async fn create_port(
        &self,
        network: Uuid,
        xml: &str,
        purpose: PortPurpose,
        unknown: Unknown,
    ) -> Result<Uuid> {
        let mut controller = self.controller.lock().await;
        controller.create_port(network, xml, purpose, unknown)
    }

    async fn port_xml(&self, port: PortId) -> Result<String> {
        let controller = self.controller.lock().await;
        Ok(model::format_port(controller.port(port)?))
    }

    async fn port_bandwidth(&self, port: PortId) -> Result<Option<Bandwidth>> {
        let controller = self.controller.lock().await;
        Ok(controller.port(port)?.bandwidth.clone())
    }

    async fn set_port_bandwidth(&self, port: PortId, bandwidth: &Bandwidth) -> Result<()> {
        let mut controller = self.controller.lock().await;
        controller.set_port_bandwidth(port, bandwidth)
    }

    async fn delete_port(&self, port: PortId) -> Result<()> {
        self.controller.lock().await.delete_port(port)
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
            return Err(ApiError::new(ErrorCode::InvalidMac, mac));
        }
        let controller = self.controller.lock().await;
        let Some(live) = &controller.networks.get(uuid)?.live else {
            return Ok(Vec::new());
        };
        let Some(bridge) = &live.network.bridge.name else {
            return Ok(Vec::new());
        };
        let dir = controller.host.paths.dnsmasq_dir();
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
        self.controller.lock().await.plan(name).await
    }

    async fn status(&self) -> Result<Status> {
        self.controller.lock().await.status().await
    }

    async fn hand_over(&self, handover: &Handover) -> Result<()> {
        self.controller.lock().await.hand_over(handover).await
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
}
