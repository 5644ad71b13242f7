//! Arguments of `netd config`.

use clap::{Args, Subcommand};

use crate::paths::Paths;

/// Commands on the agent's settings. They ask no agent and need no root.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say all that is wrong with netd.toml and netd.toml.d
    #[command(after_help = "\
Every fault is a line on standard output: file, line, column, what is wrong, and what was meant, where that
can be guessed. Exit status 1 if there is any.

Examples:
  netd config check
  netd config check --config-dir /tmp/a/etc")]
    Check(ConfigArgs),
    /// Print all settings as an agent that starts now has them
    #[command(after_help = "\
The output can be a netd.toml. Behind a setting stands the file that it is from; others have their default.

Examples:
  netd config show
  netd config show --config-dir /tmp/a/etc")]
    Show(ConfigArgs),
}

/// Arguments of both.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Where the files are.
    #[command(flatten)]
    pub paths: Paths,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
