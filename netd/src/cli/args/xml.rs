//! Arguments of `netd xml`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::paths::Paths;

/// Commands on definitions in files. They ask no agent and need no root.
#[derive(Debug, Subcommand)]
pub enum XmlCommand {
    /// Print a definition as netd stores it
    #[command(after_help = "\
Examples:
  netd xml canonical default.xml
  netd net-dumpxml default | netd xml canonical --inactive -")]
    Canonical(CanonicalArgs),
    /// Print the files that dnsmasq gets for a definition
    #[command(after_help = "\
Examples:
  netd xml dnsmasq default.xml
  netd xml dnsmasq --hostsfile default.xml")]
    Dnsmasq(DnsmasqArgs),
    /// Print a definition with one entry changed, as net-update changes it
    #[command(after_help = "\
Examples:
  netd xml update --section ip-dhcp-host --command add-last default.xml host.xml
  netd xml update --section dns-txt --command delete default.xml \"<txt name='example'/>\"")]
    Update(XmlUpdateArgs),
    /// Say all that is wrong with definitions, or of no effect
    #[command(after_help = "\
Every fault is a line on standard output: file, line where one is known, and what is wrong. What is
wrong when the network is defined, when it is started, by libvirt's schema (virsh net-define --validate)
and what nobody reads, such as a misspelt element, are told apart. Exit status 1 if there is any.

Examples:
  netd xml check default.xml
  netd xml check /etc/libvirt/qemu/networks/*.xml")]
    Check(CheckArgs),
}

/// Arguments of `xml canonical`.
#[derive(Debug, Args)]
pub struct CanonicalArgs {
    /// As the stored definition, without what libvirt shows of a running network alone
    #[arg(long)]
    pub inactive: bool,
    /// The definition; - for standard input
    pub file: PathBuf,
}

/// Arguments of `xml dnsmasq`.
#[derive(Debug, Args)]
pub struct DnsmasqArgs {
    /// The DHCP reservations instead of the configuration
    #[arg(long)]
    pub hostsfile: bool,
    /// As libvirt's own driver writes it, with its places
    #[arg(long)]
    pub libvirt_paths: bool,
    /// Where the agent keeps its files
    #[command(flatten)]
    pub paths: Paths,
    /// The definition; - for standard input
    pub file: PathBuf,
}

/// Arguments of `xml update`.
#[derive(Debug, Args)]
pub struct XmlUpdateArgs {
    /// The section, such as ip-dhcp-host
    #[arg(long)]
    pub section: String,
    /// add-first, add-last, modify or delete
    #[arg(long)]
    pub command: String,
    /// Which <ip> holds the entry, counted from 0
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub index: Option<i32>,
    /// The definition; - for standard input
    pub network: PathBuf,
    /// The entry: XML, or the name of a file with it
    pub update: String,
}

/// Arguments of `xml check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The definitions; - for standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}
