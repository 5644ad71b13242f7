//! The eBPF side: load, pin, attach, fill maps.
//!
//! Everything lives in a bpf file system, so that packets flow without the agent:
//!
//! ```text
//! BPFFS/vN/maps/NAME             one per map; N is the version of their layouts
//! BPFFS/vN/links/IFINDEX-HOOK    one TCX or XDP link per hook of a device
//! BPFFS/vN/links/sockets-HOOK    one link per hook of the host's sockets
//! BPFFS/vN/filters/IFINDEX-HOOK  without TCX: the program of a filter of a device
//! BPFFS/qdiscs/IFINDEX           likewise: netd gave that device the qdisc of its filters
//! ```
//!
//! A new agent opens the maps it finds and swaps the programs of the links it finds.

pub mod attach;
mod bindings;
pub mod bpffs;
pub mod events;
mod family;
mod forwards;
pub mod kernel;
pub mod log;
pub mod maps;
pub mod names;
mod netns;
pub mod ports;
pub mod programs;
pub mod records;
mod sweep;
mod sync;

use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::{Ebpf, EbpfLoader};
use netd_common::abi::DEFAULT_FLOWS;
use netd_common::timeout::{DEFAULT_TIMEOUTS, TIMEOUTS};

use self::programs::Loaded;

pub use attach::{Attachment, Device, Hook, TcMechanism};
pub use kernel::Kernel;
use kernel::NEEDED;
pub use maps::Maps;
pub use records::{FamilyRecords, Records};

/// The compiled eBPF programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd-ebpf"));

/// How many flows there may be, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of each family, at least 1. Maps have the size they were made with: what is set
    /// later counts once they have been removed.
    pub flows: u32,
    /// Flows of one family that one network may have; 0 for no limit but the table's.
    pub per_network: u32,
    /// How long flows may be silent, by [`netd_common::timeout::Timeout`], in the datapath's ticks.
    pub timeouts: [u32; TIMEOUTS],
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: DEFAULT_FLOWS,
            per_network: 0,
            timeouts: DEFAULT_TIMEOUTS,
        }
    }
}

/// Why the datapath could not be brought up or changed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A file operation failed.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused the programs or maps.
    #[error(
        "Linux {release} does not take netd's programs ({NEEDED}): {0}",
        release = kernel::release()
    )]
    Load(String),
    /// The kernel lacks something that netd cannot do without.
    #[error(
        "Linux {release} lacks what netd needs ({NEEDED}): {missing}",
        release = kernel::release(),
        missing = .0.join(", ")
    )]
    Kernel(Vec<String>),
    /// A map operation failed.
    #[error("cannot {operation} eBPF map {map}: {message}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// On which map.
        map: &'static str,
        /// What the kernel said.
        message: String,
    },
    /// The kernel did not run a program that the agent calls, or that failed.
    #[error("cannot run eBPF program {program}: {message}")]
    Run {
        /// Program.
        program: &'static str,
        /// What the kernel or the program said.
        message: String,
    },
    /// A program could not be attached to the host's sockets.
    #[error(
        "cannot attach {program} to the root of the control groups ({message}): the host itself \
         does not reach published ports; the kernel needs CONFIG_CGROUP_BPF"
    )]
    Sockets {
        /// Program.
        program: &'static str,
        /// What the kernel said.
        message: String,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {device} ({hook}): {message}")]
    Attach {
        /// Program.
        program: &'static str,
        /// Device.
        device: String,
        /// Hook.
        hook: &'static str,
        /// What the kernel said.
        message: String,
    },
}

/// Result of this module's functions.
pub type Result<T> = std::result::Result<T, DatapathError>;

pub(crate) fn io(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> DatapathError {
    let path = path.to_path_buf();
    move |source| DatapathError::Io {
        operation,
        path,
        source,
    }
}

/// The directory of this layout's pins under `bpffs`.
#[must_use]
pub fn pin_dir(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{}", netd_common::abi::VERSION))
}

/// The loaded programs and open maps of one agent.
pub struct Datapath {
    ebpf: Ebpf,
    loaded: Loaded,
    mechanisms: attach::Mechanisms,
    /// What the running kernel has.
    pub kernel: Kernel,
    dir: PathBuf,
    /// Flows of each family that the maps have room for.
    slots: u32,
    /// The maps, typed.
    pub maps: Maps,
    /// What the programs tell of drops.
    pub events: events::Events,
}

impl Datapath {
    /// Load the programs, with the maps pinned under `bpffs` or new ones pinned there. Programs of
    /// traffic control are attached by `tc`, or by what the kernel has.
    ///
    /// # Errors
    /// The file system cannot be mounted, the kernel lacks something, or maps of another layout
    /// stand in the way.
    pub fn open(bpffs: &Path, limits: &Limits, tc: Option<TcMechanism>) -> Result<Self> {
        let kernel = Kernel::probe(tc)?;
        bpffs::mount(bpffs)?;
        let dir = pin_dir(bpffs);
        for sub in ["maps", "links"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(io("create", &path))?;
        }
        // 0 is "off": the programs then carry no logging at all.
        let level: u8 = if log::wanted() { 4 } else { 0 };
        let mut loader = EbpfLoader::new();
        loader.override_global("AYA_LOG_LEVEL", &level, false);
        kernel.tell(&mut loader);
        for map in names::ALL {
            loader.map_pin_path(map, dir.join("maps").join(map));
        }
        // An agent that died while it made the maps left some of the size it wanted: all are to
        // be of one size.
        let slots = pinned_slots(&dir)?.unwrap_or(limits.flows);
        if slots != limits.flows {
            tracing::warn!(
                room = slots,
                wanted = limits.flows,
                "the flow tables keep the size they were made with; a new size takes effect \
                 after `netd teardown`"
            );
        }
        for (map, per_flow) in [
            (names::SLOTS4, 1),
            (names::SLOTS6, 1),
            (names::FLOWS4, 2),
            (names::FLOWS6, 2),
        ] {
            loader.map_max_entries(map, slots.saturating_mul(per_flow));
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| DatapathError::Load(chain(&error)))?;
        let mut maps = Maps::take(&mut ebpf)?;
        let netns = netns::cookie().map_err(|error| {
            DatapathError::Load(format!("cannot tell the network namespace: {error}"))
        })?;
        maps.limit(limits, slots, netns)?;
        let events = events::Events::take(&mut ebpf)?;
        let mut datapath = Self {
            ebpf,
            loaded: Loaded::new(),
            mechanisms: attach::Mechanisms::open(&dir, kernel.tc)?,
            kernel,
            dir,
            slots,
            maps,
            events,
        };
        if !datapath.is_current() {
            datapath.forget_marks()?;
            datapath.load_all()?;
        }
        datapath.start_sweeping()?;
        Ok(datapath)
    }

    /// The loaded object, for its log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Where the maps and links are pinned.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Size of the pinned arrays of slots; `None` before they are made.
fn pinned_slots(dir: &Path) -> Result<Option<u32>> {
    for map in [names::SLOTS4, names::SLOTS6] {
        let path = dir.join("maps").join(map);
        if path.exists() {
            let info = MapInfo::from_pin(path).map_err(sync::error("open", map))?;
            return Ok(Some(info.max_entries()));
        }
    }
    Ok(None)
}

/// An error with its causes, in one line: aya's own message names only the step.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
