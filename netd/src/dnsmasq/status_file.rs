//! `BRIDGE.status`, libvirt's file of leases.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{read_bounded, write_durable};
use super::{MAX_STATUS_BYTES, nss};

/// One lease in BRIDGE.status. The order of the fields is that of the keys in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLease {
    /// DHCPv6 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iaid: Option<String>,
    #[serde(rename = "ip-address")]
    pub ip: IpAddr,
    #[serde(rename = "mac-address", skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(rename = "client-id", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(rename = "server-duid", skip_serializing_if = "Option::is_none")]
    pub server_duid: Option<String>,
    /// Seconds since the epoch; 0 never ends.
    #[serde(rename = "expiry-time", default)]
    pub expiry: i64,
}

/// Replace a status file, and the one that libvirt's NSS modules read.
pub(super) fn write(path: &Path, leases: &[StoredLease]) -> io::Result<()> {
    let mut content = serde_json::to_vec_pretty(leases)?;
    content.push(b'\n');
    if content.len() as u64 > MAX_STATUS_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    write_durable(path, &content, 0o644)?;
    match nss::mirror(path) {
        Some(mirror) => write_durable(&mirror, &content, 0o644),
        None => Ok(()),
    }
}

/// Entries of a status file. One that is not a lease (no address, a number where text belongs)
/// is left out; a file that is no list is an error of the kind `InvalidData`.
pub(super) fn read(path: &Path) -> io::Result<Vec<StoredLease>> {
    let content = read_bounded(path, MAX_STATUS_BYTES)?.unwrap_or_default();
    if content.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&content)?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| serde_json::from_value(entry).ok())
        .collect())
}
