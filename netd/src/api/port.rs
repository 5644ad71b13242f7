//! Ports of networks as clients name them.

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
