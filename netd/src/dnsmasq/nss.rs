//! What libvirt's NSS modules read (`libvirt` and `libvirt_guest` in `nsswitch.conf`), by which a host knows
//! its guests by name: `BRIDGE.status`, the leases, and `BRIDGE.macs`, which guest has which MAC addresses, in
//! libvirt's directory.
//!
//! For a network that was libvirt's, netd goes on writing them. `BRIDGE.nss` beside netd's own leases is a
//! link to the file of leases that is written as well. The modules do not follow links that lead nowhere, or
//! where a user may not look, and name no guest of any network then; so they get files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::write_durable;
use crate::model::{NetworkPorts, check_interface_name};

/// One guest in `BRIDGE.macs`.
#[derive(Debug, Serialize)]
struct Guest<'a> {
    domain: &'a str,
    macs: Vec<String>,
}

/// The link of a bridge.
fn link(dir: &Path, bridge: &str) -> io::Result<PathBuf> {
    check_interface_name(bridge)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(dir.join(format!("{bridge}.nss")))
}

/// The file of leases that is written as well as `status`, if there is one.
pub(super) fn mirror(status: &Path) -> Option<PathBuf> {
    fs::read_link(status.with_extension("nss")).ok()
}

/// Write the leases of `bridge`, which are in `dir`, to libvirt's directory as well from now on.
///
/// # Errors
/// The link cannot be made.
pub fn begin(dir: &Path, bridge: &str, stock: &Path) -> io::Result<()> {
    let link = link(dir, bridge)?;
    let status = stock.join(format!("{bridge}.status"));
    remove(&link)?;
    symlink(status, link)
}

/// Write them there no longer; what is there is libvirt's.
///
/// # Errors
/// The link cannot be removed.
pub fn end(dir: &Path, bridge: &str) -> io::Result<()> {
    remove(&link(dir, bridge)?)
}

/// The network is no more: its files go from libvirt's directory, too.
///
/// # Errors
/// The first that cannot be removed.
pub fn forget(dir: &Path, bridge: &str) -> io::Result<()> {
    let link = link(dir, bridge)?;
    let Some(status) = mirror(&link) else {
        return Ok(());
    };
    let removed = remove(&status).and(remove(&status.with_extension("macs")));
    removed.and(remove(&link))
}

/// The same for every bridge.
///
/// # Errors
/// The first file that cannot be removed; the others are gone.
pub fn forget_all(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut done = Ok(());
    for entry in entries {
        let name = entry?.file_name();
        if let Some(bridge) = name.to_str().and_then(|name| name.strip_suffix(".nss")) {
            done = done.and(forget(dir, bridge));
        }
    }
    done
}

/// Tell which guests have which MAC addresses, where leases are told as well.
///
/// # Errors
/// The file cannot be written.
pub fn tell_macs(dir: &Path, bridge: &str, ports: &NetworkPorts) -> io::Result<()> {
    let Some(status) = mirror(&link(dir, bridge)?) else {
        return Ok(());
    };
    let mut guests: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for port in ports.iter() {
        let macs = guests.entry(&port.owner.name).or_default();
        let mac = port.mac.to_string();
        // A link that is set down and up again has two ports for a moment.
        if !macs.contains(&mac) {
            macs.push(mac);
        }
    }
    let guests = guests.into_iter();
    let guests: Vec<_> = guests
        .map(|(domain, macs)| Guest { domain, macs })
        .collect();
    let json = serde_json::to_vec_pretty(&guests)?;
    write_durable(&status.with_extension("macs"), &json, 0o644)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
