//! What a definition gives the bridge of its network, so that it is taken away again when another
//! definition has none of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_common::abi::Mode;
use serde::{Deserialize, Serialize};

use super::spec::{FAMILIES, RouteSpec, bridge_spec, mode};
use crate::model::{MacTableManager, Network};

/// What one definition gives, or several did, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Given {
    /// Addresses of the bridge, with prefix lengths.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// Ways to subnets behind guests.
    pub routes: BTreeSet<RouteSpec>,
    /// The MTU, where one is defined.
    pub mtus: BTreeSet<Option<u32>>,
    /// The first address of each family, at which the host asks for names.
    pub gateways: BTreeSet<IpAddr>,
    /// Guests' ports are isolated.
    pub isolates: bool,
    /// The bridge's table of MAC addresses is managed.
    pub manages_table: bool,
    /// Guests reach outside with their own addresses, by family.
    pub routed: [bool; 2],
    /// They do so with translated ones, by family.
    pub translated: [bool; 2],
}

impl Given {
    /// What a definition gives; nothing where the bridge is not netd's.
    #[must_use]
    pub fn by(network: &Network) -> Self {
        let Some(spec) = bridge_spec(network) else {
            return Self::default();
        };
        let in_mode = |wanted| {
            FAMILIES.map(|family| network.has(family) && mode(network, family) == Some(wanted))
        };
        Self {
            addresses: spec.addresses.iter().copied().collect(),
            routes: spec.routes.iter().copied().collect(),
            mtus: BTreeSet::from([spec.mtu]),
            gateways: gateways(network).into_iter().collect(),
            isolates: network.port_isolated == Some(true),
            manages_table: network.bridge.mac_table_manager == Some(MacTableManager::Libvirt),
            routed: in_mode(Mode::Route),
            translated: in_mode(Mode::Nat),
        }
    }

    /// This and what another one gives.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.addresses.extend(&other.addresses);
        self.routes.extend(&other.routes);
        self.mtus.extend(&other.mtus);
        self.gateways.extend(&other.gateways);
        self.isolates |= other.isolates;
        self.manages_table |= other.manages_table;
        for family in 0..2 {
            self.routed[family] |= other.routed[family];
            self.translated[family] |= other.translated[family];
        }
        self
    }

    /// Is the namespace of the network's services the same with it?
    #[must_use]
    pub fn furnishes_as(&self, other: &Self) -> bool {
        (&self.addresses, &self.routes, &self.mtus)
            == (&other.addresses, &other.routes, &other.mtus)
    }
}

/// The first address of each family, in the definition's order.
#[must_use]
pub fn gateways(network: &Network) -> Vec<IpAddr> {
    let first = |v4: bool| {
        let mut addresses = network.all_ips().map(|ip| ip.address);
        addresses.find(|address| address.is_ipv4() == v4)
    };
    [first(true), first(false)].into_iter().flatten().collect()
}
