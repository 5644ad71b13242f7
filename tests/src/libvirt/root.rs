//! Where the programs of a host come from.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// A file system with a libvirt in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// This machine's own packages.
    Machine,
    /// Debian 12: libvirt 9.0
    Bookworm,
    /// Debian 13: libvirt 11.3
    Trixie,
    /// Debian sid: libvirt 12.8 or later
    Sid,
}

impl Root {
    /// The releases that `cargo xtask test --clients` makes file systems of.
    pub const SUITES: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Sid];

    /// Debian's name of the release; `None` for the machine's own.
    #[must_use]
    pub fn suite(self) -> Option<&'static str> {
        match self {
            Self::Machine => None,
            Self::Bookworm => Some("bookworm"),
            Self::Trixie => Some("trixie"),
            Self::Sid => Some("sid"),
        }
    }

    /// Where it lies; `None` where apt could not be reached to make it, which `cargo xtask` has
    /// said then.
    ///
    /// # Errors
    /// `NETD_ROOTS` is not set.
    pub fn path(self) -> Result<Option<PathBuf>> {
        let Some(suite) = self.suite() else {
            return Ok(Some(PathBuf::from("/")));
        };
        let roots = std::env::var_os("NETD_ROOTS")
            .context("NETD_ROOTS is not set: run these tests with `cargo xtask test --clients`")?;
        let roots = PathBuf::from(roots);
        ensure!(
            roots.is_dir(),
            "NETD_ROOTS={} is no directory",
            roots.display()
        );
        let path = roots.join(suite);
        Ok(path.is_dir().then_some(path))
    }
}

impl fmt::Display for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.suite() {
            Some(suite) => write!(formatter, "Debian {suite}"),
            None => formatter.write_str("this machine"),
        }
    }
}
