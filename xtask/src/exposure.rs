//! What netd's unit leaves an agent that somebody took over, as systemd reckons it.

use std::io;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{text, workspace};

/// The unit.
const UNIT: &str = "dist/netd.service";

/// Most that `systemd-analyze security` may give it, in tenths: 0 is a service that can do nothing, 100 one
/// that can do everything. `docs/decisions/agent.md` says what the rest is made of.
const MOST: &str = "31";

/// Is the unit as closed as it was?
pub fn exposure() -> Result<()> {
    let unit = workspace().join(UNIT);
    let mut command = Command::new("systemd-analyze");
    command
        .args([
            "security",
            "--no-pager",
            "--offline=true",
            "--threshold",
            MOST,
        ])
        .arg(text(&unit)?);
    let output = match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: no systemd-analyze (package systemd), so nobody looked at {UNIT}");
            return Ok(());
        }
        output => output.context("cannot start systemd-analyze")?,
    };
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{UNIT} is more exposed than {MOST} tenths, or not understood:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
