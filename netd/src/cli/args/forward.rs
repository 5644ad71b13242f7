//! Arguments of the verbs on port forwards.

use clap::{Args, Subcommand};

/// Commands on port forwards.
#[derive(Debug, Subcommand)]
pub enum ForwardCommand {
    /// Forward a port or range of this host to a guest
    #[command(after_help = "\
GUEST is an address or the name of a DHCP host, with a port if that differs: `8080 web:80`. For a
range the port is that of the first one: `9000-9010 web:7000` leads to 7000-7010. Takes effect
immediately. Without --live or --config a running network is changed until it stops; add both to keep
the forward.

Examples:
  netd forward add default tcp 8080 192.168.122.10:80 --live --config
  netd forward add default udp 6000-6010 web
  netd forward add default tcp 443 [fd00::10]:8443 --dev eth0
  netd forward add default all 192.168.122.10 --address 203.0.113.5
  netd forward add default tcp 22 web --address 203.0.113.5")]
    Add(ForwardAddArgs),
    /// List port forwards
    #[command(after_help = "\
Examples:
  netd forward list                     all networks
  netd forward list default             one network")]
    List(ForwardListArgs),
    /// Remove a port forward
    #[command(after_help = "\
Give ports, address and device as they were given to `forward add`.

Examples:
  netd forward delete default tcp 8080
  netd forward delete default udp 53 fd00::10
  netd forward delete default udp 6000-6010
  netd forward delete default all --address 203.0.113.5")]
    Delete(ForwardDeleteArgs),
}

/// Where a port is published, and in which definition of the network.
#[derive(Clone, Debug, Default, Args)]
pub struct ScopeArgs {
    /// Only at this address of the host
    #[arg(long, value_name = "ADDRESS", conflicts_with = "dev")]
    pub address: Option<std::net::IpAddr>,
    /// Only at the addresses of this interface, and from outside only through it
    #[arg(long, value_name = "DEVICE")]
    pub dev: Option<String>,
    /// Change the running network (the default if it is running)
    #[arg(long)]
    pub live: bool,
    /// Change the stored definition (the default if it is not running)
    #[arg(long)]
    pub config: bool,
}

/// Arguments of `forward add`.
#[derive(Debug, Args)]
pub struct ForwardAddArgs {
    /// Name or UUID of the network
    pub network: String,
    /// tcp, udp or sctp; or all, to forward a whole address (needs --address)
    pub protocol: String,
    /// PORT or FIRST-LAST, then GUEST or GUEST:PORT; with `all` only GUEST
    #[arg(required = true, num_args = 1..=2, value_names = ["PORT", "GUEST"])]
    pub what: Vec<String>,
    /// Where.
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// Arguments of `forward list`.
#[derive(Debug, Args)]
pub struct ForwardListArgs {
    /// Name or UUID of the network
    pub network: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `forward delete`.
#[derive(Debug, Args)]
pub struct ForwardDeleteArgs {
    /// Name or UUID of the network
    pub network: String,
    /// tcp, udp, sctp or all
    pub protocol: String,
    /// PORT or FIRST-LAST; omit for a whole address
    pub port: Option<String>,
    /// The guest, without its port; needed if the port is forwarded to an IPv4 and an IPv6 guest
    pub guest: Option<String>,
    /// Where.
    #[command(flatten)]
    pub scope: ScopeArgs,
}
