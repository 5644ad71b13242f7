//! Arguments of the verbs on connections.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use crate::api::Protocol;
use crate::model::Prefix;

/// Arguments of `flows`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct FlowsArgs {
    /// What is done with them instead of a list.
    #[command(subcommand)]
    pub command: Option<FlowsCommand>,
    /// Which.
    #[command(flatten)]
    pub which: FlowFilterArgs,
    /// Print connections as they begin, change their state and end
    #[arg(long, conflicts_with_all = ["sort", "limit"])]
    pub follow: bool,
    /// List those with the most packets or bytes, or the least silent ones, first
    #[arg(long, value_name = "KEY")]
    pub sort: Option<FlowSort>,
    /// List no more than this many (with --sort: 100, unless set)
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Print JSON; with --follow, an object in each line
    #[arg(long)]
    pub json: bool,
}

/// Commands on connections.
#[derive(Debug, Subcommand)]
pub enum FlowsCommand {
    /// End connections
    #[command(after_help = "\
All that is given has to be true of a connection. Neither end is told. What a guest sends next opens the
connection anew, if that is allowed, with the address and way out that hold now. `netd ban` keeps
somebody out.

Examples:
  netd flows kill default --guest web --proto tcp --port 443
  netd flows kill --address 203.0.113.0/24
  netd flows kill --all")]
    Kill(FlowsKillArgs),
}

/// Which connections: those of which all of this is true.
#[derive(Clone, Debug, Default, Args)]
pub struct FlowFilterArgs {
    /// Name or UUID of the network
    pub network: Option<String>,
    /// Only of this guest: domain, host name, address, MAC address or interface of the host
    #[arg(long, value_name = "GUEST")]
    pub guest: Option<String>,
    /// Only of this protocol: tcp, udp, icmp, icmpv6, sctp, gre, esp, dccp, udplite or a number
    #[arg(long, value_name = "PROTOCOL")]
    pub proto: Option<Protocol>,
    /// Only with this port at either end, before or after translation
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only with this address or prefix at either end, before or after translation
    #[arg(long, value_name = "PREFIX")]
    pub address: Option<Prefix>,
}

/// Arguments of `flows kill`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("meant").required(true).multiple(true)
    .args(["network", "guest", "proto", "port", "address", "all"]))]
pub struct FlowsKillArgs {
    /// Which.
    #[command(flatten)]
    pub which: FlowFilterArgs,
    /// Every connection there is
    #[arg(long, conflicts_with_all = ["network", "guest", "proto", "port", "address"])]
    pub all: bool,
}

/// What connections are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowSort {
    /// Packets of both directions
    Packets,
    /// Bytes of both directions
    Bytes,
    /// Time since the last packet
    Idle,
}
