//! Which network namespace a dnsmasq is in, noted when it is started: to look at the namespace of another
//! user's process takes a capability (CAP_SYS_PTRACE) that the agent has no other use for.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Result, io_error};
use super::files::write_atomic;
use super::running::Running;
use crate::netns::NetnsId;

/// The note of a process is beside its pid file.
pub(super) fn file(pid_file: &Path) -> PathBuf {
    pid_file.with_extension("netns")
}

/// Note where a process runs. The number says of which process that is said, since the note may outlive it.
///
/// # Errors
/// The note cannot be written.
pub(super) fn note(pid_file: &Path, running: &Running, netns: NetnsId) -> Result<()> {
    let file = file(pid_file);
    let text = format!("{} {netns}\n", running.pid());
    write_atomic(&file, text.as_bytes(), 0o600).map_err(|error| io_error("write", &file, error))
}

/// Where a process runs, if that was noted.
pub(super) fn noted(pid_file: &Path, running: &Running) -> Option<NetnsId> {
    let text = fs::read_to_string(file(pid_file)).ok()?;
    let (pid, netns) = text.trim().split_once(' ')?;
    if pid.parse() != Ok(running.pid()) {
        return None;
    }
    netns.parse().ok()
}
