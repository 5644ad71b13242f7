//! What the tests with a real libvirt and real guests need: a guest's kernel and file system, and file
//! systems of Debian's releases with their libvirt.
//!
//! ```text
//! target/guest/vmlinuz, initramfs    what guests boot
//! target/roots/SUITE                 a file system; tests do not write to it
//! ```

mod guest;
mod roots;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

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
    let suites: &[&str] = if every { &roots::SUITES } else { &[] };
    if !POSSIBLE {
        eprintln!("SKIPPED: no tests with guests, which are amd64 ones");
    }
    command.envs(make(suites)?);
    Ok(())
}

/// Makes what a host of Debian's newest release needs; returns the variables that say where it is.
pub fn newest() -> Result<[(&'static str, PathBuf); 2]> {
    ensure!(POSSIBLE, "hosts are amd64 ones");
    install(true)?;
    make(&[roots::NEWEST])
}

fn make(suites: &[&str]) -> Result<[(&'static str, PathBuf); 2]> {
    let (guest, roots) = (target().join("guest"), target().join("roots"));
    if POSSIBLE {
        guest::make(&guest)?;
        roots::make(&roots, suites)?;
    }
    Ok([("NETD_GUEST", guest), ("NETD_ROOTS", roots)])
}
