//! DHCP and DNS: one dnsmasq process per network.
//!
//! [`config`] turns a definition into the text of dnsmasq's files, [`process`] runs, adopts,
//! reloads and stops the process, [`lease_helper`] is the script dnsmasq calls on every change of
//! a lease, [`leases`] reads what the helper wrote, and [`watch`] says when that changed.

mod binary;
pub mod config;
mod daemon;
mod error;
mod files;
pub mod give_back;
mod helper_link;
mod journal;
pub mod lease_helper;
pub mod leases;
mod network_files;
pub mod nss;
mod place;
pub mod process;
mod resolv;
mod running;
mod status_file;
mod trial;
mod values;
mod version;
pub mod watch;

pub use config::{
    NetworkFiles, Offers, addnhosts, conf, has_dhcp, hostsfile, offers, own_options, wants_dnsmasq,
};
pub use error::Error;
pub use network_files::Digest;
pub use process::{Dnsmasq, Running};
pub use running::find_process;
pub use values::ConfigError;
pub use version::Version;

/// Name of the link to the netd binary that dnsmasq runs as its script; the binary recognises it
/// in `argv[0]`, because dnsmasq passes no arguments of ours to a script.
pub const HELPER_NAME: &str = "netd-lease-helper";

/// Environment variable that tells the lease helper the directory of the status files.
pub const HELPER_DIR_VARIABLE: &str = "NETD_DNSMASQ_DIR";

/// Environment variable that tells the lease helper the bridge when dnsmasq does not.
pub const HELPER_BRIDGE_VARIABLE: &str = "VIR_BRIDGE_NAME";

/// Largest status file that is read or written.
const MAX_STATUS_BYTES: u64 = 32 << 20;
