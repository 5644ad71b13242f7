//! Prefixes that uplinks are delegated (DHCPv6-PD, RFC 8415), for networks with `<netd:prefix from>`.
//!
//! netd asks for them itself, for each network under a number of its own: what an uplink's own client got is
//! the host's. [`client`] is what is said and when; [`link`] is the socket; [`Task`] is the two together.

mod client;
mod link;
mod message;
mod task;

pub use client::LINGER;
pub use task::{Order, Task, Told};
