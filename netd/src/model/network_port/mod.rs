//! A port of a network: what a guest's interface asks of it, and what the network gave
//! (`<networkport>`).
//!
//! Whoever runs the guest asks for a port before the guest starts and reads from it what to do: which
//! bridge to put the tap on, which limits to set. [`parse_port`] reads the XML, [`format_port`] prints
//! it; [`NetworkPort::allocate`] fills in what the network decides.

mod allocate;
mod format;
mod parse;
mod ports;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
mod virtual_port;

use uuid::Uuid;

use super::element::{
    Bandwidth, ForwardDriver, Mac, MacTableManager, MacvtapMode, PciAddress, VirtualPort, Vlan,
};
use super::error::XmlError;

pub use format::format_port;
pub use parse::{ParsedPort, parse_port};
pub use ports::{MAX_PORTS, NetworkPorts, TapOwner};

/// `<networkport>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPort {
    /// `<uuid>`, chosen by the client.
    pub uuid: Uuid,
    /// `<owner>`.
    pub owner: Owner,
    /// `<group>`: the `<portgroup>` asked for.
    pub group: Option<String>,
    /// `<mac address>` of the guest's interface.
    pub mac: Mac,
    /// `<virtualport>`.
    pub virtualport: Option<VirtualPort>,
    /// `<bandwidth>`.
    pub bandwidth: Option<Bandwidth>,
    /// `classID` of `<bandwidth>`: there once a floor was granted.
    pub class_id: Option<u32>,
    /// `<vlan>`.
    pub vlan: Option<Vlan>,
    /// `<port isolated>`.
    pub isolated: Option<bool>,
    /// `<rxfilters trustGuest>`.
    pub trust_guest_rx_filters: Option<bool>,
    /// `<plug>`: what the interface is connected to; nothing until the port was allocated.
    pub plug: Option<Plug>,
}

/// `<owner>`: the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `<name>`.
    pub name: String,
    /// `<uuid>`.
    pub uuid: Uuid,
}

/// `<plug>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plug {
    /// `type='network'`: a tap on the network's own bridge.
    Network(BridgePlug),
    /// `type='bridge'`: a tap on a bridge of the host.
    Bridge(BridgePlug),
    /// `type='direct'`: macvtap on a device of the host.
    Direct {
        /// `dev`.
        dev: String,
        /// `mode`.
        mode: MacvtapMode,
    },
    /// `type='hostdev-pci'`: a PCI device that is given to the guest.
    HostdevPci {
        /// `managed`.
        managed: Option<bool>,
        /// `<driver>`.
        driver: Option<ForwardDriver>,
        /// `<address>`.
        address: PciAddress,
    },
}

/// A bridge to put a tap on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePlug {
    /// `bridge`.
    pub bridge: String,
    /// `macTableManager`.
    pub mac_table_manager: Option<MacTableManager>,
}

/// Why a port was not made or changed, by libvirt's kinds of errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The text is not XML, or breaks a limit that keeps reading it cheap.
    #[error("the network port's XML cannot be read: {0}")]
    Malformed(String),
    /// The XML says something that is wrong or contradictory, or asks for what cannot be had.
    #[error(transparent)]
    Xml(XmlError),
    /// Something that every port has is missing, or the network has nothing to give.
    #[error("{0}")]
    Internal(String),
    /// The network gives no such guarantee.
    #[error("{0}")]
    Unsupported(String),
    /// The network has given away too much already.
    #[error("{0}")]
    Overcommitted(String),
}

impl From<XmlError> for PortError {
    fn from(error: XmlError) -> Self {
        match error {
            XmlError::Malformed(detail) => Self::Malformed(detail),
            other => Self::Xml(other),
        }
    }
}
