//! The network namespace of a network's services, and what is in it beside dnsmasq.
//!
//! dnsmasq runs in a namespace of its own, so that no firewall of the host's has a say in what guests
//! ask it and it answers: `docs/decisions/services.md`. [`namespace`] makes it, with the link that
//! leads there; [`kept`] hands it on to the next agent; [`relay`] runs the process by which it reaches
//! the host's name servers.

pub mod kept;
pub mod namespace;
pub mod relay;

pub use namespace::{host_end, host_mac};
