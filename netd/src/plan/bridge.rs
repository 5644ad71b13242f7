//! The steps of bridges.

use std::net::IpAddr;

use super::spec::{BridgeSpec, mtu_or_default};
use super::step::DeviceAct;
use crate::link::{Link, Snapshot};

/// A device has the name of a network's bridge and is not that bridge. It is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a device named {0} is in the way of the network's bridge of that name; rename or remove it"
)]
pub struct InTheWay(pub String);

/// The bridge, where it is there. `known` is its number when it was last seen.
///
/// # Errors
/// Another device has its name.
pub fn find_bridge<'a>(
    spec: &BridgeSpec,
    links: &'a Snapshot,
    known: Option<u32>,
) -> Result<Option<&'a Link>, InTheWay> {
    match links.by_name(&spec.name) {
        Some(link) if !spec.is(link, known) => Err(InTheWay(spec.name.clone())),
        link => Ok(link),
    }
}

/// What makes a bridge, or mends its attributes, and gives it its addresses.
#[must_use]
pub fn make(spec: &BridgeSpec, link: Option<&Link>, links: &Snapshot) -> Vec<DeviceAct> {
    let bridge = || spec.name.clone();
    let mut acts = match link {
        None => create(spec),
        Some(link) => mend(spec, link),
    };
    let present = |&&(address, prefix): &&(IpAddr, u8)| {
        link.is_some_and(|link| {
            links
                .addresses_of(link.index)
                .any(|a| a.address == address && a.prefix == prefix)
        })
    };
    let missing = spec.addresses.iter().filter(|a| !present(a));
    let missing: Vec<(IpAddr, u8)> = missing.copied().collect();
    // Who switches IPv6 off on a device takes its addresses, too.
    if link.is_some() && missing.iter().any(|(address, _)| address.is_ipv6()) {
        acts.push(DeviceAct::SetIpv6 {
            bridge: bridge(),
            on: true,
        });
    }
    acts.extend(
        missing
            .into_iter()
            .map(|(address, prefix)| DeviceAct::AddAddress {
                bridge: bridge(),
                address,
                prefix,
            }),
    );
    acts
}

fn create(spec: &BridgeSpec) -> Vec<DeviceAct> {
    vec![
        DeviceAct::CreateBridge {
            bridge: spec.name.clone(),
            mac: spec.mac,
            mtu: spec.mtu,
        },
        spanning_tree(spec),
        DeviceAct::SetIpv6 {
            bridge: spec.name.clone(),
            on: spec.has_ipv6(),
        },
    ]
}

fn spanning_tree(spec: &BridgeSpec) -> DeviceAct {
    DeviceAct::SetSpanningTree {
        bridge: spec.name.clone(),
        stp: spec.stp,
        delay_ms: spec.effective_delay_ms(),
    }
}

fn mend(spec: &BridgeSpec, link: &Link) -> Vec<DeviceAct> {
    let bridge = || spec.name.clone();
    let mut acts = Vec::new();
    let delay = spec.effective_delay_ms();
    let same = link
        .bridge
        .is_some_and(|attrs| attrs.stp == spec.stp && attrs.forward_delay_ms == delay);
    if !same {
        acts.push(spanning_tree(spec));
    }
    if spec.mtu.is_some() && link.mtu != mtu_or_default(spec) {
        acts.push(DeviceAct::SetMtu {
            bridge: bridge(),
            mtu: mtu_or_default(spec),
        });
    }
    if link.mac != Some(spec.mac) {
        acts.push(DeviceAct::SetMac {
            bridge: bridge(),
            mac: spec.mac,
        });
    }
    acts
}

/// What lets guests use a bridge that is guarded: it is switched on, and has its routes.
#[must_use]
pub fn open(spec: &BridgeSpec, link: &Link, links: &Snapshot) -> Vec<DeviceAct> {
    let bridge = || spec.name.clone();
    let mut acts = Vec::new();
    if !link.up {
        acts.push(DeviceAct::SetUp { bridge: bridge() });
    }
    for route in &spec.routes {
        let there = links.routes.iter().any(|present| {
            present.destination == route.destination
                && present.index == Some(link.index)
                && present.gateway == Some(route.gateway)
        });
        if !there {
            acts.push(DeviceAct::AddRoute {
                bridge: bridge(),
                route: *route,
            });
        }
    }
    acts
}
