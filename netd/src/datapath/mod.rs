//! The eBPF side: load, pin, attach, fill maps.
//!
//! Everything lives in a bpf file system, so that packets flow without the agent:
//!
//! ```text
//! BPFFS/v1/maps/NAME             one per map
//! BPFFS/v1/links/IFINDEX-HOOK    one TCX link per hook of a device
//! ```
//!
//! A new agent opens the maps it finds and swaps the programs of the links it finds.

pub mod bpffs;
pub mod flows;
pub mod hook;
pub mod log;
pub mod maps;

use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};

pub use hook::{Attachment, Hook};
pub use maps::Maps;

/// The compiled eBPF programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd-ebpf"));

/// Names of the maps in [`OBJECT`] that are pinned.
pub const MAPS: [&str; 9] = [
    "addresses",
    "control",
    "networks",
    "subnets",
    "ports",
    "endpoints",
    "devices",
    "flows4",
    "drops",
];

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
        "cannot load the eBPF programs (netd needs Linux 6.6 with CONFIG_BPF_SYSCALL, \
         CONFIG_BPF_JIT, CONFIG_NET_CLS_BPF and CONFIG_DEBUG_INFO_BTF, and root): {0}"
    )]
    Load(String),
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
    /// A program could not be attached.
    #[error(
        "cannot attach {program} to {device} ({hook}): {message}; TCX needs Linux 6.6 or newer"
    )]
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
    dir: PathBuf,
    /// The maps, typed.
    pub maps: Maps,
}

impl Datapath {
    /// Load the programs, with the maps pinned under `bpffs` or new ones pinned there.
    ///
    /// # Errors
    /// The file system cannot be mounted, the kernel lacks something, or maps of another layout
    /// stand in the way.
    pub fn open(bpffs: &Path) -> Result<Self> {
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
        for map in MAPS {
            loader.map_pin_path(map, dir.join("maps").join(map));
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| DatapathError::Load(chain(&error)))?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut SchedClassifier = program
                .try_into()
                .map_err(|error| DatapathError::Load(format!("{name}: {}", chain(&error))))?;
            program
                .load()
                .map_err(|error| DatapathError::Load(format!("{name}: {}", chain(&error))))?;
        }
        let maps = Maps::take(&mut ebpf)?;
        Ok(Self { ebpf, dir, maps })
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
