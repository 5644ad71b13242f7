//! The steps between what is and what should be.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::desired::{BridgeSpec, RouteSpec, mtu_or_default};
use crate::datapath::{Attachment, Hook};
use crate::link::{Snapshot, sysctl};
use crate::model::{Family, Mac};

/// One change to the host. Devices are named, since a bridge has no number before it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create a bridge, switched off.
    CreateBridge {
        /// Its name.
        name: String,
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
    /// Attach a program.
    Attach {
        /// The device.
        device: String,
        /// Its hook.
        hook: Hook,
    },
    /// Detach a program.
    Detach {
        /// The device, or its number where it has gone.
        device: String,
        /// Its hook.
        hook: Hook,
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
    /// Let the host forward packets of a family.
    EnableForwarding(Family),
    /// Start dnsmasq.
    StartDnsmasq {
        /// The network.
        network: String,
        /// Its bridge.
        bridge: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge {
                name,
                mac,
                mtu: Some(mtu),
            } => {
                write!(
                    f,
                    "create bridge {name} with MAC address {mac} and MTU {mtu}"
                )
            }
            Self::CreateBridge {
                name,
                mac,
                mtu: None,
            } => {
                write!(f, "create bridge {name} with MAC address {mac}")
            }
            Self::SetSpanningTree {
                bridge,
                stp,
                delay_ms,
            } => {
                let stp = if *stp { "on" } else { "off" };
                write!(
                    f,
                    "set STP {stp} and forward delay {delay_ms} ms on {bridge}"
                )
            }
            Self::SetMtu { bridge, mtu } => write!(f, "set MTU {mtu} on {bridge}"),
            Self::SetMac { bridge, mac } => write!(f, "set MAC address {mac} on {bridge}"),
            Self::SetIpv6 { bridge, on } => {
                write!(
                    f,
                    "switch IPv6 {} on {bridge}",
                    if *on { "on" } else { "off" }
                )
            }
            Self::AddAddress {
                bridge,
                address,
                prefix,
            } => {
                write!(f, "add address {address}/{prefix} to {bridge}")
            }
            Self::Attach { device, hook } => {
                write!(f, "attach program {} to {device}", hook.program())
            }
            Self::Detach { device, hook } => {
                write!(f, "detach program {} from {device}", hook.program())
            }
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
            Self::StartDnsmasq { network, bridge } => {
                write!(f, "start dnsmasq of network {network} on {bridge}")
            }
        }
    }
}

/// A device has the name of a network's bridge and is not that bridge. It is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a device named {0} is in the way of the network's bridge of that name; rename or remove it"
)]
pub struct InTheWay(pub String);

/// Steps that make the bridge what `spec` says, in two parts: before and after the programs are
/// attached, so that no guest sends a packet before its network's policy is in force.
///
/// `known` is the bridge's number when it was last seen; `remembered` are the ports (number and name) the bridge had when it was last seen: they are
/// given back to a bridge that has to be made anew, unless something else has taken them.
///
/// # Errors
/// Another device has the bridge's name.
pub fn plan_bridge(
    spec: &BridgeSpec,
    snapshot: &Snapshot,
    known: Option<u32>,
    remembered: &[(u32, String)],
) -> Result<(Vec<Step>, Vec<Step>), InTheWay> {
    let bridge = spec.name.clone();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let link = snapshot.by_name(&spec.name);
    if link.is_some_and(|link| !spec.is(link, known)) {
        return Err(InTheWay(bridge));
    }
    let delay = spec.effective_delay_ms();
    match link {
        None => {
            before.push(Step::CreateBridge {
                name: bridge.clone(),
                mac: spec.mac,
                mtu: spec.mtu,
            });
            before.push(Step::SetSpanningTree {
                bridge: bridge.clone(),
                stp: spec.stp,
                delay_ms: delay,
            });
            before.push(Step::SetIpv6 {
                bridge: bridge.clone(),
                on: spec.has_ipv6(),
            });
        }
        Some(link) => {
            let same = link
                .bridge
                .is_some_and(|attrs| attrs.stp == spec.stp && attrs.forward_delay_ms == delay);
            if !same {
                before.push(Step::SetSpanningTree {
                    bridge: bridge.clone(),
                    stp: spec.stp,
                    delay_ms: delay,
                });
            }
            if spec.mtu.is_some() && link.mtu != mtu_or_default(spec) {
                before.push(Step::SetMtu {
                    bridge: bridge.clone(),
                    mtu: mtu_or_default(spec),
                });
            }
            if link.mac != Some(spec.mac) {
                before.push(Step::SetMac {
                    bridge: bridge.clone(),
                    mac: spec.mac,
                });
            }
        }
    }
    let present = |&&(address, prefix): &&(IpAddr, u8)| {
        link.is_some_and(|link| {
            snapshot
                .addresses_of(link.index)
                .any(|a| a.address == address && a.prefix == prefix)
        })
    };
    let missing: Vec<(IpAddr, u8)> = spec
        .addresses
        .iter()
        .filter(|a| !present(a))
        .copied()
        .collect();
    // Who switches IPv6 off on a device takes its addresses, too.
    if link.is_some() && missing.iter().any(|(address, _)| address.is_ipv6()) {
        before.push(Step::SetIpv6 {
            bridge: bridge.clone(),
            on: true,
        });
    }
    for (address, prefix) in missing {
        before.push(Step::AddAddress {
            bridge: bridge.clone(),
            address,
            prefix,
        });
    }
    if !link.is_some_and(|link| link.up) {
        after.push(Step::SetUp {
            bridge: bridge.clone(),
        });
    }
    for route in &spec.routes {
        let there = link.is_some_and(|link| {
            snapshot.routes.iter().any(|present| {
                present.destination == route.destination
                    && present.index == Some(link.index)
                    && present.gateway == Some(route.gateway)
            })
        });
        if !there {
            after.push(Step::AddRoute {
                bridge: bridge.clone(),
                route: *route,
            });
        }
    }
    if link.is_none() {
        let free = |(index, name): &&(u32, String)| {
            snapshot
                .links
                .get(index)
                .is_some_and(|link| link.name == *name && link.controller.is_none())
        };
        for (_, port) in remembered.iter().filter(free) {
            after.push(Step::Enslave {
                port: port.clone(),
                bridge: bridge.clone(),
            });
        }
    }
    Ok((before, after))
}

/// Steps from the programs that are attached to those that should be.
#[must_use]
pub fn plan_hooks(
    wanted: &BTreeSet<Attachment>,
    attached: &BTreeSet<Attachment>,
    snapshot: &Snapshot,
) -> Vec<Step> {
    let name = |ifindex: u32| {
        snapshot
            .links
            .get(&ifindex)
            .map_or_else(|| ifindex.to_string(), |l| l.name.clone())
    };
    let attach = wanted.difference(attached).map(|a| Step::Attach {
        device: name(a.ifindex),
        hook: a.hook,
    });
    let detach = attached.difference(wanted).map(|a| Step::Detach {
        device: name(a.ifindex),
        hook: a.hook,
    });
    attach.chain(detach).collect()
}
