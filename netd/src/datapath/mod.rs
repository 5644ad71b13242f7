//! The eBPF side: load, pin, attach, fill maps.
//!
//! Everything lives in a bpf file system, so that packets flow without the agent:
//!
//! ```text
//! BPFFS/vN/maps/NAME             one per map; N is the version of their layouts
//! BPFFS/vN/slow/BUILD/NAME       maps that the programs of one build have for themselves
//! BPFFS/vN/links/IFINDEX-HOOK    one TCX or XDP link per hook of a device
//! BPFFS/vN/links/sockets-HOOK    one link per hook of the host's sockets
//! BPFFS/vN/filters/IFINDEX-HOOK  without TCX: the program of a filter of a device
//! BPFFS/qdiscs/IFINDEX           likewise: netd gave that device the qdisc of its filters
//! ```
//!
//! A new agent opens the maps it finds and swaps the programs of the links it finds.

pub mod attach;
mod attachments;
mod bans;
mod batch;
mod bindings;
pub mod bpffs;
mod build;
pub mod enter;
mod error;
pub mod events;
mod family;
pub mod flow_table;
mod flows;
mod forwards;
mod handle;
mod held;
pub mod kernel;
mod limits;
mod loading;
pub mod log;
pub mod maps;
pub mod names;
mod netns;
mod policies;
pub mod ports;
mod prefix_pairs;
pub mod programs;
pub mod records;
mod required;
pub mod slow_paths;
mod subnets;
mod sweep;
mod sync;

pub use attach::{Attachment, Device, Hook, TcMechanism, with_foreign_filters};
pub use attachments::Programs;
pub use bans::BanRecord;
pub use bpffs::pin_dir;
pub use error::{DatapathError, Result};
pub use handle::Datapath;
pub use kernel::Kernel;
pub use limits::Limits;
pub use maps::Maps;
pub use programs::OBJECT;
pub use records::{FamilyRecords, Records};
