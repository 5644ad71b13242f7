//! What the agent holds, and its start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::registry::{Live, Port, Registry};
use crate::config::{Attach, Config, Xdp};
use crate::datapath::{Attachment, Datapath, Device, Hook, Limits, TcMechanism, bpffs, log, maps};
use crate::dnsmasq::{self, Dnsmasq};
use crate::link::Links;
use crate::model::Family;
use crate::paths::Paths;
use crate::plan::bridge_spec;
use crate::store::Store;

/// What the agent notes about an active network, beside its live definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveData {
    /// Number of its bridge.
    #[serde(default)]
    pub bridge: Option<u32>,
    /// Ports of its bridge.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// What the agent changed on the host and has to give back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostData {
    /// net.ipv4.ip_forward before the agent set it to 1.
    pub ip_forward_was: Option<bool>,
    /// net.ipv6.conf.all.forwarding before the agent set it to 1.
    #[serde(default)]
    pub ipv6_forwarding_was: Option<bool>,
    /// Ports of networks that were stopped: they get them back when they start again.
    pub detached: BTreeMap<String, Vec<Port>>,
    /// Networks that somebody stopped since boot; autostart leaves them alone.
    pub stopped: BTreeSet<String>,
}

impl HostData {
    /// What forwarding of a family was before the agent switched it on.
    pub(super) fn forwarding_was(&mut self, family: Family) -> &mut Option<bool> {
        match family {
            Family::Ipv4 => &mut self.ip_forward_was,
            Family::Ipv6 => &mut self.ipv6_forwarding_was,
        }
    }
}

/// The agent's state, guarded by one lock.
pub struct Controller {
    pub(super) paths: Paths,
    pub(super) store: Store,
    pub(super) links: Links,
    pub(super) datapath: Datapath,
    pub(super) dnsmasq: Dnsmasq,
    /// The running binary, for dnsmasq's lease helper.
    pub(super) binary: PathBuf,
    pub(super) networks: Registry,
    pub(super) host: HostData,
    /// Bridges that an earlier agent guarded and that no record tells of. Nothing that may guard
    /// them is taken away.
    pub(super) orphans: BTreeSet<u32>,
    /// Programs that this agent has put in place.
    pub(super) attached: BTreeSet<Attachment>,
    /// Devices that have the express lane, as the administrator says.
    pub(super) xdp: Xdp,
    /// Devices that listen to neighbours' solicitations for published addresses.
    pub(super) nd_proxies: BTreeSet<(u32, Ipv6Addr)>,
    /// Programs in drivers that these did not take.
    pub(super) refused: BTreeSet<Attachment>,
    /// Has this agent put its programs at the host's sockets?
    pub(super) at_sockets: bool,
    /// Asks the event loop for a reconciliation.
    pub(super) wake: Arc<Notify>,
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
            log::forward(&mut datapath)?;
        }
        let host = store.load_host()?;
        Ok(Self {
            paths,
            store,
            links,
            datapath,
            dnsmasq: Dnsmasq::new(),
            binary,
            networks: Registry::default(),
            host,
            orphans: BTreeSet::new(),
            attached: BTreeSet::new(),
            xdp: config.xdp.clone(),
            nd_proxies: BTreeSet::new(),
            refused: BTreeSet::new(),
            at_sockets: false,
            wake,
        })
    }

    /// Read definitions and records, adopt what runs, start what is to start. What cannot be
    /// used is reported and left alone.
    pub async fn start_up(&mut self) {
        if let Err(error) = dnsmasq::process::link_helper(&self.paths, &self.binary) {
            tracing::warn!(%error, "leases of running networks may not be recorded");
        }
        let (stored, errors) = self.store.load();
        for error in errors {
            tracing::error!(%error, "a definition was not loaded");
        }
        for stored in stored {
            let network = stored.network;
            if network.uuid.is_nil() {
                // Put there by hand or by a packager: complete it as net-define would.
                self.adopt_definition(network, stored.autostart).await;
                continue;
            }
            let entry = self.networks.entry(network.uuid);
            entry.autostart = stored.autostart;
            entry.config = Some(network);
        }
        let (active, errors) = self.store.load_active::<ActiveData>();
        for error in errors {
            tracing::error!(%error, "the record of an active network cannot be read");
        }
        for record in active {
            let network = record.network;
            let mut live = Live::new(network.clone(), record.data.ports);
            live.bridge = record.data.bridge;
            live.dnsmasq = dnsmasq::process::adopt_network(&network, &self.paths);
            if let Some(running) = &live.dnsmasq {
                tracing::info!(
                    network = network.name,
                    pid = running.pid(),
                    "took over the running dnsmasq"
                );
                self.watch_dnsmasq(running.clone());
            }
            self.networks.entry(network.uuid).live = Some(live);
        }
        self.find_orphans().await;
        self.adopt_programs().await;
        self.reconcile().await;
        self.finish_updates().await;
        self.mark_programs();
        self.clear_other_layouts().await;
        let mut autostart: Vec<_> = self
            .networks
            .iter()
            .filter(|(_, entry)| entry.autostart && entry.live.is_none())
            .filter_map(|(_, entry)| entry.config.clone())
            .filter(|network| !self.host.stopped.contains(&network.name))
            .collect();
        // Of two that want the same, it is always the same one that starts.
        autostart.sort_by(|a, b| a.name.cmp(&b.name));
        for (name, result) in self.activate_all(autostart).await {
            match result {
                Ok(()) => tracing::info!(network = name, "started"),
                Err(error) => tracing::error!(network = name, %error, "autostart failed"),
            }
        }
    }

    /// An earlier agent's programs of this build need not be replaced.
    async fn adopt_programs(&mut self) {
        if !self.datapath.is_current() {
            return;
        }
        let (pinned, snapshot) = match (self.datapath.attached(), self.links.snapshot().await) {
            (Ok(pinned), Ok(snapshot)) => (pinned, snapshot),
            // The reconciliation meets the same error, and tells of it.
            _ => return,
        };
        for attachment in pinned {
            let link = snapshot.links.get(&attachment.ifindex);
            let in_place = link.is_some_and(|link| {
                let device = Device {
                    ifindex: link.index,
                    name: &link.name,
                    xdp: link.xdp,
                };
                let looked = self.datapath.is_in_place(attachment.hook, device);
                looked.unwrap_or_else(|error| {
                    tracing::debug!(%attachment, %error, "attaching anew");
                    false
                })
            });
            if in_place {
                self.attached.insert(attachment);
            }
        }
        // Where nobody can tell, the reconciliation attaches them anew.
        self.at_sockets = self.datapath.has_sockets().unwrap_or(false);
    }

    /// Another version's programs stand behind this one's, with maps that nobody keeps any more. They
    /// go once every bridge that they guard is guarded by these, or gone.
    async fn clear_other_layouts(&self) {
        let (current, snapshot) = (self.datapath.dir(), self.links.snapshot().await);
        let layouts = bpffs::other_layouts(&self.paths.bpffs, current);
        let (layouts, snapshot) = match (layouts, snapshot) {
            (Ok(layouts), Ok(snapshot)) => (layouts, snapshot),
            (Err(error), _) => return tracing::error!(%error, "cannot look for other versions"),
            (_, Err(error)) => return tracing::error!(%error, "cannot look for other versions"),
        };
        let is_guarded = |index: u32| {
            let hook = Hook::BridgeIngress;
            self.attached.contains(&Attachment {
                ifindex: index,
                hook,
            })
        };
        for layout in layouts {
            let needed = match maps::pinned_networks(&layout) {
                Ok(networks) => networks
                    .keys()
                    .any(|index| snapshot.links.contains_key(index) && !is_guarded(*index)),
                Err(error) => {
                    tracing::error!(%error, "cannot tell what another version's programs guard");
                    true
                }
            };
            let path = layout.display();
            if needed {
                tracing::error!(
                    %path,
                    "programs of another version stay in place, since this agent knows nothing of \
                     a network that they guard; `netd teardown` removes them"
                );
                continue;
            }
            tracing::info!(%path, "removing programs and maps of another version");
            for error in bpffs::remove_layout(&layout) {
                tracing::error!(%error, "programs of another version are left");
            }
        }
    }

    /// Note that the next agent of this build need not replace the programs, if none is left of
    /// another's.
    fn mark_programs(&self) {
        let all = self.datapath.attached();
        let marked = match all {
            Ok(pinned) if pinned.is_subset(&self.attached) => self.datapath.mark_current(),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = marked {
            tracing::warn!(%error, "the next agent will take longer to start");
        }
    }

    async fn find_orphans(&mut self) {
        let (bridges, snapshot) = match (self.datapath.maps.bridges(), self.links.snapshot().await)
        {
            (Ok(bridges), Ok(snapshot)) => (bridges, snapshot),
            (Err(error), _) => return tracing::error!(%error, "cannot look for lost networks"),
            (_, Err(error)) => return tracing::error!(%error, "cannot look for lost networks"),
        };
        for index in bridges {
            let Some(link) = snapshot.links.get(&index) else {
                continue;
            };
            let known = self.networks.live().any(|live| {
                bridge_spec(&live.network)
                    .is_some_and(|spec| spec.name == link.name && spec.is(link, live.bridge))
            });
            if !known {
                tracing::error!(
                    bridge = link.name,
                    "guarded by an earlier agent, but no record tells of its network; its \
                     policy stays in force. Start the network again after `netd teardown`, or \
                     remove the bridge"
                );
                self.orphans.insert(index);
            }
        }
    }

    async fn adopt_definition(&mut self, network: crate::model::Network, autostart: bool) {
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

    /// Write down what has to be given back; a failure is reported, since nothing else waits for
    /// it.
    pub(super) fn save_host(&self) {
        if let Err(error) = self.store.save_host(&self.host) {
            tracing::error!(%error, "forwarding sysctls may not be restored after a restart");
        }
    }
}
