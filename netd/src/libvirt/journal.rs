//! What a switch has begun to do, on disk before it is done: whoever finds it there undoes it.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::step::Step;
use crate::store::file::{self, Lasting};

/// Its file, below the agent's state directory.
const FILE: &str = "libvirt/journal.json";

/// Another one after each boot of the host (random(4)).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Begun {
    /// The boot in which the steps were begun.
    boot: String,
    steps: Vec<Step>,
}

/// Was a switch begun and neither finished nor taken back?
#[must_use]
pub fn is_interrupted(state_dir: &Path) -> bool {
    state_dir.join(FILE).exists()
}

/// The steps that were begun, in their order.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    begun: Begun,
    /// This boot.
    boot: String,
    /// Held as long as the switch goes on.
    _lock: File,
}

impl Journal {
    /// The journal below the agent's state directory, with what an earlier switch left in it.
    ///
    /// # Errors
    /// Another switch goes on, or the journal cannot be read.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("libvirt");
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&dir)
            .with_context(|| format!("cannot create directory {}", dir.display()))?;
        let lock = File::open(&dir).with_context(|| format!("cannot open {}", dir.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .context("another `netd libvirt adopt` or `netd libvirt release` is at work")?;
        file::remove_leftovers(&dir)?;
        let path = state_dir.join(FILE);
        let begun = match path.exists() {
            true => serde_json::from_str(&file::read(&path)?)
                .with_context(|| format!("cannot read {}", path.display()))?,
            false => Begun::default(),
        };
        Ok(Self {
            path,
            begun,
            boot: file::read(Path::new(BOOT))?,
            _lock: lock,
        })
    }

    /// The step that was begun last.
    #[must_use]
    pub fn last(&self) -> Option<&Step> {
        self.begun.steps.last()
    }

    /// Does what ran when the steps were begun run yet? The host may have been rebooted since.
    #[must_use]
    pub fn is_of_this_boot(&self) -> bool {
        self.begun.boot == self.boot
    }

    /// A step is about to be done.
    ///
    /// # Errors
    /// It cannot be written down, and must not be done.
    pub fn begin(&mut self, step: Step) -> Result<()> {
        if self.begun.steps.is_empty() {
            self.begun.boot.clone_from(&self.boot);
        }
        self.begun.steps.push(step);
        self.write()
    }

    /// The last step was undone.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn undone(&mut self) -> Result<()> {
        self.begun.steps.pop();
        self.write()
    }

    /// All was done: there is nothing to undo any more.
    ///
    /// # Errors
    /// The journal cannot be removed.
    pub fn finish(&mut self) -> Result<()> {
        self.begun.steps.clear();
        self.write()
    }

    fn write(&self) -> Result<()> {
        if self.begun.steps.is_empty() {
            return Ok(file::remove(&self.path, Lasting::Always)?);
        }
        let json = serde_json::to_vec_pretty(&self.begun)?;
        Ok(file::write(&self.path, &json, Lasting::Always)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let other = Journal::open(dir.path()).unwrap_err();
        assert!(other.to_string().contains("at work"), "{other:#}");
        let aside = Step::SetAside(vec![(PathBuf::from("/a"), "text".to_owned())]);
        journal.begin(aside.clone()).unwrap();
        journal.begin(Step::RemoveRules).unwrap();
        drop(journal);
        assert!(is_interrupted(dir.path()));
        let mut journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.last(), Some(&Step::RemoveRules));
        assert!(journal.is_of_this_boot());
        journal.boot = "the next one".to_owned();
        assert!(!journal.is_of_this_boot());
        journal.undone().unwrap();
        assert_eq!(journal.last(), Some(&aside));
        assert!(!journal.is_of_this_boot());
        journal.undone().unwrap();
        journal.begin(Step::Serve).unwrap();
        assert!(journal.is_of_this_boot());
        journal.finish().unwrap();
        assert!(!is_interrupted(dir.path()));
        drop(journal);
        assert_eq!(Journal::open(dir.path()).unwrap().last(), None);
    }
}
