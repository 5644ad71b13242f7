//! What the maps are to hold: records that follow from definitions, leases, and the kernel's links and
//! addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_common::abi::{
    Addr4, Addr6, Binding, BindingKey, BridgePort, CONTROL_FORWARDS, CONTROL_MAPPINGS,
    CONTROL_WHOLE_ADDRESSES, Device, Forward, ForwardKey, NETWORK_ENDPOINT_INDEPENDENT, Network,
};

use super::ports::Ports;
use crate::model::network_address;

/// The records that follow from definitions and from the kernel's links and addresses. Applying
/// them makes the maps hold exactly these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// `networks` by ifindex of the bridge.
    pub networks: BTreeMap<u32, Network>,
    /// `ports` by ifindex.
    pub ports: BTreeMap<u32, BridgePort>,
    /// `devices` by ifindex.
    pub devices: BTreeMap<u32, Device>,
    /// `xdp_targets`: devices by ifindex.
    pub express: BTreeSet<u32>,
    /// What is by IPv4 address.
    pub v4: FamilyRecords<Addr4>,
    /// What is by IPv6 address.
    pub v6: FamilyRecords<Addr6>,
}

impl Records {
    /// The bridge whose guests' subnet has the address.
    #[must_use]
    pub fn bridge_of(&self, address: IpAddr) -> Option<u32> {
        let within = |subnet: IpAddr, len: u8| network_address(address, len) == subnet;
        let v4 = self.v4.subnets.iter();
        let v4 = v4.map(|(&(subnet, len), &bridge)| (IpAddr::from(subnet), len, bridge));
        let v6 = self.v6.subnets.iter();
        let v6 = v6.map(|(&(subnet, len), &bridge)| (IpAddr::from(subnet), len, bridge));
        v4.chain(v6)
            .find(|&(subnet, len, _)| within(subnet, len))
            .map(|(_, _, bridge)| bridge)
    }

    /// `CONTROL_*` bits that follow from the networks and forwards.
    pub(super) fn flags(&self) -> u32 {
        let independent = |network: &Network| network.flags & NETWORK_ENDPOINT_INDEPENDENT != 0;
        let mut flags = self.v4.forward_flags() | self.v6.forward_flags();
        if self.networks.values().any(independent) {
            flags |= CONTROL_MAPPINGS;
        }
        flags
    }

    /// Is anything published?
    #[must_use]
    pub fn has_forwards(&self) -> bool {
        self.flags() & (CONTROL_FORWARDS | CONTROL_WHOLE_ADDRESSES) != 0
    }
}

/// Records by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyRecords<A> {
    /// `addresses4`, `addresses6`: the host's own, with the device that has them.
    pub addresses: BTreeMap<A, u32>,
    /// `subnets4`, `subnets6`: address, prefix length, bridge.
    pub subnets: BTreeMap<(A, u8), u32>,
    /// `pools4`, `pools6`: prefixes that ranges to masquerade with are made of, likewise.
    pub pools: BTreeMap<(A, u8), u32>,
    /// `forwards4`, `forwards6`: key, prefix length, where to.
    pub forwards: BTreeMap<(ForwardKey<A>, u32), Forward<A>>,
    /// `bindings4`, `bindings6`: whose addresses are, where ports are guarded.
    pub bindings: BTreeMap<BindingKey<A>, Binding>,
}

impl<A> FamilyRecords<A> {
    /// `CONTROL_*` bits that follow from what is published.
    fn forward_flags(&self) -> u32 {
        self.forwards.keys().fold(0, |flags, (key, _)| {
            flags
                | match key.proto {
                    0 => CONTROL_WHOLE_ADDRESSES,
                    _ => CONTROL_FORWARDS,
                }
        })
    }

    /// Add the ports that are published.
    pub(super) fn publish(&self, ports: &mut Ports) {
        for (key, len) in self.forwards.keys().filter(|(key, _)| key.proto != 0) {
            let first = u16::from_be_bytes(key.port);
            // Bits of the port that the entry leaves open.
            let open = ForwardKey::<A>::BITS.saturating_sub(*len).min(16);
            let others = ((1u32 << open) - 1) as u16;
            ports.insert(first, first | others);
        }
    }
}
