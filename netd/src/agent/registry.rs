//! The networks the agent knows, by UUID, and the rules between them. No I/O.

use std::collections::BTreeMap;

use tokio::time::Instant;
use uuid::Uuid;

use crate::api::{ApiError, ErrorCode, NetworkInfo};
use crate::dnsmasq::Digest;
use crate::model::{Mac, Network, NetworkPorts};
use crate::plan::Port;

/// Highest number that replaces `%d` in a bridge's name.
const MAX_BRIDGE_NUMBER: u32 = 256;
/// What a bridge is called when the definition does not say.
const BRIDGE_TEMPLATE: &str = "virbr%d";

/// An active network.
#[derive(Debug)]
pub struct Live {
    /// The definition it runs with.
    pub network: Network,
    /// Raised with every other definition.
    pub generation: u64,
    /// What its dnsmasq is to serve; none for a network without.
    pub service: Option<Digest>,
    /// It is being taken down.
    pub stopping: bool,
    /// Devices that its bridge gets back as ports when it starts.
    pub ports: Vec<Port>,
    /// Its guests' ports, as clients made them.
    pub network_ports: NetworkPorts,
}

/// One network, defined or active or both.
#[derive(Debug, Default)]
pub struct Entry {
    /// The definition on disk.
    pub config: Option<Network>,
    /// The running network.
    pub live: Option<Live>,
    /// Does it start with the agent?
    pub autostart: bool,
    /// It did not when it was to, and starts once it can.
    pub waiting: Option<Waiting>,
}

/// A network that was to start with the agent and could not.
#[derive(Debug)]
pub struct Waiting {
    /// What keeps it.
    pub reason: String,
    /// It is not tried again before that.
    pub not_before: Instant,
}

impl Entry {
    /// The definition clients see first: the live one, else the stored one.
    pub fn network(&self) -> Option<&Network> {
        self.live
            .as_ref()
            .map(|live| &live.network)
            .or(self.config.as_ref())
    }
}

/// All networks.
#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<Uuid, Entry>,
}

impl Registry {
    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = (&Uuid, &Entry)> {
        self.entries.iter()
    }

    /// Every active network.
    pub fn live(&self) -> impl Iterator<Item = &Live> {
        self.entries
            .values()
            .filter_map(|entry| entry.live.as_ref())
    }

    /// The network with this UUID.
    pub fn get(&self, uuid: Uuid) -> Result<&Entry, ApiError> {
        self.entries.get(&uuid).ok_or_else(|| unknown(uuid))
    }

    /// The network with this UUID, to change.
    pub fn get_mut(&mut self, uuid: Uuid) -> Result<&mut Entry, ApiError> {
        self.entries.get_mut(&uuid).ok_or_else(|| unknown(uuid))
    }

    /// The entry of this UUID, made where there is none.
    pub fn entry(&mut self, uuid: Uuid) -> &mut Entry {
        self.entries.entry(uuid).or_default()
    }

    /// Forget a network that is neither defined nor active.
    pub fn prune(&mut self, uuid: Uuid) {
        if self
            .entries
            .get(&uuid)
            .is_some_and(|e| e.config.is_none() && e.live.is_none())
        {
            self.entries.remove(&uuid);
        }
    }

    /// The UUID of the network with this name.
    pub fn uuid_of(&self, name: &str) -> Option<Uuid> {
        self.entries
            .iter()
            .find(|(_, entry)| entry.network().is_some_and(|network| network.name == name))
            .map(|(uuid, _)| *uuid)
    }

    /// What clients are told about a network.
    pub fn info(&self, uuid: Uuid) -> Result<NetworkInfo, ApiError> {
        let entry = self.get(uuid)?;
        let network = entry.network().ok_or_else(|| unknown(uuid))?;
        Ok(NetworkInfo {
            name: network.name.clone(),
            uuid,
            active: entry.live.is_some(),
            persistent: entry.config.is_some(),
            autostart: entry.autostart,
            bridge: network.bridge.name.clone(),
        })
    }

    /// Give a definition what it left to the agent (UUID, MAC address, bridge name) and make sure
    /// that it does not contradict another network. `taken` says which device names exist.
    pub fn complete(
        &self,
        network: &mut Network,
        taken: impl Fn(&str) -> bool,
    ) -> Result<(), ApiError> {
        if !network.has_uuid() {
            network.uuid = Uuid::new_v4();
        }
        let same_name = self.uuid_of(&network.name);
        if let Some(other) = same_name.filter(|other| *other != network.uuid) {
            return Err(ApiError::new(
                ErrorCode::OperationFailed,
                format_args!(
                    "network '{}' already exists with uuid {other}; to redefine it, put \
                     <uuid>{other}</uuid> into the file or use net-edit",
                    network.name
                ),
            ));
        }
        if let Some(other) = self.entries.get(&network.uuid).and_then(Entry::network)
            && other.name != network.name
        {
            return Err(ApiError::new(
                ErrorCode::OperationFailed,
                format_args!(
                    "network '{}' is already defined with uuid {}",
                    other.name, network.uuid
                ),
            ));
        }
        if !network.is_managed() {
            return Ok(());
        }
        // What a redefinition leaves out stays as it is: guests know the bridge by it.
        let known = self.entries.get(&network.uuid).and_then(Entry::network);
        if let Some(known) = known.filter(|known| known.is_managed()) {
            network.mac = network.mac.or(known.mac);
            let name = &mut network.bridge.name;
            *name = name.take().or_else(|| known.bridge.name.clone());
        }
        network.mac.get_or_insert_with(Mac::random_bridge);
        let used_by = |name: &str| {
            self.entries
                .iter()
                .filter(|(uuid, _)| **uuid != network.uuid)
                .flat_map(|(_, entry)| {
                    entry
                        .config
                        .iter()
                        .chain(entry.live.as_ref().map(|live| &live.network))
                })
                .find(|other| other.bridge.name.as_deref() == Some(name))
        };
        let wanted = network.bridge.name.clone();
        match wanted.as_deref().unwrap_or(BRIDGE_TEMPLATE) {
            template if template.contains("%d") => {
                let free = (0..=MAX_BRIDGE_NUMBER)
                    .map(|number| template.replacen("%d", &number.to_string(), 1))
                    .find(|name| used_by(name).is_none() && !taken(name));
                let Some(name) = free else {
                    return Err(ApiError::internal(format_args!(
                        "Bridge generation exceeded max id {MAX_BRIDGE_NUMBER} for network '{}'",
                        network.name
                    )));
                };
                network.bridge.name = Some(name);
            }
            name => {
                if let Some(other) = used_by(name) {
                    return Err(ApiError::internal(format_args!(
                        "bridge name '{name}' already in use by network '{}'",
                        other.name
                    )));
                }
            }
        }
        Ok(())
    }
}

fn unknown(uuid: Uuid) -> ApiError {
    ApiError::new(
        ErrorCode::NoNetwork,
        format_args!("no network with matching uuid '{uuid}'"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Forward, ForwardMode};

    fn network(name: &str, uuid: u128) -> Network {
        Network {
            name: name.to_owned(),
            uuid: Uuid::from_u128(uuid),
            forward: Some(Forward {
                mode: ForwardMode::Nat,
                ..Forward::default()
            }),
            ..Network::default()
        }
    }

    fn registry(networks: &[Network]) -> Registry {
        let mut registry = Registry::default();
        for network in networks {
            registry.entry(network.uuid).config = Some(network.clone());
        }
        registry
    }

    #[test]
    fn what_a_definition_leaves_out_is_filled_in() {
        let mut other = network("other", 1);
        other.bridge.name = Some("virbr0".to_owned());
        let registry = registry(&[other]);
        let mut new = network("new", 0);
        registry
            .complete(&mut new, |name| name == "virbr1")
            .unwrap();
        assert!(!new.uuid.is_nil());
        assert!(new.mac.is_some());
        assert_eq!(new.bridge.name.as_deref(), Some("virbr2"));
    }

    #[test]
    fn names_and_uuids_belong_together() {
        let registry = registry(&[network("a", 1)]);
        let error = registry
            .complete(&mut network("a", 2), |_| false)
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::OperationFailed);
        let error = registry
            .complete(&mut network("b", 1), |_| false)
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::OperationFailed);
        registry.complete(&mut network("a", 1), |_| false).unwrap();
    }

    #[test]
    fn bridge_names_are_not_shared() {
        let mut first = network("first", 1);
        first.bridge.name = Some("br".to_owned());
        let registry = registry(&[first]);
        let mut second = network("second", 2);
        second.bridge.name = Some("br".to_owned());
        assert!(registry.complete(&mut second, |_| false).is_err());
        let mut again = network("first", 1);
        again.bridge.name = Some("br".to_owned());
        registry.complete(&mut again, |_| true).unwrap();
    }

    #[test]
    fn a_redefinition_keeps_what_it_leaves_out() {
        let mut first = network("first", 1);
        first.bridge.name = Some("br".to_owned());
        first.mac = Some(Mac([0x52, 0x54, 0, 0, 0, 1]));
        let registry = registry(std::slice::from_ref(&first));
        let mut again = network("first", 1);
        registry.complete(&mut again, |_| true).unwrap();
        assert_eq!(
            (&again.bridge.name, again.mac),
            (&first.bridge.name, first.mac)
        );
        again.bridge.name = Some("another".to_owned());
        again.mac = Some(Mac([0x52, 0x54, 0, 0, 0, 2]));
        let asked = again.clone();
        registry.complete(&mut again, |_| false).unwrap();
        assert_eq!(again, asked);
    }

    #[test]
    fn a_template_without_a_free_number_is_an_error() {
        let registry = registry(&[]);
        let mut new = network("new", 0);
        new.bridge.name = Some("b%d".to_owned());
        assert!(registry.complete(&mut new, |_| true).is_err());
    }
}
