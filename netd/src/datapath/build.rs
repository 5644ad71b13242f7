//! Loading the programs. The kernel verifies each one, which takes a good part of a second; so an
//! agent that finds the programs of its own build in place leaves them there, and loads its own when
//! they are needed, or when there is nothing else to do.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::error::{Result, io};
use super::handle::Datapath;
use super::log;
use super::programs::{OBJECT, load, loaded};

impl Datapath {
    /// The mark of one build, beside the links of its programs. It goes with them.
    fn mark(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        OBJECT.hash(&mut hasher);
        self.marks().join(format!("{:016x}", hasher.finish()))
    }

    fn marks(&self) -> PathBuf {
        self.dir.join("build")
    }

    /// Are the programs that an earlier agent left in place those of this build?
    #[must_use]
    pub fn is_current(&self) -> bool {
        // Those that log do it for the agent that loaded them.
        !log::wanted() && self.mark().is_dir()
    }

    /// Note that all programs in place are those of this build.
    ///
    /// # Errors
    /// The mark cannot be made.
    pub fn mark_current(&self) -> Result<()> {
        if log::wanted() {
            return Ok(());
        }
        let mark = self.mark();
        std::fs::create_dir_all(&mark).map_err(io("create", &mark))
    }

    /// Other builds' programs are no longer all in place.
    pub(super) fn forget_marks(&self) -> Result<()> {
        let marks = self.marks();
        match std::fs::remove_dir_all(&marks) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("remove", &marks)(error))
            }
            _ => Ok(()),
        }
    }

    /// Load all programs that are not loaded yet, on all processors.
    pub(super) fn load_all(&mut self) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let loaded = &self.loaded;
        let missing = self.ebpf.programs_mut();
        let missing: Vec<_> = missing
            .filter(|(name, _)| !loaded.contains(*name))
            .collect();
        let missing = Mutex::new(missing);
        let next = || {
            let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.pop()
        };
        let work = || -> Result<Vec<String>> {
            let mut names = Vec::new();
            while let Some((name, program)) = next() {
                load(name, program)?;
                names.push(name.to_owned());
            }
            Ok(names)
        };
        let results: Vec<Result<Vec<String>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let ends = threads.into_iter().map(|thread| thread.join());
            ends.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        for names in results {
            self.loaded.extend(names?);
        }
        Ok(())
    }

    /// Load one of the programs that are not loaded yet; `false` when there is none.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load_next(&mut self) -> Result<bool> {
        let missing = {
            let mut names = self.ebpf.programs().map(|(name, _)| name);
            names
                .find(|name| !self.loaded.contains(*name))
                .map(str::to_owned)
        };
        match missing {
            Some(name) => loaded(&mut self.ebpf, &mut self.loaded, &name).map(|_| true),
            None => Ok(false),
        }
    }
}
