//! Commands and their arguments.

mod agent;
mod bans;
mod config;
mod events;
mod flows;
mod forward;
mod ports;
mod views;
mod xml;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::cli::libvirt::LibvirtCommand;
use crate::paths::{DEFAULT_SOCKET, Paths};
use crate::relay::RelayArgs;

pub use agent::{RunArgs, TeardownArgs};
pub use bans::{BanAddArgs, BanCommand, BanDeleteArgs, BanIdArgs, BanListArgs, DoctorArgs};
pub use config::{ConfigArgs, ConfigCommand};
pub use events::EventArgs;
pub use flows::{FlowFilterArgs, FlowSort, FlowsArgs, FlowsCommand, FlowsKillArgs};
pub use forward::{ForwardAddArgs, ForwardCommand, ForwardDeleteArgs, ForwardListArgs, ScopeArgs};
pub use ports::{PortArgs, PortCreateArgs, PortListArgs};
pub use views::{ApplyArgs, DropsArgs, ExplainArgs, PlanArgs, PortsArgs, StatusArgs};
pub use xml::{CanonicalArgs, CheckArgs, DnsmasqArgs, XmlCommand, XmlUpdateArgs};

/// Heading of the options that every command takes.
const GLOBAL: &str = "Global options";

/// Virtual networks for guests, from libvirt network XML, with an eBPF datapath.
#[derive(Debug, Parser)]
#[command(
    name = "netd",
    version,
    after_help = "\
Examples:
  netd run                              start the agent
  netd net-define default.xml           define a network
  netd net-start default                start it
  netd net-list --all                   list all networks
  netd status default                   show its addresses, guests and port forwards
  netd drops                            show dropped packets and the reasons

The net- commands have virsh's names, options and output. virsh itself works, too:
  virsh -c 'network+unix:///system?socket=/run/netd/netd-sock' net-list --all

Exit status: 0 success; 1 the command failed; 2 wrong usage."
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
    /// Suppress headers and confirmation messages
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// The command
    #[command(subcommand)]
    pub command: Command,
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground
    #[command(after_help = "\
Networks stay up when the agent stops; `netd teardown` removes them.
CONFIG_DIR/netd.toml holds limits, timeouts and XDP settings; it is read at startup.

Environment:
  NETD_LOG      log level or filter, such as debug or netd::rpc=trace (default: info)
  NETD_DNSMASQ  path of the dnsmasq program, if it is not in PATH

Examples:
  netd run
  netd --socket /tmp/a/sock run --config-dir /tmp/a/etc --state-dir /tmp/a/lib --run-dir /tmp/a/run --bpffs /sys/fs/bpf/a")]
    Run(RunArgs),
    /// Remove everything netd set up on this host (with the agent stopped)
    #[command(after_help = "\
Stops all networks: removes bridges, dnsmasq processes, eBPF programs and maps, and restores
forwarding sysctls. Definitions, leases and settings are kept, unless --purge is given.

Examples:
  netd teardown
  netd teardown --purge
  netd teardown --run-dir /tmp/a/run --bpffs /sys/fs/bpf/a")]
    Teardown(TeardownArgs),

    /// List networks
    #[command(after_help = "\
Examples:
  netd net-list                         active networks
  netd net-list --all                   all networks
  netd net-list --all --name            only names, for scripts
  netd net-list --inactive --autostart  networks that should run but do not")]
    NetList(ListArgs),
    /// Show name, UUID, state and bridge of a network
    #[command(after_help = "\
`netd status NETWORK` shows addresses, guests and port forwards.

Examples:
  netd net-info default
  netd net-info 92b39e4c-7f4d-4d5e-9f21-7c7d1f5b6a10")]
    NetInfo(InfoArgs),
    /// Define a network from an XML file, or redefine an existing one
    #[command(after_help = "\
An existing network is redefined if both name and UUID match. A running network keeps its old
definition until `netd net-apply`, or until it is next started.

Examples:
  netd net-define default.xml
  netd net-dumpxml default | sed s/122/123/g | netd net-define -")]
    NetDefine(FileArgs),
    /// Start a transient network from an XML file, without a stored definition
    #[command(after_help = "\
Examples:
  netd net-create test.xml
  netd net-create - <test.xml")]
    NetCreate(FileArgs),
    /// Delete a stored definition
    #[command(after_help = "\
If the network is running, it keeps running until net-destroy.

Examples:
  netd net-undefine default")]
    NetUndefine(NetworkArg),
    /// Start a defined network
    #[command(after_help = "\
Examples:
  netd plan default                     show first what it will do
  netd net-start default")]
    NetStart(NetworkArg),
    /// Let a running network run with its changed definition
    #[command(after_help = "\
What differs is changed while guests talk; the rest is left alone. Another bridge name, MAC address or
kind of bridge needs net-destroy and net-start, which connects the guests again.

Examples:
  netd net-edit default && netd net-apply default
  netd net-apply default --dry-run      show what would be done")]
    NetApply(ApplyArgs),
    /// Stop a network
    #[command(after_help = "\
Guests keep running, without network. The next net-start connects them again.

Examples:
  netd net-destroy default")]
    NetDestroy(NetworkArg),
    /// Enable or disable autostart
    #[command(after_help = "\
Examples:
  netd net-autostart default
  netd net-autostart default --disable")]
    NetAutostart(AutostartArgs),
    /// Print a network's XML
    #[command(after_help = "\
Examples:
  netd net-dumpxml default              the running network
  netd net-dumpxml default --inactive   the stored definition
  netd net-dumpxml default >backup.xml")]
    NetDumpxml(DumpxmlArgs),
    /// Edit a stored definition in an editor
    #[command(after_help = "\
The editor is $VISUAL, else $EDITOR, else vi. `netd net-apply` applies the changes to a running network.

Examples:
  netd net-edit default
  EDITOR=nano netd net-edit default")]
    NetEdit(NetworkArg),
    /// Add, change or delete one entry of a network
    #[command(after_help = "\
Sections: ip-dhcp-host, ip-dhcp-range, forward-interface, portgroup, dns-host, dns-txt, dns-srv.
Commands: add-last (or add), add-first, delete, modify. To delete an entry, give enough attributes
to identify it. A running network is changed immediately. Without --live or --config only the
running network is changed, and the change is lost when it stops.

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
    /// Print what happens to networks, as it happens
    #[command(after_help = "\
Events: lifecycle (Defined, Undefined, Started, Stopped) and metadata-change (title, description,
an element). Port forwards are netd's element, urn:netd:network:1.

Examples:
  netd net-event --event lifecycle --loop
  netd net-event --event lifecycle --network default --timeout 60
  netd net-event --event metadata-change --loop --timestamp")]
    NetEvent(EventArgs),
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

    /// List the ports of a network: one for each interface of a guest
    #[command(after_help = "\
libvirt makes and deletes them when guests start and stop.

Examples:
  netd net-port-list default
  netd net-port-list default --uuid     only UUIDs, for scripts")]
    NetPortList(PortListArgs),
    /// Print a port's XML
    #[command(after_help = "\
Examples:
  netd net-port-dumpxml default 6f1e4bc2-2f8b-4a4e-9d0c-3f5a6e7b8c90")]
    NetPortDumpxml(PortArgs),
    /// Create a port from an XML file
    #[command(after_help = "\
For tools that start guests without libvirt. The guest's tap is recognized by its MAC address: the one
in the file, with fe as its first byte.

Examples:
  netd net-port-create default port.xml")]
    NetPortCreate(PortCreateArgs),
    /// Delete a port
    #[command(after_help = "\
The guest stays connected, without what the port asked for.

Examples:
  netd net-port-delete default 6f1e4bc2-2f8b-4a4e-9d0c-3f5a6e7b8c90")]
    NetPortDelete(PortArgs),

    /// Forward ports of this host to guests
    #[command(after_help = "\
Examples:
  netd forward add default tcp 8080 192.168.122.10:80
  netd forward list
  netd forward delete default tcp 8080")]
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Keep addresses outside from guests
    #[command(after_help = "\
Examples:
  netd ban add 203.0.113.0/24 --for 1h
  netd ban list")]
    #[command(subcommand)]
    Ban(BanCommand),
    /// Read the stored definitions again, without restarting networks
    #[command(after_help = "\
Applies port forwards, anti-spoofing and host access to running networks. All other changes of a
definition are applied by net-apply, or when the network is next started. SIGHUP to the agent does
the same.

Examples:
  netd net-define default.xml && netd reload")]
    Reload,

    /// Show pending changes without applying them
    #[command(after_help = "\
For an inactive network: a dry run of net-start.

Examples:
  netd plan                             all active networks
  netd plan default                     one network")]
    Plan(PlanArgs),
    /// Show networks, eBPF programs and drop counters
    #[command(after_help = "\
Without NETWORK: packets dropped by reason, active networks with their connections, and the eBPF
programs at each interface in the order they run, including programs of other software.
With NETWORK: its addresses, DHCP ranges, leases, guests' ports, port forwards and isolation.

Examples:
  netd status
  netd status default
  netd status --maps                    eBPF maps: capacity, path for bpftool
  netd status --json")]
    Status(StatusArgs),

    /// Show dropped packets and the reasons
    #[command(after_help = "\
Counters by reason, the latest dropped packets with network, device and addresses, and what each
reason means. At most 100 drops per second and CPU are listed; the counters include all. Counters are
kept for the whole host; with NETWORK only listed packets of that network are shown.

Examples:
  netd drops                            all networks
  netd drops default                    packets of one network
  netd drops --follow                   print new drops until Ctrl-C
  netd drops --json")]
    Drops(DropsArgs),

    /// List the ports of bridges, with the guests behind them
    #[command(after_help = "\
One row for each guest seen at a port: MAC address, domain and host name where they are known, addresses
seen and leased, whether the port carries frames, packets sent by the guest/sent to it, those that the
device dropped, and how many of the latest drops of netd (netd drops) are the port's.

Examples:
  netd ports                            all active networks
  netd ports default --json")]
    Ports(PortsArgs),

    /// List connections, or end some
    #[command(after_help = "\
One row for each connection of guests: who opened it, whom it goes to, what is translated (\"as\" the
source that the destination sees, \"to\" the guest that a published port leads to), the device that it
leaves by, whether programs carry it (fast) or the host's stack, and packets and bytes sent by who
opened it and received.

Examples:
  netd flows                            all connections
  netd flows default --guest web        one guest's
  netd flows --proto tcp --port 443 --json
  netd flows --sort bytes --limit 20    the largest
  netd flows --guest web --follow       as they begin and end
  netd flows kill --guest web --port 22 end some")]
    Flows(FlowsArgs),

    /// Explain a drop reason, or an element of the network XML
    #[command(after_help = "\
Without an agent. Prints what the reference says: what the reason means, its usual cause and what to do;
whether the element is supported, and when a change of it is applied.

Examples:
  netd explain no_flow
  netd explain 'bridge zone'
  netd explain netd:antispoof
  netd explain                          list what there is")]
    Explain(ExplainArgs),

    /// Check this host for rules and settings that do not do what they seem to
    #[command(after_help = "\
Examples:
  netd doctor                           exit status 1 if there is a problem")]
    Doctor(DoctorArgs),

    /// Switch this host from libvirt's own network driver to netd
    #[command(after_help = "\
Examples:
  netd libvirt status                   show what libvirt's driver has on this host
  netd libvirt adopt --dry-run          show what a switch would do
  netd libvirt adopt                    switch to netd, while guests run
  netd libvirt release                  switch back")]
    #[command(subcommand)]
    Libvirt(LibvirtCommand),
    /// Look at definitions in files, without an agent
    #[command(after_help = "\
Examples:
  netd xml check default.xml            say all that is wrong with it
  netd xml canonical default.xml        print it as netd stores it
  netd xml dnsmasq default.xml          print what dnsmasq would get
  netd xml update --section dns-txt --command delete default.xml \"<txt name='a'/>\"")]
    #[command(subcommand)]
    Xml(XmlCommand),
    /// Look at the agent's settings, without an agent
    #[command(after_help = "\
Examples:
  netd config check                     say all that is wrong with them
  netd config show                      print each, and which file it is from")]
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  netd completions bash >/etc/bash_completion.d/netd
  netd completions zsh >/usr/share/zsh/vendor-completions/_netd
  netd completions fish >/usr/share/fish/vendor_completions.d/netd.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages netd(8), netd-run(8), … to a directory
    #[command(hide = true)]
    Manpages {
        /// An existing directory
        directory: PathBuf,
    },

    /// Make the folder of pins; called by the unit before the agent
    #[command(hide = true)]
    Prepare(Paths),

    /// Pass on what a network's dnsmasq asks of the host's name servers; started by the agent
    #[command(hide = true)]
    Relay(RelayArgs),

    /// Record a lease change; called by dnsmasq
    #[command(hide = true, disable_help_flag = true)]
    LeaseHelper {
        /// Arguments of dnsmasq's dhcp-script
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// A network.
#[derive(Debug, Args)]
pub struct NetworkArg {
    /// Name or UUID of the network
    pub network: String,
}

/// Arguments of `net-info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Name or UUID of the network
    pub network: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `net-list`.
#[derive(Clone, Debug, Default, Args)]
pub struct ListArgs {
    /// Only inactive networks
    #[arg(long)]
    pub inactive: bool,
    /// Active and inactive networks
    #[arg(long)]
    pub all: bool,
    /// Only networks with a stored definition
    #[arg(long)]
    pub persistent: bool,
    /// Only networks without a stored definition
    #[arg(long)]
    pub transient: bool,
    /// Only networks with autostart
    #[arg(long)]
    pub autostart: bool,
    /// Only networks without autostart
    #[arg(long)]
    pub no_autostart: bool,
    /// Print only UUIDs
    #[arg(long)]
    pub uuid: bool,
    /// Print only names
    #[arg(long)]
    pub name: bool,
    /// Print a table (the default)
    #[arg(long)]
    pub table: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["uuid", "name", "table"])]
    pub json: bool,
}

/// Arguments of `net-define` and `net-create`.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// XML file of the network; - for standard input
    pub file: PathBuf,
    /// Refuse elements and attributes that netd does not know, instead of ignoring them
    #[arg(long)]
    pub validate: bool,
}

/// Arguments of `net-autostart`.
#[derive(Debug, Args)]
pub struct AutostartArgs {
    /// Name or UUID of the network
    pub network: String,
    /// Disable autostart
    #[arg(long)]
    pub disable: bool,
}

/// Arguments of `net-dumpxml`.
#[derive(Debug, Args)]
pub struct DumpxmlArgs {
    /// Name or UUID of the network
    pub network: String,
    /// The stored definition instead of the running network
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
    /// Change the stored definition
    #[arg(long)]
    pub config: bool,
    /// Change the running network
    #[arg(long)]
    pub live: bool,
    /// Change the running network, or the stored definition if it is not running (the default)
    #[arg(long)]
    pub current: bool,
}

/// Arguments of `net-dhcp-leases`.
#[derive(Debug, Args)]
pub struct LeasesArgs {
    /// Name or UUID of the network
    pub network: String,
    /// Only leases of this MAC address
    #[arg(long)]
    pub mac: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests;
