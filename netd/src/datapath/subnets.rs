//! Whose an address is, as the records have it.

use std::net::IpAddr;

use super::records::Records;
use crate::model::network_address;

impl Records {
    /// The bridge whose guests' subnet has the address.
    #[must_use]
    pub fn bridge_of(&self, address: IpAddr) -> Option<u32> {
        let within = |subnet: IpAddr, len: u8| network_address(address, len) == subnet;
        self.subnets()
            .find(|&(subnet, len, _)| within(subnet, len))
            .map(|(_, _, bridge)| bridge)
    }

    /// Has the bridge's network a subnet that holds all of the prefix?
    #[must_use]
    pub fn has_subnet(&self, address: IpAddr, len: u8, bridge: u32) -> bool {
        let holds = |(subnet, own, of): (IpAddr, u8, u32)| {
            of == bridge && own <= len && network_address(address, own) == subnet
        };
        self.subnets().any(holds)
    }

    /// Guests' prefixes, and the bridges that they are behind.
    fn subnets(&self) -> impl Iterator<Item = (IpAddr, u8, u32)> {
        let v4 = self.v4.subnets.iter();
        let v4 = v4.map(|(&(subnet, len), &bridge)| (IpAddr::from(subnet), len, bridge));
        let v6 = self.v6.subnets.iter();
        let v6 = v6.map(|(&(subnet, len), &bridge)| (IpAddr::from(subnet), len, bridge));
        v4.chain(v6)
    }
}
