//! libvirt's own network driver on this host: what it has, and how a host is switched from it to netd
//! and back.
//!
//! Everything is read from where that driver keeps it: [`networks`] its files, [`daemon`] its processes,
//! [`units`] what systemd runs of them, [`rules`] what it put into the kernel's packet filter. [`survey`] is
//! all of it at one moment.
//!
//! A switch is a list of [`step`]s, made by [`adopt`] and [`release`]. [`switch`] does them in order and,
//! where one fails, takes back those before it; the [`journal`] lets the next call do so for one that was
//! killed.

pub mod adopt;
pub mod daemon;
pub mod journal;
pub mod module;
pub mod networks;
mod nft;
pub mod own;
pub mod places;
pub mod release;
pub mod rules;
pub mod step;
pub mod survey;
pub mod switch;
pub mod units;

pub use places::Places;
pub use survey::Survey;

#[cfg(test)]
mod steps_tests;
