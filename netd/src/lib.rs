//! netd: a virtual network agent for Linux hypervisors.
//!
//! It takes libvirt's network XML, creates the bridges, runs dnsmasq and carries the packets with
//! eBPF programs. `ARCHITECTURE.md` draws the picture; the modules below are its parts.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod datapath;
mod delegation;
pub mod dnsmasq;
pub mod firewall;
pub mod libvirt;
pub mod link;
pub mod managers;
pub mod model;
mod netlink;
pub mod netns;
pub mod paths;
pub mod plan;
pub mod relay;
pub mod rpc;
pub mod services;
pub mod settings;
pub mod shaping;
pub mod store;
