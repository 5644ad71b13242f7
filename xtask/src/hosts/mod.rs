//! What the tests with a real libvirt and real guests need: a guest's kernel and file system, and file
//! systems of Debian's releases with their libvirt.
//!
//! ```text
//! target/guest/vmlinuz, initramfs    what guests boot
//! target/roots/SUITE                 a file system; tests do not write to it
//! ```

mod guest;
mod roots;

use std::process::Command;

use anyhow::Result;

use crate::packages;
use crate::tools::target;

/// Guests are amd64 ones, emulated by what Debian has for amd64.
const POSSIBLE: bool = cfg!(target_arch = "x86_64");

/// Installs what the tests with guests need, where there can be any; those with guests of `every` libvirt
/// need more.
pub fn install(every: bool) -> Result<()> {
    if !POSSIBLE {
        return Ok(());
    }
    packages::install(packages::GUESTS)?;
    if every {
        packages::install(packages::CLIENTS)?;
    }
    Ok(())
}

/// Makes what is missing, and tells the tests where it is. What cannot be made because apt reaches nothing
/// is said; the tests that want it find it missing.
pub fn provide(command: &mut Command, every: bool) -> Result<()> {
    let (guest, roots) = (target().join("guest"), target().join("roots"));
    if POSSIBLE {
        guest::make(&guest)?;
        if every {
            roots::make(&roots)?;
        }
    } else {
        eprintln!("SKIPPED: no tests with guests, which are amd64 ones");
    }
    command.env("NETD_GUEST", guest).env("NETD_ROOTS", roots);
    Ok(())
}
