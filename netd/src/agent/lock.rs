//! One agent to a set of directories.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::paths::Paths;

/// Held as long as the agent runs; the kernel releases it however the agent ends.
pub struct Locks(#[expect(dead_code, reason = "held for their drop")] Vec<File>);

/// Lock the directories, making them where they are missing.
///
/// # Errors
/// Another agent (or a teardown) holds one of them.
pub fn take(paths: &Paths) -> anyhow::Result<Locks> {
    make(paths)?;
    lock_all(paths, |dir| {
        format!(
            "another netd uses directory {}; stop it first, or give this one directories of its own \
             (--config-dir, --state-dir, --run-dir, --bpffs, --socket)",
            dir.display()
        )
    })
}

/// Lock those of the directories that exist, to remove what an agent keeps there.
///
/// # Errors
/// An agent holds one of them.
pub fn take_existing(paths: &Paths) -> anyhow::Result<Locks> {
    lock_all(paths, |dir| {
        format!(
            "an agent runs and uses directory {}; stop it first (systemctl stop netd, where systemd \
             started it)",
            dir.display()
        )
    })
}

fn make(paths: &Paths) -> anyhow::Result<()> {
    // The state directory is open to others: dnsmasq, which gives up root, reads files in it.
    std::fs::create_dir_all(&paths.state_dir)
        .with_context(|| format!("cannot create directory {}", paths.state_dir.display()))?;
    for dir in places(paths) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot create directory {}", dir.display()))?;
    }
    Ok(())
}

/// Lock what is there; `taken` says what to do where somebody else has it.
fn lock_all(paths: &Paths, taken: impl Fn(&Path) -> String) -> anyhow::Result<Locks> {
    let existing = places(paths).into_iter().filter(|dir| dir.exists());
    existing
        .map(|dir| lock(&dir, &taken))
        .collect::<Result<_, _>>()
        .map(Locks)
}

/// What is locked: directories that are netd's alone and closed to other users, who could
/// otherwise lock them themselves; not the ones around them, in which the socket may lie and be
/// locked while it is made.
fn places(paths: &Paths) -> [PathBuf; 3] {
    [paths.networks_dir(), paths.lock_dir(), paths.active_dir()]
}

/// How long a lock may be held by nobody: a child that a killed agent was about to start has the
/// agent's descriptors until it is executed.
const PATIENCE: Duration = Duration::from_secs(1);

fn lock(dir: &Path, taken: &impl Fn(&Path) -> String) -> anyhow::Result<File> {
    let file = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    let start = Instant::now();
    let mut result = flock(&file, FlockOperation::NonBlockingLockExclusive);
    while result == Err(Errno::WOULDBLOCK) && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        result = flock(&file, FlockOperation::NonBlockingLockExclusive);
    }
    match result {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => bail!(taken(dir)),
        Err(errno) => Err(std::io::Error::from(errno))
            .with_context(|| format!("cannot lock directory {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_an_agent_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let nothing = take_existing(&paths).unwrap();
        drop(nothing);
        let agent = take(&paths).unwrap();
        let told = |refused: anyhow::Result<Locks>| refused.map(drop).unwrap_err().to_string();
        let second = told(take(&paths));
        assert!(
            second.contains("another netd") && second.contains("--run-dir"),
            "{second}"
        );
        // Other directories would be torn down in place of the agent's.
        let teardown = told(take_existing(&paths));
        assert!(
            teardown.contains("stop it first") && !teardown.contains("--run-dir"),
            "{teardown}"
        );
        drop(agent);
        take_existing(&paths).unwrap();
    }
}
