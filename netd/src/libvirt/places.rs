//! Where libvirt keeps what belongs to its network driver.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::api::StockService;

/// The directories of the system's libvirt, below a root that is `/` outside of tests.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl Places {
    /// The directories below another root.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Definitions, NAME.xml.
    #[must_use]
    pub fn definitions(&self) -> PathBuf {
        self.root.join("etc/libvirt/qemu/networks")
    }

    /// Symbolic links of the networks that start with the daemon.
    #[must_use]
    pub fn autostart(&self) -> PathBuf {
        self.definitions().join("autostart")
    }

    /// Status of running networks, NAME.xml, their ports, and pid files of dnsmasq.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.root.join("run/libvirt/network")
    }

    /// Configuration and host files of dnsmasq, and leases.
    #[must_use]
    pub fn dnsmasq(&self) -> PathBuf {
        self.root.join("var/lib/libvirt/dnsmasq")
    }

    /// Names of files that a daemon's unit reads its environment from: Debian's, and others'.
    #[must_use]
    pub fn defaults(&self, daemon: &str) -> [PathBuf; 2] {
        ["etc/default", "etc/sysconfig"].map(|dir| self.root.join(dir).join(daemon))
    }

    /// Directories that may hold libvirt.so.
    #[must_use]
    pub fn libraries(&self) -> Vec<PathBuf> {
        let usr = self.root.join("usr");
        let mut dirs = vec![usr.join("lib64"), usr.join("lib")];
        let multiarch = std::fs::read_dir(usr.join("lib"));
        dirs.extend(
            multiarch
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.to_string_lossy().contains("-linux-")),
        );
        dirs
    }

    /// Where a program of the system lies.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("usr/sbin").join(name)
    }

    /// The socket of libvirtd.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/libvirt/libvirt-sock")
    }

    /// Where libvirt's dnsmasq is.
    ///
    /// # Errors
    /// Its lease helper is not installed.
    pub fn service(&self) -> Result<StockService> {
        let dirs = ["usr/lib/libvirt", "usr/libexec", "usr/lib64/libvirt"];
        let paths = dirs.map(|dir| self.root.join(dir).join("libvirt_leaseshelper"));
        let helper = paths.into_iter().find(|path| path.is_file());
        Ok(StockService {
            dir: self.dnsmasq(),
            pid_dir: self.status(),
            helper: helper.context("libvirt's program libvirt_leaseshelper is not there")?,
        })
    }
}
