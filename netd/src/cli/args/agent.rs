//! Arguments of what works without an agent's answer: `run` and `teardown`.

use clap::Args;

use crate::config::{Config, FLOWS};
use crate::paths::Paths;
use crate::settings::{Faults, Settings};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the agent keeps its files.
    #[command(flatten)]
    pub paths: Paths,
    /// Maximum tracked connections per address family; overrides netd.toml
    #[arg(long, value_name = "N", value_parser = max_flows())]
    pub max_flows: Option<u32>,
}

fn max_flows() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(*FLOWS.start())..=i64::from(*FLOWS.end()))
}

impl RunArgs {
    /// The settings of the files, and those of the command line in their place.
    ///
    /// # Errors
    /// A file cannot be read, or something in it is wrong.
    pub fn config(&self) -> Result<Config, Faults> {
        let mut config = Settings::load(&self.paths)?.config;
        if let Some(max) = self.max_flows {
            config.flows.max = max;
        }
        Ok(config)
    }
}

/// Arguments of `teardown`.
#[derive(Debug, Args)]
pub struct TeardownArgs {
    /// Where the agent keeps its files.
    #[command(flatten)]
    pub paths: Paths,
    /// Also delete definitions, autostart links, leases, bans, netd.toml and what a switch from libvirt set up
    #[arg(long)]
    pub purge: bool,
}
