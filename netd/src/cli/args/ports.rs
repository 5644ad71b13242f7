//! Arguments of the verbs on networks' ports.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `net-port-list`.
#[derive(Debug, Args)]
pub struct PortListArgs {
    /// Name or UUID of the network
    pub network: String,
    /// Print only UUIDs
    #[arg(long)]
    pub uuid: bool,
    /// Print a table (the default)
    #[arg(long)]
    pub table: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["uuid", "table"])]
    pub json: bool,
}

/// Arguments of `net-port-create`.
#[derive(Debug, Args)]
pub struct PortCreateArgs {
    /// Name or UUID of the network
    pub network: String,
    /// XML file of the port; - for standard input
    pub file: PathBuf,
    /// Refuse elements and attributes that netd does not know, instead of ignoring them
    #[arg(long)]
    pub validate: bool,
}

/// A port of a network.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Name or UUID of the network
    pub network: String,
    /// UUID of the port
    pub port: String,
}
