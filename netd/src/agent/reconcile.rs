//! Making the host what the active networks ask for.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::controller::Controller;
use super::guests::follows_leases;
use super::registry::Registry;
use crate::api::{ApiError, Lifecycle};
use crate::config::Xdp;
use crate::link::ipsec::policies;
use crate::link::{Moves, note_running};
use crate::managers::firewalld::Zoned;
use crate::managers::network_manager::Bridge;
use crate::model::Firewall;
use crate::plan::{Failure, Intent, Member, Outcome, Scope, bridge_spec, execute};

/// What the active networks ask for.
pub(super) fn intent<'a>(
    networks: &'a Registry,
    xdp: &'a Xdp,
    firewall: Option<Firewall>,
    scope: Scope,
) -> Intent<'a> {
    let members = networks.live().map(|live| Member {
        network: &live.network,
        generation: live.generation,
        up: !live.stopping,
        service: live.service,
        ports: &live.ports,
        network_ports: &live.network_ports,
    });
    Intent {
        members: members.collect(),
        xdp,
        firewall,
        scope,
        let_go: BTreeSet::new(),
    }
}

/// Tell the log of failures that concern none of these networks, and keep the others.
pub(super) fn keep(failures: &mut Vec<Failure>, networks: &[Uuid]) {
    failures.retain(|failure| {
        let keep = networks.iter().any(|uuid| failure.concerns(*uuid));
        if !keep {
            tell(failure);
        }
        keep
    });
}

pub(super) fn tell(Failure { error, .. }: &Failure) {
    tracing::error!(%error, "cannot make the host what the networks ask for");
}

impl Controller {
    /// Compare and mend; whatever cannot be mended is reported, and the rest goes on.
    pub async fn reconcile(&mut self) {
        // Nobody else makes room for new records while nobody asks for them.
        if let Ok(datapath) = self.host.datapath_mut() {
            datapath.events.drain();
        }
        for failure in &self.converge(Scope::Host).await.failures {
            tell(failure);
        }
        self.end_contested().await;
        if let Err(error) = self.start_waiting().await {
            tracing::error!(%error, "networks that wait for their start go on waiting");
        }
    }

    /// One pass over the host.
    pub(super) async fn converge(&mut self, scope: Scope) -> Outcome {
        let intent = intent(&self.networks, &self.xdp, self.firewall, scope);
        let outcome = execute(&mut self.host, &intent).await;
        self.tell_started();
        if scope == Scope::Host {
            for bridge in outcome.orphans.difference(&self.orphans) {
                tracing::error!(
                    bridge,
                    "guarded by an earlier agent, but no record tells of its network; its \
                     policy stays in force. Start the network again after `netd teardown`, or \
                     remove the bridge"
                );
            }
            self.orphans.clone_from(&outcome.orphans);
            self.publish_bridges();
            self.follow_delegations();
            self.keep_bans().await;
            let respecting = self.respecting();
            if !respecting.is_subset(&self.respecting) {
                self.rules_changed();
            }
            self.respecting = respecting;
        }
        outcome
    }

    /// Tell of networks that started and whose dnsmasqs run by now.
    fn tell_started(&mut self) {
        let runs = |uuid: &Uuid| self.host.dnsmasq_of(*uuid).is_some();
        let ready: Vec<Uuid> = self.untold.iter().copied().filter(runs).collect();
        for uuid in ready {
            self.untold.remove(&uuid);
            let live = self.networks.get(uuid).ok().and_then(|e| e.live.as_ref());
            if let Some(name) = live.map(|live| live.network.name.clone()) {
                self.tell(uuid, &name, Lifecycle::Started);
            }
        }
    }

    /// Say which bridges are those of networks that run.
    fn publish_bridges(&self) {
        let live = || self.networks.live().filter(|live| !live.stopping);
        let is_made = |uuid| {
            let noted = self.host.noted.get(&uuid);
            noted.is_some_and(|noted| noted.bridge.is_some())
        };
        let zoned = live().filter(|live| is_made(live.network.uuid));
        let zones: BTreeSet<Zoned> = zoned.filter_map(|live| Zoned::of(&live.network)).collect();
        self.zones.send_if_modified(|known| {
            let is_other = *known != zones;
            *known = zones;
            is_other
        });
        let bridges = live().filter_map(|live| {
            let spec = bridge_spec(&live.network)?;
            let noted = self.host.noted.get(&live.network.uuid)?;
            Some(Bridge {
                index: noted.bridge?,
                name: spec.name,
                mac: spec.mac,
                ports: noted.ports.iter().cloned().collect(),
            })
        });
        let bridges: BTreeSet<Bridge> = bridges.collect();
        self.bridges.send_if_modified(|known| {
            let is_other = *known != bridges;
            *known = bridges;
            is_other
        });
    }

    /// Does a forward of an active network go by a name, or are ports guarded? Only then do leases
    /// matter.
    pub(super) fn follows_leases(&self) -> bool {
        self.networks
            .live()
            .any(|live| follows_leases(&live.network))
    }

    /// Routes or neighbours changed: flows look for their path again at their next packet.
    pub fn paths_changed(&mut self) {
        if self.networks.live().next().is_none() {
            return;
        }
        let Ok(datapath) = self.host.datapath_mut() else {
            return;
        };
        if let Err(error) = datapath.maps.raise_epoch() {
            tracing::error!(%error, "connections may use an old path for some seconds");
        }
    }

    /// The host's IPsec policies changed, or may have.
    pub fn policies_changed(&mut self) {
        let Ok(datapath) = self.host.datapath_mut() else {
            return;
        };
        let known = policies().map_err(ApiError::internal);
        let followed = known.and_then(|policies| {
            let followed = datapath.maps.follow_policies(&policies);
            followed.map_err(ApiError::internal)
        });
        if let Err(error) = followed {
            tracing::error!(
                %error,
                "guests' packets may pass the host's IPsec policies by; netd tries again in 30 s"
            );
        }
    }

    /// Bridges saw guests at other ports, perhaps without a packet that the programs would see.
    pub fn guests_moved(&mut self, moves: &Moves) {
        if self.networks.live().next().is_none() {
            return;
        }
        let Ok(datapath) = self.host.datapath_mut() else {
            return;
        };
        if let Err(error) = datapath.maps.forget_moved(moves) {
            tracing::error!(%error, "packets may go to a guest's old port for up to a minute");
        }
    }

    /// Bridges of networks that respect the host's rules.
    fn respecting(&mut self) -> BTreeSet<u32> {
        let Ok(datapath) = self.host.datapath_mut() else {
            return BTreeSet::new();
        };
        datapath.maps.respecting().unwrap_or_else(|error| {
            tracing::error!(%error, "connections are not held to the host's changed rules");
            BTreeSet::new()
        })
    }

    /// The host's rules see what is bridged, or do so no more. What connections have shown since may be wrong.
    pub async fn bridged_rules_changed(&mut self) {
        self.reconcile().await;
        self.rules_changed();
    }

    /// The host's own rules changed, or may have: in networks that respect them flows prove again that
    /// they may pass. The kernel is told of those that run first: conntrack saw their beginning alone,
    /// and rules that let established connections pass are to know them.
    pub fn rules_changed(&mut self) {
        let respecting = self.respecting();
        if respecting.is_empty() {
            return;
        }
        let Ok(datapath) = self.host.datapath_mut() else {
            return;
        };
        let noted = datapath.running(&respecting).map_err(ApiError::internal);
        let noted = noted.and_then(|flows| note_running(&flows).map_err(ApiError::internal));
        if let Err(error) = noted {
            tracing::warn!(
                %error,
                "the kernel does not know all connections of guests: the host's rules take their next \
                 packets for new connections"
            );
        }
        if let Err(error) = datapath.maps.raise_rules_epoch() {
            tracing::error!(%error, "connections are not held to the host's changed rules");
        }
    }

    /// Nobody tells of changes from now on.
    pub fn leave_alone(&mut self) {
        let Ok(datapath) = self.host.datapath_mut() else {
            return;
        };
        if let Err(error) = datapath.leave_alone() {
            tracing::warn!(%error, "connections will follow changed paths up to 30 s late");
        }
    }

    /// Load one of the programs that are not loaded yet; `false` when there is none.
    pub fn load_next(&mut self) -> Result<bool, ApiError> {
        let loaded = self.host.datapath_mut()?.load_next();
        loaded.map_err(ApiError::internal)
    }
}
