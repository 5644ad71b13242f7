//! Arguments of what shows how things are.

use clap::Args;

/// Arguments of `drops`.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Name or UUID of the network
    pub network: Option<String>,
    /// Print new drops as they happen
    #[arg(long)]
    pub follow: bool,
    /// Print JSON; with --follow, an object in each line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Name or UUID of the network
    #[arg(conflicts_with = "maps")]
    pub network: Option<String>,
    /// List the eBPF maps with capacity and path
    #[arg(long, conflicts_with = "json")]
    pub maps: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `ports`.
#[derive(Debug, Args)]
pub struct PortsArgs {
    /// Name or UUID of the network
    pub network: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A drop reason, or an element of the network XML with or without an attribute; all of them, if omitted
    pub topic: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Name or UUID of the network
    pub network: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `net-apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Name or UUID of the network
    pub network: String,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}
