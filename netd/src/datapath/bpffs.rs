//! The bpf file system that holds the pins.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use rustix::mount::{MountFlags, UnmountFlags};

use super::attach;
use super::error::{DatapathError, Result, io};

/// `BPF_FS_MAGIC` of linux/magic.h.
const MAGIC: u64 = 0xcafe_4a11;
/// Where every distribution expects the bpf file system.
const STANDARD: &str = "/sys/fs/bpf";

/// The directory of this layout's pins under `bpffs`.
#[must_use]
pub fn pin_dir(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{}", netd_common::abi::VERSION))
}

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

/// Make `dir` on a bpf file system that is there. Who is in a mount namespace that goes with it (a service
/// with `ProtectSystem=`) is not to mount one: the pins would go as well.
///
/// # Errors
/// There is none, or the directory cannot be made.
pub fn make(dir: &Path) -> Result<()> {
    if !is_bpffs(nearest(dir)) {
        return Err(DatapathError::NoBpffs(dir.to_owned()));
    }
    std::fs::create_dir_all(dir).map_err(io("create", dir))
}

/// Remove the pins of every layout below `dir`, which detaches the programs, and unmount the file
/// system if it was mounted for `dir` alone. Nothing there is no error. What else lies in `dir`
/// stays: in the root of a bpf file system the kernel keeps files that cannot be removed.
///
/// # Errors
/// All that could not be removed; the rest is.
pub fn clear(dir: &Path) -> Vec<DatapathError> {
    let mut errors = Vec::new();
    if !is_bpffs(dir) {
        return errors;
    }
    for path in entries(dir, &mut errors) {
        if is_layout(&path) {
            errors.extend(remove_layout(&path));
        }
    }
    // Marks of qdiscs that others' filters hang from.
    let marks = dir.join("qdiscs");
    if marks.exists() {
        remove_tree(&marks, &mut errors);
    }
    let is_mount = dir
        .parent()
        .is_some_and(|parent| device(parent) != device(dir));
    let removed = match (is_mount, dir == Path::new(STANDARD)) {
        (true, true) => Ok(()),
        (true, false) => rustix::mount::unmount(dir, UnmountFlags::empty())
            .map_err(|errno| io("unmount", dir)(errno.into())),
        (false, _) => std::fs::remove_dir(dir).map_err(io("remove", dir)),
    };
    errors.extend(removed.err());
    errors
}

/// The pins of every layout below `dir` but `current`.
///
/// # Errors
/// The directory cannot be read.
pub fn other_layouts(dir: &Path, current: &Path) -> Result<Vec<PathBuf>> {
    let mut errors = Vec::new();
    let mut layouts = entries(dir, &mut errors);
    layouts.retain(|path| is_layout(path) && path != current);
    errors.pop().map_or(Ok(layouts), Err)
}

/// Remove the pins of one layout, which detaches the programs.
///
/// # Errors
/// All that could not be removed; the rest is.
pub fn remove_layout(path: &Path) -> Vec<DatapathError> {
    let mut errors = attach::release(path);
    remove_tree(path, &mut errors);
    errors
}

/// Is this a directory that [`pin_dir`] named, in this version or another?
fn is_layout(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix('v'));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn entries(dir: &Path, errors: &mut Vec<DatapathError>) -> Vec<PathBuf> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => {
            errors.push(io("list", dir)(error));
            Vec::new()
        }
    }
}

fn remove_tree(path: &Path, errors: &mut Vec<DatapathError>) {
    let removed = if path.is_dir() {
        for entry in entries(path, errors) {
            remove_tree(&entry, errors);
        }
        std::fs::remove_dir(path)
    } else {
        std::fs::remove_file(path)
    };
    if let Err(error) = removed {
        errors.push(io("remove", path)(error));
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

/// A pinned map.
pub struct PinnedMap {
    /// Its name.
    pub name: String,
    /// Where it is pinned.
    pub path: PathBuf,
    /// Its capacity.
    pub max_entries: u32,
}

/// The pinned maps below `dir` (a version's directory), by name.
///
/// # Errors
/// One cannot be looked at.
pub fn pinned_maps(dir: &Path) -> Result<Vec<PinnedMap>> {
    let Ok(entries) = std::fs::read_dir(dir.join("maps")) else {
        return Ok(Vec::new());
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let look = |path: PathBuf| {
        let info = MapInfo::from_pin(&path).map_err(|error| DatapathError::Io {
            operation: "look at",
            path: path.clone(),
            source: std::io::Error::other(error),
        })?;
        let name = path.file_name().unwrap_or_default();
        Ok(PinnedMap {
            name: name.to_string_lossy().into_owned(),
            max_entries: info.max_entries(),
            path,
        })
    };
    paths.into_iter().map(look).collect()
}
