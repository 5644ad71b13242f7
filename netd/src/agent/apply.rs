//! `netd net-apply`: an active network comes to run with its definition, by what differs alone.

use uuid::Uuid;

use super::controller::Controller;
use super::reconcile::intent;
use super::room::warn_of_subnets_around;
use crate::api::{ApiError, Applied, ErrorCode, Metadata, Result};
use crate::dnsmasq;
use crate::managers::firewalld;
use crate::model::{self, Network};
use crate::plan::{
    Failure, Host as _, Outcome, Rehearsal, Scope, execute, needs_new_bridge, sentences,
};

fn refused(detail: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::OperationInvalid, detail)
}

impl Controller {
    /// Let an active network run with its definition. All of it is done, or nothing.
    pub(super) async fn apply_definition(&mut self, uuid: Uuid) -> Result<Applied> {
        let Some((new, old)) = self.changed_definition(uuid).await? else {
            return Ok(unchanged());
        };
        self.apply_live(uuid, new.clone()).await?;
        tracing::info!(network = new.name, "runs with its changed definition");
        for what in changed_metadata(&old, &new) {
            self.tell_metadata(uuid, what);
        }
        self.tell_host_rules().await;
        self.note_contested(uuid);
        self.end_contested().await;
        Ok(Applied {
            warnings: self.held_addresses(&new),
            ..Applied::default()
        })
    }

    /// What that would do.
    pub(super) async fn rehearse_definition(&mut self, uuid: Uuid) -> Result<Applied> {
        let Some((new, _)) = self.changed_definition(uuid).await? else {
            return Ok(unchanged());
        };
        let running = intent(&self.networks, &self.xdp, self.firewall, Scope::Host);
        let mut with = running.clone();
        let service = self.host.service_of(&new)?;
        for member in &mut with.members {
            if member.network.uuid == uuid {
                (member.network, member.service) = (&new, service);
                member.generation = u64::MAX;
            }
        }
        let mut rehearsal = Rehearsal::new(self.host.observe(&with).await?);
        // What is missing without the change is not the change's.
        execute(&mut rehearsal, &running).await;
        let Outcome { done, failures, .. } = execute(&mut rehearsal, &with).await;
        let own = failures.into_iter().find(|failure| failure.concerns(uuid));
        if let Some(Failure { error, .. }) = own {
            return Err(error);
        }
        Ok(Applied {
            steps: sentences(&done),
            warnings: self.held_addresses(&new),
            ..Applied::default()
        })
    }

    /// The definition of an active network and the one that it runs with; none where these are the same.
    ///
    /// # Errors
    /// It is not active, has no definition, or cannot run with it on this host.
    async fn changed_definition(&self, uuid: Uuid) -> Result<Option<(Network, Network)>> {
        let entry = self.networks.get(uuid)?;
        let name = entry.network().map_or("", |network| &network.name);
        let name = name.escape_debug();
        let Some(live) = entry.live.as_ref().map(|live| &live.network) else {
            return Err(refused(format_args!(
                "network '{name}' is not active; net-start starts it with its definition"
            )));
        };
        let Some(new) = &entry.config else {
            return Err(refused(format_args!(
                "network '{name}' is transient: there is no other definition than the one that it runs \
                 with"
            )));
        };
        let new = &self.with_prefixes(new.clone());
        if new == live {
            return Ok(None);
        }
        let fixed = needs_new_bridge(new, live);
        if !fixed.is_empty() {
            return Err(refused(format_args!(
                "network '{name}' cannot change while it runs: {} asks for another bridge; net-destroy \
                 and net-start give it one and connect its guests again",
                fixed.join(" and ")
            )));
        }
        model::check_start(new)?;
        let snapshot = self.snapshot().await?;
        self.check_changed(new, &snapshot)?;
        self.check_published(new)?;
        let zone = firewalld::check(new).await;
        zone.map_err(|why| ApiError::new(ErrorCode::OperationFailed, why))?;
        warn_of_subnets_around(new, &snapshot);
        if dnsmasq::wants_dnsmasq(new) {
            self.host.dnsmasq.binary().await?;
            dnsmasq::process::files_of(&self.host.paths, new)?;
        }
        Ok(Some((new.clone(), live.clone())))
    }
}

fn unchanged() -> Applied {
    Applied {
        same: true,
        ..Applied::default()
    }
}

/// The pieces of metadata that two definitions do not share.
fn changed_metadata(old: &Network, new: &Network) -> Vec<Metadata> {
    let mut changed = Vec::new();
    if old.title != new.title {
        changed.push(Metadata::Title);
    }
    if old.description != new.description {
        changed.push(Metadata::Description);
    }
    let elements = old.metadata.iter().chain(&new.metadata);
    for element in elements {
        let is_of = |other: &&model::MetadataElement| other.namespace == element.namespace;
        let told = Metadata::Element(element.namespace.clone());
        if old.metadata.iter().find(is_of) != new.metadata.iter().find(is_of)
            && !changed.contains(&told)
        {
            changed.push(told);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(inside: &str) -> Network {
        model::parse(&format!("<network><name>n</name>{inside}</network>")).unwrap()
    }

    #[test]
    fn changed_pieces_of_metadata_are_told_once() {
        let a = network(
            "<title>a</title><metadata><x:a xmlns:x='urn:x' v='1'/><y:a xmlns:y='urn:y'/></metadata>",
        );
        let b = network(
            "<title>b</title><metadata><x:a xmlns:x='urn:x' v='2'/><y:a xmlns:y='urn:y'/></metadata>",
        );
        let element = |of: &str| Metadata::Element(of.to_owned());
        assert_eq!(changed_metadata(&a, &a), []);
        assert_eq!(
            changed_metadata(&a, &b),
            [Metadata::Title, element("urn:x")]
        );
        let none = network("<title>a</title>");
        assert_eq!(
            changed_metadata(&a, &none),
            [element("urn:x"), element("urn:y")]
        );
    }
}
