//! The way back: which steps give netd's networks to libvirt's own driver.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::daemon::Kind;
use super::module;
use super::networks::StockNetwork;
use super::own::OwnNetwork;
use super::places::Places;
use super::step::{Definition, Loads, Step};
use super::survey::Survey;
use super::units::LIBVIRTD;

/// What an administrator may say about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's state directory.
    pub state_dir: PathBuf,
    /// netd's driver for libvirtd, where it is not installed in its place.
    pub module: Option<PathBuf>,
    /// How long libvirt's daemon may take to be restarted, in seconds.
    pub wait: u64,
    /// systemd restarts and starts libvirt's daemons, where it runs them.
    pub restart: bool,
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
    let kind = survey
        .kind
        .context("libvirt has no network daemon on this host")?;
    let is_own = |name: &str| {
        let names = own.iter().filter_map(|network| network.running.as_ref());
        names.into_iter().any(|network| network.name == name)
    };
    for network in &survey.networks {
        if network.running.is_some() && is_own(&network.name) {
            bail!(
                "network '{}' runs in libvirt as well as in netd; stop one of them",
                network.name
            );
        }
    }
    let defined = || own.iter().filter_map(|network| network.definition.as_ref());
    let running = || own.iter().filter_map(|network| network.running.as_ref());
    let mut steps = Vec::new();
    let restarts = kind == Kind::Monolithic && options.restart && survey.restarts_libvirtd();
    if restarts {
        steps.push(Step::Restarts {
            unit: LIBVIRTD.to_owned(),
            had: Loads::Netd,
        });
    }
    for definition in defined() {
        let before = survey
            .networks
            .iter()
            .find(|network| network.name == definition.name);
        steps.push(Step::GiveDefinition {
            definition: definition.clone(),
            before: before.and_then(stock_definition),
        });
    }
    steps.extend(running().cloned().map(Step::GiveService));
    steps.extend(running().cloned().map(Step::GiveStatus));
    if kind == Kind::Monolithic {
        let module = module::find(places, &options.state_dir, options.module.as_deref())?;
        if module::is_set_up(&module) {
            steps.push(Step::UseStock(module));
        }
    }
    let starts = started(survey, kind, options);
    let by_hand = !restarts && starts.is_empty();
    steps.extend(starts);
    if restarts {
        steps.push(Step::Restart {
            unit: LIBVIRTD.to_owned(),
        });
    }
    // What is to be replaced by hand; systemd has done it when its step is done.
    let old = survey.daemons.iter().filter(|_| by_hand);
    steps.push(Step::AwaitDaemon {
        kind,
        loads: Loads::Stock,
        old: old.map(|daemon| daemon.pid).collect(),
        networks: running().map(|network| network.name.clone()).collect(),
        seconds: options.wait,
    });
    steps.extend(running().cloned().map(Step::LetGo));
    steps.extend(defined().cloned().map(Step::Undefine));
    Ok(steps)
}

/// What has libvirt's network daemon run again.
fn started(survey: &Survey, kind: Kind, options: &Options) -> Vec<Step> {
    let units = survey.stock_units();
    if kind != Kind::Modular || !options.restart || units.is_empty() {
        return Vec::new();
    }
    let units = units.iter().map(|unit| unit.name.clone()).collect();
    vec![Step::StopServing, Step::StartStock { units }]
}

fn stock_definition(network: &StockNetwork) -> Option<Definition> {
    let definition = network.definition.as_ref()?;
    Some(Definition::new(definition, network.autostart))
}
