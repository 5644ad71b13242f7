//! One act on the host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use uuid::Uuid;

use super::spec::RouteSpec;
use crate::datapath::Attachment;
use crate::datapath::ports::Ports;
use crate::datapath::records::Change;
use crate::link::sysctl;
use crate::model::{Family, Mac};

/// A port of a bridge: number and name.
pub type Port = (u32, String);

/// One act, and whose it is. Printed, it is what an administrator reads in a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The only network that lacks something while it is not done; `None` where any may.
    pub network: Option<Uuid>,
    /// What is done.
    pub act: Act,
}

/// Everything the agent does to a host. Devices are named, since a bridge has no number before it
/// exists; programs and records stand at numbers, as in the kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// On a device or a sysctl.
    Device(DeviceAct),
    /// On programs or maps.
    Datapath(DatapathAct),
    /// On a record on disk or a dnsmasq.
    Service(ServiceAct),
}

/// What is done to devices and sysctls.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceAct {
    /// Delete a bridge.
    DeleteBridge {
        /// Its number.
        index: u32,
        /// Its name.
        bridge: String,
    },
    /// Create a bridge, switched off.
    CreateBridge {
        /// Its name.
        bridge: String,
        /// Its MAC address.
        mac: Mac,
        /// Its MTU, if defined.
        mtu: Option<u32>,
    },
    /// Set spanning tree and forward delay.
    SetSpanningTree {
        /// The bridge.
        bridge: String,
        /// On or off.
        stp: bool,
        /// Forward delay in milliseconds.
        delay_ms: u32,
    },
    /// Set the MTU.
    SetMtu {
        /// The bridge.
        bridge: String,
        /// In bytes.
        mtu: u32,
    },
    /// Set the MAC address.
    SetMac {
        /// The bridge.
        bridge: String,
        /// The address.
        mac: Mac,
    },
    /// Set the bridge's IPv6 sysctls: on or off, no listening to router advertisements, no
    /// autoconfiguration.
    SetIpv6 {
        /// The bridge.
        bridge: String,
        /// On or off.
        on: bool,
    },
    /// Add an address.
    AddAddress {
        /// The bridge.
        bridge: String,
        /// The address.
        address: IpAddr,
        /// Prefix length.
        prefix: u8,
    },
    /// Switch a bridge on.
    SetUp {
        /// The bridge.
        bridge: String,
    },
    /// Add the way to a subnet behind a guest.
    AddRoute {
        /// The bridge.
        bridge: String,
        /// The way.
        route: RouteSpec,
    },
    /// Give a guest's device back to its bridge.
    Enslave {
        /// The guest's device.
        port: String,
        /// The bridge.
        bridge: String,
    },
    /// Let the host forward packets of a family, and note what it did before.
    EnableForwarding(Family),
    /// Give back what the host did with packets of a family.
    RestoreForwarding(Family, bool),
    /// Let ports forward at once that STP makes wait.
    ForwardPorts {
        /// The bridge's number.
        index: u32,
        /// Its name.
        bridge: String,
        /// The ports.
        ports: Vec<u32>,
    },
    /// Isolate a port from the others of its bridge.
    IsolatePort {
        /// Its number.
        index: u32,
        /// Its name.
        port: String,
    },
    /// Have a device listen to solicitations for an address that no device has, or no longer.
    ProxyNeighbour {
        /// The device's number.
        index: u32,
        /// Its name.
        device: String,
        /// The address.
        address: Ipv6Addr,
        /// Listen, or no longer.
        on: bool,
    },
}

/// What is done to programs and maps.
#[derive(Clone, Debug, PartialEq)]
pub enum DatapathAct {
    /// Attach a program.
    Attach {
        /// The device's name.
        device: String,
        /// The device and its hook.
        at: Attachment,
    },
    /// Detach a program.
    Detach {
        /// The device, or its number where it has gone.
        device: String,
        /// The device and its hook.
        at: Attachment,
    },
    /// Keep the host's reserved ports from being given to flows.
    ReservePorts(Ports),
    /// Forget where the guests of ports are that have gone, and their MAC addresses.
    ForgetGuests {
        /// The ports, and the bridges themselves that go, with their bridges.
        ports: BTreeMap<u32, u32>,
    },
    /// Change a record of a map.
    Record {
        /// What it is about: a device's name, as far as it is about one.
        device: String,
        /// The change.
        change: Change,
    },
    /// Say which ports are published.
    Publish(Ports),
    /// Say what the programs need not look for.
    SetFlags(u32),
    /// Let every flow check policy and path at its next packet.
    Revalidate,
    /// Give back the memory of flows that are over.
    SweepFlows,
    /// Attach the programs of the host's own sockets.
    AttachSockets,
    /// Detach them.
    DetachSockets,
    /// Remove all programs and maps.
    RemoveDatapath,
}

/// What is done to records on disk and to dnsmasq.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceAct {
    /// Write the record of an active network: an agent that starts finds it.
    NoteNetwork {
        /// The network.
        network: String,
    },
    /// Remove the record of a network that is not active any more.
    ForgetNetwork {
        /// The network.
        network: String,
    },
    /// Write down the ports of a bridge: it gets them back when it has to be made anew.
    NotePorts {
        /// The network.
        network: String,
        /// Number of its bridge.
        bridge: u32,
        /// Its ports.
        ports: Vec<Port>,
    },
    /// End a network's dnsmasq.
    StopDnsmasq {
        /// The network.
        network: String,
    },
    /// Start dnsmasq.
    StartDnsmasq {
        /// The network.
        network: String,
        /// Its bridge.
        bridge: String,
    },
    /// Let a running dnsmasq serve what the definition says now.
    ReloadDnsmasq {
        /// The network.
        network: String,
        /// Its bridge.
        bridge: String,
        /// It needs another process, since it reads its configuration once.
        replace: bool,
    },
}

impl From<DeviceAct> for Act {
    fn from(act: DeviceAct) -> Self {
        Self::Device(act)
    }
}

impl From<DatapathAct> for Act {
    fn from(act: DatapathAct) -> Self {
        Self::Datapath(act)
    }
}

impl From<ServiceAct> for Act {
    fn from(act: ServiceAct) -> Self {
        Self::Service(act)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.act.fmt(f)
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(act) => act.fmt(f),
            Self::Datapath(act) => act.fmt(f),
            Self::Service(act) => act.fmt(f),
        }
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

impl fmt::Display for DeviceAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteBridge { bridge, .. } => write!(f, "delete bridge {bridge}"),
            Self::CreateBridge { bridge, mac, mtu } => {
                write!(f, "create bridge {bridge} with MAC address {mac}")?;
                match mtu {
                    Some(mtu) => write!(f, " and MTU {mtu}"),
                    None => Ok(()),
                }
            }
            Self::SetSpanningTree {
                bridge,
                stp,
                delay_ms,
            } => {
                let stp = switch(*stp);
                write!(
                    f,
                    "set STP {stp} and forward delay {delay_ms} ms on {bridge}"
                )
            }
            Self::SetMtu { bridge, mtu } => write!(f, "set MTU {mtu} on {bridge}"),
            Self::SetMac { bridge, mac } => write!(f, "set MAC address {mac} on {bridge}"),
            Self::SetIpv6 { bridge, on } => write!(f, "switch IPv6 {} on {bridge}", switch(*on)),
            Self::AddAddress {
                bridge,
                address,
                prefix,
            } => write!(f, "add address {address}/{prefix} to {bridge}"),
            Self::SetUp { bridge } => write!(f, "switch {bridge} on"),
            Self::AddRoute { bridge, route } => {
                let (subnet, prefix) = route.destination;
                let RouteSpec {
                    gateway, metric, ..
                } = route;
                write!(
                    f,
                    "add route to {subnet}/{prefix} via {gateway} on {bridge}, metric {metric}"
                )
            }
            Self::Enslave { port, bridge } => write!(f, "make {port} a port of {bridge} again"),
            Self::EnableForwarding(family) => {
                write!(f, "set {} to 1", sysctl::forwarding_name(*family))
            }
            Self::RestoreForwarding(family, was) => {
                let name = sysctl::forwarding_name(*family);
                write!(f, "set {name} back to {}", u8::from(*was))
            }
            Self::ForwardPorts { bridge, ports, .. } => {
                let many = if ports.len() == 1 { "port" } else { "ports" };
                write!(f, "let {} waiting {many} of {bridge} forward", ports.len())
            }
            Self::IsolatePort { port, .. } => write!(f, "isolate port {port}"),
            Self::ProxyNeighbour {
                device,
                address,
                on: true,
                ..
            } => write!(f, "listen on {device} for solicitations for {address}"),
            Self::ProxyNeighbour {
                device, address, ..
            } => write!(
                f,
                "stop listening on {device} for solicitations for {address}"
            ),
        }
    }
}

impl fmt::Display for DatapathAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach { device, at } => {
                write!(f, "attach program {} to {device}", at.hook.program())
            }
            Self::Detach { device, at } => {
                write!(f, "detach program {} from {device}", at.hook.program())
            }
            Self::ReservePorts(_) => write!(f, "keep the host's reserved ports from flows"),
            Self::ForgetGuests { ports } => {
                write!(f, "forget the guests of {} ports that went", ports.len())
            }
            Self::Record { device, change } => {
                let verb = match change {
                    Change::Set(_) => "write",
                    Change::Remove(_) => "remove",
                };
                let map = change.record().map();
                write!(f, "{verb} record of {device} in map {map}")
            }
            Self::Publish(_) => write!(f, "mark the published ports in map dnat_ports"),
            Self::SetFlags(_) => write!(f, "tell the programs what is in use, in map control"),
            Self::Revalidate => write!(f, "let flows check policy and path again"),
            Self::SweepFlows => write!(f, "free the flows that are over"),
            Self::AttachSockets => write!(f, "attach programs to the host's own sockets"),
            Self::DetachSockets => write!(f, "detach programs from the host's own sockets"),
            Self::RemoveDatapath => write!(f, "remove all programs and maps"),
        }
    }
}

impl fmt::Display for ServiceAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoteNetwork { network } => {
                write!(f, "write the record of active network {network}")
            }
            Self::ForgetNetwork { network } => {
                write!(f, "remove the record of active network {network}")
            }
            Self::NotePorts { network, ports, .. } => {
                let names: Vec<&str> = ports.iter().map(|(_, name)| name.as_str()).collect();
                match names.as_slice() {
                    [] => write!(f, "note the bridge of network {network}, without ports"),
                    names => write!(f, "note ports of network {network}: {}", names.join(", ")),
                }
            }
            Self::StopDnsmasq { network } => write!(f, "stop dnsmasq of network {network}"),
            Self::StartDnsmasq { network, bridge } => {
                write!(f, "start dnsmasq of network {network} on {bridge}")
            }
            Self::ReloadDnsmasq {
                network,
                replace: true,
                ..
            } => write!(
                f,
                "replace dnsmasq of network {network}: its configuration changed"
            ),
            Self::ReloadDnsmasq { network, .. } => {
                write!(
                    f,
                    "tell dnsmasq of network {network} that its hosts changed"
                )
            }
        }
    }
}
