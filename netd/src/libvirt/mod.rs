//! libvirt's own network driver on this host: what it has, and how a host is switched from it to netd
//! and back.
//!
//! Everything is read from where that driver keeps it: [`networks`] its files, [`daemon`] its processes,
//! [`rules`] what it put into the kernel's packet filter. [`survey`] is all of it at one moment.

pub mod daemon;
pub mod networks;
mod nft;
pub mod places;
pub mod rules;
pub mod survey;

pub use places::Places;
pub use survey::Survey;
