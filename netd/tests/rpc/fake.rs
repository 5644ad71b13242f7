//! An agent in memory that knows libvirt's rules for definitions and nothing of the kernel.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use netd::api::{
    Affect, ApiError, Applied, Ban, BanChange, Changed, Driver, Drops, ErrorCode, EventKind,
    Events, FlowFilter, FlowKill, FlowNames, FlowPiece, ForwardChange, GuestPort, Handover, Lease,
    Lifecycle, Metadata, NetworkEvent, NetworkForwards, NetworkInfo, NewMetadata, PortId,
    PortPurpose, Problem, Reloaded, Result, Status, Subscription, Unknown, WaitingNetwork,
};
use netd::model::{
    Bandwidth, ForwardAction, NetworkPort, NetworkPorts, Update, format_port, parse, parse_port,
};
use uuid::Uuid;

use crate::seen;
use crate::slow::SlowStarts;

pub const N1: Uuid = Uuid::from_u128(0x11111111_2222_3333_4444_555555555555);

#[derive(Default)]
pub struct Fake {
    networks: Mutex<Vec<Network>>,
    /// Metadata, by what it is and where it stands.
    metadata: Mutex<BTreeMap<String, String>>,
    /// Changes of entries that were made, and of which definitions.
    pub updates: Mutex<Vec<(Update, Affect)>>,
    /// Changes of forwards that were made.
    pub changes: Mutex<Vec<ForwardChange>>,
    /// The ports of n1.
    ports: Mutex<NetworkPorts>,
    /// Those it has whenever everything begins anew.
    pub first_ports: Mutex<NetworkPorts>,
    /// Networks that were handed over.
    pub handovers: Mutex<Vec<Handover>>,
    /// Changes of bans that were made.
    pub bans: Mutex<Vec<BanChange>>,
    /// Connections that were ended.
    pub kills: Mutex<Vec<FlowKill>>,
    /// Networks that could not start.
    pub waiting: Mutex<Vec<WaitingNetwork>>,
    /// What it finds wrong with the host.
    pub problems: Mutex<Vec<Problem>>,
    /// Starts that were finished.
    pub starts: AtomicUsize,
    /// Starts of the network "slow".
    pub slow: SlowStarts,
    /// What clients are told by themselves.
    pub events: Events,
    /// How often somebody began to listen.
    pub listened: AtomicUsize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub info: NetworkInfo,
    pub live: Option<String>,
    pub stored: Option<String>,
}

fn network(name: &str, uuid: u128, active: bool, persistent: bool, autostart: bool) -> Network {
    let uuid = Uuid::from_u128(uuid);
    let xml = format!("<network>\n  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n</network>\n");
    Network {
        info: NetworkInfo {
            name: name.into(),
            uuid,
            active,
            persistent,
            autostart,
            bridge: (!name.contains("bare")).then(|| format!("br-{name}")),
        },
        live: active.then(|| xml.replace("</uuid>", "</uuid>\n  <live/>")),
        stored: persistent.then_some(xml),
    }
}

fn error<T>(code: ErrorCode, detail: &str) -> Result<T> {
    Err(ApiError::new(code, detail))
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

impl Fake {
    /// The networks every test starts with.
    pub fn reset(&self) {
        let ports = self.first_ports.lock().unwrap().clone();
        *self.ports.lock().unwrap() = ports;
        *self.networks.lock().unwrap() = vec![
            network("n1", N1.as_u128(), true, true, false),
            network(
                "default",
                0x29392cdd_301e_4814_bda6_7c419f326daa,
                false,
                true,
                true,
            ),
            network(
                "n2t",
                0x22222222_2222_3333_4444_555555555555,
                true,
                false,
                false,
            ),
            network("Zoo bare", 7, false, true, false),
            network("ünï 網", 8, true, true, true),
            network("slow", 9, false, true, false),
            network("panic", 10, false, true, false),
        ];
    }

    /// No network at all.
    pub fn clear(&self) {
        self.networks.lock().unwrap().clear();
    }

    pub fn networks(&self) -> Vec<Network> {
        self.networks.lock().unwrap().clone()
    }

    fn tell(&self, network: &NetworkInfo, now: Lifecycle) {
        self.publish(network, EventKind::Lifecycle(now));
    }

    fn publish(&self, network: &NetworkInfo, kind: EventKind) {
        self.events.publish(NetworkEvent {
            name: network.name.clone(),
            uuid: network.uuid,
            kind,
        });
    }

    fn with<T>(&self, uuid: Uuid, work: impl FnOnce(&mut Network) -> Result<T>) -> Result<T> {
        let mut networks = self.networks.lock().unwrap();
        match networks.iter_mut().find(|n| n.info.uuid == uuid) {
            Some(network) => work(network),
            None => error(
                ErrorCode::NoNetwork,
                &format!("no network with matching uuid '{uuid}'"),
            ),
        }
    }

    /// n1 as ports see it.
    fn n1(&self) -> netd::model::Network {
        parse(
            "<network><name>n1</name><forward/><bridge name='virbr77'/>\
             <ip address='192.168.177.1' prefix='24'/></network>",
        )
        .unwrap()
    }

    /// Of the networks n1 alone may have ports.
    fn port(&self, id: PortId) -> Result<NetworkPort> {
        self.with(id.network, |_| Ok(()))?;
        let ports = self.ports.lock().unwrap();
        let port = ports.get(id.port).filter(|_| id.network == N1).cloned();
        port.ok_or_else(|| {
            let detail = format!("Network port with UUID {} does not exist", id.port);
            ApiError::new(ErrorCode::NoNetworkPort, detail)
        })
    }

    /// Nobody knows `<bogus/>`.
    fn known(&self, xml: &str, unknown: Unknown) -> Result<()> {
        if unknown == Unknown::Refuse && xml.contains("<bogus/>") {
            return error(ErrorCode::XmlInvalidSchema, "<bogus> is not known");
        }
        Ok(())
    }

    fn add(&self, xml: &str, transient: bool) -> Result<NetworkInfo> {
        if !xml.trim_end().ends_with("</network>") {
            return Err(ApiError::verbatim(
                ErrorCode::XmlDetail,
                "(network_definition):1: not well formed",
            ));
        }
        let Some(name) = element(xml, "name") else {
            return error(ErrorCode::Xml, "missing name in network definition");
        };
        let uuid = element(xml, "uuid").map_or(Uuid::from_u128(99), |u| u.parse().unwrap());
        let mut networks = self.networks.lock().unwrap();
        if let Some(other) = networks
            .iter()
            .find(|n| (n.info.name == name) != (n.info.uuid == uuid))
        {
            let detail = format!(
                "network '{}' already exists with uuid {}",
                other.info.name, other.info.uuid
            );
            return error(ErrorCode::OperationFailed, &detail);
        }
        if !networks.iter().any(|n| n.info.uuid == uuid) {
            networks.push(network(name, uuid.as_u128(), false, false, false));
        }
        let network = networks.iter_mut().find(|n| n.info.uuid == uuid).unwrap();
        let now = if transient {
            if network.info.active {
                let detail = format!("network is already active as '{name}'");
                return error(ErrorCode::OperationInvalid, &detail);
            }
            network.info.active = true;
            network.live = Some(xml.into());
            Lifecycle::Started
        } else {
            network.info.persistent = true;
            network.stored = Some(xml.into());
            Lifecycle::Defined
        };
        self.tell(&network.info, now);
        Ok(network.info.clone())
    }
}

impl Driver for Fake {
    fn subscribe(&self) -> Subscription {
        self.listened.fetch_add(1, Ordering::SeqCst);
        self.events.subscribe()
    }

    async fn list(&self) -> Result<Vec<NetworkInfo>> {
        Ok(self.networks().into_iter().map(|n| n.info).collect())
    }

    async fn by_name(&self, name: &str) -> Result<NetworkInfo> {
        match self.networks().into_iter().find(|n| n.info.name == name) {
            Some(network) => Ok(network.info),
            None => error(
                ErrorCode::NoNetwork,
                &format!("no network with matching name '{name}'"),
            ),
        }
    }

    async fn by_uuid(&self, uuid: Uuid) -> Result<NetworkInfo> {
        self.with(uuid, |n| Ok(n.info.clone()))
    }

    async fn define(&self, xml: &str, unknown: Unknown) -> Result<NetworkInfo> {
        self.known(xml, unknown)?;
        self.add(xml, false)
    }

    async fn create(&self, xml: &str, unknown: Unknown) -> Result<NetworkInfo> {
        self.known(xml, unknown)?;
        self.add(xml, true)
    }

    async fn start(&self, uuid: Uuid) -> Result<()> {
        let name = self.by_uuid(uuid).await?.name;
        if name == "slow" {
            self.slow.take_long().await;
        }
        assert_ne!(name, "panic", "a defect on purpose");
        self.with(uuid, |n| {
            if n.info.active {
                return error(ErrorCode::OperationInvalid, "network is already active");
            }
            n.info.active = true;
            n.live.clone_from(&n.stored);
            self.tell(&n.info, Lifecycle::Started);
            Ok(())
        })?;
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn destroy(&self, uuid: Uuid) -> Result<()> {
        self.with(uuid, |n| {
            if !n.info.active {
                let detail = format!("network '{}' is not active", n.info.name);
                return error(ErrorCode::OperationInvalid, &detail);
            }
            n.info.active = false;
            n.live = None;
            self.tell(&n.info, Lifecycle::Stopped);
            Ok(())
        })?;
        let mut networks = self.networks.lock().unwrap();
        networks.retain(|n| n.info.active || n.info.persistent);
        Ok(())
    }

    async fn undefine(&self, uuid: Uuid) -> Result<()> {
        self.with(uuid, |n| {
            if !n.info.persistent {
                return error(
                    ErrorCode::OperationInvalid,
                    "can't undefine transient network",
                );
            }
            n.info.persistent = false;
            n.stored = None;
            self.tell(&n.info, Lifecycle::Undefined);
            Ok(())
        })?;
        let mut networks = self.networks.lock().unwrap();
        networks.retain(|n| n.info.active || n.info.persistent);
        Ok(())
    }

    async fn set_autostart(&self, uuid: Uuid, on: bool) -> Result<()> {
        self.with(uuid, |n| {
            if !n.info.persistent {
                return error(
                    ErrorCode::OperationInvalid,
                    "cannot set autostart for transient network",
                );
            }
            n.info.autostart = on;
            Ok(())
        })
    }

    async fn xml(&self, uuid: Uuid, inactive: bool) -> Result<String> {
        self.with(uuid, |n| {
            let (first, second) = if inactive {
                (&n.stored, &n.live)
            } else {
                (&n.live, &n.stored)
            };
            Ok(first.clone().or_else(|| second.clone()).unwrap_or_default())
        })
    }

    async fn leases(&self, uuid: Uuid, mac: Option<&str>) -> Result<Vec<Lease>> {
        let network = self.with(uuid, |n| Ok(n.info.clone()))?;
        if mac.is_some_and(|mac| mac.len() != 17) {
            return Err(ApiError::new(
                ErrorCode::InvalidMac,
                mac.unwrap_or_default(),
            ));
        }
        if network.uuid != N1 {
            return Ok(Vec::new());
        }
        let lease = |mac: &str, ip: &str, prefix, expiry| Lease {
            interface: "virbr77".into(),
            expiry,
            mac: Some(mac.into()),
            iaid: None,
            ip: ip.parse().unwrap(),
            prefix,
            hostname: None,
            client_id: None,
        };
        let leases = [
            Lease {
                hostname: Some("vm1".into()),
                client_id: Some("01:52:54:00:00:00:aa".into()),
                ..lease("52:54:00:00:00:aa", "192.168.177.15", 24, 0x6b00_c36f)
            },
            Lease {
                client_id: Some("00:01:00:01".into()),
                iaid: Some("2".into()),
                ..lease("52:54:00:00:00:ab", "fd00::15", 0, 0x6b00_c36f)
            },
            lease("52:54:00:00:00:ac", "192.168.177.16", 24, 0),
        ];
        Ok(leases
            .into_iter()
            .filter(|lease| mac.is_none() || lease.mac.as_deref() == mac)
            .collect())
    }

    async fn plan(&self, name: Option<&str>) -> Result<Vec<String>> {
        match name {
            Some(name) => Ok(vec![format!("create bridge br-{name}"), "set it up".into()]),
            None => Ok(Vec::new()),
        }
    }

    async fn status(&self) -> Result<Status> {
        Ok(seen::status(self.waiting.lock().unwrap().clone()))
    }

    async fn metadata(&self, uuid: Uuid, what: &Metadata, affect: Affect) -> Result<String> {
        self.by_uuid(uuid).await?;
        let kept = self.metadata.lock().unwrap();
        kept.get(&format!("{what:?} {affect:?}"))
            .cloned()
            .ok_or_else(|| {
                ApiError::new(
                    ErrorCode::NoNetworkMetadata,
                    "Requested metadata element is not present",
                )
            })
    }

    async fn set_metadata(
        &self,
        uuid: Uuid,
        what: &Metadata,
        new: &NewMetadata,
        affect: Affect,
    ) -> Result<()> {
        let network = self.by_uuid(uuid).await?;
        let mut kept = self.metadata.lock().unwrap();
        let key = format!("{what:?} {affect:?}");
        match &new.text {
            Some(text) => kept.insert(key, text.clone()),
            None => kept.remove(&key),
        };
        self.publish(&network, EventKind::Metadata(what.clone()));
        Ok(())
    }

    async fn update(&self, uuid: Uuid, update: &Update, affect: Affect) -> Result<()> {
        let network = self.by_uuid(uuid).await?;
        if affect.live && !network.active {
            let detail = format!("network '{}' is not running", network.name);
            return error(ErrorCode::OperationInvalid, &detail);
        }
        self.updates.lock().unwrap().push((update.clone(), affect));
        Ok(())
    }

    async fn ports(&self, network: Uuid) -> Result<Vec<Uuid>> {
        let network = self.by_uuid(network).await?;
        if !network.active {
            let detail = format!("network '{}' is not active", network.name);
            return error(ErrorCode::OperationInvalid, &detail);
        }
        let ports = self.ports.lock().unwrap();
        Ok(ports.iter().map(|port| port.uuid).collect())
    }

    async fn find_port(&self, port: PortId) -> Result<()> {
        self.port(port).map(drop)
    }

    async fn create_port(
        &self,
        network: Uuid,
        xml: &str,
        purpose: PortPurpose,
        unknown: Unknown,
    ) -> Result<Uuid> {
        self.by_uuid(network).await?;
        self.known(xml, unknown)?;
        let port = parse_port(xml)?.port;
        let mut ports = self.ports.lock().unwrap();
        let port = match purpose {
            PortPurpose::Plug => port.allocate(&self.n1(), &ports)?,
            PortPurpose::Reclaim => port.reclaim(&self.n1(), &ports)?,
        };
        let uuid = port.uuid;
        if ports.get(uuid).is_some() {
            let detail = format!("Network port with UUID {uuid} already exists");
            return error(ErrorCode::NetworkPortExist, &detail);
        }
        ports.insert(port);
        Ok(uuid)
    }

    async fn port_xml(&self, port: PortId) -> Result<String> {
        Ok(format_port(&self.port(port)?))
    }

    async fn port_bandwidth(&self, port: PortId) -> Result<Option<Bandwidth>> {
        Ok(self.port(port)?.bandwidth)
    }

    async fn set_port_bandwidth(&self, port: PortId, bandwidth: &Bandwidth) -> Result<()> {
        let port = self.port(port)?;
        let mut ports = self.ports.lock().unwrap();
        let changed = port.with_bandwidth(&self.n1(), &ports, bandwidth)?;
        ports.insert(changed);
        Ok(())
    }

    async fn delete_port(&self, port: PortId) -> Result<()> {
        self.port(port)?;
        self.ports.lock().unwrap().remove(port.port);
        Ok(())
    }

    async fn forwards(&self, name: Option<&str>) -> Result<Vec<NetworkForwards>> {
        let changes = self.changes.lock().unwrap();
        let added = changes.iter().filter_map(|change| match &change.action {
            ForwardAction::Add(forward) => Some(forward.clone()),
            ForwardAction::Delete(_) => None,
        });
        Ok(vec![NetworkForwards {
            network: name.unwrap_or("n1").to_owned(),
            live: Some(added.collect()),
            config: None,
        }])
    }

    async fn change_forward(&self, change: &ForwardChange) -> Result<Changed> {
        if let ForwardAction::Delete(_) = change.action {
            let detail = format!("network '{}' publishes nothing", change.network);
            return Err(ApiError::new(ErrorCode::OperationInvalid, detail));
        }
        self.changes.lock().unwrap().push(change.clone());
        Ok(Changed {
            affect: Affect {
                live: true,
                config: change.affect.config,
            },
            warnings: vec!["sshd (pid 7) listens there".to_owned()],
        })
    }

    async fn hand_over(&self, handover: &Handover) -> Result<()> {
        self.handovers.lock().unwrap().push(handover.clone());
        Ok(())
    }

    async fn bans(&self) -> Result<Vec<Ban>> {
        let changes = self.bans.lock().unwrap();
        let added = changes.iter().flat_map(|change| match change {
            BanChange::Add { bans, .. } => bans.clone(),
            BanChange::Delete { .. } => Vec::new(),
        });
        let listed = added.map(|id| Ban {
            network: id.network,
            prefix: id.prefix,
            owner: id.owner,
            until: None,
        });
        Ok(listed.collect())
    }

    async fn change_bans(&self, change: &BanChange) -> Result<()> {
        self.bans.lock().unwrap().push(change.clone());
        Ok(())
    }

    async fn doctor(&self) -> Result<Vec<Problem>> {
        Ok(self.problems.lock().unwrap().clone())
    }

    async fn flows(&self, _: &FlowFilter, from: u64) -> Result<FlowPiece> {
        Ok(seen::flows(from))
    }

    async fn flow_names(&self) -> Result<FlowNames> {
        Ok(seen::names())
    }

    async fn guest_ports(&self, network: Option<&str>) -> Result<Vec<GuestPort>> {
        Ok(vec![seen::port(network)])
    }

    async fn kill_flows(&self, which: &FlowKill) -> Result<u64> {
        self.kills.lock().unwrap().push(which.clone());
        Ok(2)
    }

    async fn drops(&self, since: u64) -> Result<Drops> {
        Ok(seen::drops(since))
    }

    async fn apply(&self, _: Uuid, dry_run: bool) -> Result<Applied> {
        let steps = dry_run.then(|| "set MTU 1400 on virbr1".to_owned());
        Ok(Applied {
            steps: steps.into_iter().collect(),
            warnings: vec!["10.0.0.5 is leased".to_owned()],
            same: false,
        })
    }

    async fn reload(&self) -> Result<Reloaded> {
        Ok(Reloaded {
            done: vec!["network 'n1': definition read".to_owned()],
            failed: vec!["network 'n2': not read: it is broken".to_owned()],
        })
    }
}
