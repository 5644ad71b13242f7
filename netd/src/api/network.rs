//! Networks as clients name, see and change them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{ForwardAction, PortForward};

/// What clients are told about one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Current name.
    pub name: String,
    /// UUID, which identifies the network in every call.
    pub uuid: Uuid,
    /// Is it running?
    pub active: bool,
    /// Does a definition on disk exist?
    pub persistent: bool,
    /// Does it start with the agent?
    pub autostart: bool,
    /// Name of its bridge, when it has one.
    pub bridge: Option<String>,
}

/// One DHCP lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The bridge.
    pub interface: String,
    /// End of the lease in seconds since the epoch; 0 never ends.
    pub expiry: i64,
    /// MAC address as dnsmasq wrote it.
    pub mac: Option<String>,
    /// IAID (DHCPv6).
    pub iaid: Option<String>,
    /// Leased address.
    pub ip: IpAddr,
    /// Prefix length of the network's subnet of that family; 0 when unknown.
    pub prefix: u32,
    /// Host name, when the guest sent or was given one.
    pub hostname: Option<String>,
    /// Client identifier (IPv4) or DUID (IPv6).
    pub client_id: Option<String>,
}

/// Which definitions of a network a call is about. Neither means the live one where there is one,
/// else the stored one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affect {
    /// What runs.
    pub live: bool,
    /// The definition of the next start.
    pub config: bool,
}

/// A piece of a definition that `net-desc` and `net-metadata` are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// `<description>`.
    Description,
    /// `<title>`.
    Title,
    /// The element of this namespace under `<metadata>`.
    Element(String),
}

/// What a piece of metadata is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMetadata {
    /// The new text, or the element as XML; nothing removes it.
    pub text: Option<String>,
    /// Prefix for the namespace of an element.
    pub key: Option<String>,
}

/// The port forwards of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkForwards {
    /// Name of the network.
    pub network: String,
    /// Those that are in force, when it is active.
    pub live: Option<Vec<PortForward>>,
    /// Those of the next start, when it is defined.
    pub config: Option<Vec<PortForward>>,
}

/// A change of a network's port forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardChange {
    /// Name of the network.
    pub network: String,
    /// Which definitions change.
    pub affect: Affect,
    /// What to do.
    pub action: ForwardAction,
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The definitions that were changed.
    pub affect: Affect,
    /// What the user should know all the same, a sentence each.
    pub warnings: Vec<String>,
}

/// What came of reading the definitions again, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What is in effect now.
    pub done: Vec<String>,
    /// What stayed as it was, and why.
    pub failed: Vec<String>,
}

/// What an active network does about a changed definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What is to be done, a line each, where that alone was asked for.
    pub steps: Vec<String>,
    /// What its administrator should know.
    pub warnings: Vec<String>,
    /// It ran with its definition before.
    pub same: bool,
}
