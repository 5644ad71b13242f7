//! `netd plan`: what would be done, rehearsed.

use super::controller::Controller;
use super::reconcile::intent;
use crate::api::Result;
use crate::model;
use crate::plan::{
    Failure, Host as _, Member, Outcome, Rehearsal, Scope, execute, pending, sentences,
};

impl Controller {
    /// What the active networks lack, or, where one is named, what that one does; of one that is not
    /// active what its start would add. Beside that, what their definitions say and they do not do
    /// yet.
    pub(super) async fn plan(&mut self, name: Option<&str>) -> Result<Vec<String>> {
        let uuid = name.map(|name| self.uuid_of(name)).transpose()?;
        let entry = uuid.map(|uuid| self.networks.get(uuid)).transpose()?;
        let to_start = entry.and_then(|entry| match entry.live {
            Some(_) => None,
            None => entry.config.clone(),
        });
        let running = intent(&self.networks, &self.xdp, self.firewall, Scope::Host);
        let mut with = running.clone();
        let (ports, network_ports);
        if let Some(network) = &to_start {
            model::check_start(network)?;
            let detached = self.host.notes.detached.get(&network.name);
            ports = detached.cloned().unwrap_or_default();
            network_ports = self.host.load_ports(network);
            with.members.push(Member {
                network,
                generation: u64::MAX,
                up: true,
                service: self.host.service_of(network)?,
                ports: &ports,
                network_ports: &network_ports,
            });
        }
        let observed = self.host.observe(&with).await?;
        if let Some(network) = &to_start {
            self.check_room(network, &observed.links)?;
        }
        let mut rehearsal = Rehearsal::new(observed);
        let mut outcome = execute(&mut rehearsal, &running).await;
        if to_start.is_some() {
            // What is missing of those that run is not this one's.
            outcome = execute(&mut rehearsal, &with).await;
        }
        let Outcome {
            mut done, failures, ..
        } = outcome;
        let concerns = |failure: &Failure| uuid.is_none_or(|uuid| failure.concerns(uuid));
        if let Some(Failure { error, .. }) = failures.into_iter().find(concerns) {
            return Err(error);
        }
        if let (Some(uuid), None) = (uuid, &to_start) {
            done.retain(|step| step.network.is_none_or(|of| of == uuid));
        }
        let mut lines = sentences(&done);
        lines.extend(self.pending(uuid));
        Ok(lines)
    }

    /// What the definitions of active networks say and these do not do yet.
    pub(super) fn pending(&self, only: Option<uuid::Uuid>) -> Vec<String> {
        let entries = self.networks.iter();
        let entries = entries.filter(|(uuid, _)| only.is_none_or(|only| only == **uuid));
        let pairs = entries.filter_map(|(_, entry)| {
            let live = entry.live.as_ref()?;
            Some(pending(entry.config.as_ref()?, &live.network))
        });
        pairs.flatten().collect()
    }
}
