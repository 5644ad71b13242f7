//! Addresses and ports as they lie in packets.

/// IPv4 address, network order.
pub type Addr4 = [u8; 4];
/// IPv6 address, network order.
pub type Addr6 = [u8; 16];
/// MAC address, transmission order.
pub type MacAddr = [u8; 6];
/// TCP, UDP or SCTP port, or ICMP identifier, network order.
pub type Port = [u8; 2];
