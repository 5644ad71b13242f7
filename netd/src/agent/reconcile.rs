//! Making the host what the active networks ask for.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::controller::Controller;
use super::guests::follows_leases;
use super::registry::Registry;
use crate::api::ApiError;
use crate::config::Xdp;
use crate::plan::{Failure, Intent, Member, Outcome, Scope, execute};

/// What the active networks ask for.
pub(super) fn intent<'a>(networks: &'a Registry, xdp: &'a Xdp, scope: Scope) -> Intent<'a> {
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
    }

    /// One pass over the host.
    pub(super) async fn converge(&mut self, scope: Scope) -> Outcome {
        let intent = intent(&self.networks, &self.xdp, scope);
        let outcome = execute(&mut self.host, &intent).await;
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
        }
        outcome
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

    /// Nobody tells of changes from now on.
    pub fn leave_alone(&mut self) {
        let Ok(datapath) = self.host.datapath_mut() else {
            return;
        };
        if let Err(error) = datapath.maps.leave_alone() {
            tracing::warn!(%error, "connections will follow changed paths up to 30 s late");
        }
    }

    /// Load one of the programs that are not loaded yet; `false` when there is none.
    pub fn load_next(&mut self) -> Result<bool, ApiError> {
        let loaded = self.host.datapath_mut()?.load_next();
        loaded.map_err(ApiError::internal)
    }
}
