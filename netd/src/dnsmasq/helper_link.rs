//! The link by which dnsmasq finds the lease helper.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::HELPER_NAME;
use super::error::{Error, Result, io_error};
use super::files::{absolute, create_public_dir, remove};
use crate::paths::Paths;
use crate::store::file;

/// dnsmasq builds "SCRIPT init" in a buffer of 256 bytes.
const MAX_HELPER_PATH: usize = 240;

/// Point the script's link in the state directory at the netd binary `helper`, and return the
/// link. To be called at agent start too, so that running dnsmasqs find a binary that has moved.
///
/// # Errors
/// A path dnsmasq cannot use, or the file system's answer.
pub fn link_helper(paths: &Paths, helper: &Path) -> Result<PathBuf> {
    let dir = absolute(&paths.dnsmasq_dir())?;
    let link = dir.join(HELPER_NAME);
    check_script_path(&link)?;
    let helper = absolute(helper)?;
    create_public_dir(&dir).map_err(|e| io_error("create", &dir, e))?;
    if fs::read_link(&link).is_ok_and(|target| target == helper) {
        return Ok(link);
    }
    let failed = |e| io_error("link the lease helper as", &link, e);
    // A link cannot be replaced in place; a directory of our own gives it a name to come from.
    let temp = file::unfinished().tempdir_in(&dir).map_err(failed)?;
    let new = temp.path().join(HELPER_NAME);
    std::os::unix::fs::symlink(&helper, &new).map_err(failed)?;
    fs::rename(&new, &link).map_err(failed)?;
    Ok(link)
}

/// Remove what all networks share: the helper's link, and the directory once it is empty.
///
/// # Errors
/// The link or directory could not be removed. A directory that is not empty is left alone.
pub fn remove_shared(paths: &Paths) -> Result<()> {
    let dir = paths.dnsmasq_dir();
    remove(&dir.join(HELPER_NAME))?;
    match fs::remove_dir(&dir) {
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(io_error("remove", &dir, e))
        }
        _ => Ok(()),
    }
}

/// dnsmasq runs the script once through a shell (`init`) and otherwise directly, so no way of
/// quoting suits both: the path must need none.
fn check_script_path(path: &Path) -> Result<()> {
    let wrong = |problem| Error::HelperPath {
        path: path.to_owned(),
        problem,
    };
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() > MAX_HELPER_PATH {
        return Err(wrong("it is longer than 240 bytes"));
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._+-:@%=,".contains(b);
    if !bytes.iter().all(plain) {
        return Err(wrong(
            "it holds a character that means something to a shell",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_paths_that_a_shell_would_read_otherwise_are_refused() {
        assert!(check_script_path(Path::new("/var/lib/netd/dnsmasq/netd-lease-helper")).is_ok());
        for bad in ["/a b/x", "/a;reboot/x", "/$(x)/x", "/a'x", "/a\nb"] {
            assert!(check_script_path(Path::new(bad)).is_err(), "{bad:?}");
        }
        assert!(check_script_path(&Path::new("/").join("x".repeat(250))).is_err());
    }

    #[test]
    fn the_helpers_link_follows_the_binary() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for binary in ["/usr/sbin/netd", "/usr/sbin/netd", "/opt/netd"] {
            let link = link_helper(&paths, Path::new(binary)).unwrap();
            assert_eq!(fs::read_link(link).unwrap(), Path::new(binary));
        }
        assert_eq!(fs::read_dir(paths.dnsmasq_dir()).unwrap().count(), 1);
        remove_shared(&paths).unwrap();
        assert!(!paths.dnsmasq_dir().exists());
    }
}
