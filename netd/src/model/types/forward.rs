//! `<forward>`: how packets leave the network.

use std::net::Ipv4Addr;

/// `<forward mode>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForwardMode {
    /// `mode='none'` is the same as no `<forward>`.
    None,
    /// Guests reach the outside behind the host's address.
    #[default]
    Nat,
    /// Guests are routed with their own addresses.
    Route,
    /// The host's own firewall decides; netd adds no policy.
    Open,
    /// The host's own bridge, or macvtap in bridge mode.
    Bridge,
    /// macvtap private.
    Private,
    /// macvtap VEPA.
    Vepa,
    /// macvtap passthrough.
    Passthrough,
    /// PCI devices assigned to guests.
    Hostdev,
}

/// `<forward>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// `mode`.
    pub mode: ForwardMode,
    /// `<interface dev>` list; a `dev` attribute is its first member.
    pub interfaces: Vec<String>,
    /// `<address type='pci'>` list.
    pub addresses: Vec<PciAddress>,
    /// `<pf dev>`.
    pub pf: Option<String>,
    /// `managed='yes'` (hostdev only).
    pub managed: bool,
    /// `<driver name model>` (hostdev only).
    pub driver: Option<ForwardDriver>,
    /// `<nat>`.
    pub nat: Option<Nat>,
}

/// `<driver>` of a hostdev pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardDriver {
    /// `name`: kvm, vfio or xen.
    pub name: Option<String>,
    /// `model`.
    pub model: Option<String>,
}

/// A PCI address of a virtual function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Slot.
    pub slot: u8,
    /// Function.
    pub function: u8,
}

/// `<nat>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// `ipv6`: masquerade IPv6 too.
    pub ipv6: Option<bool>,
    /// `<address start end>`: what IPv4 packets leave with, in place of the uplink's address.
    pub address: Option<AddressRange>,
    /// `<port start end>`: what TCP and UDP packets leave with.
    pub port: Option<PortRange>,
}

/// IPv4 addresses from `start` to `end`, both included; the parser sees to it that they do not run
/// backwards and are at most 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first.
    pub start: Ipv4Addr,
    /// The last.
    pub end: Ipv4Addr,
}

/// Ports from `start` to `end`, both included; the parser sees to it that they do not run
/// backwards. A definition may hold port 0, but cannot be started with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub start: u16,
    /// The last.
    pub end: u16,
}

impl PortRange {
    /// What translated packets leave with where nothing is given: guests get no port that other
    /// hosts may trust.
    pub const UNPRIVILEGED: Self = Self {
        start: 1024,
        end: 65535,
    };
}

impl Default for PortRange {
    fn default() -> Self {
        Self::UNPRIVILEGED
    }
}

impl std::fmt::Display for ForwardMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Open => "open",
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthrough => "passthrough",
            Self::Hostdev => "hostdev",
        })
    }
}
