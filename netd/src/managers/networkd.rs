//! systemd-networkd: a file that says which devices are none of its.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zbus::{Connection, Proxy};

use super::{PATIENCE, is_there};
use crate::store::StoreError;
use crate::store::file::{self, Lasting, failed};

/// The first file that matches a device is the one that counts, in the order of their names.
const FILE: &str = "00-netd.network";

/// What libvirt calls guests' devices. They are listed before there are any: networkd reads its
/// files when it is told to, and acts on a device as soon as it is there.
pub const GUESTS: &str = "vnet*";

const NAME: &str = "org.freedesktop.network1";

/// Where networkd looks for files of this boot.
const FOLDER: &str = "/run/systemd/network";

/// Another folder than that one, for tests.
const FOLDER_VARIABLE: &str = "NETD_NETWORKD_DIR";

/// A folder of networkd's, on a host that has systemd.
#[derive(Clone, Debug)]
pub struct Networkd {
    folder: PathBuf,
}

impl Networkd {
    /// The host's; `None` where it has nothing of systemd.
    #[must_use]
    pub fn find() -> Option<Self> {
        let folder = std::env::var_os(FOLDER_VARIABLE);
        Self::at(&folder.map_or_else(|| PathBuf::from(FOLDER), PathBuf::from))
    }

    /// The one at `folder`; `None` where nothing of systemd is.
    #[must_use]
    pub fn at(folder: &Path) -> Option<Self> {
        let is_there = folder.parent().is_some_and(Path::exists);
        is_there.then(|| Self {
            folder: folder.to_owned(),
        })
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Remove what an agent that was killed was about to write.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_leftovers(&self) -> Result<(), StoreError> {
        file::remove_leftovers(&self.folder)?;
        self.remove_folder();
        Ok(())
    }

    fn remove_folder(&self) {
        // It stays where somebody has files there, or never was.
        let _ = fs::remove_dir(&self.folder);
    }

    /// The devices that the file names.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn unmanaged(&self) -> Result<BTreeSet<String>, StoreError> {
        let path = self.file();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(names_in(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(failed("read", &path, error)),
        }
    }

    /// Name these devices, or remove the file where there are none.
    ///
    /// # Errors
    /// The file cannot be written or removed.
    pub fn set_unmanaged(&self, names: &BTreeSet<String>) -> Result<(), StoreError> {
        if names.is_empty() {
            file::remove(&self.file(), Lasting::ThisBoot)?;
            self.remove_folder();
            return Ok(());
        }
        let path = self.file();
        let put = || -> io::Result<()> {
            let mut folder = DirBuilder::new();
            folder.recursive(true).mode(0o755).create(&self.folder)?;
            // networkd is not root.
            let mut file = file::unfinished()
                .permissions(Permissions::from_mode(0o644))
                .tempfile_in(&self.folder)?;
            file.write_all(text(names).as_bytes())?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        put().map_err(|error| failed("write", &path, error))
    }
}

/// Let networkd read its files again, where it runs.
///
/// # Errors
/// It runs and does not.
pub async fn reload() -> zbus::Result<()> {
    // Without a bus nobody can be told, and there is no networkd that has one.
    let Ok(bus) = Connection::system().await else {
        return Ok(());
    };
    if !is_there(&bus, NAME).await? {
        return Ok(());
    }
    let manager = Proxy::new(
        &bus,
        NAME,
        "/org/freedesktop/network1",
        "org.freedesktop.network1.Manager",
    );
    let manager = manager.await?;
    let reloaded = tokio::time::timeout(PATIENCE, manager.call::<_, _, ()>("Reload", &()));
    reloaded.await.unwrap_or_else(|_| {
        let late = io::Error::new(io::ErrorKind::TimedOut, "no answer");
        Err(zbus::Error::from(late))
    })
}

/// May a device's name stand in the file as it is? Some characters mean something else there.
#[must_use]
pub fn can_name(device: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+@:".contains(c);
    device.chars().all(is_plain) && !device.is_empty()
}

fn text(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // The kinds keep a hardware interface of such a name out of it.
    format!(
        "# netd writes this while its networks run, and removes it. Their bridges and guests' devices\n\
         # are none of systemd-networkd's.\n\
         [Match]\n\
         Kind=bridge tun tap veth\n\
         Name={}\n\
         \n\
         [Link]\n\
         Unmanaged=yes\n",
        names.join(" ")
    )
}

fn names_in(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("Name="));
    let names = lines.flat_map(str::split_whitespace);
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_was_said_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("network");
        let networkd = Networkd::at(&folder).unwrap();
        assert_eq!(networkd.unmanaged().unwrap(), BTreeSet::new());
        let names: BTreeSet<String> = ["virbr0", "tap0", GUESTS].map(str::to_owned).into();
        networkd.set_unmanaged(&names).unwrap();
        assert_eq!(networkd.unmanaged().unwrap(), names);
        let text = fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(
            text.contains("\nName=tap0 virbr0 vnet*\n\n[Link]\nUnmanaged=yes\n"),
            "{text}"
        );
        networkd.set_unmanaged(&BTreeSet::new()).unwrap();
        assert!(!folder.exists());
        networkd.set_unmanaged(&BTreeSet::new()).unwrap();

        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("10-lan.network"), "").unwrap();
        networkd.set_unmanaged(&names).unwrap();
        networkd.set_unmanaged(&BTreeSet::new()).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_agent_was_about_to_write_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("network");
        let networkd = Networkd::at(&folder).unwrap();
        networkd.remove_leftovers().unwrap();
        fs::create_dir(&folder).unwrap();
        let unfinished = file::unfinished().tempfile_in(&folder).unwrap();
        let left = unfinished.into_temp_path();
        networkd.remove_leftovers().unwrap();
        assert!(!left.exists() && !folder.exists());
        left.keep().ok();
    }

    #[test]
    fn a_host_without_systemd_gets_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Networkd::at(&dir.path().join("systemd/network")).is_none());
    }

    #[test]
    fn names_that_mean_something_else_are_not_written() {
        for name in ["virbr0", "eth0.100", "a_b-c", "br@1"] {
            assert!(can_name(name), "{name}");
        }
        for name in ["", "*", "!eth0", "a b", "br[0]", "%i", "a\"b", "ä", "a\\"] {
            assert!(!can_name(name), "{name}");
        }
    }
}
