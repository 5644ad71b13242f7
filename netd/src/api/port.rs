//! Ports of networks as clients name and see them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A port of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortId {
    /// UUID of the network.
    pub network: Uuid,
    /// UUID of the port.
    pub port: Uuid,
}

/// What a port is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortPurpose {
    /// A guest is to be connected: the network says to what.
    Plug,
    /// A guest is connected, and the network lost its port: the XML says to what.
    Reclaim,
}

/// A port of a network's bridge, and who is behind it. Its fields are documented in
/// docs/reference/json.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPort {
    /// Its network.
    pub network: String,
    /// Its bridge.
    pub bridge: String,
    /// Its device.
    pub device: String,
    /// The device's number.
    pub ifindex: u32,
    /// Why it carries no frames: "down", "no carrier", "listening", "learning", "blocking", "disabled";
    /// or that it does: "forwarding".
    pub link: String,
    /// Is it kept from other isolated ports of its bridge?
    pub isolated: bool,
    /// Who is behind it; who is expected there first.
    pub guests: Vec<PortGuest>,
    /// What they have sent.
    pub sent: Carried,
    /// What was sent to them.
    pub received: Carried,
    /// Packets of theirs among the latest that netd dropped.
    pub recent_drops: u32,
}

/// Somebody at a [`GuestPort`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortGuest {
    /// The MAC address.
    pub mac: String,
    /// The domain whose interface has it, where libvirt told.
    pub domain: Option<String>,
    /// The name in its lease, or in its entry in the network's definition.
    pub hostname: Option<String>,
    /// Its addresses.
    pub addresses: Vec<PortAddress>,
}

/// An address of a [`PortGuest`]; one that is neither leased nor seen is reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAddress {
    /// The address.
    pub address: IpAddr,
    /// The end of its lease in seconds since the epoch, 0 for never; null without one.
    pub lease: Option<i64>,
    /// Seconds since netd last saw the guest use it towards others than its own network; null where it
    /// never did.
    pub seen: Option<u32>,
}

/// Packets in one direction, as the device counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that the device or its queue dropped.
    pub dropped: u64,
}
