//! Real guests under a real libvirtd.
//!
//! `smoke` is for every day, with the machine's own libvirt. What is below `heavy` has hosts of Debian
//! 12, 13 and sid, and is run by `cargo xtask test --clients`.

mod echo;
mod heavy;
mod reboot;
mod scenario;
mod smoke;
mod switch;
