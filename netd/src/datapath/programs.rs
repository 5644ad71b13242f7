//! The programs, and how one is loaded.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::programs::{Program, ProgramError};

use super::error::{DatapathError, Result, chain};

/// The compiled eBPF programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd-ebpf"));

/// The programs that are loaded, by name.
pub(super) type Loaded = BTreeSet<String>;

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
