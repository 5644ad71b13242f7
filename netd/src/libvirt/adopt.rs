//! The way to netd: which steps take a host's networks from libvirt's own driver.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::daemon::{Driver, Kind};
use super::module;
use super::networks::{self, StockNetwork};
use super::own::OwnNetwork;
use super::places::Places;
use super::step::{Definition, RunningNetwork, Step};
use super::survey::Survey;
use crate::store::file;

/// What an administrator may say about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's state directory.
    pub state_dir: PathBuf,
    /// netd's driver for libvirtd, where it is not installed in its place.
    pub module: Option<PathBuf>,
}

/// The steps that are to be done on a host.
///
/// # Errors
/// Something stands in the way; nothing was changed.
pub fn steps(
    survey: &Survey,
    own: &[OwnNetwork],
    places: &Places,
    options: &Options,
) -> Result<Vec<Step>> {
    let obstacles = survey.obstacles();
    if !obstacles.is_empty() {
        bail!("{}", obstacles.join("\n  "));
    }
    let kind = survey
        .kind
        .context("libvirt has no network daemon on this host")?;
    if kind == Kind::Modular && !survey.daemons.is_empty() {
        bail!(
            "virtnetworkd runs; stop it for good and call again: \
             systemctl mask --now virtnetworkd.service virtnetworkd.socket virtnetworkd-ro.socket \
             virtnetworkd-admin.socket"
        );
    }
    let running = survey
        .networks
        .iter()
        .filter(|network| network.running.is_some());
    let is_stock = |driver: &Driver| *driver == Driver::Stock;
    ensure!(
        survey.networks.is_empty()
            || survey.daemons.is_empty()
            || survey.daemons.iter().any(|daemon| is_stock(&daemon.driver))
            || running.count() == 0,
        "libvirtd runs without its own network driver, and yet there are files of running networks; \
         was this host switched before? netd libvirt status tells more"
    );
    let mut steps = Vec::new();
    for network in &survey.networks {
        let before = own.iter().find_map(|own| own.definition(&network.name));
        // What stopped in libvirt when it became netd's may have been changed here since.
        let is_newer = before.is_some() && network.running.is_none();
        if let Some(definition) = network.definition.as_ref().filter(|_| !is_newer) {
            steps.push(Step::Define {
                definition: Definition::new(definition, network.autostart),
                before: before.cloned(),
            });
        }
    }
    for network in &survey.networks {
        if let Some(running) = taken_over(network, places)? {
            steps.push(Step::TakeOver(running));
        }
    }
    if kind == Kind::Monolithic {
        let module = module::find(places, &options.state_dir, options.module.as_deref())?;
        if !module::is_set_up(&module) {
            steps.push(Step::UseModule(module));
        }
    }
    let aside = set_aside(&survey.networks, places)?;
    if !aside.is_empty() {
        steps.push(Step::SetAside(aside));
    }
    if !survey.rules.is_empty() {
        steps.push(Step::RemoveRules);
    }
    Ok(steps)
}

fn taken_over(network: &StockNetwork, places: &Places) -> Result<Option<RunningNetwork>> {
    let Some(running) = &network.running else {
        return Ok(None);
    };
    let ports = running.ports.iter();
    let ports = ports.map(|port| (port.uuid.clone(), port.xml.clone()));
    let running = RunningNetwork::new(&running.network, ports.collect(), places.service()?);
    Ok(Some(running))
}

/// The files that tell libvirt of running networks.
fn set_aside(networks: &[StockNetwork], places: &Places) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for network in networks {
        let Some(running) = &network.running else {
            continue;
        };
        let status = networks::status_file(places, &network.name);
        files.push((status.clone(), read(&status)?));
        for port in &running.ports {
            let path = networks::port_file(places, &network.name, &port.uuid);
            files.push((path, port.xml.clone()));
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    Ok(file::read(path)?)
}
