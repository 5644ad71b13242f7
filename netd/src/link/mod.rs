//! Bridges, ports, addresses and sysctls over rtnetlink.
//!
//! [`Links`] asks and changes, [`NetlinkMonitor`] tells that something changed. They use separate sockets:
//! a burst of events must never delay or drown the answer to a request. Both work in the network
//! namespace of the thread that opens them, and learn about devices from netlink only: files below
//! `/sys/class/net` belong to the namespace of whoever mounted sysfs.

mod advertised;
mod collision;
mod conntrack;
mod drivers;
mod edge;
mod error;
mod netlink;
mod requests;
mod snapshot;
mod sockets;
pub mod sysctl;
mod watch;

pub use advertised::{RoutesAtRisk, routes_at_risk};
pub use collision::{InUse, subnet_in_use};
pub use conntrack::{Translated, track};
pub use drivers::{Driver, DriverWatch};
pub use error::LinkError;
pub use requests::{Links, effective_delay_ms};
pub use snapshot::{Address, BridgeAttrs, Dump, Link, Route, Scope, Snapshot, port_state};
pub use sockets::{Listener, Transport, listeners};
pub use watch::{Change, NetlinkMonitor};
