//! Files that are either the old or the new one, whatever happens meanwhile.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::{Result, io_error};
use crate::store::file;

/// Replace `path` by `content` with the given mode. After a power failure it may be damaged, so this is
/// for what every start writes anew.
pub(super) fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    finished(path, content, mode)?
        .persist(path)
        .map_err(|e| e.error)?;
    Ok(())
}

/// Replace `path` by `content`, which is on the disk when this returns.
pub(super) fn write_durable(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temp = finished(path, content, mode)?;
    temp.as_file().sync_all()?;
    temp.persist(path).map_err(|e| e.error)?;
    File::open(parent(path)?)?.sync_all()
}

/// A file beside `path` that has its content and mode.
fn finished(path: &Path, content: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut temp = file::unfinished().tempfile_in(parent(path)?)?;
    temp.write_all(content)?;
    let permissions = Permissions::from_mode(mode);
    temp.as_file().set_permissions(permissions)?;
    Ok(temp)
}

fn parent(path: &Path) -> io::Result<&Path> {
    Ok(path.parent().ok_or(io::ErrorKind::InvalidInput)?)
}

/// Create `dir` and its parents, open to every reader whatever the umask: dnsmasq reads its host
/// files after it has given up root.
pub(super) fn create_public_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_public_dir(parent)?;
    }
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// The content of a file; `None` when there is no such file, an error when it is longer than
/// `limit`.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {limit} bytes"),
        ));
    }
    Ok(Some(content))
}

/// Remove a file that may not exist.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, e)),
        _ => Ok(()),
    }
}

/// The path from the root on: dnsmasq changes its directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| io_error("make absolute", path, e))
}
