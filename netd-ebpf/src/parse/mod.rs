//! Reading headers.

pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod transport;
