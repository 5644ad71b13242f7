//! Packets that the programs make themselves, or complete.

pub mod arp;
pub mod dhcp;
pub mod nd;
pub mod reject;
pub mod reset;
pub mod turn;
