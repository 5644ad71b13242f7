//! What systemd does on a host that it runs.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{Host, PATIENCE};
use crate::eventually;

/// netd's units, as its packages install them.
const UNITS: [(&str, &str); 4] = [
    ("netd.service", include_str!("../../../dist/netd.service")),
    ("netd.socket", include_str!("../../../dist/netd.socket")),
    (
        "netd-libvirt.socket",
        include_str!("../../../dist/netd-libvirt.socket"),
    ),
    (
        "netd-libvirt-ro.socket",
        include_str!("../../../dist/netd-libvirt-ro.socket"),
    ),
];

impl Host {
    /// Runs systemctl, which must be content; returns its stdout.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn systemctl<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String> {
        self.run(std::iter::once("systemctl").chain(words))
    }

    /// Installs the netd under test with its units, of which none is started.
    ///
    /// # Errors
    /// `NETD_BIN` is not set, or systemd does not take them.
    pub fn install_units(&self) -> Result<()> {
        self.install(&crate::agent::binary()?, "/usr/sbin/netd")?;
        for (name, text) in UNITS {
            let path = Path::new("/etc/systemd/system").join(name);
            self.file(path.to_str().context("a path that is no text")?, text)?;
        }
        self.systemctl(["daemon-reload"]).map(drop)
    }

    /// The number of a unit's main process, as the host counts; none where it does not run.
    ///
    /// # Errors
    /// systemd does not tell.
    pub fn main_pid(&self, unit: &str) -> Result<Option<u32>> {
        let told = self.systemctl(["show", "--property=MainPID", "--value", unit])?;
        let pid: u32 = told.trim().parse()?;
        Ok((pid != 0).then_some(pid))
    }

    pub(super) fn wait_until_booted(&self) -> Result<()> {
        let booted = eventually(PATIENCE, || {
            let state = self.systemctl(["is-active", "rig.target"])?;
            ensure!(state.trim() == "active", "rig.target is {state}");
            // Who asks systemd over D-Bus has the bus start.
            self.run(["busctl", "--timeout=60", "status"]).map(drop)
        });
        booted.with_context(|| self.journal())
    }

    /// What systemd and its daemons said.
    #[must_use]
    pub fn journal(&self) -> String {
        let said = self.run(["journalctl", "--no-pager", "--output=short-precise"]);
        said.unwrap_or_else(|error| format!("no journal: {error:#}"))
    }
}
