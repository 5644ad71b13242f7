//! Definitions that libvirt's documentation allows, over all modes and elements.

mod addresses;
mod forward;
mod inventor;
mod names;
mod network;
mod ports;

pub use inventor::{BRIDGES, DEVICES, Inventor, Mode, Subnet};
pub use names::DNSMASQ;
