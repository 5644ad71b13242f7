//! The programs that the others go on in by tail calls, and the array that leads there.
//!
//! The kernel empties an array of programs once no descriptor and no pin holds it, whoever still
//! goes by it. So each build has its own pinned, with the records that its programs hand over to one
//! another in (`BPFFS/vN/slow/BUILD/`), for as long as one of its programs is in place.

use aya::Ebpf;
use aya::maps::ProgramArray;
use aya::programs::{ProgramFd, SchedClassifier};
use netd_common::abi::SlowPath;

use super::error::{DatapathError, Result, chain};

/// The array of programs.
const SLOW_PATHS: &str = "slow_paths";

/// The maps that one build's programs have for themselves, and have to find again.
pub(super) const MAPS: [&str; 3] = [SLOW_PATHS, "packet_ctx4", "packet_ctx6"];

/// Is this one of the programs that the others go on in?
pub(super) fn is_slow_path(program: &str) -> bool {
    SlowPath::ALL.iter().any(|path| path.program() == program)
}

/// Let the other programs reach them, which are loaded.
///
/// # Errors
/// One is not loaded, or the kernel refuses it a place in the array.
pub fn connect(ebpf: &mut Ebpf) -> Result<()> {
    let failed = |error: &dyn std::error::Error| {
        DatapathError::Load(format!("map {SLOW_PATHS}: {}", chain(error)))
    };
    let mut programs = Vec::new();
    for path in SlowPath::ALL {
        programs.push((path as u32, descriptor(ebpf, path.program())?));
    }
    let map = ebpf
        .map_mut(SLOW_PATHS)
        .ok_or_else(|| DatapathError::Load(format!("{SLOW_PATHS}: no such map in the object")))?;
    let mut array = ProgramArray::try_from(map).map_err(|error| failed(&error))?;
    for (index, program) in programs {
        array
            .set(index, &program, 0)
            .map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn descriptor(ebpf: &Ebpf, name: &str) -> Result<ProgramFd> {
    let failed = |message: String| DatapathError::Load(format!("{name}: {message}"));
    let program: &SchedClassifier = ebpf
        .program(name)
        .ok_or_else(|| failed("not in the object".to_owned()))?
        .try_into()
        .map_err(|error| failed(chain(&error)))?;
    let descriptor = program.fd().map_err(|error| failed(chain(&error)))?;
    descriptor
        .try_clone()
        .map_err(|error| failed(chain(&error)))
}
