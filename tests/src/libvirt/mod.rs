//! A host with a real libvirt and real guests, which is thrown away afterwards.
//!
//! ```text
//!   guest (QEMU, no KVM) --(vnet0)-- virbr0 [host: Debian's file system] uplink --(veth)-- wan0 [wan]
//! ```
//!
//! [`Host`] is a file system of Debian ([`Root`], unchanged below a layer in memory) with
//! namespaces of its own for network, processes, mounts and host name. In it run [`Service`]s:
//! Debian's libvirtd, and netd with its usual paths; on a host that is booted ([`check_booted`]) systemd
//! runs them. [`Domain`] is a guest that libvirtd starts:
//! Debian's kernel with a small initramfs, and a shell on its serial line.
//!
//! `cargo xtask test` makes the guest's files (`NETD_GUEST`), `cargo xtask test --clients` the
//! file systems too (`NETD_ROOTS`).

mod booted;
mod cgroup;
mod console;
mod domain;
mod frame;
mod host;
mod inside;
mod module;
mod root;
mod service;
mod setup;

use cgroup::Cgroup;
pub use console::Console;
pub use domain::{Domain, Lost, nic};
pub use frame::{check, check_booted};
pub use host::Host;
pub use inside::Inside;
pub use root::Root;
pub use service::Service;

use std::time::Duration;

/// Time that a daemon or an emulated guest may take for what it is asked, on a machine that does
/// much else. A guest boots in 4 s of a processor.
pub const PATIENCE: Duration = Duration::from_secs(120);
