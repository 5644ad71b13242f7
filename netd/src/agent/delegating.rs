//! Networks whose prefixes their uplinks are delegated (`<netd:prefix from>`).

use std::collections::BTreeMap;

use uuid::Uuid;

use super::controller::Controller;
use crate::delegation::{Order, Task, Told};
use crate::model::{Delegated, GivenPrefix, GuestPrefix, Network};

/// What a network asks for.
fn order(network: &Network) -> Option<&Delegated> {
    network
        .netd
        .prefix
        .as_ref()
        .and_then(GuestPrefix::delegated)
}

/// The prefixes that a network has.
fn prefixes(network: &Network) -> Vec<GivenPrefix> {
    network.given.iter().map(|subnet| subnet.given).collect()
}

impl Controller {
    /// Have it asked for what active networks want, and for nothing else.
    pub(super) fn follow_delegations(&mut self) {
        let live = self.networks.live().filter(|live| !live.stopping);
        let wanted: BTreeMap<Uuid, &Network> = live
            .filter(|live| order(&live.network).is_some())
            .map(|live| (live.network.uuid, &live.network))
            .collect();
        let is_gone = |uuid: &Uuid, asked: &Delegated| {
            wanted.get(uuid).and_then(|network| order(network)) != Some(asked)
        };
        let tasks = &mut self.delegations.tasks;
        let gone = tasks
            .iter()
            .filter(|(uuid, (asked, _))| is_gone(uuid, asked));
        let gone: Vec<Uuid> = gone.map(|(uuid, _)| *uuid).collect();
        let is_less = !gone.is_empty();
        for uuid in gone {
            if let Some((_, task)) = tasks.remove(&uuid) {
                task.release();
            }
        }
        for (uuid, network) in wanted {
            let Some(asked) = order(network).filter(|_| !tasks.contains_key(&uuid)) else {
                continue;
            };
            let identity = match self.host.store.identity() {
                Ok(identity) => identity,
                Err(error) => {
                    tracing::error!(network = network.name, %error, "no prefix can be asked for");
                    continue;
                }
            };
            let order = Order {
                network: uuid,
                from: asked.from.clone(),
                length: asked.length,
                identity,
                before: prefixes(network),
            };
            let task = Task::start(order, self.delegations.tell.clone());
            tasks.insert(uuid, (asked.clone(), task));
        }
        if is_less {
            self.save_prefixes();
        }
    }

    /// A network has these prefixes now.
    pub(super) async fn prefixes_told(&mut self, (uuid, given): Told) {
        let live = self.networks.get(uuid).ok().and_then(|e| e.live.as_ref());
        let Some(live) = live.filter(|live| !live.stopping && order(&live.network).is_some())
        else {
            return;
        };
        let mut new = live.network.clone();
        new.given = given.iter().filter_map(|given| given.subnet()).collect();
        let name = new.name.clone();
        let told: Vec<String> = given
            .iter()
            .map(|given| match given.is_preferred {
                true => given.prefix.to_string(),
                false => format!("{} (old)", given.prefix),
            })
            .collect();
        let told = match told.is_empty() {
            true => "none".to_owned(),
            false => told.join(", "),
        };
        let checked = match self.snapshot().await {
            Ok(snapshot) => self.check_changed(&new, &snapshot),
            Err(error) => Err(error),
        };
        let applied = match checked {
            Ok(()) => self.apply_live(uuid, new).await,
            Err(error) => Err(error),
        };
        match applied {
            Ok(()) => tracing::info!(
                network = name,
                prefixes = told,
                "runs with delegated prefixes"
            ),
            Err(error) => {
                tracing::error!(network = name, prefixes = told, %error, "delegated prefixes are not used");
            }
        }
        self.save_prefixes();
    }

    /// What a network has keeps it when its definition changes, as long as it asks for the same.
    pub(super) fn with_prefixes(&self, mut network: Network) -> Network {
        let live = self
            .networks
            .get(network.uuid)
            .ok()
            .and_then(|e| e.live.as_ref());
        if let Some(live) = live.map(|live| &live.network)
            && order(live).is_some()
            && order(live) == order(&network)
        {
            network.given.clone_from(&live.given);
        }
        network
    }

    /// For the next agent.
    pub(super) fn save_prefixes(&self) {
        let live = self.networks.live().filter(|live| !live.stopping);
        let live = live.map(|live| &live.network);
        let all: BTreeMap<Uuid, Vec<GivenPrefix>> = live
            .filter(|network| !network.given.is_empty())
            .map(|network| (network.uuid, prefixes(network)))
            .collect();
        if let Err(error) = self.host.store.save_prefixes(&all) {
            tracing::warn!(%error, "an agent that starts asks for delegated prefixes anew");
        }
    }

    /// What the last agent's networks had.
    pub(super) fn load_prefixes(&self) -> BTreeMap<Uuid, Vec<GivenPrefix>> {
        self.host.store.load_prefixes().unwrap_or_else(|error| {
            tracing::error!(%error, "delegated prefixes are asked for anew");
            BTreeMap::new()
        })
    }
}
