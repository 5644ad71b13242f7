//! Guests and their ports: `ports`, `identities`, `bindings4`, `endpoints4` and those of IPv6.

use super::address::MacAddr;

/// Value of `ports`, whose key is the port's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// ifindex of the bridge it belongs to.
    pub bridge: u32,
    /// `PORT_*` bits.
    pub flags: u32,
    /// The guest's MAC address, where it is known; else zero.
    pub mac: MacAddr,
    /// Zero.
    pub zero: [u8; 2],
}

/// It is isolated: guests at other isolated ports of its bridge are out of its reach.
pub const PORT_ISOLATED: u32 = 1;
/// Frames carry the port's own MAC address.
pub const PORT_GUARD_MAC: u32 = 2;
/// Packets carry an address of the guest's own, and nothing else comes than IP and ARP.
pub const PORT_GUARD_IP: u32 = 4;
/// ARP speaks of the guest alone.
pub const PORT_GUARD_ARP: u32 = 8;
/// Neighbour advertisements speak of the guest alone.
pub const PORT_GUARD_ND: u32 = 16;
/// The guest is no DHCP server and no router.
pub const PORT_GUARD_DHCP: u32 = 32;
/// Any of them.
pub const PORT_GUARD: u32 =
    PORT_GUARD_MAC | PORT_GUARD_IP | PORT_GUARD_ARP | PORT_GUARD_ND | PORT_GUARD_DHCP;

/// Value of `identities`, whose key is a guarded port's ifindex (u32): who was first seen there.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its MAC address.
    pub mac: MacAddr,
    /// IPv6 addresses that it has claimed.
    pub claims: u16,
}

/// IPv6 addresses that the guest at one port may claim.
pub const MAX_CLAIMS: u16 = 64;

/// Key of `bindings4` and `bindings6`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindingKey<A> {
    /// Bridge (ifindex) of the network.
    pub bridge: u32,
    /// The address.
    pub address: A,
}

/// Value of `bindings4` and `bindings6`: whose an address is.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// MAC address of the guest.
    pub mac: MacAddr,
    /// `BINDING_*`.
    pub kind: u8,
    /// Zero.
    pub zero: u8,
}

/// By the definition, or by a lease that the agent knows.
pub const BINDING_KNOWN: u8 = 0;
/// By a lease that the programs saw.
pub const BINDING_LEASED: u8 = 1;
/// By use.
pub const BINDING_CLAIMED: u8 = 2;

/// Value of `endpoints4` and `endpoints6`, whose key is a guest's address: where its frames were
/// last seen.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Port, or bridge while the port is not known.
    pub ifindex: u32,
    /// [`crate::clock::tick`] of the last time.
    pub last_seen: u32,
    /// [`crate::clock::tick`] when a frame of the guest last went through the bridge, which so learns its port.
    pub bridged: u32,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// Zero.
    pub zero: [u8; 2],
}
