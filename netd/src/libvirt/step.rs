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

/// Whose network driver libvirtd loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loads {
    /// libvirt's own.
    Stock,
    /// netd's.
    Netd,
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
    /// Stop the units of libvirt's network daemon for good.
    StopStock {
        /// They are masked.
        units: Vec<String>,
        /// Those that ran.
        active: Vec<String>,
    },
    /// Answer libvirt's clients in that daemon's place.
    Serve,

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
    /// Leave libvirt's clients to libvirt's network daemon.
    StopServing,
    /// Let the units of libvirt's network daemon run again.
    StartStock {
        /// They are unmasked.
        units: Vec<String>,
    },

    /// A daemon is about to be restarted with another driver. Nothing is done; if the switch is taken back,
    /// this is the last thing that is, and the daemon gets back the driver that it had.
    Restarts {
        /// Its unit.
        unit: String,
        /// The driver it had.
        had: Loads,
    },
    /// Restart a daemon.
    Restart {
        /// Its unit.
        unit: String,
    },
    /// Wait until a daemon has the networks by the driver that it is to have.
    AwaitDaemon {
        /// The daemon.
        kind: Kind,
        /// The driver.
        loads: Loads,
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

impl Step {
    /// Is it a matter of what runs, of which nothing is left after a reboot? The others write what lasts.
    #[must_use]
    pub fn ends_with_the_boot(&self) -> bool {
        match self {
            Self::TakeOver(_)
            | Self::SetAside(_)
            | Self::RemoveRules
            | Self::GiveService(_)
            | Self::GiveStatus(_)
            | Self::Restart { .. }
            | Self::AwaitDaemon { .. }
            | Self::LetGo(_) => true,
            Self::Define { .. }
            | Self::UseModule(_)
            | Self::StopStock { .. }
            | Self::Serve
            | Self::GiveDefinition { .. }
            | Self::UseStock(_)
            | Self::StopServing
            | Self::StartStock { .. }
            | Self::Restarts { .. }
            | Self::Undefine(_) => false,
        }
    }
}

fn autostart(on: bool) -> &'static str {
    if on { ", with autostart" } else { "" }
}

fn awaited(program: &str, old: &[u32]) -> String {
    if old.is_empty() {
        format!("wait until {program} has the networks")
    } else {
        format!(
            "wait until {program} was restarted (systemctl restart {program}) and has the networks"
        )
    }
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
            Self::StopStock { units, .. } => write!(f, "stop and mask {}", units.join(", ")),
            Self::Serve => f.write_str("serve virtnetworkd-sock and virtnetworkd-sock-ro"),
            Self::StopServing => f.write_str("leave virtnetworkd-sock and virtnetworkd-sock-ro"),
            Self::StartStock { units } => write!(f, "unmask and start {}", units.join(", ")),
            Self::Restarts { unit, .. } => {
                write!(f, "should a step fail, restart {unit} as the last thing")
            }
            Self::Restart { unit } => write!(f, "restart {unit}"),
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
            Self::AwaitDaemon { kind, old, .. } => f.write_str(&awaited(kind.program(), old)),
            Self::LetGo(n) => write!(
                f,
                "leave network {} to libvirt: {} without netd's programs",
                n.name, n.bridge
            ),
            Self::Undefine(d) => write!(f, "remove the definition of network {} from netd", d.name),
        }
    }
}
