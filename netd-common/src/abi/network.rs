//! The managed networks and the devices beside them: `networks`, `subnets4`, `pools4`, `devices` and
//! those of IPv6.

use super::address::{Addr4, Addr6, MacAddr, Port};

/// Forward mode of a network, as `networks` holds it for each family.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No `<forward>`: guests reach each other and the host.
    Isolated = 0,
    /// Behind the host's address.
    Nat = 1,
    /// With their own addresses.
    Route = 2,
    /// netd has no say.
    Open = 3,
}

impl Mode {
    /// The mode a map's byte stands for; an unknown byte is the strictest mode.
    #[inline(always)]
    #[must_use]
    pub fn from_u8(byte: u8) -> Self {
        match byte {
            1 => Self::Nat,
            2 => Self::Route,
            3 => Self::Open,
            _ => Self::Isolated,
        }
    }
}

/// A network's settings for one family.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyConfig<A> {
    /// The bridge's own address, the guests' gateway; zero without one.
    pub gateway: A,
    /// First address to masquerade with (`<nat><address>`); zero: the host's own.
    pub first: A,
    /// Last one.
    pub last: A,
    /// [`Mode`].
    pub mode: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of `networks`, whose key is the bridge's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// IPv4.
    pub v4: FamilyConfig<Addr4>,
    /// IPv6.
    pub v6: FamilyConfig<Addr6>,
    /// Only device (ifindex) its traffic may be forwarded by; 0 for any.
    pub uplink_ifindex: u32,
    /// MAC address of the bridge.
    pub mac: MacAddr,
    /// MTU of the bridge in bytes.
    pub mtu: u16,
    /// First port to masquerade TCP, UDP and SCTP with (`<nat><port>`, host order); 0: 1024.
    pub first_port: u16,
    /// Last one; 0: 65535.
    pub last_port: u16,
    /// `NETWORK_*` bits.
    pub flags: u32,
    /// Device (ifindex) that leads to the network namespace of its services; 0 without one.
    pub services_ifindex: u32,
    /// The host's number of that namespace (RTM_GETNSID).
    pub services_netns: u32,
    /// Device (ifindex) in whose queue what its guests send waits for its turn; 0 where it does not.
    pub shaper_ifindex: u32,
    /// The port of the host's loopback address by which its own programs ask the services for names;
    /// 0 for none.
    pub resolver_port: Port,
    /// Zero.
    pub pad: [u8; 2],
}

/// One outside port for all of a guest port's peers (RFC 4787, REQ-1).
pub const NETWORK_ENDPOINT_INDEPENDENT: u32 = 1;
/// Any peer may send to a mapping (RFC 4787, REQ-8 a).
pub const NETWORK_FILTER_NONE: u32 = 2;
/// Any port of a peer that the guest has sent to may (REQ-8 b).
pub const NETWORK_FILTER_ADDRESS: u32 = 4;
/// Of the host itself its guests reach DHCP, DNS, TFTP and ICMP alone.
pub const NETWORK_HOST_SERVICES: u32 = 8;
/// Of the host itself its guests reach nothing.
pub const NETWORK_HOST_NONE: u32 = 16;
/// Its ports are isolated from each other (`<port isolated>`).
pub const NETWORK_PORTS_ISOLATED: u32 = 32;
/// Its ports are guarded: leases are to be remembered.
pub const NETWORK_GUARDED: u32 = 64;
/// Its services answer questions for names.
pub const NETWORK_DNS: u32 = 128;
/// They give addresses (DHCP, DHCPv6).
pub const NETWORK_DHCP: u32 = 256;
/// They send files (TFTP).
pub const NETWORK_TFTP: u32 = 512;
/// What the host's own rules refuse does not pass (`<netd:host firewall='respect'>`).
pub const NETWORK_RESPECT: u32 = 1024;
/// It was routed before it came to be translated: what was opened then goes on as it began.
pub const NETWORK_WAS_ROUTED: u32 = 2048;
/// The host has routes to others by way of its bridge, which its definition does not name.
pub const NETWORK_ROUTES_BEHIND: u32 = 4096;

/// What its guests send from a prefix of `prefixes6` leaves with the other one.
pub const NETWORK_PREFIX: u32 = 8192;

/// Value of `subnets4`, `subnets6` (guests' prefixes) and `pools4`, `pools6` (prefixes of address
/// ranges to masquerade with), which are LPM tries on the address.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// ifindex of the bridge of the network it belongs to.
    pub bridge_ifindex: u32,
}

/// Key of `route_mtus`, an LPM trie: IPv4 routes that hold packets to less than their device takes. The
/// value is the largest packet in bytes (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Device (ifindex) that they lead to.
    pub ifindex: u32,
    /// Destination.
    pub destination: Addr4,
}

impl RouteKey {
    /// Bits before the destination: the prefix length of a default route.
    pub const DEFAULT: u32 = 32;
}

/// Value of `devices`, whose key is an ifindex (u32): every device guests' traffic may leave by.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// IPv4 address to masquerade with; zero when the device has none.
    pub address: Addr4,
    /// The same for IPv6.
    pub address6: Addr6,
    /// `DEVICE_*` bits.
    pub flags: u32,
    /// Its MAC address; zero when it has none.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u16,
}

/// Frames of this device have an Ethernet header.
pub const DEVICE_ETHERNET: u32 = 1;
/// Somebody's filters of traffic control hang at its ingress.
pub const DEVICE_FILTERED: u32 = 2;
/// The host's rules, and its connection tracking, see frames of this device before netd does: it is a bridge, and
/// br_netfilter has its rules see what is bridged.
pub const DEVICE_BRIDGED_RULES: u32 = 4;
