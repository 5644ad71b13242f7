//! All that libvirt has of networks on this host, at one moment, and what stands in the way of netd's
//! taking it.

use anyhow::Result;

use super::daemon::{self, Daemon, Driver, Kind, Version};
use super::networks::{self, StockNetwork};
use super::places::Places;
use super::rules::Rules;
use super::units::{LIBVIRTD, Unit, Units, VIRTNETWORKD};
use crate::model;

/// What there is.
#[derive(Debug)]
pub struct Survey {
    /// How libvirt's daemons are cut; none where libvirt is not installed.
    pub kind: Option<Kind>,
    /// The installed release.
    pub version: Option<Version>,
    /// Daemons that run.
    pub daemons: Vec<Daemon>,
    /// The daemons' units that systemd has; none where it does not run the host.
    pub units: Vec<Unit>,
    /// Networks.
    pub networks: Vec<StockNetwork>,
    /// Rules in the kernel.
    pub rules: Rules,
    /// Files that could not be read.
    pub unread: Vec<String>,
}

impl Survey {
    /// Look at everything; nothing is changed.
    ///
    /// # Errors
    /// Processes, units or rules cannot be read.
    pub async fn take(places: &Places, units: Option<&Units>) -> Result<Self> {
        let units = match units {
            Some(units) => {
                let names: Vec<&str> = [LIBVIRTD].into_iter().chain(VIRTNETWORKD).collect();
                units.find(&names).await?
            }
            None => Vec::new(),
        };
        let daemons = daemon::running()?;
        let (networks, unread) = networks::read(places);
        let kind = daemons.first().map(|daemon| daemon.kind);
        let version = daemons.first().and_then(|daemon| daemon.version);
        Ok(Self {
            kind: kind.or_else(|| Kind::installed(places)),
            version: version.or_else(|| Version::installed(places)),
            daemons,
            units,
            networks,
            rules: Rules::read()?,
            unread,
        })
    }

    /// The daemon that has the networks with libvirt's own driver.
    #[must_use]
    pub fn stock_daemon(&self) -> Option<&Daemon> {
        let mut daemons = self.daemons.iter();
        daemons.find(|daemon| daemon.driver == Driver::Stock)
    }

    /// The units of libvirt's network daemon.
    #[must_use]
    pub fn stock_units(&self) -> Vec<&Unit> {
        let is_stock = |unit: &&Unit| VIRTNETWORKD.contains(&unit.name.as_str());
        self.units.iter().filter(is_stock).collect()
    }

    /// libvirtd runs as a unit of systemd's, which can restart it.
    #[must_use]
    pub fn restarts_libvirtd(&self) -> bool {
        let is_libvirtd = |unit: &Unit| unit.name == LIBVIRTD && unit.active;
        self.units.iter().any(is_libvirtd)
    }

    /// What keeps netd from taking the networks, each as a sentence.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles = self.unread.clone();
        for network in &self.networks {
            if let Some(running) = &network.running
                && let Err(error) = model::check_take_over(&running.network)
            {
                obstacles.push(format!(
                    "network '{}' runs, but netd cannot run it: {error}",
                    network.name
                ));
            }
            if let Some(definition) = &network.definition
                && let Err(error) = model::check_define(definition)
            {
                obstacles.push(format!(
                    "netd refuses the definition of network '{}': {error}",
                    network.name
                ));
            }
        }
        obstacles
    }
}
