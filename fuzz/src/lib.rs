//! What is fuzzed: one function per target, which takes any bytes and panics when something is
//! not as it should be.
//!
//! `cargo fuzz run TARGET` looks for new bytes (`ARCHITECTURE.md` has the command); the test `fuzz`
//! of the workspace includes this file and replays the corpus.

mod flows;
mod input;
mod rpc;
mod sums;
mod text;

pub use flows::{port_range, tcp_states};
pub use rpc::rpc_message;
pub use sums::{checksum, sctp_checksum};
pub use text::{leases, network_port, network_update, network_xml, settings};

/// A function that is fuzzed.
pub type Target = fn(&[u8]);

/// Every target by the name of its directory in `corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("network_port", network_port),
    ("network_xml", network_xml),
    ("network_update", network_update),
    ("rpc_message", rpc_message),
    ("tcp_states", tcp_states),
    ("checksum", checksum),
    ("sctp_checksum", sctp_checksum),
    ("port_range", port_range),
    ("settings", settings),
    ("leases", leases),
];
