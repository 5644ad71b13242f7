//! What the agent has from the service manager that started it, and tells it: systemd's notifications,
//! sd_notify(3). Where there is none, all of this does nothing.

use std::os::fd::OwnedFd;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::controller::Controller;
use crate::paths::Paths;
use crate::services::{kept, namespace};

/// Tell it of another state.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Tell it that SIGHUP is being answered; the time tells it which of several (Type=notify-reload).
fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the service manager of a reload"),
    }
}

/// Answer SIGHUP, by which it asks for a reload.
pub(super) async fn reload(controller: &mut Controller) {
    tell_reloading();
    let reloaded = controller.reload().await;
    for line in reloaded.done {
        tracing::info!("{line}");
    }
    for line in reloaded.failed {
        tracing::error!("{line}");
    }
    tell(&[NotifyState::Ready]);
}

/// How often it is to hear from the agent: three times in the time after which it ends one that is silent.
/// `None` where it does not wait for that.
pub(super) fn watchdog_interval() -> Option<Interval> {
    let limit = sd_notify::watchdog_enabled()?;
    let mut ticks = interval(limit / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

/// Waits until it is to hear from the agent; for ever where it does not wait for that.
pub(super) async fn watchdog(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Give the namespaces that it kept their names again. Returns what else was inherited.
pub(super) fn name_namespaces(
    paths: &Paths,
    inherited: Vec<(String, OwnedFd)>,
) -> Vec<(String, OwnedFd)> {
    let mut others = Vec::new();
    for (name, descriptor) in inherited {
        match kept::bridge_of(&name) {
            Some(bridge) => {
                if let Err(error) =
                    kept::name_again(&namespace::path(paths, bridge), bridge, descriptor)
                {
                    tracing::warn!(bridge, %error, "the namespace of its services is made anew");
                }
            }
            None => others.push((name, descriptor)),
        }
    }
    others
}
