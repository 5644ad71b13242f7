//! systemd, which runs libvirt's daemons: asked over D-Bus what runs, and to start, stop and mask units.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use zbus::OwnedObjectPath;

/// There where systemd is the init system (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// libvirtd's unit.
pub const LIBVIRTD: &str = "libvirtd.service";

/// Those of the daemon that has the networks where each driver has one: its sockets first, or they would
/// start it again.
pub const VIRTNETWORKD: [&str; 4] = [
    "virtnetworkd.socket",
    "virtnetworkd-ro.socket",
    "virtnetworkd-admin.socket",
    "virtnetworkd.service",
];

/// How long a unit may take to start or stop: systemd's own limit, and somewhat more.
const PATIENCE: Duration = Duration::from_secs(100);

/// How often it is looked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Replaces a job of the unit's that waits yet, as systemctl does.
const REPLACE: &str = "replace";

/// What `ListUnitsByNames` says of one: name, description, load state, active state, sub state, the unit it
/// follows, its path, and its job.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// What was changed: its kind, a link, and where that leads to.
type Changes = Vec<(String, String, String)>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn mask_unit_files(&self, files: &[&str], runtime: bool, force: bool) -> zbus::Result<Changes>;
    fn unmask_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Changes>;
    fn reload(&self) -> zbus::Result<()>;
}

/// A unit, as far as a switch asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// It runs, or its socket is listened on.
    pub active: bool,
    /// Nothing may start it.
    pub masked: bool,
}

/// systemd.
#[derive(Debug)]
pub struct Units {
    manager: ManagerProxy<'static>,
}

impl Units {
    /// systemd on this host; none where another init system runs it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn connect() -> Result<Option<Self>> {
        if !Path::new(BOOTED).is_dir() {
            return Ok(None);
        }
        let connected = async {
            let bus = zbus::Connection::system().await?;
            ManagerProxy::new(&bus).await
        };
        let manager = connected.await.context("cannot reach systemd by D-Bus")?;
        Ok(Some(Self { manager }))
    }

    /// Those of these units that are installed.
    ///
    /// # Errors
    /// systemd does not tell.
    pub async fn find(&self, names: &[&str]) -> Result<Vec<Unit>> {
        let listed = self.manager.list_units_by_names(names).await;
        let listed = listed.context("systemd does not tell of its units")?;
        let units = listed
            .into_iter()
            .filter_map(|(name, _, load, active, ..)| {
                let unit = Unit {
                    name,
                    active: is_active(&active),
                    masked: load == "masked",
                };
                (load != "not-found").then_some(unit)
            });
        Ok(units.collect())
    }

    /// Restart a unit, and wait until it has started.
    ///
    /// # Errors
    /// It did not start.
    pub async fn restart(&self, name: &str) -> Result<()> {
        let job = self.manager.restart_unit(name, REPLACE).await;
        job.with_context(|| format!("systemd does not restart {name}"))?;
        self.wait(name, true).await
    }

    /// Let nothing start these units, and stop them, one after the other.
    ///
    /// # Errors
    /// One cannot be masked, or does not stop.
    pub async fn mask_and_stop(&self, names: &[String]) -> Result<()> {
        let files: Vec<&str> = names.iter().map(String::as_str).collect();
        let masked = self.manager.mask_unit_files(&files, false, false).await;
        masked.with_context(|| format!("systemd does not mask {}", files.join(", ")))?;
        // Stopped before systemd reads the files anew, of which nothing is left of a masked unit.
        for name in &files {
            let job = self.manager.stop_unit(name, REPLACE).await;
            job.with_context(|| format!("systemd does not stop {name}"))?;
            self.wait(name, false).await?;
        }
        self.reload().await
    }

    /// Take the masks away, and start those of the units that are to run.
    ///
    /// # Errors
    /// One does not start.
    pub async fn unmask_and_start(&self, masked: &[String], start: &[String]) -> Result<()> {
        let files: Vec<&str> = masked.iter().map(String::as_str).collect();
        let unmasked = self.manager.unmask_unit_files(&files, false).await;
        unmasked.with_context(|| format!("systemd does not unmask {}", files.join(", ")))?;
        self.reload().await?;
        for name in start {
            let job = self.manager.start_unit(name, REPLACE).await;
            job.with_context(|| format!("systemd does not start {name}"))?;
            self.wait(name, true).await?;
        }
        Ok(())
    }

    async fn reload(&self) -> Result<()> {
        let reloaded = self.manager.reload().await;
        reloaded.context("systemd does not read its units anew")
    }

    /// Wait until a unit is what its job was to make it, with no job left.
    async fn wait(&self, name: &str, active: bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let listed = self.manager.list_units_by_names(&[name]).await;
            let listed = listed.context("systemd does not tell of its units")?;
            let Some((_, _, _, state, _, _, _, job, ..)) = listed.into_iter().next() else {
                bail!("systemd knows nothing of {name}");
            };
            if job == 0 {
                ensure!(
                    is_active(&state) == active,
                    "{name} is {state}: systemctl status {name}"
                );
                return Ok(());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{name} is {state} for {} s: systemctl status {name}",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn is_active(state: &str) -> bool {
    matches!(state, "active" | "reloading")
}
