//! Arguments of the command on events.

use clap::Args;

/// Arguments of `net-event`.
#[derive(Debug, Args)]
pub struct EventArgs {
    /// Only events of this network (name or UUID)
    #[arg(long)]
    pub network: Option<String>,
    /// Which events: lifecycle or metadata-change
    #[arg(long)]
    pub event: Option<String>,
    /// Go on until Ctrl-C or the timeout; without it the first event ends the command
    #[arg(long = "loop")]
    pub repeat: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: Option<u32>,
    /// List the kinds of events
    #[arg(long)]
    pub list: bool,
    /// Print the time of each event
    #[arg(long)]
    pub timestamp: bool,
    /// Print a JSON object for each event, in a line
    #[arg(long, conflicts_with_all = ["list", "timestamp"])]
    pub json: bool,
}
