//! Networks that were to start with the agent and could not: they start once they can.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::controller::Controller;
use super::hooks::{Hooks, Occasion};
use super::registry::Waiting;
use crate::api::{ApiError, Result, WaitingNetwork};
use crate::managers::firewalld;
use crate::model::{self, FormatOptions, Network};

/// A start that failed half way is not tried again sooner: it costs the host something.
const PAUSE: Duration = Duration::from_secs(300);

impl Controller {
    /// Start networks, and let those wait that cannot.
    pub(super) async fn start_with_agent(&mut self, networks: Vec<Network>) {
        let hooks = Hooks::new(self.host.paths.hooks_dir());
        let mut willing = Vec::new();
        for network in networks {
            let text = model::format(&network, FormatOptions::default());
            match hooks.run(Occasion::Start, &network.name, &text, None).await {
                Ok(()) => willing.push(network),
                Err(error) => self.note_waiting(&network.name, &error, PAUSE),
            }
        }
        for (name, result) in self.activate_all(willing).await {
            let result = match result {
                Ok(()) => self.let_hooks_judge(&hooks, &name).await,
                refused => refused,
            };
            match result {
                Ok(()) => tracing::info!(network = name, "started"),
                Err(error) => {
                    let pause = self.pause_after_failure(&name).await;
                    self.note_waiting(&name, &error, pause);
                }
            }
        }
    }

    /// A network runs; a hook may have something against it.
    async fn let_hooks_judge(&mut self, hooks: &Hooks, name: &str) -> Result<()> {
        let uuid = self.uuid_of(name)?;
        let Some(live) = &self.networks.get(uuid)?.live else {
            return Ok(());
        };
        let text = model::format_live(&live.network.as_running(), &live.network_ports);
        let Err(error) = hooks.run(Occasion::Started, name, &text, None).await else {
            return Ok(());
        };
        let error = self.undo_start(uuid, error).await;
        hooks.tell(Occasion::Stopped, name, &text, None).await;
        Err(error)
    }

    /// How long a network that did not start is left alone. Where there is no room for it, a look
    /// tells when there is.
    async fn pause_after_failure(&self, name: &str) -> Duration {
        let uuid = self.networks.uuid_of(name);
        let entry = uuid.and_then(|uuid| self.networks.get(uuid).ok());
        let network = entry.and_then(|entry| entry.config.as_ref());
        match (network, self.snapshot().await) {
            (Some(network), Ok(snapshot)) if self.check_room(network, &snapshot).is_err() => {
                Duration::ZERO
            }
            // firewalld starts beside the agent, or later.
            (Some(network), _) if firewalld::check(network).await.is_err() => Duration::ZERO,
            _ => PAUSE,
        }
    }

    /// Start those that wait and have room now.
    pub(super) async fn start_waiting(&mut self) -> Result<()> {
        let now = Instant::now();
        let entries = self.networks.iter().filter(|(_, entry)| {
            let waiting = entry.waiting.as_ref();
            entry.live.is_none() && waiting.is_some_and(|waiting| waiting.not_before <= now)
        });
        let mut waiting: Vec<Network> = entries.filter_map(|(_, e)| e.config.clone()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        waiting.sort_by(|a, b| a.name.cmp(&b.name));
        let snapshot = self.snapshot().await?;
        let mut free = Vec::new();
        for network in waiting {
            match self.check_room(&network, &snapshot) {
                Ok(()) => free.push(network),
                Err(error) => self.note_waiting(&network.name, &error, Duration::ZERO),
            }
        }
        if !free.is_empty() {
            self.start_with_agent(free).await;
        }
        Ok(())
    }

    /// Say once why a network does not start.
    fn note_waiting(&mut self, name: &str, error: &ApiError, pause: Duration) {
        let Some(uuid) = self.networks.uuid_of(name) else {
            return;
        };
        let entry = self.networks.entry(uuid);
        // What libvirt's clients put before it says nothing here.
        let reason = error.message.trim_start_matches("internal error: ");
        let reason = reason.to_owned();
        if entry.waiting.as_ref().is_none_or(|w| w.reason != reason) {
            tracing::error!(network = name, %error, "autostart failed; it starts once it can");
        }
        let not_before = Instant::now() + pause;
        entry.waiting = Some(Waiting { reason, not_before });
    }

    /// The networks that wait, and why.
    pub(super) fn waiting(&self) -> Vec<WaitingNetwork> {
        let entries = self.networks.iter();
        let waiting = entries.filter_map(|(uuid, entry)| {
            let reason = entry.waiting.as_ref()?.reason.clone();
            let name = entry.network()?.name.clone();
            let uuid: Uuid = *uuid;
            entry
                .live
                .is_none()
                .then_some(WaitingNetwork { name, uuid, reason })
        });
        waiting.collect()
    }
}
