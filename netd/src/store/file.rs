//! Atomic operations on single files; every error names its path.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use super::error::{MAX_FILE, Reason, StoreError};

/// Files on their way are called like this, so that a crash leaves nothing that looks finished.
const NEW_PREFIX: &str = ".new-";
const NEW_SUFFIX: &str = ".tmp";

/// How long what is written has to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// It is on the disk when the call returns, and there after a power failure.
    Always,
    /// It tells of what is gone after a reboot as well: another process sees all of it or nothing,
    /// and nobody waits for a disk.
    ThisBoot,
}

/// An error of an operation on a path.
pub fn failed(operation: &'static str, path: &Path, reason: impl Into<Reason>) -> StoreError {
    StoreError {
        operation,
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Makes a directory and those above it, for their owner only.
pub fn create_dir(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| failed("create", dir, error))
}

/// What makes files and folders that are on their way, under such a name.
pub fn unfinished() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(NEW_PREFIX).suffix(NEW_SUFFIX);
    builder
}

/// Removes what was on its way to a directory when its writer died. There may be no such directory.
pub fn remove_leftovers(dir: &Path) -> Result<(), StoreError> {
    let cannot = |error| failed("list", dir, error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(cannot)?,
    };
    for entry in entries {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name();
        let name = name.as_bytes();
        if !name.starts_with(NEW_PREFIX.as_bytes()) || !name.ends_with(NEW_SUFFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        if entry.file_type().map_err(cannot)?.is_dir() {
            fs::remove_dir_all(&path).map_err(|error| failed("remove", &path, error))?;
        } else {
            remove(&path, Lasting::ThisBoot)?;
        }
    }
    Ok(())
}

/// The names of a directory that end in `suffix`, without it, sorted. A name that is not text
/// cannot be a network's; it is passed over like any file of another kind.
pub fn names(dir: &Path, suffix: &str) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| failed("list", dir, error))? {
        let entry = entry.map_err(|error| failed("list", dir, error))?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(suffix)) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads a regular file of bounded size. It is opened without waiting: a pipe that somebody put
/// there must not hold the agent.
pub fn read(path: &Path) -> Result<String, StoreError> {
    read_at_most(path, MAX_FILE)
}

/// The same with another bound, in bytes.
pub fn read_at_most(path: &Path, max: u64) -> Result<String, StoreError> {
    let cannot = |reason: Reason| failed("read", path, reason);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| cannot(error.into()))?;
    let metadata = file.metadata().map_err(|error| cannot(error.into()))?;
    if !metadata.is_file() {
        return Err(cannot(Reason::NotAFile));
    }
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| cannot(error.into()))?;
    if bytes.len() as u64 > max {
        return Err(cannot(Reason::TooLarge(max)));
    }
    String::from_utf8(bytes).map_err(|_| cannot(Reason::NotText))
}

/// Puts a file in its place, complete, or leaves the one that was there.
pub fn write(path: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), StoreError> {
    let dir = parent(path);
    let put = || -> io::Result<()> {
        // Created with mode 0600, and removed again unless it gets its place.
        let mut file = unfinished().tempfile_in(dir)?;
        file.write_all(bytes)?;
        if lasting == Lasting::Always {
            file.as_file().sync_all()?;
        }
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    put().map_err(|error| failed("write", path, error))?;
    sync_dir(dir, lasting)
}

/// Puts a symbolic link in its place, whatever was there.
pub fn link(target: &Path, path: &Path) -> Result<(), StoreError> {
    let dir = parent(path);
    let put = || -> io::Result<()> {
        let link = unfinished().make_in(dir, |new| symlink(target, new))?;
        link.into_temp_path()
            .persist(path)
            .map_err(|error| error.error)
    };
    put().map_err(|error| failed("link", path, error))?;
    sync_dir(dir, Lasting::Always)
}

/// Is there a symbolic link?
pub fn is_link(path: &Path) -> Result<bool, StoreError> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(metadata.is_symlink()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path, error)),
    }
}

/// Removes a file or link; one that is not there is as good as removed.
pub fn remove(path: &Path, lasting: Lasting) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path), lasting),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path, error)),
    }
}

/// Makes what was renamed or removed in a directory survive a crash.
fn sync_dir(dir: &Path, lasting: Lasting) -> Result<(), StoreError> {
    if lasting == Lasting::ThisBoot {
        return Ok(());
    }
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| failed("sync", dir, error))
}

/// All paths here are inside one of the store's directories.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}
