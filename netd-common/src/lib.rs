//! Logic and map layouts shared by netd's eBPF programs and its agent.
//!
//! Everything here is `no_std` and free of I/O: the same functions are compiled into the eBPF
//! programs and into ordinary tests. Addresses and ports are byte arrays in network order, which
//! is also how `bpftool map dump` shows them best.

#![cfg_attr(not(test), no_std)]

#[cfg(target_endian = "big")]
compile_error!(
    "netd is for little-endian machines: its map layouts are shared with programs that are built for \
     bpfel, and nobody has tried others"
);

pub mod abi;
pub mod checksum;
pub mod clock;
pub mod crc32c;
pub mod flow;
pub mod policy;
pub mod port;
pub mod prefix;
pub mod proto;
pub mod reason;
pub mod relay;
pub mod state;
pub mod tcp;
pub mod timeout;

pub use reason::Reason;
