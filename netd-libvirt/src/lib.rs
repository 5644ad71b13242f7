//! The module `libvirt_driver_network.so` for a libvirtd that holds all drivers in one process, as on
//! Debian and Ubuntu. It takes the place of libvirt's own network driver and answers by asking netd.
//!
//! libvirtd loads `libvirt_driver_network.so` from its folder of modules and calls
//! [`networkRegister`], which registers the two tables that libvirt calls a network driver by. Every
//! function in them asks netd through libvirt's own client library, by a URI that names netd's socket:
//! such a URI leaves the daemon, and so no line of the protocol is written here.
//!
//! libvirt's functions are looked up by name when the module is registered (`libvirt`), so that
//! neither building nor loading it needs anything of libvirt. The tables have libvirt's own private
//! layout, which differs by version: under a version that is not known (`layout`) nothing is
//! registered, and libvirtd runs without networks.
//!
//! | module | |
//! |---|---|
//! | `abi` | C types and tables as libvirt lays them out |
//! | `layout` | which versions of libvirt, and what differs between them |
//! | `libvirt` | libvirt's functions |
//! | `memory` | what is handed over in C's memory |
//! | `error` | what goes wrong, and how libvirt is told |
//! | `identity` | on whose behalf libvirtd calls |
//! | `connection`, `pool` | the way to netd |
//! | `events` | who wants to know of changes |
//! | `driver` | the functions of the tables |
//! | `module` | all of it together, and the border that no panic crosses |
//! | `register` | the start |

mod abi;
mod connection;
mod driver;
mod error;
mod events;
mod identity;
mod layout;
mod libvirt;
mod memory;
mod module;
mod pool;
#[cfg(test)]
mod probe;
mod register;

pub use register::networkRegister;
