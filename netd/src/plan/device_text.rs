//! What is done to devices, as an administrator reads it in a plan.

use std::collections::BTreeSet;
use std::fmt;

use super::spec::RouteSpec;
use super::step::DeviceAct;
use crate::link::sysctl;
use crate::model::Family;
use crate::services;
use crate::shaping::{Shape, shaper};

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn make_namespace(f: &mut fmt::Formatter<'_>, bridge: &str) -> fmt::Result {
    let device = services::host_end(bridge);
    write!(
        f,
        "make the network namespace of {bridge}'s services, with device {device}"
    )
}

fn add_route(f: &mut fmt::Formatter<'_>, bridge: &str, route: &RouteSpec) -> fmt::Result {
    let (subnet, prefix) = route.destination;
    let RouteSpec {
        gateway, metric, ..
    } = route;
    write!(
        f,
        "add route to {subnet}/{prefix} via {gateway} on {bridge}, metric {metric}"
    )
}

fn hold_to_rates(f: &mut fmt::Formatter<'_>, device: &str, shape: &Shape) -> fmt::Result {
    match shape.rate() / 1000 {
        0 => write!(f, "give {device} a queue, without a rate")?,
        rate => write!(f, "hold what {device} sends to {rate} kB/s")?,
    }
    match shape.guests.len() {
        0 => Ok(()),
        1 => write!(f, ", with a floor for 1 guest"),
        guests => write!(f, ", with floors for {guests} guests"),
    }
}

fn leave_to_netd(f: &mut fmt::Formatter<'_>, devices: &BTreeSet<String>) -> fmt::Result {
    if devices.is_empty() {
        return write!(f, "let systemd-networkd manage every device again");
    }
    let names: Vec<&str> = devices.iter().map(String::as_str).collect();
    write!(f, "have systemd-networkd leave {} alone", names.join(", "))
}

fn enable_forwarding(f: &mut fmt::Formatter<'_>, family: Family, others: &[String]) -> fmt::Result {
    write!(f, "set {} to 1", sysctl::forwarding_name(family))?;
    if others.is_empty() {
        return Ok(());
    }
    write!(
        f,
        "; the host then forwards between {}, too, as far as its firewall lets it",
        others.join(", ")
    )
}

impl fmt::Display for DeviceAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteBridge { bridge, .. } => write!(f, "delete bridge {bridge}"),
            Self::MakeNamespace(bridge) => make_namespace(f, &bridge.name),
            Self::FurnishNamespace(bridge) => write!(
                f,
                "set addresses, routes and MTU of {}'s services",
                bridge.name
            ),
            Self::RemoveNamespace { bridge, .. } => {
                write!(f, "remove the network namespace of {bridge}'s services")
            }
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
            Self::FilterVlans { bridge, on } => {
                write!(f, "switch VLAN filtering {} on {bridge}", switch(*on))
            }
            Self::ManageTable { port, mac, on, .. } => match on {
                true => write!(
                    f,
                    "expect {mac} alone at port {port}, without learning or flooding"
                ),
                false => write!(f, "learn who is at port {port} again"),
            },
            Self::SetIpv6 { bridge, on } => write!(f, "switch IPv6 {} on {bridge}", switch(*on)),
            Self::AddAddress {
                bridge,
                address,
                prefix,
            } => write!(f, "add address {address}/{prefix} to {bridge}"),
            Self::RemoveAddress {
                bridge,
                address,
                prefix,
            } => write!(f, "remove address {address}/{prefix} from {bridge}"),
            Self::RemoveRoute { bridge, route } => {
                let (subnet, prefix) = route.destination;
                let gateway = route.gateway;
                write!(
                    f,
                    "remove route to {subnet}/{prefix} via {gateway} on {bridge}"
                )
            }
            Self::SetUp { bridge } => write!(f, "switch {bridge} on"),
            Self::AddRoute { bridge, route } => add_route(f, bridge, route),
            Self::LeaveToNetd(devices) => leave_to_netd(f, devices),
            Self::Enslave { port, bridge } => write!(f, "make {port} a port of {bridge} again"),
            Self::AddConnectedRoute {
                bridge,
                address,
                prefix,
            } => write!(
                f,
                "add the route to the subnet of {address}/{prefix} on {bridge}"
            ),
            other => fmt_ports_and_host(other, f),
        }
    }
}

/// What is done to ports, and to the host as a whole.
fn fmt_ports_and_host(act: &DeviceAct, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match act {
        DeviceAct::EnableForwarding { family, others } => enable_forwarding(f, *family, others),
        DeviceAct::ForwardFrom { bridge, family } => {
            let name = sysctl::device_forwarding_name(*family, bridge);
            write!(f, "set {name} to 1")
        }
        DeviceAct::ListenToRouters { device, on, .. } => {
            let (back, value) = if *on { ("", 2) } else { ("back ", 1) };
            write!(f, "set net.ipv6.conf.{device}.accept_ra {back}to {value}")
        }
        DeviceAct::RestoreForwarding(family, was) => {
            let name = sysctl::forwarding_name(*family);
            write!(f, "set {name} back to {}", u8::from(*was))
        }
        DeviceAct::ForwardPorts { bridge, ports, .. } => {
            let many = if ports.len() == 1 { "port" } else { "ports" };
            write!(f, "let {} waiting {many} of {bridge} forward", ports.len())
        }
        DeviceAct::IsolatePort { port, on, .. } => match on {
            true => write!(f, "isolate port {port}"),
            false => write!(f, "let other isolated ports reach port {port}"),
        },
        DeviceAct::MakeShaper { bridge, .. } => {
            let [out, _] = shaper::names(bridge);
            write!(f, "make {out}, where what guests of {bridge} send waits")
        }
        DeviceAct::RemoveShaper { bridge, .. } => {
            let [out, _] = shaper::names(bridge);
            write!(f, "remove {out}")
        }
        DeviceAct::Shape { device, shape, .. } => hold_to_rates(f, device, shape),
        DeviceAct::Unshape { device, .. } => write!(f, "remove the queue of {device}"),
        DeviceAct::ProxyNeighbour {
            device,
            address,
            on,
            ..
        } => {
            let verb = if *on { "listen" } else { "stop listening" };
            write!(f, "{verb} on {device} for solicitations for {address}")
        }
        // These stand above.
        _ => Ok(()),
    }
}
