//! The bpf file system that holds the pins.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::{Result, io};

/// `BPF_FS_MAGIC` of linux/magic.h.
const MAGIC: u64 = 0xcafe_4a11;
/// Where every distribution expects the bpf file system.
const STANDARD: &str = "/sys/fs/bpf";

/// Make sure that `dir` exists and lies on a bpf file system: mount one at /sys/fs/bpf for a
/// directory below it, else at `dir` itself.
///
/// # Errors
/// The directory cannot be made or nothing can be mounted.
pub fn mount(dir: &Path) -> Result<()> {
    if is_bpffs(nearest(dir)) {
        return std::fs::create_dir_all(dir).map_err(io("create", dir));
    }
    let point = if dir.starts_with(STANDARD) {
        Path::new(STANDARD)
    } else {
        dir
    };
    std::fs::create_dir_all(point).map_err(io("create", point))?;
    let options: &CStr = c"mode=0700";
    rustix::mount::mount(
        "bpf",
        point,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(options),
    )
    .map_err(|errno| io("mount a bpf file system at", point)(errno.into()))?;
    std::fs::create_dir_all(dir).map_err(io("create", dir))
}

/// Remove the pins of every layout below `dir`, which detaches the programs, and unmount the file
/// system if it was mounted for `dir` alone. Nothing there is no error.
///
/// # Errors
/// All that could not be removed; the rest is.
pub fn clear(dir: &Path) -> Vec<super::DatapathError> {
    let mut errors = Vec::new();
    if !is_bpffs(dir) {
        return errors;
    }
    let is_mount = dir
        .parent()
        .is_some_and(|parent| device(parent) != device(dir));
    // Directories only: the kernel puts files of its own into the root of a new bpf file system.
    for version in directories(dir, &mut errors) {
        remove_below(&version, &mut errors);
        if let Err(error) = std::fs::remove_dir(&version) {
            errors.push(io("remove", &version)(error));
        }
    }
    if is_mount && dir != Path::new(STANDARD) {
        if let Err(errno) = rustix::mount::unmount(dir, UnmountFlags::empty()) {
            errors.push(io("unmount", dir)(errno.into()));
        }
    } else if let Err(error) = std::fs::remove_dir(dir) {
        errors.push(io("remove", dir)(error));
    }
    errors
}

fn directories(dir: &Path, errors: &mut Vec<super::DatapathError>) -> Vec<PathBuf> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect(),
        Err(error) => {
            errors.push(io("list", dir)(error));
            Vec::new()
        }
    }
}

fn remove_below(dir: &Path, errors: &mut Vec<super::DatapathError>) {
    for sub in directories(dir, errors) {
        remove_below(&sub, errors);
        if let Err(error) = std::fs::remove_dir(&sub) {
            errors.push(io("remove", &sub)(error));
        }
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return errors.push(io("list", dir)(error)),
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if let Err(error) = std::fs::remove_file(&path) {
            errors.push(io("remove", &path)(error));
        }
    }
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == MAGIC)
}

fn device(path: &Path) -> Option<u64> {
    rustix::fs::stat(path).ok().map(|stat| stat.st_dev)
}

/// `dir`, or its nearest ancestor that exists.
fn nearest(dir: &Path) -> &Path {
    dir.ancestors().find(|path| path.exists()).unwrap_or(dir)
}

/// Paths of the pinned maps below `dir` (a version's directory), by name.
#[must_use]
pub fn pinned_maps(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(dir.join("maps")) else {
        return Vec::new();
    };
    let mut maps: Vec<_> = entries
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect();
    maps.sort();
    maps
}
