//! One act on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use uuid::Uuid;

use super::spec::RouteSpec;
use crate::datapath::Attachment;
use crate::datapath::ports::Ports;
use crate::datapath::records::Change;
use crate::model::{Family, Mac};
use crate::services;
use crate::shaping::Shape;

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
    /// Make the network namespace of a network's services, and the link that leads there. What is left
    /// of an earlier one goes.
    MakeNamespace(services::namespace::Bridge),
    /// Give that namespace the addresses, routes and MTU that the bridge has now; what is in it stays.
    FurnishNamespace(services::namespace::Bridge),
    /// Remove it.
    RemoveNamespace {
        /// Name of the bridge.
        bridge: String,
        /// Its MAC address.
        mac: Mac,
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
    /// Have a bridge hold its ports to their VLANs, or no longer. All are in VLAN 1, untagged, unless
    /// somebody says otherwise.
    FilterVlans {
        /// The bridge.
        bridge: String,
        /// Filter.
        on: bool,
    },
    /// Have a bridge's table know a guest at its port, without learning there or flooding to it; or let it
    /// learn again.
    ManageTable {
        /// The port's number.
        index: u32,
        /// Its name.
        port: String,
        /// The guest.
        mac: Mac,
        /// Manage it.
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
    /// Remove an address that an earlier definition gave.
    RemoveAddress {
        /// The bridge.
        bridge: String,
        /// The address.
        address: IpAddr,
        /// Prefix length.
        prefix: u8,
    },
    /// Remove the way to a subnet behind a guest that an earlier definition gave.
    RemoveRoute {
        /// The bridge.
        bridge: String,
        /// The way.
        route: RouteSpec,
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
    /// Have systemd-networkd manage none of these devices, whatever its files say.
    LeaveToNetd(BTreeSet<String>),
    /// Give a guest's device back to its bridge.
    Enslave {
        /// The guest's device.
        port: String,
        /// The bridge.
        bridge: String,
    },
    /// Add the way to the subnet of an address, which comes with the address and was lost.
    AddConnectedRoute {
        /// The bridge.
        bridge: String,
        /// The address.
        address: IpAddr,
        /// Prefix length.
        prefix: u8,
    },
    /// Let the host forward packets of a family, and note what it did before.
    EnableForwarding {
        /// The family.
        family: Family,
        /// Devices that are none of the networks' and forward from then on as well, where they are
        /// more than one.
        others: Vec<String>,
    },
    /// Give back what the host did with packets of a family.
    RestoreForwarding(Family, bool),
    /// Let a bridge forward that somebody kept from it, on a host that does.
    ForwardFrom {
        /// The bridge.
        bridge: String,
        /// Packets of this family.
        family: Family,
    },
    /// Have a device listen to router advertisements although the host forwards (`accept_ra` 2), or
    /// give back that it does only while it is no router (1).
    ListenToRouters {
        /// The device's number.
        index: u32,
        /// Its name.
        device: String,
        /// Always, or no longer.
        on: bool,
    },
    /// Let ports forward at once that STP makes wait.
    ForwardPorts {
        /// The bridge's number.
        index: u32,
        /// Its name.
        bridge: String,
        /// The ports.
        ports: Vec<u32>,
    },
    /// Isolate a port from the others of its bridge, or no longer.
    IsolatePort {
        /// Its number.
        index: u32,
        /// Its name.
        port: String,
        /// Isolate it.
        on: bool,
    },
    /// Make the device in whose queue what a network's guests send waits.
    MakeShaper {
        /// Name of the bridge.
        bridge: String,
        /// Its MAC address.
        mac: Mac,
    },
    /// Remove it.
    RemoveShaper {
        /// Name of the bridge.
        bridge: String,
        /// Its MAC address.
        mac: Mac,
    },
    /// Hold what a device sends to rates.
    Shape {
        /// Its number.
        index: u32,
        /// Its name.
        device: String,
        /// The rates.
        shape: Box<Shape>,
    },
    /// Hold it to none any more.
    Unshape {
        /// Its number.
        index: u32,
        /// Its name.
        device: String,
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
    /// Take note that nothing is left of the definitions that a network ran with before.
    SettleNetwork {
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
    /// Start the process by which dnsmasq reaches the host's name servers.
    StartRelay {
        /// The network.
        network: String,
        /// Its bridge.
        bridge: String,
    },
    /// End it.
    StopRelay {
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
            Self::SettleNetwork { network } => {
                write!(
                    f,
                    "note that nothing of network {network}'s earlier definition is left"
                )
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
            Self::StartRelay { network, .. } => write!(
                f,
                "start the relay between dnsmasq of network {network} and the host's name servers"
            ),
            Self::StopRelay { network, .. } => write!(f, "stop the relay of network {network}"),
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
