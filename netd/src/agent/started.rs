//! What the host knows of dnsmasqs that take their time.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::host::{KernelHost, Process};
use super::starting::{Starting, Trial};
use crate::model::Network;
use crate::plan::{Intent, Service};

impl KernelHost {
    /// What is to be tried out before a network's dnsmasq serves this; nothing where none runs, or it can
    /// go on.
    pub(super) fn trial_of(&self, network: Network) -> Option<Trial> {
        let serves = self.processes.get(&network.uuid)?.serves?;
        let conf = self.service_of(&network).ok()??.conf;
        let bridge = network.bridge.name.clone()?;
        (conf != serves.conf).then(|| Trial {
            dnsmasq: Arc::clone(&self.dnsmasq),
            network,
            bridge,
            paths: self.paths.clone(),
            helper: self.binary.clone(),
            conf,
        })
    }

    /// Note one that takes longer, and look again when it is done.
    pub(super) fn note_starting(&mut self, network: Uuid, starting: Starting) {
        let wake = Arc::clone(&self.wake);
        let waits = starting.clone();
        tokio::spawn(async move {
            // What came of it is told then.
            let _ = waits.outcome().await;
            wake.notify_one();
        });
        self.starting.insert(network, starting);
    }

    /// Take note of those that are done, and say of the others that they are to be waited for.
    pub(super) fn collect_started(
        &mut self,
        services: &mut BTreeMap<Uuid, Service>,
        intent: &Intent<'_>,
    ) {
        for (uuid, starting) in std::mem::take(&mut self.starting) {
            let outcome = starting.outcome_so_far();
            let member = intent.member(uuid);
            let network = member.map(|member| member.network);
            match (outcome, network) {
                (None, _) => {
                    let service = services.entry(uuid).or_default();
                    service.held_back = true;
                    self.starting.insert(uuid, starting);
                }
                (Some(Ok(running)), Some(network)) => {
                    tracing::info!(
                        network = network.name,
                        pid = running.pid(),
                        "dnsmasq runs at last"
                    );
                    self.watch_process(running.clone());
                    let process = Process::new(running, network, starting.serves(), &self.paths);
                    self.processes.insert(uuid, process);
                }
                (Some(Err(error)), network) => {
                    let network = network.map(|network| network.name.as_str());
                    tracing::error!(network, error = error.message, "no DHCP and DNS");
                    self.tried.insert(uuid, Instant::now());
                }
                (Some(Ok(_)), None) => {}
            }
        }
    }
}
