//! The running agent: it owns the networks and keeps the kernel as they ask.
//!
//! [`run`] is the event loop: calls from clients, changes of links, deaths of dnsmasq, SIGHUP
//! and the clock. All of them end in `Controller::reconcile`, which compares intent with
//! the kernel. One lock guards the networks, so that calls follow one another.

mod absent;
mod apply;
mod ban_set;
mod banning;
mod bans;
mod connections;
mod contested;
mod controller;
mod delegating;
mod delegations;
mod doctor;
mod driver;
mod drops;
mod flows;
mod guest_addresses;
mod guest_ports;
mod guests;
mod handover;
mod held_addresses;
mod hooks;
mod host;
mod lifecycle;
mod live;
mod lock;
mod lost_ports;
mod manager;
mod network_ports;
mod plan_host;
mod planning;
mod port_conflicts;
mod programs;
mod reconcile;
mod registry;
mod reload;
mod room;
mod service_steps;
mod sockets;
mod started;
mod starting;
mod status;
mod steps;
mod teardown;
mod update;
mod waiting;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::api;
use crate::config::Config;
use crate::datapath::bpffs;
use crate::delegation::Told;
use crate::dnsmasq::leases;
use crate::dnsmasq::watch::LeaseWatch;
use crate::libvirt::{Places, module};
use crate::link::ipsec::watch_policies;
use crate::link::netfilter::{has_silent_rules, watch_rules};
use crate::link::{Announcements, Change, DriverWatch, NetlinkMonitor, sysctl};
use crate::managers::{firewalld, network_manager};
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

/// What it means that nobody can tell of a change of the host's rules.
const LATE_RULES: &str = "cannot watch the host's rules; in networks that respect them, a change counts \
                          for new connections alone";

/// What it means that nobody can tell of a change of IPsec policies.
const LATE_POLICIES: &str =
    "cannot watch the host's IPsec policies; netd follows them up to 30 s late";

/// How long after its start the agent loads programs that nothing has needed yet: who waited for it
/// goes first.
const LOAD_LATER: Duration = Duration::from_secs(5);

/// How long the status files of leases may be late. They are not written anew for each lease where there are
/// many.
const FOLD_PAUSE: Duration = Duration::from_secs(1);

/// How long it leaves the word to others between two of them.
const LOAD_PAUSE: Duration = Duration::from_millis(500);

/// How often it looks whether the host's rules see what is bridged: the kernel tells nobody when somebody has
/// them do so. Two files of a digit, 20 µs of a processor.
const BRIDGED_LOOK: Duration = Duration::from_secs(1);

/// How long after a change of routes it does.
const AFTER_ROUTES: Duration = Duration::from_secs(1);

/// The agent as the RPC server's driver.
pub struct Agent {
    controller: Mutex<Controller>,
    /// What the controller publishes, at hand for those who need not wait for its lock.
    events: api::Events,
    /// The administrator's programs.
    hooks: hooks::Hooks,
    /// libvirt's sockets, as far as a switch from libvirt has them served.
    adopted: Mutex<sockets::Adopted>,
    /// Who reads the flow table has this.
    flow_turns: Mutex<()>,
}

/// What the agent wakes up for, but for calls from clients.
enum Event {
    /// It is to end.
    End,
    /// SIGHUP: definitions on disk changed.
    Reload,
    /// A dnsmasq ended, or may be started again.
    Wake,
    /// The service manager is to hear that the agent is alive.
    Watchdog,
    /// Nothing was heard for a while.
    Timer,
    /// The host changed.
    Host(Change),
    /// What drivers can do changed.
    Drivers(io::Result<()>),
    /// Leases changed.
    Leases(io::Result<()>),
    /// Lease helpers left something to be done.
    Fold,
    /// The host's own rules changed.
    Rules(io::Result<()>),
    /// The host's IPsec policies changed.
    Policies(io::Result<()>),
    /// They may have, if they are of the kind that nobody tells of.
    SilentRules,
    /// They see what is bridged (br_netfilter), or do so no more.
    BridgedRules,
    /// A network was given prefixes.
    Prefixes(Told),
}

/// Where events come from.
struct Events {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// When the service manager is to hear from the agent, if it waits for that.
    watchdog: Option<Interval>,
    wake: Arc<Notify>,
    host: NetlinkMonitor,
    drivers: Option<DriverWatch>,
    leases: Option<LeaseWatch>,
    /// When to have the status files say all that is known of leases.
    fold: Option<Instant>,
    rules: Option<Announcements>,
    policies: Option<Announcements>,
    /// When to ask of rules that nobody tells of.
    silent_rules: Instant,
    bridged_rules: BridgedRules,
    prefixes: Option<mpsc::Receiver<Told>>,
    /// When to look without having heard of anything.
    timer: Instant,
}

impl Events {
    /// Sources that need nothing but the kernel; the others come later.
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?,
            hangup: signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?,
            watchdog: manager::watchdog_interval(),
            wake: Arc::new(Notify::new()),
            // Before the first look at the links, so that no change falls between.
            host: NetlinkMonitor::new().context("cannot watch the host's devices")?,
            drivers: None,
            leases: None,
            fold: Some(Instant::now()),
            policies: watch_policies().unwrap_or_else(|error| {
                tracing::warn!(%error, "{LATE_POLICIES}");
                None
            }),
            rules: watch_rules().unwrap_or_else(|error| {
                tracing::warn!(%error, "{LATE_RULES}");
                None
            }),
            silent_rules: Instant::now() + LOOK_AGAIN,
            bridged_rules: BridgedRules::new(),
            prefixes: None,
            timer: Instant::now() + LOOK_AGAIN,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::End,
            _ = self.interrupt.recv() => Event::End,
            _ = self.hangup.recv() => Event::Reload,
            () = manager::watchdog(&mut self.watchdog) => Event::Watchdog,
            () = self.wake.notified() => Event::Wake,
            () = tokio::time::sleep_until(self.timer) => Event::Timer,
            change = self.host.next() => Event::Host(change),
            changed = driver_change(&mut self.drivers) => Event::Drivers(changed),
            changed = lease_change(&mut self.leases) => Event::Leases(changed),
            () = until(self.fold) => Event::Fold,
            changed = announced(&mut self.rules) => Event::Rules(changed),
            changed = announced(&mut self.policies) => Event::Policies(changed),
            () = tokio::time::sleep_until(self.silent_rules) => Event::SilentRules,
            () = self.bridged_rules.changed() => Event::BridgedRules,
            told = told_prefixes(&mut self.prefixes) => Event::Prefixes(told),
        }
    }

    /// Leases changed, or nobody tells any more.
    fn leases_changed(&mut self, changed: io::Result<()>) {
        if let Err(error) = changed {
            tracing::warn!(%error, "{LATE_LEASES}");
            self.leases = None;
        }
        self.fold.get_or_insert(Instant::now() + FOLD_PAUSE);
    }

    /// The host's IPsec policies changed, or nobody tells any more.
    fn policies_changed(&mut self, changed: io::Result<()>) {
        if let Err(error) = changed {
            tracing::warn!(%error, "{LATE_POLICIES}");
            self.policies = None;
        }
    }

    /// The host's own rules changed, or nobody tells any more.
    fn rules_changed(&mut self, changed: io::Result<()>) {
        if let Err(error) = changed {
            tracing::warn!(%error, "{LATE_RULES}");
            self.rules = None;
        }
    }

    /// The host's own rules may have changed, if they are of that kind.
    fn look_at_silent_rules(&mut self, controller: &mut Controller) {
        if has_silent_rules() {
            controller.rules_changed();
        }
        self.silent_rules = Instant::now() + LOOK_AGAIN;
    }

    /// What drivers can do changed, or nobody tells any more.
    fn drivers_changed(&mut self, changed: io::Result<()>) {
        if let Err(error) = changed {
            tracing::warn!(%error, "{LATE_DRIVERS}");
            self.drivers = None;
        }
    }
}

/// Whether the host's rules see what is bridged, as it was at the last look.
struct BridgedRules {
    look: Interval,
    seen: bool,
}

impl BridgedRules {
    fn new() -> Self {
        let mut look = tokio::time::interval(BRIDGED_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            look,
            seen: sysctl::bridged_rules(),
        }
    }

    /// Waits until that is not so any more. Whoever gives up waiting misses nothing.
    async fn changed(&mut self) {
        loop {
            self.look.tick().await;
            let sees = sysctl::bridged_rules();
            if std::mem::replace(&mut self.seen, sees) != sees {
                return;
            }
        }
    }
}

/// Make the folder of pins: an agent that may write nowhere else cannot.
///
/// # Errors
/// There is no bpf file system, or the folder cannot be made.
pub fn prepare(paths: &Paths) -> anyhow::Result<()> {
    Ok(bpffs::make(&paths.bpffs)?)
}

/// Run the agent until SIGTERM or SIGINT. Networks stay up when it ends.
///
/// # Errors
/// It cannot start: another agent, no privileges, a missing kernel feature.
pub async fn run(paths: Paths, config: Config, socket: PathBuf) -> anyhow::Result<()> {
    let _locks = lock::take(&paths)?;
    // Before libvirtd, which starts after this.
    if let Err(error) = module::refresh(&Places::default(), &paths.state_dir) {
        tracing::warn!("libvirtd may miss drivers of its own: {error:#}");
    }
    let inherited = rpc::inherited().context("cannot take the service manager's descriptors")?;
    let inherited = manager::name_namespaces(&paths, inherited);
    let mut events = Events::new()?;
    let mut controller = Controller::open(paths, &config, Arc::clone(&events.wake)).await?;
    events.prefixes = controller.delegations.told.take();
    // Before the first look at them, too.
    events.drivers = controller
        .host
        .links
        .watch_drivers()
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "{LATE_DRIVERS}");
            None
        });
    let telling = [
        tokio::spawn(network_manager::follow(controller.bridges.subscribe())),
        tokio::spawn(firewalld::follow(controller.zones.subscribe())),
    ];
    controller.policies_changed();
    controller.start_up().await;
    events.leases = LeaseWatch::new(&controller.host.paths.dnsmasq_dir())
        .inspect_err(|error| tracing::warn!(%error, "{LATE_LEASES}"))
        .ok();
    let (mut doors, serves_libvirt) = sockets::open(&config.sockets, inherited, &socket)?;
    let state_dir = controller.host.paths.state_dir.clone();
    let adopted = sockets::Adopted::new(&config.sockets, serves_libvirt, &state_dir);
    let more = adopted.doors();
    let agent = Arc::new(Agent {
        events: controller.events.clone(),
        hooks: hooks::Hooks::new(controller.host.paths.hooks_dir()),
        controller: Mutex::new(controller),
        adopted: Mutex::new(adopted),
        flow_turns: Mutex::new(()),
    });
    let files: Vec<_> = doors
        .iter_mut()
        .filter_map(|door| door.file.take())
        .collect();
    let (stop, stopped) = watch::channel(false);
    let limits = rpc::Limits::for_clients(config.sockets.max_clients as usize);
    let limits = rpc::descriptors::provide(limits);
    let server = tokio::spawn(rpc::serve(doors, more, Arc::clone(&agent), limits, stopped));
    manager::tell(&[NotifyState::Ready]);
    tracing::info!(socket = %socket.display(), "ready");
    let loading = tokio::spawn(load_programs(Arc::clone(&agent)));

    events.timer = Instant::now() + LOOK_AGAIN;
    follow(&agent, &mut events).await?;
    tracing::info!("stopping; networks stay up");
    loading.abort();
    telling.iter().for_each(JoinHandle::abort);
    agent.controller.lock().await.leave_alone();
    manager::tell(&[NotifyState::Stopping]);
    // The receiver is gone only if the server has ended already.
    let _ = stop.send(true);
    server.await.context("the server ended badly")?;
    if let Err(error) = agent.adopted.lock().await.close() {
        tracing::warn!(%error, "cannot remove libvirt's sockets");
    }
    for file in files {
        if let Err(error) = file.remove() {
            tracing::warn!(socket = %file.path().display(), %error, "cannot remove the socket");
        }
    }
    Ok(())
}

/// Follow events until the agent is to end.
async fn follow(agent: &Agent, events: &mut Events) -> anyhow::Result<()> {
    // When to look at the host's rules again.
    let mut rules = Instant::now() + LOOK_AGAIN;
    loop {
        let event = events.next().await;
        let mut controller = agent.controller.lock().await;
        match event {
            Event::End => return Ok(()),
            // Sent with the networks' lock: who holds it for ever stops this as well.
            Event::Watchdog => {
                manager::tell(&[NotifyState::Watchdog]);
                continue;
            }
            Event::Reload => {
                manager::reload(&mut controller).await;
                continue;
            }
            Event::Wake | Event::Timer | Event::Host(Change::Links) => {}
            Event::BridgedRules => controller.bridged_rules_changed().await,
            Event::Prefixes(told) => controller.prefixes_told(told).await,
            // Routes may make a device one that guests' traffic can leave by, but there can be many
            // changes of routes and neighbours a second: those wait for each other.
            Event::Host(Change::Routes) => {
                controller.paths_changed();
                events.timer = events.timer.min(Instant::now() + AFTER_ROUTES);
                continue;
            }
            Event::Host(Change::Moved(moves)) => {
                controller.guests_moved(&moves);
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
            Event::Drivers(changed) => events.drivers_changed(changed),
            Event::Rules(changed) => {
                events.rules_changed(changed);
                controller.rules_changed();
                controller.tell_host_rules().await;
                continue;
            }
            Event::Policies(changed) => {
                events.policies_changed(changed);
                controller.policies_changed();
                continue;
            }
            Event::SilentRules => {
                events.look_at_silent_rules(&mut controller);
                continue;
            }
            Event::Fold => {
                events.fold = None;
                fold_leases(&controller.host.paths.dnsmasq_dir());
                continue;
            }
            Event::Leases(changed) => {
                events.leases_changed(changed);
                if !controller.follows_leases() {
                    continue;
                }
            }
        }
        controller.reconcile().await;
        let now = Instant::now();
        events.timer = now + LOOK_AGAIN;
        if now >= rules {
            controller.tell_host_rules().await;
            controller.policies_changed();
            rules = now + LOOK_AGAIN;
        }
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

/// Waits for a network's prefixes; for ever where nobody tells.
async fn told_prefixes(from: &mut Option<mpsc::Receiver<Told>>) -> Told {
    if let Some(receiver) = from
        && let Some(told) = receiver.recv().await
    {
        return told;
    }
    std::future::pending().await
}

/// Waits for a change of what drivers can do; for ever where nobody can tell, or wants to know.
async fn driver_change(watch: &mut Option<DriverWatch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of the host's rules or policies; for ever where nobody can tell.
async fn announced(watch: &mut Option<Announcements>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Has the status files of leases say all that is known.
fn fold_leases(dir: &Path) {
    match tokio::task::block_in_place(|| leases::fold(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(
                %error,
                "the files of leases in {} are late; netd reads what is beside them",
                dir.display()
            );
        }
        _ => {}
    }
}

/// Waits for that moment; for ever where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of leases; for ever where nobody can tell.
async fn lease_change(watch: &mut Option<LeaseWatch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
