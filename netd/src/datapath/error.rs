//! What can go wrong with the datapath.

use std::path::{Path, PathBuf};

use super::required::{NEEDED, release};

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
    /// Pins have no place.
    #[error(
        "{} is on no bpf file system; mount one: mount -t bpf bpf /sys/fs/bpf",
        .0.display()
    )]
    NoBpffs(PathBuf),
    /// The kernel refused the programs or maps.
    #[error(
        "Linux {release} does not take netd's programs ({NEEDED}): {0}",
        release = release()
    )]
    Load(String),
    /// The kernel lacks something that netd cannot do without.
    #[error(
        "Linux {release} lacks what netd needs ({NEEDED}): {missing}",
        release = release(),
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
    /// Filters of traffic control could not be listed.
    #[error("cannot list the filters of traffic control that guests' frames are to pass: {0}")]
    Filters(#[source] std::io::Error),
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

/// A failed operation on a file.
pub(super) fn io(
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

/// An error with its causes, in one line: aya's own message names only the step.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
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
