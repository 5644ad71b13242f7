//! The running agent: it owns the networks and keeps the kernel as they ask.
//!
//! [`run`] is the event loop: calls from clients, changes of links, deaths of dnsmasq, SIGHUP
//! and the clock. All of them end in `Controller::reconcile`, which compares intent with
//! the kernel. One lock guards the networks, so that calls follow one another.

mod controller;
mod driver;
mod drops;
mod guests;
mod handover;
mod host;
mod lifecycle;
mod live;
mod lock;
mod network_ports;
mod plan_host;
mod planning;
mod port_conflicts;
mod programs;
mod reconcile;
mod registry;
mod reload;
mod sockets;
mod status;
mod steps;
mod teardown;
mod update;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

use crate::api;
use crate::config::Config;
use crate::dnsmasq::watch::LeaseWatch;
use crate::link::{Change, DriverWatch, NetlinkMonitor};
use crate::paths::Paths;
use crate::rpc;
use controller::Controller;

pub use teardown::teardown;

/// How often the agent compares intent and kernel without being told of a change.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What it means that nobody can tell of a change of leases.
const LATE_LEASES: &str =
    "cannot watch the leases; port forwards to guests by name follow up to 30 s late";

/// What it means that nobody can tell of a change of what drivers can do.
const LATE_DRIVERS: &str =
    "cannot watch what drivers can do with XDP; the XDP fast path follows up to 30 s late";

/// How long after its start the agent loads programs that nothing has needed yet: who waited for it
/// goes first.
const LOAD_LATER: Duration = Duration::from_secs(5);

/// How long it leaves the word to others between two of them.
const LOAD_PAUSE: Duration = Duration::from_millis(500);

/// How long after a change of routes it does.
const AFTER_ROUTES: Duration = Duration::from_secs(1);

/// The agent as the RPC server's driver.
pub struct Agent {
    controller: Mutex<Controller>,
    /// What the controller publishes, at hand for those who need not wait for its lock.
    events: api::Events,
}

/// What the agent wakes up for, but for calls from clients.
enum Event {
    /// It is to end.
    End,
    /// SIGHUP: definitions on disk changed.
    Reload,
    /// A dnsmasq ended, or may be started again.
    Wake,
    /// Nothing was heard for a while.
    Timer,
    /// The host changed.
    Host(Change),
    /// What drivers can do changed.
    Drivers(std::io::Result<()>),
    /// Leases changed.
    Leases(std::io::Result<()>),
}

/// Where events come from.
struct Events {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    wake: Arc<Notify>,
    host: NetlinkMonitor,
    drivers: Option<DriverWatch>,
    leases: Option<LeaseWatch>,
    /// When to look without having heard of anything.
    timer: Instant,
}

impl Events {
    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::End,
            _ = self.interrupt.recv() => Event::End,
            _ = self.hangup.recv() => Event::Reload,
            () = self.wake.notified() => Event::Wake,
            () = tokio::time::sleep_until(self.timer) => Event::Timer,
            change = self.host.next() => Event::Host(change),
            changed = driver_change(&mut self.drivers) => Event::Drivers(changed),
            changed = lease_change(&mut self.leases) => Event::Leases(changed),
        }
    }
}

/// Run the agent until SIGTERM or SIGINT. Networks stay up when it ends.
///
/// # Errors
/// It cannot start: another agent, no privileges, a missing kernel feature.
pub async fn run(paths: Paths, config: Config, socket: PathBuf) -> anyhow::Result<()> {
    let _locks = lock::take(&paths)?;
    let mut events = Events {
        terminate: signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?,
        hangup: signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?,
        interrupt: signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?,
        wake: Arc::new(Notify::new()),
        // Before the first look at the links, so that no change falls between.
        host: NetlinkMonitor::new().context("cannot watch the host's devices")?,
        drivers: None,
        leases: None,
        timer: Instant::now() + LOOK_AGAIN,
    };
    let mut controller = Controller::open(paths, &config, Arc::clone(&events.wake)).await?;
    // Before the first look at them, too.
    events.drivers = controller
        .host
        .links
        .watch_drivers()
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "{LATE_DRIVERS}");
            None
        });
    controller.start_up().await;
    events.leases = LeaseWatch::new(&controller.host.paths.dnsmasq_dir())
        .inspect_err(|error| tracing::warn!(%error, "{LATE_LEASES}"))
        .ok();
    let agent = Arc::new(Agent {
        events: controller.events.clone(),
        controller: Mutex::new(controller),
    });

    let mut doors = sockets::open(&config.sockets, &socket)?;
    let files: Vec<_> = doors
        .iter_mut()
        .filter_map(|door| door.file.take())
        .collect();
    let (stop, stopped) = watch::channel(false);
    let limits = rpc::Limits::for_clients(config.sockets.max_clients as usize);
    let limits = rpc::descriptors::provide(limits);
    let server = tokio::spawn(rpc::serve(doors, Arc::clone(&agent), limits, stopped));
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(socket = %socket.display(), "ready");
    let loading = tokio::spawn(load_programs(Arc::clone(&agent)));

    events.timer = Instant::now() + LOOK_AGAIN;
    follow(&agent, &mut events).await?;
    tracing::info!("stopping; networks stay up");
    loading.abort();
    agent.controller.lock().await.leave_alone();
    notify(&[sd_notify::NotifyState::Stopping]);
    // The receiver is gone only if the server has ended already.
    let _ = stop.send(true);
    server.await.context("the server ended badly")?;
    for file in files {
        if let Err(error) = file.remove() {
            tracing::warn!(socket = %file.path().display(), %error, "cannot remove the socket");
        }
    }
    Ok(())
}

/// Follow events until the agent is to end.
async fn follow(agent: &Agent, events: &mut Events) -> anyhow::Result<()> {
    loop {
        let event = events.next().await;
        let mut controller = agent.controller.lock().await;
        match event {
            Event::End => return Ok(()),
            Event::Reload => {
                let reloaded = controller.reload().await;
                for line in reloaded.done {
                    tracing::info!("{line}");
                }
                for line in reloaded.failed {
                    tracing::error!("{line}");
                }
                continue;
            }
            Event::Wake | Event::Timer | Event::Host(Change::Links) => {}
            // Routes may make a device one that guests' traffic can leave by, but there can be many
            // changes of routes and neighbours a second: those wait for each other.
            Event::Host(Change::Routes) => {
                controller.paths_changed();
                events.timer = events.timer.min(Instant::now() + AFTER_ROUTES);
                continue;
            }
            Event::Host(Change::Overrun) => {
                tracing::warn!("the kernel dropped link events; looking at everything again");
                controller.reconcile().await;
                controller.paths_changed();
                continue;
            }
            Event::Host(Change::Closed(error)) => {
                anyhow::bail!("can no longer watch the host's devices: {error}");
            }
            Event::Drivers(changed) => {
                if let Err(error) = changed {
                    tracing::warn!(%error, "{LATE_DRIVERS}");
                    events.drivers = None;
                }
            }
            Event::Leases(changed) => {
                if let Err(error) = changed {
                    tracing::warn!(%error, "{LATE_LEASES}");
                    events.leases = None;
                }
                if !controller.follows_leases() {
                    continue;
                }
            }
        }
        controller.reconcile().await;
        events.timer = Instant::now() + LOOK_AGAIN;
    }
}

/// Loads the programs that no device needed at the start, so that the first one that does need not
/// wait. Calls go in between.
async fn load_programs(agent: Arc<Agent>) {
    let mut pause = LOAD_LATER;
    loop {
        tokio::time::sleep(pause).await;
        pause = LOAD_PAUSE;
        let mut controller = agent.controller.lock().await;
        let loaded = tokio::task::block_in_place(|| controller.load_next());
        match loaded {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "new devices cannot be protected");
                return;
            }
        }
    }
}

/// Waits for a change of what drivers can do; for ever where nobody can tell, or wants to know.
async fn driver_change(watch: &mut Option<DriverWatch>) -> std::io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of leases; for ever where nobody can tell.
async fn lease_change(watch: &mut Option<LeaseWatch>) -> std::io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn notify(states: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
