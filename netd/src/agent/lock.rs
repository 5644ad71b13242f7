//! One agent to a set of directories.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

use crate::settings::Settings;

/// Held as long as the agent runs; the kernel releases it however the agent ends.
pub struct Locks(#[expect(dead_code, reason = "held for their drop")] Vec<File>);

/// Lock the directories, making them where they are missing.
///
/// # Errors
/// Another agent (or a teardown) holds one of them.
pub fn take(settings: &Settings) -> anyhow::Result<Locks> {
    let mut locks = Vec::new();
    for dir in &places(settings) {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot create directory {}", dir.display()))?;
        locks.extend(lock(dir)?);
    }
    Ok(Locks(locks))
}

/// Lock those of the directories that exist.
///
/// # Errors
/// An agent holds one of them.
pub fn take_existing(settings: &Settings) -> anyhow::Result<Locks> {
    let mut locks = Vec::new();
    for dir in &places(settings) {
        if dir.exists() {
            locks.extend(lock(dir)?);
        }
    }
    Ok(Locks(locks))
}

/// What is locked: directories that are netd's alone, not the ones around them, in which the socket
/// may lie and be locked while it is made.
fn places(settings: &Settings) -> [PathBuf; 3] {
    [
        settings.networks_dir(),
        settings.state_dir.clone(),
        settings.active_dir(),
    ]
}

fn lock(dir: &Path) -> anyhow::Result<Vec<File>> {
    let file = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(vec![file]),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another netd uses directory {}; stop it first, or give this one directories of its \
             own (--config-dir, --state-dir, --run-dir, --bpffs, --socket)",
            dir.display()
        ),
        Err(errno) => Err(std::io::Error::from(errno))
            .with_context(|| format!("cannot lock directory {}", dir.display())),
    }
}
