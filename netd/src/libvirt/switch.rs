//! Doing the steps of a switch, and taking them back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::daemon::{self, Daemon, Driver, Kind};
use super::journal::Journal;
use super::module;
use super::networks;
use super::places::Places;
use super::rules::{self, Rules};
use super::step::{Definition, Loads, RunningNetwork, Step};
use super::units::Units;
use crate::api::Handover;
use crate::rpc::procedures::LIST_ACTIVE;
use crate::rpc::{Client, ClientError};
use crate::store::file::{self, Lasting};

/// How often it is looked whether libvirt's daemon was restarted.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A switch of this host.
#[derive(Debug)]
pub struct Switch<'a> {
    /// The agent.
    pub client: &'a mut Client,
    /// Where libvirt keeps its files.
    pub places: &'a Places,
    /// systemd, where it runs the host.
    pub units: Option<&'a Units>,
    /// What was begun.
    pub journal: Journal,
}

impl Switch<'_> {
    /// Do all of it, and tell each step; or nothing of it.
    ///
    /// # Errors
    /// A step failed: those before it were taken back, unless the error says otherwise.
    pub async fn run(&mut self, steps: Vec<Step>, tell: &mut impl FnMut(&str)) -> Result<()> {
        for step in steps {
            tell(&step.to_string());
            self.journal.begin(step.clone())?;
            let Err(error) = self.act(&step).await else {
                continue;
            };
            let error = error.context(format!("cannot {step}"));
            return match self.undo(tell).await {
                Ok(()) => Err(error.context("nothing was changed")),
                Err(left) => Err(error.context(format!(
                    "not all could be taken back ({left:#}); call again to go on with that"
                ))),
            };
        }
        self.journal.finish()
    }

    /// Take back what was begun, the last first.
    ///
    /// # Errors
    /// A step cannot be taken back; it stays in the journal.
    pub async fn undo(&mut self, tell: &mut impl FnMut(&str)) -> Result<()> {
        while let Some(step) = self.journal.last().cloned() {
            // What runs since a reboot was started by its definition: it is no part of this switch.
            if step.ends_with_the_boot() && !self.journal.is_of_this_boot() {
                self.journal.undone()?;
                continue;
            }
            tell(&format!("take back: {step}"));
            let back = self.take_back(&step).await;
            back.with_context(|| format!("cannot take back: {step}"))?;
            self.journal.undone()?;
        }
        Ok(())
    }

    async fn act(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Define { definition, .. } => self.define(definition).await,
            Step::TakeOver(network) => self.take_over(network).await,
            Step::UseModule(module) => module::set_up(module),
            Step::SetAside(files) => {
                for (path, _) in files {
                    file::remove(path, Lasting::ThisBoot)?;
                }
                Ok(())
            }
            Step::RemoveRules => {
                rules::remove().context("the kernel refuses")?;
                Ok(())
            }
            Step::GiveDefinition { definition, .. } => networks::write_definition(
                self.places,
                &definition.name,
                Some(&definition.xml),
                definition.autostart,
            ),
            Step::GiveService(network) => self.give_service(network).await,
            Step::GiveStatus(network) => networks::write_status(self.places, network),
            Step::UseStock(module) => module::remove(module),
            Step::StopStock { units, .. } => self.units()?.mask_and_stop(units).await,
            Step::Serve => self.serve(true).await,
            Step::StopServing => self.serve(false).await,
            Step::StartStock { units } => self.units()?.unmask_and_start(units, units).await,
            Step::Restarts { .. } => Ok(()),
            Step::Restart { unit } => self.units()?.restart(unit).await,
            Step::AwaitDaemon {
                kind,
                loads,
                old,
                networks,
                seconds,
            } => {
                let awaited = Awaited {
                    kind: *kind,
                    loads: *loads,
                    old,
                    networks,
                };
                awaited
                    .wait(self.places, Duration::from_secs(*seconds))
                    .await
            }
            Step::LetGo(network) => self.let_go(network).await,
            Step::Undefine(definition) => self.undefine(definition).await,
        }
    }

    /// Whatever of a step was done: all, a part or nothing.
    async fn take_back(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Define { definition, before } => match before {
                Some(before) => self.define(before).await,
                None => self.undefine(definition).await,
            },
            Step::TakeOver(network) => {
                self.give_service(network).await?;
                self.let_go(network).await
            }
            Step::UseModule(module) => module::remove(module),
            Step::SetAside(files) => {
                for (path, text) in files {
                    networks::write_for_boot(path, text)?;
                }
                Ok(())
            }
            // All at once or nothing, and the last step of all.
            Step::RemoveRules => Ok(()),
            Step::GiveDefinition { definition, before } => {
                let before = before.as_ref();
                networks::write_definition(
                    self.places,
                    &definition.name,
                    before.map(|before| before.xml.as_str()),
                    before.is_some_and(|before| before.autostart),
                )
            }
            Step::GiveService(network) => {
                let (xml, service) = (network.xml.clone(), network.service.clone());
                let handover = Handover::TakeService { xml, service };
                Ok(self.client.hand_over(&handover).await?)
            }
            Step::GiveStatus(network) => networks::remove_status(self.places, network),
            Step::UseStock(module) => module::set_up(module),
            Step::StopStock { units, active } => {
                self.units()?.unmask_and_start(units, active).await
            }
            Step::Serve => self.serve(false).await,
            Step::StopServing => self.serve(true).await,
            Step::StartStock { units } => self.units()?.mask_and_stop(units).await,
            Step::Restarts { unit, had } => self.restart_unless(unit, *had).await,
            Step::Restart { .. } | Step::AwaitDaemon { .. } => Ok(()),
            Step::LetGo(network) => {
                let known = self.client.by_name(&network.name).await;
                match known {
                    Ok(known) if self.client.is_active(&known).await? => Ok(()),
                    _ => self.take_over(network).await,
                }
            }
            Step::Undefine(definition) => self.define(definition).await,
        }
    }

    fn units(&self) -> Result<&Units> {
        let units = self.units;
        units.context("systemd does not run this host, as it did when the switch was begun")
    }

    async fn serve(&mut self, on: bool) -> Result<()> {
        Ok(self.client.hand_over(&Handover::Serve { on }).await?)
    }

    /// Have libvirtd load the driver that it had, unless it has that.
    async fn restart_unless(&self, unit: &str, had: Loads) -> Result<()> {
        let daemons = daemon::running()?;
        let has = |daemon: &Daemon| match had {
            Loads::Stock => daemon.driver == Driver::Stock,
            Loads::Netd => matches!(daemon.driver, Driver::Netd(_)),
        };
        match !daemons.is_empty() && daemons.iter().all(has) {
            true => Ok(()),
            false => self.units()?.restart(unit).await,
        }
    }

    async fn define(&mut self, definition: &Definition) -> Result<()> {
        let network = self.client.define(&definition.xml, false).await?;
        Ok(self
            .client
            .set_autostart(&network, definition.autostart)
            .await?)
    }

    async fn undefine(&mut self, definition: &Definition) -> Result<()> {
        let networks = self.client.list(0).await?;
        let Some(network) = networks
            .iter()
            .find(|network| network.name == definition.name)
        else {
            return Ok(());
        };
        if self.client.is_persistent(network).await? {
            self.client.undefine(network).await?;
        }
        Ok(())
    }

    async fn take_over(&mut self, network: &RunningNetwork) -> Result<()> {
        let (xml, service) = (network.xml.clone(), network.service.clone());
        let handover = Handover::TakeOver { xml, service };
        self.client.hand_over(&handover).await?;
        let known = self.client.by_name(&network.name).await?;
        for (uuid, xml) in &network.ports {
            let reclaimed = self.client.reclaim_port(&known, xml).await;
            reclaimed.with_context(|| format!("cannot take over a guest's port {uuid}"))?;
        }
        Ok(())
    }

    async fn give_service(&mut self, network: &RunningNetwork) -> Result<()> {
        let (xml, service) = (network.xml.clone(), network.service.clone());
        let handover = Handover::GiveService { xml, service };
        Ok(self.client.hand_over(&handover).await?)
    }

    async fn let_go(&mut self, network: &RunningNetwork) -> Result<()> {
        let network = network.name.clone();
        Ok(self.client.hand_over(&Handover::LetGo { network }).await?)
    }
}

/// A daemon that is to have the networks.
struct Awaited<'a> {
    kind: Kind,
    loads: Loads,
    old: &'a [u32],
    networks: &'a [String],
}

impl Awaited<'_> {
    /// Wait until it has.
    async fn wait(&self, places: &Places, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let looked = self.look(places).await;
            let Err(error) = looked else {
                return Ok(());
            };
            if start.elapsed() >= limit {
                return Err(error.context(format!("not within {} s", limit.as_secs())));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn look(&self, places: &Places) -> Result<()> {
        let program = self.kind.program();
        let is_new = |daemon: &Daemon| !self.old.contains(&daemon.pid);
        let daemons = daemon::running()?;
        let daemon = daemons.iter().find(|daemon| is_new(daemon));
        let daemon = daemon.with_context(|| format!("{program} was not restarted"))?;
        match (&daemon.driver, self.loads) {
            (Driver::Stock, Loads::Stock) | (Driver::Netd(_), Loads::Netd) => {}
            (Driver::Stock, Loads::Netd) => bail!("{program} has loaded libvirt's own driver"),
            (Driver::Netd(path), Loads::Stock) => {
                bail!("{program} has loaded the driver {}", path.display())
            }
            (Driver::Absent, _) => bail!("{program} has loaded no network driver; see its log"),
        }
        match self.kind {
            // It answers once all of its drivers have begun, rules included.
            Kind::Monolithic => self.ask(&places.socket()).await,
            Kind::Modular => {
                ensure!(
                    is_locked(&places.status().join("driver.pid")),
                    "{program} has not begun"
                );
                ensure!(!Rules::read()?.is_empty(), "{program} has no rules yet");
                Ok(())
            }
        }
    }

    async fn ask(&self, socket: &Path) -> Result<()> {
        let asked = tokio::time::timeout(PATIENCE, async {
            let mut client = Client::connect(socket).await?;
            let networks = client.list(LIST_ACTIVE).await?;
            client.close().await?;
            Ok::<_, ClientError>(networks)
        });
        let running = asked.await.context("it does not answer")??;
        for name in self.networks {
            ensure!(
                running.iter().any(|network| network.name == *name),
                "network '{name}' does not run there; see the daemon's log"
            );
        }
        Ok(())
    }
}

/// Does a process hold a lock on this file, as a driver of libvirt's does as long as it runs?
fn is_locked(path: &Path) -> bool {
    use rustix::process::{Flock, FlockType, fcntl_getlk};

    let Ok(lock_file) = std::fs::File::open(path) else {
        return false;
    };
    let wanted = Flock {
        length: 1,
        ..Flock::from(FlockType::WriteLock)
    };
    matches!(fcntl_getlk(&lock_file, &wanted), Ok(Some(_)))
}
