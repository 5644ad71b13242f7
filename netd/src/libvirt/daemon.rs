//! libvirt's daemons: which one has the networks, and which driver it has loaded for them.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use procfs::process::{MMapPath, Process};
use serde::{Deserialize, Serialize};

use super::places::Places;

/// The network driver's file, libvirt's own and any that takes its place.
const DRIVER: &str = "libvirt_driver_network.so";

/// A libvirt release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 9 of 9.0.0.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub release: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

impl Version {
    /// The release that a library's file name tells: libvirt.so.0.9000.0 is 9.0.0.
    #[must_use]
    pub fn of_library(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (number, release) = name.strip_prefix("libvirt.so.0.")?.split_once('.')?;
        let number: u32 = number.parse().ok()?;
        Some(Self {
            major: number / 1000,
            minor: number % 1000,
            release: release.parse().ok()?,
        })
    }

    /// The release that is installed.
    #[must_use]
    pub fn installed(places: &Places) -> Option<Self> {
        let files = places.libraries().into_iter().filter_map(|dir| {
            let mut entries = std::fs::read_dir(dir).ok()?;
            entries.find_map(|entry| Self::of_library(&entry.ok()?.path()))
        });
        files.max()
    }
}

/// How libvirt's daemons are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// One libvirtd with every driver (Debian, Ubuntu).
    Monolithic,
    /// One daemon for each driver (Fedora, Arch): networks are virtnetworkd's.
    Modular,
}

impl Kind {
    /// The program that has the networks.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Monolithic => "libvirtd",
            Self::Modular => "virtnetworkd",
        }
    }

    /// What the installed programs say.
    #[must_use]
    pub fn installed(places: &Places) -> Option<Self> {
        // A system with both has the modular ones switched on, unless libvirtd runs.
        [Self::Modular, Self::Monolithic]
            .into_iter()
            .find(|kind| places.program(kind.program()).exists())
    }
}

/// Who answers calls about networks in a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// libvirt's own driver.
    Stock,
    /// Another one in its place: netd's.
    Netd(PathBuf),
    /// None.
    Absent,
}

/// A daemon that runs.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Which one.
    pub kind: Kind,
    /// Its process number.
    pub pid: u32,
    /// Its release.
    pub version: Option<Version>,
    /// Its network driver.
    pub driver: Driver,
}

/// The daemons that run in this process's namespaces and may have networks.
///
/// # Errors
/// Processes cannot be listed.
pub fn running() -> anyhow::Result<Vec<Daemon>> {
    let own = namespaces(&Process::myself()?);
    let mut daemons = Vec::new();
    for process in procfs::process::all_processes()? {
        // One that ends meanwhile is none.
        let daemon = process.ok().and_then(|process| daemon(&process, &own));
        daemons.extend(daemon);
    }
    daemons.sort_by_key(|daemon| daemon.pid);
    Ok(daemons)
}

/// The namespaces that make two processes see the same files and devices.
fn namespaces(process: &Process) -> Vec<u64> {
    let Ok(all) = process.namespaces() else {
        return Vec::new();
    };
    let of = |name: &str| all.0.get(OsStr::new(name)).map(|ns| ns.identifier);
    [of("mnt"), of("net")].into_iter().flatten().collect()
}

fn daemon(process: &Process, own: &[u64]) -> Option<Daemon> {
    let exe = process.exe().ok()?;
    let name = exe.file_name()?.to_str()?;
    // A replaced program's link ends so.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let kind = [Kind::Monolithic, Kind::Modular]
        .into_iter()
        .find(|kind| kind.program() == name)?;
    if namespaces(process) != own {
        return None;
    }
    let maps = process.maps().ok()?;
    let files: Vec<&Path> = maps
        .iter()
        .filter_map(|map| match &map.pathname {
            MMapPath::Path(path) => Some(path.as_path()),
            _ => None,
        })
        .collect();
    Some(Daemon {
        kind,
        pid: process.pid.unsigned_abs(),
        version: files.iter().find_map(|path| Version::of_library(path)),
        driver: driver(&files),
    })
}

/// libvirt's own drivers lie in a folder called so; a link to one shows where it leads to.
fn driver(files: &[&Path]) -> Driver {
    let file = |path: &&&Path| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with(DRIVER))
    };
    match files.iter().find(file) {
        None => Driver::Absent,
        Some(path)
            if path
                .parent()
                .is_some_and(|dir| dir.ends_with("libvirt/connection-driver")) =>
        {
            Driver::Stock
        }
        Some(path) => Driver::Netd(path.to_path_buf()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_tells_its_release() {
        let version = |path: &str| Version::of_library(Path::new(path)).map(|v| v.to_string());
        assert_eq!(
            version("/usr/lib/libvirt.so.0.9000.0").as_deref(),
            Some("9.0.0")
        );
        assert_eq!(version("libvirt.so.0.11003.0").as_deref(), Some("11.3.0"));
        assert_eq!(version("libvirt.so.0.12008.1").as_deref(), Some("12.8.1"));
        for other in [
            "libvirt.so.0",
            "libvirt-qemu.so.0.9000.0",
            "libvirt.so.0.x.0",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn the_loaded_driver_is_known_by_its_folder() {
        let driver = |files: &[&str]| {
            let files: Vec<&Path> = files.iter().map(|file| Path::new(*file)).collect();
            driver(&files)
        };
        let stock = "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_network.so";
        assert_eq!(driver(&["/lib/ld.so", stock]), Driver::Stock);
        let other = "/usr/lib/netd/libvirt_driver_network.so";
        assert_eq!(driver(&[other]), Driver::Netd(PathBuf::from(other)));
        assert_eq!(driver(&["/lib/ld.so"]), Driver::Absent);
    }
}
