//! netd's network driver in a host's libvirtd.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Host;

/// The file of a network driver, libvirt's or netd's.
const DRIVER: &str = "libvirt_driver_network.so";
/// Where netd's is installed.
const INSTALLED: &str = "/usr/lib/netd/libvirt_driver_network.so";
/// A folder with links to all drivers that libvirtd is to load.
const FOLDER: &str = "/var/lib/drivers";

impl Host {
    /// Installs netd's network driver for libvirtd, which does not load it yet.
    ///
    /// # Errors
    /// `NETD_MODULE` is not set.
    pub fn install_module(&self) -> Result<()> {
        let module = std::env::var_os("NETD_MODULE")
            .context("NETD_MODULE is not set: run the tests with `cargo xtask test`")?;
        fs::create_dir_all(self.path("/usr/lib/netd"))?;
        self.install(Path::new(&module), INSTALLED)
    }

    /// Has libvirtd load netd's network driver in place of its own from its next start on.
    ///
    /// # Errors
    /// `NETD_MODULE` is not set, or libvirtd has no folder of drivers.
    pub fn use_module(&mut self) -> Result<()> {
        self.install_module()?;
        let stock = self.drivers()?;
        let folder = self.path(FOLDER);
        fs::create_dir(&folder)?;
        for entry in fs::read_dir(self.path(&stock))? {
            let name = entry?.file_name();
            if name != DRIVER {
                symlink(Path::new(&stock).join(&name), folder.join(&name))?;
            }
        }
        symlink(INSTALLED, folder.join(DRIVER))?;
        self.libvirtd.set_env("LIBVIRT_DRIVER_DIR", FOLDER);
        Ok(())
    }

    /// Has libvirtd load its own network driver from its next start on.
    ///
    /// # Errors
    /// The folder of links cannot be removed.
    pub fn use_stock_driver(&mut self) -> Result<()> {
        self.libvirtd.unset_env("LIBVIRT_DRIVER_DIR");
        Ok(fs::remove_dir_all(self.path(FOLDER))?)
    }

    /// libvirtd's folder of drivers, which lies below one that is named after the machine.
    fn drivers(&self) -> Result<String> {
        let libraries = self.path("/usr/lib");
        let found: Vec<PathBuf> = fs::read_dir(&libraries)?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .map(|name| {
                Path::new("/usr/lib")
                    .join(name)
                    .join("libvirt/connection-driver")
            })
            .filter(|path| path.to_str().is_some_and(|path| self.path(path).is_dir()))
            .collect();
        ensure!(found.len() == 1, "libvirtd's drivers: {found:?}");
        let path = found[0].to_str().context("a path that is no text")?;
        Ok(path.to_owned())
    }
}
