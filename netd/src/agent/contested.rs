//! Leases of fixed addresses that other guests are to have.

use std::net::Ipv4Addr;

use crate::model::Mac;

/// A lease that ends when its guest is gone, since another is to have the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contested {
    /// The network's bridge.
    pub bridge: String,
    /// Its DHCP server.
    pub server: Ipv4Addr,
    /// What is leased.
    pub address: Ipv4Addr,
    /// Who has it.
    pub holder: Mac,
}
