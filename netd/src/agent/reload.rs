//! Reading the definitions on disk again: `netd reload`, and SIGHUP.

use uuid::Uuid;

use super::controller::Controller;
use crate::api::{Affect, ApiError, Metadata, Reloaded};
use crate::model::{MetadataElement, NETD_NAMESPACE, Network};

impl Controller {
    /// Read the definitions on disk again, and let active networks do what theirs says to netd and of rates.
    pub(super) async fn reload(&mut self) -> Reloaded {
        let (stored, errors) = self.host.store.load();
        let mut reloaded = Reloaded {
            done: Vec::new(),
            failed: errors.iter().map(ToString::to_string).collect(),
        };
        for stored in stored {
            let known = self.networks.get(stored.network.uuid).ok();
            let same = known.and_then(|entry| entry.config.as_ref()) == Some(&stored.network);
            if stored.network.has_uuid() && same {
                self.networks.entry(stored.network.uuid).autostart = stored.autostart;
                continue;
            }
            let name = stored.network.name.clone();
            match self.define_network(stored.network).await {
                Ok(uuid) => {
                    self.networks.entry(uuid).autostart = stored.autostart;
                    let line = format!("network '{name}': definition read");
                    reloaded.done.push(line);
                }
                Err(error) => {
                    let line = format!("network '{name}': not read: {error}");
                    reloaded.failed.push(line);
                }
            }
        }
        let mut waiting = self.drifted();
        // A port may have moved from one network to another, which gets it when the first one has
        // given it up.
        loop {
            let count = waiting.len();
            let mut refused = Vec::new();
            for (uuid, name) in waiting {
                match self.adopt(uuid).await {
                    Ok(what) => reloaded.done.push(format!(
                        "network '{name}': running with its definition's {what}"
                    )),
                    Err(error) => refused.push((uuid, name, error)),
                }
            }
            if refused.is_empty() || refused.len() == count {
                let lines = refused
                    .into_iter()
                    .map(|(_, name, error)| format!("network '{name}': left as it runs: {error}"));
                reloaded.failed.extend(lines);
                reloaded.done.extend(self.pending(None));
                return reloaded;
            }
            waiting = refused
                .into_iter()
                .map(|(uuid, name, _)| (uuid, name))
                .collect();
        }
    }

    /// Active networks that run with something else than their definitions say to netd, or of rates.
    fn drifted(&self) -> Vec<(Uuid, String)> {
        self.networks
            .iter()
            .filter_map(|(uuid, entry)| {
                let live = &entry.live.as_ref()?.network;
                let config = entry.config.as_ref()?;
                let differs =
                    own_element(live) != own_element(config) || live.bandwidth != config.bandwidth;
                differs.then(|| (*uuid, live.name.clone()))
            })
            .collect()
    }

    /// Let an active network run with what its definition says to netd, and with its rates. Returns what
    /// it did not run with.
    async fn adopt(&mut self, uuid: Uuid) -> Result<&'static str, ApiError> {
        let entry = self.networks.get(uuid)?;
        let config = entry.config.as_ref();
        let wanted = config.and_then(own_element).cloned();
        let bandwidth = config.and_then(|config| config.bandwidth.clone());
        let was = entry.live.as_ref().map(|live| &live.network);
        let metadata = was.and_then(own_element) != wanted.as_ref();
        let rates = was.is_some_and(|was| was.bandwidth != bandwidth);
        let live = Affect {
            live: true,
            config: false,
        };
        let with = |network: &Network| {
            let mut network = network.clone();
            network.set_metadata(NETD_NAMESPACE, wanted.clone())?;
            network.bandwidth.clone_from(&bandwidth);
            Ok(network)
        };
        self.change(uuid, live, with).await?;
        if metadata {
            self.tell_metadata(uuid, Metadata::Element(NETD_NAMESPACE.to_owned()));
        }
        Ok(match (metadata, rates) {
            (true, true) => "metadata and bandwidth",
            (false, true) => "bandwidth",
            _ => "metadata",
        })
    }
}

fn own_element(network: &Network) -> Option<&MetadataElement> {
    let mut elements = network.metadata.iter();
    elements.find(|element| element.namespace == NETD_NAMESPACE)
}
