//! The elements of a definition. Each file has their types, one field for each attribute, how they are
//! read and how they are written.

pub(super) mod bridge;
pub(super) mod dns;
pub(super) mod forward;
pub(super) mod ip;
pub(super) mod port;

pub use bridge::{Bridge, Mac, MacError, MacTableManager};
pub use dns::{Dns, DnsForwarder, DnsHost, DnsSrv, DnsTxt, Domain};
pub use forward::{
    AddressRange, Forward, ForwardDriver, ForwardMode, MacvtapMode, Nat, PciAddress, PoolDevice,
    PortRange,
};
pub use ip::{
    Bootp, Dhcp, DhcpHost, DhcpRange, Family, Ip, IpMask, LeaseTime, LeaseUnit, Route, subnet_of,
};
pub use port::{Bandwidth, NativeVlan, PortGroup, Rate, VirtualPort, Vlan, VlanTag};
