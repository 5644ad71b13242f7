//! Guests and their ports: `ports`, `port_macs`, `bindings4`, `endpoints4` and those of IPv6.

use super::address::MacAddr;

/// Value of `ports`, whose key is the port's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// ifindex of the bridge it belongs to.
    pub bridge_ifindex: u32,
    /// `PORT_*` bits.
    pub flags: u32,
    /// The guest's MAC address, where it is known; else zero.
    pub mac: MacAddr,
    /// Zero.
    pub pad: [u8; 2],
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
/// The bridge holds the port to more than where frames go (closed by its state or locked, VLANs), or
/// somebody's filters of traffic control do at its ingress (a policer, say), so all that its guest sends and
/// gets goes by the bridge.
pub const PORT_BY_BRIDGE: u32 = 64;
/// What goes to its guest goes by the bridge, at which it waits for its turn.
pub const PORT_QUEUED: u32 = 256;
/// What goes to its guest goes by the bridge.
pub const PORT_GETS_BY_BRIDGE: u32 = PORT_BY_BRIDGE | PORT_QUEUED;
/// No guest's: it leads to the namespace of the network's services.
pub const PORT_SERVICES: u32 = 512;
/// No guest's: what waited for its turn in the queue of the network's comes back by it.
pub const PORT_SHAPER: u32 = 1024;
/// The host's rules would have their say between this guest and its siblings (br_netfilter), which it may
/// reach: what it sends them goes past.
pub const PORT_SIBLINGS: u32 = 128;
/// The number of netd's queues of traffic control ("nd"). A packet whose priority is the handle with this number
/// passes the queue at once.
pub const QUEUES: u32 = 0x6e64;
/// Any of the guards.
pub const PORT_GUARD: u32 =
    PORT_GUARD_MAC | PORT_GUARD_IP | PORT_GUARD_ARP | PORT_GUARD_ND | PORT_GUARD_DHCP;

/// Value of `port_macs`, whose key is a guarded port's ifindex (u32): who was first seen there.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortMac {
    /// Its MAC address.
    pub mac: MacAddr,
    /// IPv6 addresses that it has claimed.
    pub fcfs_addresses: u16,
}

/// IPv6 addresses that the guest at one port may claim.
pub const MAX_FCFS_ADDRESSES: u16 = 64;

/// Key of `bindings4` and `bindings6`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindingKey<A> {
    /// Bridge (ifindex) of the network.
    pub bridge_ifindex: u32,
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
    pub pad: u8,
}

/// By the definition, or by a lease that the agent knows.
pub const BINDING_STATIC: u8 = 0;
/// By a lease that the programs saw.
pub const BINDING_SNOOPED: u8 = 1;
/// By use.
pub const BINDING_FCFS: u8 = 2;

/// Key of `endpoints4` and `endpoints6`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey<A> {
    /// A guest's address.
    pub address: A,
    /// Its zone, as in [`super::FlowKey::zone`].
    pub zone: u16,
    /// Zero.
    pub pad: u16,
}

impl<A> EndpointKey<A> {
    /// The key of an address in the host's zone.
    #[inline(always)]
    #[must_use]
    pub fn new(address: A) -> Self {
        Self {
            address,
            zone: 0,
            pad: 0,
        }
    }
}

/// Value of `endpoints4` and `endpoints6`: where a guest's frames were last seen.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Port, or bridge while the port is not known.
    pub ifindex: u32,
    /// [`crate::clock::tick`] of the last time.
    pub last_seen: u32,
    /// [`crate::clock::tick`] when a frame of the guest last went through the bridge, which so learns its port.
    pub bridged_at: u32,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// Zero.
    pub pad: [u8; 2],
}
