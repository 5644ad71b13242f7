//! Verbs and their arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, FLOWS};
use crate::settings::{DEFAULT_SOCKET, Settings};

/// Heading of what every verb takes.
const GLOBAL: &str = "Options of every verb";

/// Virtual networks for guests, from libvirt's network XML, with an eBPF datapath.
#[derive(Debug, Parser)]
#[command(
    name = "netd",
    version,
    after_help = "\
Examples:
  netd run                              start the agent
  netd net-define default.xml           store a network
  netd net-start default                start it
  netd net-list --all                   see every network
  netd status                           see what is attached where

The net- verbs are virsh's; virsh itself works, too:
  virsh -c 'network+unix:///system?socket=/run/netd/netd-sock' net-list --all"
)]
pub struct Cli {
    /// The agent's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = DEFAULT_SOCKET,
        help_heading = GLOBAL
    )]
    pub socket: PathBuf,
    /// Print data alone: no headings, no confirmations
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground
    #[command(after_help = "\
The agent leaves the networks up when it stops; `netd teardown` removes them.
NETD_LOG sets what is logged, as in NETD_LOG=debug or NETD_LOG=netd::rpc=trace.
CONFIG_DIR/netd.toml holds limits and timeouts of connections.

Examples:
  netd run
  netd --socket /tmp/a/sock run --config-dir /tmp/a/etc --state-dir /tmp/a/lib --run-dir /tmp/a/run --bpffs /sys/fs/bpf/a")]
    Run(RunArgs),
    /// Remove everything an agent with these directories set up (no agent needed)
    #[command(after_help = "\
Stop the agent first. Definitions stay; networks, dnsmasq, programs and maps go.

Examples:
  netd teardown
  netd teardown --run-dir /tmp/a/run --bpffs /sys/fs/bpf/a")]
    Teardown(Settings),

    /// List networks
    #[command(after_help = "\
Examples:
  netd net-list                         active networks
  netd net-list --all                   all of them
  netd net-list --all --name            names alone, for scripts
  netd net-list --inactive --autostart  those that should run and do not")]
    NetList(ListArgs),
    /// Show what a network is and does
    #[command(after_help = "\
Examples:
  netd net-info default
  netd net-info 92b39e4c-7f4d-4d5e-9f21-7c7d1f5b6a10")]
    NetInfo(NetworkArg),
    /// Store a network from an XML file, or change a stored one
    #[command(after_help = "\
A network of the same name and UUID is changed; what runs changes at its next start.

Examples:
  netd net-define default.xml
  sed s/122/123/ default.xml | netd net-define -")]
    NetDefine(FileArgs),
    /// Start a network from an XML file without storing it
    #[command(after_help = "\
Examples:
  netd net-create test.xml
  netd net-create - <test.xml")]
    NetCreate(FileArgs),
    /// Forget a stored network
    #[command(after_help = "\
A running one goes on until net-destroy.

Examples:
  netd net-undefine default")]
    NetUndefine(NetworkArg),
    /// Start a stored network
    #[command(after_help = "\
Examples:
  netd plan default                     see first what it would do
  netd net-start default")]
    NetStart(NetworkArg),
    /// Stop a network
    #[command(after_help = "\
Guests keep running; they have their network back after the next net-start.

Examples:
  netd net-destroy default")]
    NetDestroy(NetworkArg),
    /// Start a network with the agent, or no longer
    #[command(after_help = "\
Examples:
  netd net-autostart default
  netd net-autostart default --disable")]
    NetAutostart(AutostartArgs),
    /// Print a network's XML
    #[command(after_help = "\
Examples:
  netd net-dumpxml default              as it runs
  netd net-dumpxml default --inactive   as it will start next time
  netd net-dumpxml default >backup.xml")]
    NetDumpxml(DumpxmlArgs),
    /// Edit a stored network's XML in an editor
    #[command(after_help = "\
The editor is $VISUAL, else $EDITOR, else vi. What runs changes at its next start.

Examples:
  netd net-edit default
  EDITOR=nano netd net-edit default")]
    NetEdit(NetworkArg),
    /// Change an entry of a network's definition, in effect at once where it runs
    #[command(after_help = "\
Sections are ip-dhcp-host, ip-dhcp-range, forward-interface, portgroup, dns-host, dns-txt and dns-srv;
commands are add-last (or add), add-first, delete and modify. To delete an entry, so much of it is
enough that it can be told from others.

Examples:
  netd net-update default add ip-dhcp-host \\
      \"<host mac='52:54:00:12:34:56' name='web' ip='192.168.122.10'/>\" --live --config
  netd net-update default delete dns-txt \"<txt name='example'/>\"
  netd net-update default add-last ip-dhcp-range range.xml --parent-index 1")]
    NetUpdate(UpdateArgs),
    /// List DHCP leases
    #[command(after_help = "\
Examples:
  netd net-dhcp-leases default
  netd net-dhcp-leases default --mac 52:54:00:12:34:56")]
    NetDhcpLeases(LeasesArgs),
    /// Print the UUID of a network
    #[command(after_help = "\
Examples:
  netd net-uuid default")]
    NetUuid(NetworkArg),
    /// Print the name of a network
    #[command(after_help = "\
Examples:
  netd net-name 92b39e4c-7f4d-4d5e-9f21-7c7d1f5b6a10")]
    NetName(NetworkArg),

    /// Publish ports of guests
    #[command(after_help = "\
Examples:
  netd forward add default tcp 8080 192.168.122.10:80
  netd forward list
  netd forward delete default tcp 8080")]
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Read the definitions on disk again, without restarting a network
    #[command(after_help = "\
Running networks publish, guard and close what their definitions say from then on; the rest of a
changed definition counts at the next start. SIGHUP to the agent does the same.

Examples:
  netd net-define default.xml && netd reload")]
    Reload,

    /// Show what would be done to make the kernel what the definitions ask for
    #[command(after_help = "\
Nothing is changed. With a network that is not active: what its start would do.

Examples:
  netd plan                             all active networks
  netd plan default                     one network")]
    Plan(PlanArgs),
    /// Show what is attached where
    #[command(after_help = "\
Active networks, the programs at each device in the order they run (those of others, too),
pinned maps, and packets dropped by reason.

Examples:
  netd status
  netd status --json")]
    Status(StatusArgs),

    /// Tell why packets were lost
    #[command(after_help = "\
How many were dropped for which reason, the latest of them with network, device and addresses, and
what each reason means. In a flood each processor tells of a hundred drops a second and counts the
others.

Examples:
  netd drops                            all of them
  netd drops default                    at the devices of one network
  netd drops --follow                   as they come, until Ctrl-C
  netd drops --json")]
    Drops(DropsArgs),

    /// Record a change of leases; dnsmasq calls this
    #[command(hide = true, disable_help_flag = true)]
    LeaseHelper {
        /// What dnsmasq says
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the agent keeps its files.
    #[command(flatten)]
    pub settings: Settings,
    /// Connections that are tracked at most, for IPv4 and for IPv6 each; goes before the
    /// setting in netd.toml
    #[arg(long, value_name = "N", value_parser = max_flows())]
    pub max_flows: Option<u32>,
}

fn max_flows() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(*FLOWS.start())..=i64::from(*FLOWS.end()))
}

impl RunArgs {
    /// The settings of the file, and those of the command line in their place.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(&self.settings.config_file())?;
        if let Some(max) = self.max_flows {
            config.flows.max = max;
        }
        Ok(config)
    }
}

/// A network.
#[derive(Debug, Args)]
pub struct NetworkArg {
    /// Name or UUID of the network
    pub network: String,
}

/// Arguments of `net-list`.
#[derive(Clone, Debug, Default, Args)]
pub struct ListArgs {
    /// Inactive networks alone
    #[arg(long)]
    pub inactive: bool,
    /// Active and inactive networks
    #[arg(long)]
    pub all: bool,
    /// Networks with a definition
    #[arg(long)]
    pub persistent: bool,
    /// Networks without a definition
    #[arg(long)]
    pub transient: bool,
    /// Networks that start with the agent
    #[arg(long)]
    pub autostart: bool,
    /// Networks that do not start with the agent
    #[arg(long)]
    pub no_autostart: bool,
    /// Print UUIDs alone
    #[arg(long)]
    pub uuid: bool,
    /// Print names alone
    #[arg(long)]
    pub name: bool,
    /// Print a table (as without it)
    #[arg(long)]
    pub table: bool,
}

/// Arguments of `net-define` and `net-create`.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// File with the network's XML; - is standard input
    pub file: PathBuf,
    /// Accepted for virsh's sake: every definition is checked in full anyway
    #[arg(long)]
    pub validate: bool,
}

/// Arguments of `net-autostart`.
#[derive(Debug, Args)]
pub struct AutostartArgs {
    /// Name or UUID of the network
    pub network: String,
    /// No longer start it with the agent
    #[arg(long)]
    pub disable: bool,
}

/// Arguments of `net-dumpxml`.
#[derive(Debug, Args)]
pub struct DumpxmlArgs {
    /// Name or UUID of the network
    pub network: String,
    /// The stored definition instead of what runs
    #[arg(long)]
    pub inactive: bool,
}

/// Arguments of `net-update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Name or UUID of the network
    pub network: String,
    /// add-first, add-last (or add), delete or modify
    pub command: String,
    /// The section
    pub section: String,
    /// The entry: XML, or the name of a file with it
    pub xml: String,
    /// Which <ip> holds the entry, counted from 0
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub parent_index: Option<i32>,
    /// Change the definition of the next start
    #[arg(long)]
    pub config: bool,
    /// Change what runs
    #[arg(long)]
    pub live: bool,
    /// Change what runs, or the definition where nothing does (the default)
    #[arg(long)]
    pub current: bool,
}

/// Arguments of `net-dhcp-leases`.
#[derive(Debug, Args)]
pub struct LeasesArgs {
    /// Name or UUID of the network
    pub network: String,
    /// Leases of this MAC address alone
    #[arg(long)]
    pub mac: Option<String>,
}

/// What to do with published ports.
#[derive(Debug, Subcommand)]
pub enum ForwardCommand {
    /// Publish a port or a range of ports of a guest's
    #[command(after_help = "\
What is sent to the port of the host reaches the guest, at once and without a restart. A guest is an
address or the name of a DHCP host; its port is the host's unless it is named.

Examples:
  netd forward add default tcp 8080 192.168.122.10:80
  netd forward add default udp 6000-6010 web
  netd forward add default tcp 443 [fd00::10]:8443 --dev eth0
  netd forward add default all 192.168.122.10 --address 203.0.113.5
  netd forward add default tcp 22 web --address 203.0.113.5 --live --config")]
    Add(ForwardAddArgs),
    /// List published ports
    #[command(after_help = "\
Examples:
  netd forward list                     of all networks
  netd forward list default             of one")]
    List(ForwardListArgs),
    /// Publish a port or a range no longer
    #[command(after_help = "\
Ports, address and device are named as they were when it was added.

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
    /// At this address of the host alone
    #[arg(long, value_name = "ADDRESS", conflicts_with = "dev")]
    pub address: Option<std::net::IpAddr>,
    /// At the addresses of this device alone
    #[arg(long, value_name = "DEVICE")]
    pub dev: Option<String>,
    /// Change what runs (the default while it runs)
    #[arg(long)]
    pub live: bool,
    /// Change the definition of the next start (the default while it does not run)
    #[arg(long)]
    pub config: bool,
}

/// Arguments of `forward add`.
#[derive(Debug, Args)]
pub struct ForwardAddArgs {
    /// Name or UUID of the network
    pub network: String,
    /// tcp, udp, sctp, or all for an address with all that reaches it
    pub protocol: String,
    /// PORT or FIRST-LAST, then GUEST or GUEST:PORT; with `all` the guest alone
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
}

/// Arguments of `forward delete`.
#[derive(Debug, Args)]
pub struct ForwardDeleteArgs {
    /// Name or UUID of the network
    pub network: String,
    /// tcp, udp, sctp or all
    pub protocol: String,
    /// PORT or FIRST-LAST; none for a whole address
    pub port: Option<String>,
    /// The guest, without its port; needed where an IPv4 and an IPv6 guest have the port
    pub guest: Option<String>,
    /// Where.
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Name or UUID of the network
    pub network: Option<String>,
}

/// Arguments of `drops`.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Name or UUID of the network
    pub network: Option<String>,
    /// Print new ones as they come
    #[arg(long)]
    pub follow: bool,
    /// Print JSON, for programs
    #[arg(long, conflicts_with = "follow")]
    pub json: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_examples() {
        let cli = Cli::command();
        let nested = cli
            .get_subcommands()
            .flat_map(clap::Command::get_subcommands);
        for verb in cli.get_subcommands().chain(nested) {
            let help = verb.get_after_help().map(ToString::to_string);
            assert!(
                verb.is_hide_set() || help.is_some_and(|help| help.contains("Examples:")),
                "{}",
                verb.get_name()
            );
        }
    }

    #[test]
    fn max_flows_goes_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let config_dir = dir.path().to_str().unwrap();
        let run = |more: &[&str]| {
            let args = ["netd", "run", "--config-dir", config_dir];
            let cli = Cli::try_parse_from(args.iter().chain(more))?;
            let Command::Run(args) = cli.command else {
                panic!("{:?}", cli.command);
            };
            Ok::<_, clap::Error>(args.config().unwrap().flows)
        };
        assert_eq!(run(&[]).unwrap().max, 131_072);
        std::fs::write(
            dir.path().join("netd.toml"),
            "[flows]\nmax = 5000\nmax_per_network = 70",
        )
        .unwrap();
        assert_eq!(run(&[]).unwrap().max, 5000);
        let flows = run(&["--max-flows", "6000"]).unwrap();
        assert_eq!((flows.max, flows.max_per_network), (6000, 70));
        for bad in ["1023", "8388609", "-1", "many"] {
            run(&[&format!("--max-flows={bad}")]).unwrap_err();
        }
    }

    #[test]
    fn options_may_stand_before_and_after_the_verb() {
        let cli = Cli::parse_from(["netd", "net-list", "-q", "--socket", "/s", "--all"]);
        assert!(cli.quiet);
        assert_eq!(cli.socket, PathBuf::from("/s"));
        let cli = Cli::parse_from(["netd", "lease-helper", "add", "-x", "--help"]);
        let Command::LeaseHelper { args } = cli.command else {
            panic!("{:?}", cli.command);
        };
        assert_eq!(args, ["add", "-x", "--help"]);
    }
}
