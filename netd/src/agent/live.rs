//! Changes of a network that take effect while it runs: the way all of them go, and what its
//! definition says to netd, its description and its title.

use uuid::Uuid;

use super::controller::Controller;
use super::port_conflicts;
use crate::api::{
    Affect, ApiError, Changed, ErrorCode, EventKind, ForwardChange, Metadata, NetworkEvent,
    NetworkForwards, NewMetadata, Result,
};
use crate::datapath::ports::Ports;
use crate::model::{self, ForwardAction, MetadataElement, NETD_NAMESPACE, Network};
use crate::plan::{self, Failure};
use crate::store;

impl Controller {
    /// Which definitions a call is about.
    pub(super) fn affected(&self, uuid: Uuid, affect: Affect) -> Result<Affect> {
        let entry = self.networks.get(uuid)?;
        let invalid = |detail| Err(ApiError::new(ErrorCode::OperationInvalid, detail));
        if affect.live && entry.live.is_none() {
            return invalid("network is not running");
        }
        if affect.config && entry.config.is_none() {
            return invalid("cannot change persistent config of a transient network");
        }
        if affect.live || affect.config {
            return Ok(affect);
        }
        Ok(Affect {
            live: entry.live.is_some(),
            config: entry.live.is_none(),
        })
    }

    /// Change the definitions that `affect` names, all or none of them.
    pub(super) async fn change(
        &mut self,
        uuid: Uuid,
        affect: Affect,
        change: impl Fn(&Network) -> Result<Network>,
    ) -> Result<Affect> {
        let affect = self.affected(uuid, affect)?;
        let entry = self.networks.get(uuid)?;
        let live = entry.live.as_ref().filter(|_| affect.live);
        let config = entry.config.as_ref().filter(|_| affect.config);
        let new_live = live.map(|live| change(&live.network)).transpose()?;
        let new_config = config.map(&change).transpose()?;
        let old_config = config.cloned();
        if let Some(new) = &new_config {
            model::check_define(new)?;
        }
        if let Some(new) = &new_live {
            model::check_start(new)?;
            self.check_published(new)?;
        }
        if let Some(new) = &new_config {
            self.host.store.save(new)?;
            self.networks.entry(uuid).config = Some(new.clone());
        }
        let Some(new) = new_live else {
            return Ok(affect);
        };
        if let Err(error) = self.apply_live(uuid, new).await {
            if let Some(old) = old_config {
                if let Err(error) = self.host.store.save(&old) {
                    tracing::error!(network = old.name, %error, "the definition stays changed");
                }
                self.networks.entry(uuid).config = Some(old);
            }
            return Err(error);
        }
        Ok(affect)
    }

    /// Let an active network run with another definition, which differs in what needs no restart.
    pub(super) async fn apply_live(&mut self, uuid: Uuid, new: Network) -> Result<()> {
        let old = self.swap_live(uuid, new.clone())?;
        let failures = self.apply_change(uuid, &old).await;
        if failures.is_empty() {
            self.warn_of_port_conflicts(uuid, Some(&old));
            return Ok(());
        }
        self.swap_live(uuid, old.clone())?;
        let without = self.apply_change(uuid, &new).await;
        // What does not work without the change either is not its fault.
        let mut own = failures
            .into_iter()
            .filter(|failure| !without.contains(failure));
        let Some(Failure { error, .. }) = own.next() else {
            self.swap_live(uuid, new)?;
            for Failure { error, .. } in self.apply_change(uuid, &old).await {
                tracing::error!(%error, "not removed after the change");
            }
            self.warn_of_port_conflicts(uuid, Some(&old));
            return Ok(());
        };
        tracing::warn!(network = old.name, %error, "a change failed and was rolled back");
        for Failure { error, .. } in without {
            tracing::error!(%error, "not removed after the change");
        }
        Err(taken_back(&error))
    }

    /// Put a definition in the place of the one that an active network runs with; returns that.
    fn swap_live(&mut self, uuid: Uuid, new: Network) -> Result<Network> {
        let old = self.networks.get(uuid)?.live.as_ref();
        let ports = old.map(|live| (live.ports.clone(), live.network_ports.clone()));
        let (ports, network_ports) = ports.ok_or_else(|| {
            ApiError::new(
                ErrorCode::OperationInvalid,
                format!("network '{}' is not running", new.name),
            )
        })?;
        let new = self.live(new, ports, network_ports)?;
        let old = self.networks.entry(uuid).live.replace(new);
        old.map(|live| live.network)
            .ok_or_else(|| ApiError::internal("a network that ran is not running"))
    }

    /// May the network publish what it does: has nobody else these ports?
    pub(super) fn check_published(&self, network: &Network) -> Result<()> {
        let active: Vec<&Network> = self.networks.live().map(|live| &live.network).collect();
        let failed = |detail: String| ApiError::new(ErrorCode::OperationFailed, detail);
        if let Some(conflict) = plan::conflict(network, &active) {
            return Err(failed(conflict.to_string()));
        }
        if let Some(conflict) = plan::prefix_conflict(network, &active) {
            return Err(failed(conflict.to_string()));
        }
        let forwards = network.netd.forwards();
        if forwards.is_empty() {
            return Ok(());
        }
        let reserved = Ports::read().map_err(ApiError::internal)?;
        for forward in forwards {
            // Without ranges the address is the guest's, and its ports are nobody's reservation.
            let spans = forward.spans();
            let mut ports = spans.iter().flat_map(|span| span.first..=span.last);
            if !forward.ranges.is_empty()
                && let Some(port) = ports.find(|port| reserved.contains(*port))
            {
                return Err(failed(format!(
                    "network '{}' cannot publish port {port} ({forward}): the host keeps it \
                     (net.ipv4.ip_local_reserved_ports); choose another port, or take it off that \
                     list",
                    network.name
                )));
            }
        }
        Ok(())
    }

    /// Say who waits at ports that the active network publishes and did not when it was `before`.
    pub(super) fn warn_of_port_conflicts(&self, uuid: Uuid, before: Option<&Network>) {
        let live = self.networks.get(uuid).ok().and_then(|e| e.live.as_ref());
        let Some(network) = live.map(|live| &live.network) else {
            return;
        };
        let now = network.netd.forwards();
        let before = before.map_or(&[][..], |before| before.netd.forwards());
        if now == before {
            return;
        }
        let own = self.dnsmasq_pids();
        for warning in port_conflicts::warnings(now, before, &own) {
            tracing::warn!(network = network.name, "{warning}");
        }
    }

    /// Numbers of the networks' dnsmasq processes.
    fn dnsmasq_pids(&self) -> Vec<u32> {
        let networks = self.networks.live().map(|live| live.network.uuid);
        networks
            .filter_map(|uuid| self.host.dnsmasq_of(uuid))
            .collect()
    }

    /// `netd forward add` and `delete`.
    pub(super) async fn change_forward(&mut self, change: &ForwardChange) -> Result<Changed> {
        let uuid = self.uuid_of(&change.network)?;
        let affect = self
            .change(uuid, change.affect, |network| {
                ensure_storable(network.with_forwards_changed(&change.action)?)
            })
            .await?;
        self.tell_metadata(uuid, Metadata::Element(NETD_NAMESPACE.to_owned()));
        let mut warnings = Vec::new();
        if let ForwardAction::Add(forward) = &change.action {
            let entry = self.networks.get(uuid)?;
            let live = entry.live.as_ref().map(|live| &live.network);
            let network = live.filter(|_| affect.live).or(entry.config.as_ref());
            if affect.live {
                let added = std::slice::from_ref(forward);
                warnings.extend(port_conflicts::warnings(added, &[], &self.dnsmasq_pids()));
            }
            if let Some(network) = network {
                warnings.extend(self.absent_of(network, forward).await);
            }
            if affect.live {
                warnings.extend(self.rules_about_ports(&change.network).await);
            }
        }
        Ok(Changed { affect, warnings })
    }

    /// The forwards of one network or of all.
    pub(super) fn forwards(&self, name: Option<&str>) -> Result<Vec<NetworkForwards>> {
        let wanted = name.map(|name| self.uuid_of(name)).transpose()?;
        let entries = self.networks.iter();
        let entries = entries.filter(|(uuid, _)| wanted.is_none_or(|wanted| wanted == **uuid));
        let mut all = Vec::new();
        for (_, entry) in entries {
            let of = |network: &Network| network.netd.forwards().to_vec();
            let Some(network) = entry.network() else {
                continue;
            };
            all.push(NetworkForwards {
                network: network.name.clone(),
                live: entry.live.as_ref().map(|l| of(&l.network)),
                config: entry.config.as_ref().map(of),
            });
        }
        all.sort_by(|a, b| a.network.cmp(&b.network));
        Ok(all)
    }

    /// A piece of metadata, of what runs unless `affect` says otherwise.
    pub(super) fn metadata(&self, uuid: Uuid, what: &Metadata, affect: Affect) -> Result<String> {
        let affect = self.affected(uuid, affect)?;
        let entry = self.networks.get(uuid)?;
        let live = entry.live.as_ref().map(|live| &live.network);
        let network = live.filter(|_| affect.live).or(entry.config.as_ref());
        let found = network.and_then(|network| match what {
            Metadata::Description => network.description.clone(),
            Metadata::Title => network.title.clone(),
            Metadata::Element(uri) => network
                .metadata
                .iter()
                .find(|element| element.namespace == *uri)
                .map(MetadataElement::without_namespace),
        });
        found.ok_or_else(|| {
            ApiError::new(
                ErrorCode::NoNetworkMetadata,
                "Requested metadata element is not present",
            )
        })
    }

    /// Change a piece of metadata.
    pub(super) async fn set_metadata(
        &mut self,
        uuid: Uuid,
        what: &Metadata,
        new: &NewMetadata,
        affect: Affect,
    ) -> Result<()> {
        let with = |network: &Network| as_read_again(&with_metadata(network, what, new)?);
        self.change(uuid, affect, with).await?;
        self.tell_metadata(uuid, what.clone());
        Ok(())
    }

    /// Tell who listens that a piece of a network's metadata was changed.
    pub(super) fn tell_metadata(&self, uuid: Uuid, what: Metadata) {
        if let Ok(info) = self.networks.info(uuid) {
            self.events.publish(NetworkEvent {
                name: info.name,
                uuid,
                kind: EventKind::Metadata(what),
            });
        }
    }
}

/// An error of a change of which nothing is left.
pub(super) fn taken_back(error: &ApiError) -> ApiError {
    let message = format!("{error}; the change was taken back");
    ApiError::verbatim(error.code, message)
}

/// A definition whose forwards were changed. These are checked and can be written, so that all that
/// could keep the next agent from reading them is their number.
fn ensure_storable(network: Network) -> Result<Network> {
    if store::fits(&network) {
        return Ok(network);
    }
    as_read_again(&network)
}

/// [`store::read_again`] for what is no entry of a definition, but an argument of a call.
fn as_read_again(network: &Network) -> Result<Network> {
    store::read_again(network).map_err(|error| {
        ApiError::new(
            ErrorCode::InvalidArg,
            format!("network '{}' could not be kept: {error}", network.name),
        )
    })
}

/// The network with another piece of metadata.
fn with_metadata(network: &Network, what: &Metadata, new: &NewMetadata) -> Result<Network> {
    let mut network = network.clone();
    let refuse = |detail: &str| ApiError::new(ErrorCode::InvalidArg, detail);
    // An empty one is none.
    let text = new.text.clone().filter(|text| !text.is_empty());
    match what {
        Metadata::Description => network.description = text,
        Metadata::Title => {
            if new.text.as_ref().is_some_and(|title| title.contains('\n')) {
                return Err(refuse("a title is one line"));
            }
            network.title = text;
        }
        Metadata::Element(uri) => {
            let element = match (&new.text, &new.key) {
                (None, _) => None,
                (Some(_), None) => return Err(refuse("an element needs a key, its prefix")),
                (Some(text), Some(key)) => Some(MetadataElement::with_namespace(text, key, uri)?),
            };
            network.set_metadata(uri, element)?;
        }
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::{forward, range};

    #[test]
    fn what_cannot_be_read_again_is_refused() {
        let network = model::parse("<network><name>n</name><ip address='10.0.0.1'/></network>");
        let network = network.unwrap();
        assert_eq!(as_read_again(&network).as_ref(), Ok(&network));
        for text in ["\u{1}", "\u{1b}[31m", "\u{fffe}"] {
            let new = NewMetadata {
                text: Some(text.to_owned()),
                key: None,
            };
            let changed = with_metadata(&network, &Metadata::Title, &new).unwrap();
            let error = as_read_again(&changed).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArg, "{error}");
        }
    }

    #[test]
    fn more_forwards_than_can_be_read_are_refused() {
        let network = model::parse("<network><name>n</name><ip address='10.0.0.1'/></network>");
        let with = |count: u16| {
            let ports: Vec<u16> = (1..=count).collect();
            let forwards = ports.chunks(1000).map(|ports| {
                let ranges = ports
                    .iter()
                    .map(|port| range(*port, *port, Some(60_000), false));
                forward("web", &ranges.collect::<Vec<_>>())
            });
            let mut network = network.clone().unwrap();
            network.set_forwards(forwards.collect()).unwrap();
            network
        };
        assert_eq!(ensure_storable(with(40_000)), Ok(with(40_000)));
        let error = ensure_storable(with(60_000)).unwrap_err();
        assert!(error.to_string().contains("could not be kept"), "{error}");
    }
}
