//! The way to netd: which steps take a host's networks from libvirt's own driver.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::daemon::{Driver, Kind};
use super::module;
use super::networks::{self, StockNetwork};
use super::own::OwnNetwork;
use super::places::Places;
use super::step::{Definition, Loads, RunningNetwork, Step};
use super::survey::Survey;
use super::units::{LIBVIRTD, Unit, VIRTNETWORKD};
use crate::model;
use crate::store::file;

/// What an administrator may say about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's state directory.
    pub state_dir: PathBuf,
    /// netd's driver for libvirtd, where it is not installed in its place.
    pub module: Option<PathBuf>,
    /// systemd restarts and stops libvirt's daemons, where it runs them.
    pub restart: bool,
}

/// How long libvirtd may take to have its networks from netd, in seconds.
const PATIENCE: u64 = 30;

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
    let mut obstacles = survey.obstacles();
    obstacles.extend(
        survey
            .networks
            .iter()
            .filter_map(|network| namesake(network, own)),
    );
    if !obstacles.is_empty() {
        bail!("{}", obstacles.join("\n  "));
    }
    let kind = survey
        .kind
        .context("libvirt has no network daemon on this host")?;
    let stops = stopped(survey, kind, options)?;
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
    let restarts = kind == Kind::Monolithic && options.restart && survey.restarts_libvirtd();
    if restarts {
        steps.push(Step::Restarts {
            unit: LIBVIRTD.to_owned(),
            had: Loads::Stock,
        });
    }
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
    steps.extend(stops);
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
    } else if options.restart && !survey.stock_units().is_empty() {
        steps.push(Step::Serve);
    }
    let aside = set_aside(&survey.networks, places)?;
    if !aside.is_empty() {
        steps.push(Step::SetAside(aside));
    }
    if restarts && survey.stock_daemon().is_some() {
        steps.extend(restart(survey));
    }
    if !survey.rules.is_empty() {
        steps.push(Step::RemoveRules);
    }
    Ok(steps)
}

/// A network of netd's that has the name of a running one of libvirt's and is another, as a sentence.
fn namesake(network: &StockNetwork, own: &[OwnNetwork]) -> Option<String> {
    let theirs = &network.running.as_ref()?.network;
    let definition = own.iter().find_map(|own| own.definition(&network.name))?;
    let ours = model::parse(&definition.xml).ok()?;
    (ours.uuid != theirs.uuid).then(|| {
        format!(
            "netd has a network '{0}' of its own, with UUID {1}, which is not libvirt's: \
             netd net-undefine {0}",
            network.name, ours.uuid
        )
    })
}

/// What ends libvirt's network daemon.
fn stopped(survey: &Survey, kind: Kind, options: &Options) -> Result<Option<Step>> {
    if kind != Kind::Modular {
        return Ok(None);
    }
    let units = survey.stock_units();
    if !options.restart || units.is_empty() {
        ensure!(
            survey.daemons.is_empty(),
            "virtnetworkd runs; stop it for good and call again: \
             systemctl mask --now {}",
            VIRTNETWORKD.join(" ")
        );
        return Ok(None);
    }
    let names = |units: Vec<&Unit>| units.iter().map(|unit| unit.name.clone()).collect();
    let running = units.iter().copied().filter(|unit| unit.active).collect();
    let unmasked: Vec<&Unit> = units.into_iter().filter(|unit| !unit.masked).collect();
    Ok((!unmasked.is_empty()).then(|| Step::StopStock {
        active: names(running),
        units: names(unmasked),
    }))
}

/// Have libvirtd load netd's driver.
fn restart(survey: &Survey) -> [Step; 2] {
    let networks = survey.networks.iter();
    let networks = networks.filter(|network| network.running.is_some());
    [
        Step::Restart {
            unit: LIBVIRTD.to_owned(),
        },
        Step::AwaitDaemon {
            kind: Kind::Monolithic,
            loads: Loads::Netd,
            old: Vec::new(),
            networks: networks.map(|network| network.name.clone()).collect(),
            seconds: PATIENCE,
        },
    ]
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
