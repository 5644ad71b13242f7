//! The steps of a switch, each with what it takes to do it and to take it back.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::daemon::Kind;
use crate::api::StockService;
use crate::model::{self, FormatOptions, Network};

/// A network that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningNetwork {
    /// Its name.
    pub name: String,
    /// The definition that it runs with.
    pub xml: String,
    /// Ports of guests, by UUID.
    pub ports: Vec<(String, String)>,
    /// libvirt's dnsmasq.
    pub service: StockService,
    /// For people: its bridge, or what it has else.
    pub bridge: String,
}

/// A definition, and whether the network starts by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The network's name.
    pub name: String,
    /// The definition.
    pub xml: String,
    /// Does it start by itself?
    pub autostart: bool,
}

impl RunningNetwork {
    /// The network that runs with this definition.
    #[must_use]
    pub fn new(network: &Network, ports: Vec<(String, String)>, service: StockService) -> Self {
        let bridge = match &network.bridge.name {
            Some(name) => format!("bridge {name}"),
            None => "its devices".to_owned(),
        };
        Self {
            name: network.name.clone(),
            xml: text(network, false),
            ports,
            service,
            bridge,
        }
    }
}

impl Definition {
    /// A definition as it is kept.
    #[must_use]
    pub fn new(network: &Network, autostart: bool) -> Self {
        Self {
            name: network.name.clone(),
            xml: text(network, true),
            autostart,
        }
    }
}

fn text(network: &Network, inactive: bool) -> String {
    let options = FormatOptions {
        inactive,
        connections: None,
    };
    model::format(network, options)
}

/// Where libvirtd gets its network driver from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// The file that the daemon's environment is read from.
    pub defaults: PathBuf,
    /// Folder of links that takes the place of libvirt's own.
    pub folder: PathBuf,
    /// libvirt's folder of drivers.
    pub stock: PathBuf,
    /// netd's network driver for libvirtd.
    pub file: PathBuf,
}

/// One step. Those of the way to netd come first, then those of the way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Define a network in netd.
    Define {
        /// What is defined.
        definition: Definition,
        /// What netd had of that name.
        before: Option<Definition>,
    },
    /// Take over a network that runs.
    TakeOver(RunningNetwork),
    /// Have libvirtd load netd's driver at its next start.
    UseModule(Module),
    /// Remove libvirt's files of running networks, each with what is in it.
    SetAside(Vec<(PathBuf, String)>),
    /// Remove libvirt's rules.
    RemoveRules,

    /// Write a definition to where libvirt keeps it, over the one that was there.
    GiveDefinition {
        /// What is written.
        definition: Definition,
        /// What was there.
        before: Option<Definition>,
    },
    /// Let libvirt's dnsmasq serve a network.
    GiveService(RunningNetwork),
    /// Write the status of a running network to where libvirt looks for it.
    GiveStatus(RunningNetwork),
    /// Have libvirtd load its own driver at its next start.
    UseStock(Module),
    /// Wait until libvirt's own driver has the networks.
    AwaitDaemon {
        /// The daemon.
        kind: Kind,
        /// The processes that are to be replaced.
        old: Vec<u32>,
        /// Networks that it is to know as running.
        networks: Vec<String>,
        /// How long it may take, in seconds.
        seconds: u64,
    },
    /// Leave a network to libvirt.
    LetGo(RunningNetwork),
    /// Remove a network's definition from netd.
    Undefine(Definition),
}

fn autostart(on: bool) -> &'static str {
    if on { ", with autostart" } else { "" }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Define { definition: d, .. } => {
                write!(
                    f,
                    "define network {} in netd{}",
                    d.name,
                    autostart(d.autostart)
                )
            }
            Self::TakeOver(n) => write!(
                f,
                "take over network {}: {} as it is, {} ports of guests, DHCP and DNS with all leases",
                n.name,
                n.bridge,
                n.ports.len()
            ),
            Self::UseModule(m) => write!(
                f,
                "have libvirtd load {}, by LIBVIRT_DRIVER_DIR in {}",
                m.file.display(),
                m.defaults.display()
            ),
            Self::SetAside(files) => {
                write!(
                    f,
                    "remove libvirt's status of running networks ({} files)",
                    files.len()
                )
            }
            Self::RemoveRules => write!(f, "remove libvirt's rules from the kernel"),
            Self::GiveDefinition { definition: d, .. } => {
                write!(
                    f,
                    "define network {} in libvirt{}",
                    d.name,
                    autostart(d.autostart)
                )
            }
            Self::GiveService(n) => {
                write!(
                    f,
                    "let libvirt's dnsmasq serve network {}, with all leases",
                    n.name
                )
            }
            Self::GiveStatus(n) => write!(
                f,
                "tell libvirt that network {} runs: {} as it is, {} ports of guests",
                n.name,
                n.bridge,
                n.ports.len()
            ),
            Self::UseStock(m) => write!(
                f,
                "have libvirtd load its own network driver: LIBVIRT_DRIVER_DIR out of {}",
                m.defaults.display()
            ),
            Self::AwaitDaemon { kind, .. } => {
                let program = kind.program();
                write!(
                    f,
                    "wait until {program} was restarted (systemctl restart {program}) and has the networks"
                )
            }
            Self::LetGo(n) => write!(
                f,
                "leave network {} to libvirt: {} without netd's programs",
                n.name, n.bridge
            ),
            Self::Undefine(d) => write!(f, "remove the definition of network {} from netd", d.name),
        }
    }
}
