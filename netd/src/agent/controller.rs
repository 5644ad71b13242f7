//! What the agent holds, and its start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::bans::Bans;
use super::contested::Contested;
use super::delegations::Delegations;
use super::host::{ActiveData, KernelHost};
use super::registry::{Live, Registry};
use crate::api::{ApiError, EventKind, Events, Lifecycle, NetworkEvent};
use crate::config::{Attach, Config, Xdp};
use crate::datapath::{Datapath, Limits, TcMechanism, log};
use crate::dnsmasq;
use crate::firewall::Finding;
use crate::link::{Links, netfilter};
use crate::managers::firewalld::Zoned;
use crate::managers::network_manager::Bridge;
use crate::model::{Firewall, Network, NetworkPorts};
use crate::paths::Paths;
use crate::plan::Port;
use crate::store::Store;

/// The agent's state, guarded by one lock.
pub struct Controller {
    pub(super) host: KernelHost,
    pub(super) networks: Registry,
    /// Devices that have the XDP fast path, as the administrator says.
    pub(super) xdp: Xdp,
    /// What the host's own rules may do to networks that do not say; none where its kernel knows none.
    pub(super) firewall: Option<Firewall>,
    /// Bridges of networks that respect those rules, as of the last look at the host.
    pub(super) respecting: BTreeSet<u32>,
    /// Bridges that programs guard and that no record tells of, as far as that was said.
    pub(super) orphans: BTreeSet<String>,
    /// Rules of the host's that are passed by, as far as that was said.
    pub(super) told_rules: Vec<Finding>,
    /// Networks whose start nobody was told of yet: their dnsmasqs take their time.
    pub(super) untold: BTreeSet<Uuid>,
    /// Leases that end when their guests are gone.
    pub(super) contested: BTreeMap<Uuid, Vec<Contested>>,
    /// Who asks for networks' prefixes.
    pub(super) delegations: Delegations,
    /// Who is kept from networks.
    pub(super) bans: Bans,
    /// Who listens hears of changes here.
    pub(super) events: Events,
    /// Their bridges, for who tells NetworkManager of them.
    pub(super) bridges: watch::Sender<BTreeSet<Bridge>>,
    /// The same with their zones, for who tells firewalld.
    pub(super) zones: watch::Sender<BTreeSet<Zoned>>,
    /// The last [`Live::generation`].
    generation: u64,
}

impl Controller {
    /// Open everything the agent works with. Nothing of the host's network changes yet.
    pub async fn open(paths: Paths, config: &Config, wake: Arc<Notify>) -> anyhow::Result<Self> {
        // Before an upgrade can replace the file, after which the kernel calls it "deleted".
        let binary = std::env::current_exe().context("cannot find the running binary")?;
        let store = Store::open(&paths)?;
        let mut links = Links::connect()?;
        if config.xdp.is_used()
            && let Err(error) = links.ask_drivers()
        {
            tracing::warn!(%error, "no device uses the XDP fast path ([xdp] in netd.toml)");
        }
        let mut datapath = Datapath::open(
            &paths.bpffs,
            &Limits {
                flows: config.flows.max,
                per_network: config.flows.max_per_network,
                timeouts: config.timeouts.in_ticks(),
            },
            match config.datapath.attach {
                Attach::Auto => None,
                Attach::Tcx => Some(TcMechanism::Tcx),
                Attach::Clsact => Some(TcMechanism::Clsact),
            },
        )?;
        let kernel = &datapath.kernel;
        tracing::info!(release = kernel.release, attach = %kernel.tc, "the kernel takes the programs");
        for feature in &kernel.lacks {
            tracing::info!(lacks = %feature, cost = feature.cost(), "the kernel is older");
        }
        if log::wanted() {
            log::forward(datapath.ebpf_mut())?;
        }
        let notes = store.load_host()?;
        let bans = Bans::load(&store);
        let host = KernelHost::new(paths, binary, store, links, Some(datapath), notes, wake);
        Ok(Self {
            host,
            networks: Registry::default(),
            xdp: config.xdp.clone(),
            firewall: netfilter::exists().then_some(config.datapath.firewall),
            respecting: BTreeSet::new(),
            orphans: BTreeSet::new(),
            bans,
            told_rules: Vec::new(),
            untold: BTreeSet::new(),
            contested: BTreeMap::new(),
            delegations: Delegations::default(),
            events: Events::default(),
            bridges: watch::Sender::default(),
            zones: watch::Sender::default(),
            generation: 0,
        })
    }

    /// A network that is to be active.
    pub(super) fn live(
        &mut self,
        network: Network,
        ports: Vec<Port>,
        network_ports: NetworkPorts,
    ) -> Result<Live, ApiError> {
        self.generation += 1;
        Ok(Live {
            service: self.host.service_of(&network)?,
            network,
            generation: self.generation,
            stopping: false,
            ports,
            network_ports,
        })
    }

    /// Tell who listens that a network is in another state.
    pub(super) fn tell(&self, uuid: Uuid, name: &str, now: Lifecycle) {
        self.events.publish(NetworkEvent {
            name: name.to_owned(),
            uuid,
            kind: EventKind::Lifecycle(now),
        });
    }

    /// Read definitions and records, adopt what runs, start what is to start. What cannot be
    /// used is reported and left alone.
    pub async fn start_up(&mut self) {
        if let Err(error) = dnsmasq::process::link_helper(&self.host.paths, &self.host.binary) {
            tracing::warn!(%error, "leases of running networks may not be recorded");
        }
        if let Err(error) = self.host.remove_leftovers() {
            tracing::warn!(%error, "what an agent left unfinished stays");
        }
        let (stored, errors) = self.host.store.load();
        for error in errors {
            tracing::error!(%error, "a definition was not loaded");
        }
        for stored in stored {
            let network = stored.network;
            if !network.has_uuid() {
                // Put there by hand or by a packager: complete it as net-define would.
                self.adopt_definition(network, stored.autostart).await;
                continue;
            }
            let entry = self.networks.entry(network.uuid);
            entry.autostart = stored.autostart;
            entry.config = Some(network);
        }
        let (active, errors) = self.host.store.load_active::<ActiveData>();
        for error in errors {
            tracing::error!(%error, "the record of an active network cannot be read");
        }
        let given = self.load_prefixes();
        for record in active {
            let mut network = record.network;
            if let Some(given) = given.get(&network.uuid) {
                network.given = given.iter().filter_map(|given| given.subnet()).collect();
            }
            self.host.adopt(&network, record.data);
            let service = match self.host.service_of(&network) {
                Ok(service) => {
                    self.host.adopt_process(&network);
                    service
                }
                Err(error) => {
                    tracing::error!(network = network.name, %error, "DHCP and DNS stay as they are");
                    None
                }
            };
            let uuid = network.uuid;
            let network_ports = self.host.load_ports(&network);
            self.networks.entry(uuid).live = Some(Live {
                network,
                generation: 0,
                service,
                stopping: false,
                ports: Vec::new(),
                network_ports,
            });
        }
        self.host.adopt_programs().await;
        self.reconcile().await;
        self.host.mark_programs();
        self.host.clear_other_layouts().await;
        let mut autostart: Vec<_> = self
            .networks
            .iter()
            .filter(|(_, entry)| entry.autostart && entry.live.is_none())
            .filter_map(|(_, entry)| entry.config.clone())
            .filter(|network| !self.host.notes.stopped.contains(&network.name))
            .collect();
        // Of two that want the same, it is always the same one that starts.
        autostart.sort_by(|a, b| a.name.cmp(&b.name));
        let running: Vec<Uuid> = self.networks.live().map(|live| live.network.uuid).collect();
        for uuid in running {
            self.note_contested(uuid);
        }
        self.start_with_agent(autostart).await;
        self.tell_host_rules().await;
    }

    async fn adopt_definition(&mut self, network: Network, autostart: bool) {
        let name = network.name.clone();
        match self.define_network(network).await {
            Ok(uuid) => {
                if let Ok(entry) = self.networks.get_mut(uuid) {
                    entry.autostart = autostart;
                }
            }
            Err(error) => tracing::error!(network = name, %error, "a definition was not loaded"),
        }
    }
}
