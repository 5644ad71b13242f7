//! Calls from clients.

use uuid::Uuid;

use super::Agent;
use super::controller::Controller;
use super::hooks::Occasion;
use super::live::taken_back;
use super::starting::Trial;
use crate::api::{
    Affect, ApiError, Applied, Ban, BanChange, Changed, Driver, Drops, ErrorCode, FlowFilter,
    FlowKill, FlowNames, FlowPiece, ForwardChange, GuestPort, Handover, Lease, Metadata,
    NetworkForwards, NetworkInfo, NewMetadata, PortId, PortPurpose, Problem, Reloaded, Result,
    Status, Subscription, Unknown,
};
use crate::dnsmasq::leases;
use crate::model::{self, Bandwidth, FormatOptions, Network, Update};
use crate::plan::Scope;

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
        let stored = controller.networks.get(uuid)?.config.as_ref();
        if let Some(network) = stored {
            for warning in controller.absent(network).await {
                tracing::warn!(network = network.name, "{warning}");
            }
        }
        controller.networks.info(uuid)
    }

    async fn create(&self, xml: &str, unknown: Unknown) -> Result<NetworkInfo> {
        let network = read(xml, unknown)?;
        let text = model::format(&network, FormatOptions::default());
        let name = network.name.clone();
        self.hooks.run(Occasion::Start, &name, &text, None).await?;
        let mut controller = self.controller.lock().await;
        let uuid = controller.create_network(network).await?;
        let info = controller.networks.info(uuid)?;
        drop(controller);
        self.finish_start(uuid).await?;
        self.hook_started(uuid, &info.name, &text).await?;
        Ok(info)
    }

    async fn start(&self, uuid: Uuid) -> Result<()> {
        let about = self.about(uuid).await;
        if let Some((name, text)) = about.as_ref().filter(|_| self.hooks.are_there()) {
            if self.controller.lock().await.is_active(uuid) {
                return Err(ApiError::new(
                    ErrorCode::OperationInvalid,
                    "network is already active",
                ));
            }
            self.hooks.run(Occasion::Start, name, text, None).await?;
        }
        let started = async {
            self.controller.lock().await.start(uuid).await?;
            self.finish_start(uuid).await
        };
        let started = started.await;
        let Some((name, text)) = about else {
            return started;
        };
        if started.is_err() {
            self.hooks.tell(Occasion::Stopped, &name, &text, None).await;
            return started;
        }
        self.hook_started(uuid, &name, &text).await
    }

    async fn destroy(&self, uuid: Uuid) -> Result<()> {
        let about = self.about(uuid).await;
        let destroyed = self.controller.lock().await.destroy(uuid).await;
        if let (Ok(()), Some((name, text))) = (&destroyed, about) {
            self.hooks.tell(Occasion::Stopped, &name, &text, None).await;
        }
        destroyed
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
        self.try_out(uuid, |controller| controller.updated(uuid, update, affect))
            .await?;
        let mut controller = self.controller.lock().await;
        controller.update(uuid, update, affect).await?;
        drop(controller);
        self.hook_updated(uuid).await;
        Ok(())
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
        let uuid = controller.create_port(network, xml, purpose, unknown)?;
        let id = PortId {
            network,
            port: uuid,
        };
        let port = controller.port(id).map(model::format_port);
        drop(controller);
        if let (Some((name, text)), Ok(port)) = (self.about(network).await, port) {
            let made = Occasion::PortCreated;
            if let Err(error) = self.hooks.run(made, &name, &text, Some(&port)).await {
                // Its client may have deleted it meanwhile.
                let _ = self.controller.lock().await.delete_port(id);
                return Err(error);
            }
        }
        Ok(uuid)
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
        let mut controller = self.controller.lock().await;
        let text_of_port = controller.port(port).map(model::format_port);
        controller.delete_port(port)?;
        drop(controller);
        if let (Some((name, text)), Ok(port)) = (self.about(port.network).await, text_of_port) {
            let deleted = Occasion::PortDeleted;
            self.hooks.tell(deleted, &name, &text, Some(&port)).await;
        }
        Ok(())
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

    async fn apply(&self, uuid: Uuid, dry_run: bool) -> Result<Applied> {
        if dry_run {
            return self.controller.lock().await.rehearse_definition(uuid).await;
        }
        let config = |controller: &Controller| controller.networks.get(uuid).ok()?.config.clone();
        self.try_out(uuid, config).await?;
        let applied = self.controller.lock().await.apply_definition(uuid).await?;
        if !applied.same {
            self.hook_updated(uuid).await;
        }
        Ok(applied)
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
        match handover {
            Handover::Serve { on } => self.adopted.lock().await.serve(*on),
            of_network => self.controller.lock().await.hand_over(of_network).await,
        }
    }

    async fn bans(&self) -> Result<Vec<Ban>> {
        self.controller.lock().await.bans()
    }

    async fn change_bans(&self, change: &BanChange) -> Result<()> {
        self.controller.lock().await.change_bans(change).await
    }

    async fn doctor(&self) -> Result<Vec<Problem>> {
        self.controller.lock().await.doctor().await
    }

    async fn flows(&self, filter: &FlowFilter, from: u64) -> Result<FlowPiece> {
        self.some_flows(filter, from).await
    }

    async fn flow_names(&self) -> Result<FlowNames> {
        self.controller.lock().await.flow_names().await
    }

    async fn guest_ports(&self, network: Option<&str>) -> Result<Vec<GuestPort>> {
        self.controller.lock().await.guest_ports(network).await
    }

    async fn kill_flows(&self, which: &FlowKill) -> Result<u64> {
        self.end_flows(which).await
    }

    async fn drops(&self, since: u64) -> Result<Drops> {
        self.controller.lock().await.drops(since).await
    }
}

impl Agent {
    /// What hooks are told of a network: its name and what runs, or is to; nothing where there are none.
    async fn about(&self, uuid: Uuid) -> Option<(String, String)> {
        if !self.hooks.are_there() {
            return None;
        }
        let controller = self.controller.lock().await;
        let entry = controller.networks.get(uuid).ok()?;
        let name = entry.network()?.name.clone();
        let text = match &entry.live {
            Some(live) => model::format_live(&live.network.as_running(), &live.network_ports),
            None => model::format(entry.network()?, FormatOptions::default()),
        };
        Some((name, text))
    }

    /// A network runs; a hook may have something against it.
    async fn hook_started(&self, uuid: Uuid, name: &str, text: &str) -> Result<()> {
        let Err(error) = self.hooks.run(Occasion::Started, name, text, None).await else {
            return Ok(());
        };
        let error = self.controller.lock().await.undo_start(uuid, error).await;
        self.hooks.tell(Occasion::Stopped, name, text, None).await;
        Err(error)
    }

    /// What runs was changed.
    async fn hook_updated(&self, uuid: Uuid) {
        if let Some((name, text)) = self.about(uuid).await {
            self.hooks.tell(Occasion::Updated, &name, &text, None).await;
        }
    }

    /// Wait for the dnsmasq of a network that was just started, while the agent goes on with others.
    async fn finish_start(&self, uuid: Uuid) -> Result<()> {
        let starting = self
            .controller
            .lock()
            .await
            .host
            .starting
            .get(&uuid)
            .cloned();
        let outcome = match starting {
            Some(starting) => starting.outcome().await.map(|_| true),
            None => Ok(false),
        };
        let mut controller = self.controller.lock().await;
        match outcome {
            Err(error) => return Err(controller.undo_start(uuid, error).await),
            // Whoever asks next finds it.
            Ok(true) => drop(controller.converge(Scope::Service(uuid)).await),
            Ok(false) => {}
        }
        controller.tell_host_rules().await;
        Ok(())
    }

    /// Try out the dnsmasq that a change of an active network asks for, while the agent goes on with
    /// others. `changed` is what it would run with.
    async fn try_out(
        &self,
        uuid: Uuid,
        changed: impl FnOnce(&Controller) -> Option<Network>,
    ) -> Result<()> {
        let trial = {
            let controller = self.controller.lock().await;
            let changed = changed(&controller);
            changed.and_then(|network| controller.host.trial_of(network))
        };
        let Some(Trial {
            dnsmasq,
            network,
            bridge,
            paths,
            helper,
            conf,
        }) = trial
        else {
            return Ok(());
        };
        let tried = dnsmasq.try_out(&network, &bridge, &paths, &helper).await;
        tried.map_err(|error| taken_back(&ApiError::from(error)))?;
        let mut controller = self.controller.lock().await;
        controller.host.proven.insert(uuid, conf);
        Ok(())
    }
}

impl Controller {
    fn is_active(&self, uuid: Uuid) -> bool {
        self.networks
            .get(uuid)
            .is_ok_and(|entry| entry.live.is_some())
    }

    pub(super) fn uuid_of(&self, name: &str) -> Result<Uuid> {
        self.networks.uuid_of(name).ok_or_else(|| {
            ApiError::new(
                ErrorCode::NoNetwork,
                format_args!("no network with matching name '{name}'"),
            )
        })
    }
}
