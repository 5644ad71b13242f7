//! The bridges that definitions ask for.

use std::net::IpAddr;

use netd_common::abi::Mode;
use serde::{Deserialize, Serialize};

use crate::link::{Link, Snapshot, effective_delay_ms};
use crate::model::{Family, ForwardMode, Mac, Network};
use crate::services::{self, host_mac, namespace};

/// Both families, for what is done for each.
pub const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Kernel's MTU of a bridge without ports.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// Metric of a `<route>` that names none.
const DEFAULT_METRIC: u32 = 1;

/// The mode of a network for one family; `None` for one whose bridge is not netd's.
pub(super) fn mode(network: &Network, family: Family) -> Option<Mode> {
    match network.mode_for(family) {
        ForwardMode::None => Some(Mode::Isolated),
        ForwardMode::Nat => Some(Mode::Nat),
        ForwardMode::Route => Some(Mode::Route),
        ForwardMode::Open => Some(Mode::Open),
        _ => None,
    }
}

/// The bridge of one managed network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Device name.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU; `None` leaves it to the kernel, which follows the ports.
    pub mtu: Option<u32>,
    /// Spanning tree protocol.
    pub stp: bool,
    /// Forward delay as defined, in milliseconds.
    pub delay_ms: u32,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Ways to subnets behind guests.
    pub routes: Vec<RouteSpec>,
}

/// The way to a subnet behind a guest (`<route>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteSpec {
    /// The subnet, with its prefix length.
    pub destination: (IpAddr, u8),
    /// The guest.
    pub gateway: IpAddr,
    /// What the way costs.
    pub metric: u32,
}

impl BridgeSpec {
    /// Is this device the network's bridge, and not one that happens to have its name? It has the
    /// MAC address of the definition, or it is the one that was made for it (`known`).
    #[must_use]
    pub fn is(&self, link: &Link, known: Option<u32>) -> bool {
        link.bridge.is_some() && (link.mac == Some(self.mac) || Some(link.index) == known)
    }

    /// Is it to have an IPv6 address?
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|(address, _)| address.is_ipv6())
    }

    /// Do guests' ports forward at once (`stp='on' delay='0'`)?
    #[must_use]
    pub fn has_edge_ports(&self) -> bool {
        self.stp && self.delay_ms == 0
    }

    /// The forward delay the kernel will show.
    #[must_use]
    pub fn effective_delay_ms(&self) -> u32 {
        effective_delay_ms(self.stp, self.delay_ms)
    }
}

/// The bridge a definition asks for; `None` for a network whose bridge is not netd's, or one
/// without bridge name or MAC address, which it gets when it is defined.
#[must_use]
pub fn bridge_spec(network: &Network) -> Option<BridgeSpec> {
    if !network.is_managed() {
        return None;
    }
    Some(BridgeSpec {
        name: network.bridge.name.clone()?,
        mac: network.mac?,
        mtu: network.mtu,
        stp: network.bridge.stp,
        delay_ms: network.bridge.delay.saturating_mul(1000),
        addresses: network
            .all_ips()
            .map(|ip| (ip.address, ip.prefix_len()))
            .collect(),
        routes: network
            .routes
            .iter()
            .map(|route| RouteSpec {
                destination: (route.address, route.prefix_len()),
                gateway: route.gateway,
                metric: route.metric.unwrap_or(DEFAULT_METRIC),
            })
            .collect(),
    })
}

/// The device that leads to the services of a bridge, where it is there.
#[must_use]
pub fn services_link<'a>(spec: &BridgeSpec, links: &'a Snapshot) -> Option<&'a Link> {
    let link = links.by_name(&services::host_end(&spec.name))?;
    let is_it = link.kind.as_deref() == Some("veth") && link.mac == Some(host_mac(spec.mac));
    (is_it && link.peer_netns.is_some()).then_some(link)
}

/// The bridge as its services are to see it.
#[must_use]
pub fn namespace_of(spec: &BridgeSpec, link: &Link) -> namespace::Bridge {
    let routes = spec.routes.iter();
    namespace::Bridge {
        name: spec.name.clone(),
        mac: spec.mac,
        mtu: spec.mtu.unwrap_or(link.mtu),
        addresses: spec.addresses.clone(),
        routes: routes
            .map(|route| (route.destination, route.gateway))
            .collect(),
    }
}
