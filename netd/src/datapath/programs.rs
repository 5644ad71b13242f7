//! Loading the programs. The kernel verifies each one, which takes a good part of a second; so an
//! agent that finds the programs of its own build in place leaves them there, and loads its own when
//! they are needed, or when there is nothing else to do.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::programs::{Program, ProgramError};

use super::{Datapath, DatapathError, OBJECT, Result, chain, io, log};

/// The programs that are loaded, by name.
pub(super) type Loaded = BTreeSet<String>;

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

/// A program of the object, which is loaded unless `known` says that it is.
pub(super) fn loaded<'a>(
    ebpf: &'a mut Ebpf,
    known: &mut Loaded,
    name: &str,
) -> Result<&'a mut Program> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| DatapathError::Load(format!("{name}: not in the object")))?;
    if !known.contains(name) {
        load(name, program)?;
        known.insert(name.to_owned());
    }
    Ok(program)
}

/// Load a program of the object, whatever its type.
///
/// # Errors
/// The kernel refuses it.
pub fn load(name: &str, program: &mut Program) -> Result<()> {
    let result = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => {
            return Err(DatapathError::Load(format!(
                "{name}: a kind of program that netd has none of"
            )));
        }
    };
    result.map_err(|error| DatapathError::Load(format!("{name}: {}", refusal(&error))))
}

/// Why the kernel refuses a program, in one line. All that the verifier said is for the log.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return chain(error);
    };
    let log = verifier_log.to_string();
    tracing::debug!(%log, "the verifier");
    match last_word(&log) {
        Some(line) => format!("{io_error}: {line}"),
        None => io_error.to_string(),
    }
}

/// What the verifier refused a program for: the last line of its log before the statistics.
fn last_word(log: &str) -> Option<&str> {
    let is_statistics = |line: &str| {
        let starts = ["processed ", "verification time ", "stack depth "];
        starts.iter().any(|start| line.starts_with(start))
    };
    let mut lines = log.lines().map(str::trim);
    lines.rfind(|line| !line.is_empty() && !is_statistics(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_reason_is_one_line() {
        let log = "0: R1=ctx(off=0,imm=0) R10=fp0\n; call\n7: (85) call bpf_loop#181\n\
                   invalid func unknown#181\nverification time 5 usec\nstack depth 0\n\
                   processed 8 insns (limit 1000000)\n";
        assert_eq!(last_word(log), Some("invalid func unknown#181"));
        assert_eq!(last_word("processed 8 insns\n\n"), None);
    }
}
