//! Loading the programs. The kernel verifies each one, which takes a good part of a second; so an
//! agent that finds the programs of its own build in place leaves them there, and loads its own when
//! they are needed, or when there is nothing else to do.

use std::sync::{Mutex, PoisonError};

use super::error::{Result, io};
use super::handle::Datapath;
use super::programs::{load, loaded};
use super::slow_paths::{self, is_slow_path};
use super::{enter, log};

impl Datapath {
    /// Are the programs that an earlier agent left in place those of this build?
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.build.is_in_place()
    }

    /// Note that all programs in place are those of this build.
    ///
    /// # Errors
    /// The mark cannot be made, or what another build's programs had cannot be removed.
    pub fn mark_current(&self) -> Result<()> {
        self.build.forget_others()?;
        if log::wanted() {
            return Ok(());
        }
        let mark = self.build.mark();
        std::fs::create_dir_all(&mark).map_err(io("create", &mark))
    }

    /// Load all programs but those that are rarely needed, on all processors.
    pub(super) fn load_all(&mut self) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let missing = self.ebpf.programs_mut();
        let mut missing: Vec<_> = missing.filter(|(name, _)| !is_rare(name)).collect();
        // Those that take longest come first, from the end.
        missing.sort_by_key(|(name, _)| is_slow_path(name));
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
        slow_paths::connect(&mut self.ebpf)
    }

    /// Load one of the programs that are not loaded yet; `false` when there is none. The slow paths are
    /// in place with the programs that an earlier agent left.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load_next(&mut self) -> Result<bool> {
        let missing = {
            let mut names = self.ebpf.programs().map(|(name, _)| name);
            names
                .find(|name| !self.loaded.contains(*name) && !is_rare(name) && !is_slow_path(name))
                .map(str::to_owned)
        };
        match missing {
            Some(name) => loaded(&mut self.ebpf, &mut self.loaded, &name).map(|_| true),
            None => Ok(false),
        }
    }
}

/// Is the program loaded for the one who asks for it, and not before?
fn is_rare(name: &str) -> bool {
    name == enter::PROGRAM
}
