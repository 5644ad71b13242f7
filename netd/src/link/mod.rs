//! Bridges, ports, addresses and sysctls over rtnetlink.
//!
//! [`Links`] asks and changes, [`NetlinkMonitor`] tells that something changed. They use separate sockets:
//! a burst of events must never delay or drown the answer to a request. Both work in the network
//! namespace of the thread that opens them, and learn about devices from netlink only: files below
//! `/sys/class/net` belong to the namespace of whoever mounted sysfs.

mod addresses;
mod advertised;
mod announcements;
mod bridge_ports;
mod collision;
mod conntrack;
mod devconf;
mod drivers;
mod echo;
mod edge;
mod error;
pub mod here;
pub mod ipsec;
mod names;
pub mod netfilter;
mod netlink;
pub mod packets;
mod requests;
mod snapshot;
mod sockets;
pub mod sysctl;
mod table;
mod tracked;
mod watch;

pub use addresses::readdress;
pub use advertised::{RoutesAtRisk, routes_at_risk};
pub use announcements::Announcements;
pub use bridge_ports::{Counters, Learned};
pub use collision::{Holding, InUse, free_subnet, subnet_around, subnet_in_use};
pub use conntrack::{Running, Translated, note_running, track};
pub use devconf::{DeviceConf, Ipv6Conf};
pub use drivers::{Driver, DriverWatch};
pub use error::LinkError;
pub use names::beside;
pub use requests::{Inner, Links, effective_delay_ms};
pub use snapshot::{Address, BridgeAttrs, Dump, Link, Route, Scope, Snapshot, port_state};
pub use sockets::{Listener, Transport, listeners};
pub use tracked::{TrackedConnection, tracked_connections};
pub use watch::{Change, Moves, NetlinkMonitor};
