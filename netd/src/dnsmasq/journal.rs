//! Changes of leases that are not in the status file yet.
//!
//! dnsmasq runs the lease helper once for each change of a lease, and for every lease there is when it
//! starts and when it is told to read its hosts again. A helper that wrote the whole status file each time
//! would make the cost of one lease grow with their number. So a large status file stays as it is for a
//! while, and a change is a line appended to `BRIDGE.journal` beside it; once that has a quarter of the
//! file's size, or the agent gets to it, both become a new status file. That makes it a few leases to write
//! for each change, however many there are.
//!
//! Whoever calls these holds the lock of the directory ([`lock`]).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::MAX_STATUS_BYTES;
use super::files::read_bounded;
use super::status_file::{self, StoredLease};

/// A status file up to this size, some eighty leases, is written anew with every change.
const SMALL: u64 = 16 << 10;

/// How many times the journal's size the status file's has to be.
const PART: u64 = 4;

/// What follows the bridge's name in the journal's.
pub(super) const EXTENSION: &str = "journal";

/// What happened to a lease.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Change {
    /// It is over.
    Removed {
        /// Its address.
        removed: IpAddr,
    },
    /// It is new, or another one now.
    Stored(StoredLease),
}

impl Change {
    fn ip(&self) -> IpAddr {
        match self {
            Self::Removed { removed } => *removed,
            Self::Stored(lease) => lease.ip,
        }
    }
}

/// Keeps others from the files of a directory, until it is dropped. The directory itself is locked:
/// nothing is left behind.
///
/// # Errors
/// The directory cannot be opened or locked.
pub(super) fn lock(dir: &Path, how: FlockOperation) -> io::Result<File> {
    let file = File::open(dir)?;
    flock(&file, how)?;
    Ok(file)
}

/// The leases of a status file, with what happened since it was written.
///
/// # Errors
/// As [`status_file::read`]; or the journal cannot be read, or is longer than a status file may be.
pub(super) fn load(status: &Path) -> io::Result<Vec<StoredLease>> {
    with_journal(status, status_file::read(status)?)
}

/// The same; where the status file is not one, it is given up, and said so.
///
/// # Errors
/// The files cannot be read, or are too long.
pub(super) fn load_or_start_over(status: &Path) -> io::Result<Vec<StoredLease>> {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let leases = status_file::read(status).or_else(|error| match error.kind() {
        InvalidData | UnexpectedEof => {
            eprintln!(
                "netd lease-helper: {} is not valid, starting over: {error}",
                status.display()
            );
            Ok(Vec::new())
        }
        _ => Err(error),
    })?;
    with_journal(status, leases)
}

fn with_journal(status: &Path, leases: Vec<StoredLease>) -> io::Result<Vec<StoredLease>> {
    let journal = read_bounded(&path(status), MAX_STATUS_BYTES)?.unwrap_or_default();
    // A line that an agent's or a machine's end cut off is none.
    let lines = journal.split(|byte| *byte == b'\n');
    let changes: Vec<Change> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    Ok(merge(leases, changes))
}

/// Take note of a change. `lasting`: it is to survive a power failure.
///
/// # Errors
/// As [`load_or_start_over`], or the files cannot be written.
pub(super) fn note(status: &Path, change: Change, lasting: bool) -> io::Result<()> {
    let mut line = serde_json::to_vec(&change)?;
    line.push(b'\n');
    let size = length(status)?;
    let pending = length(&path(status))? + line.len() as u64;
    if size > SMALL && pending * PART <= size {
        return append(&path(status), &line, lasting);
    }
    let leases = load_or_start_over(status)?;
    replace(status, &merge(leases, vec![change]))
}

/// Write the status file anew, with what the journal has. Was there one?
///
/// # Errors
/// As [`load_or_start_over`], or the files cannot be written.
pub(super) fn fold(status: &Path) -> io::Result<bool> {
    if !path(status).exists() {
        return Ok(false);
    }
    let leases = load_or_start_over(status)?;
    replace(status, &leases).map(|()| true)
}

/// Replace the leases by these.
///
/// # Errors
/// The files cannot be written.
pub(super) fn replace(status: &Path, leases: &[StoredLease]) -> io::Result<()> {
    status_file::write(status, leases)?;
    // Who dies here leaves changes behind that are made already, and may be made once more.
    match fs::remove_file(path(status)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The journal of a status file.
pub(super) fn path(status: &Path) -> PathBuf {
    status.with_extension(EXTENSION)
}

/// The leases after these changes: those that changed come last, in the order of their last change.
fn merge(leases: Vec<StoredLease>, changes: Vec<Change>) -> Vec<StoredLease> {
    let mut last: HashMap<IpAddr, usize> = HashMap::new();
    for (at, change) in changes.iter().enumerate() {
        last.insert(change.ip(), at);
    }
    let mut merged = leases;
    merged.retain(|lease| !last.contains_key(&lease.ip));
    let changes = changes.into_iter().enumerate();
    let counts = changes.filter(|(at, change)| last.get(&change.ip()) == Some(at));
    merged.extend(counts.filter_map(|(_, change)| match change {
        Change::Stored(lease) => Some(lease),
        Change::Removed { .. } => None,
    }));
    merged
}

fn append(path: &Path, line: &[u8], lasting: bool) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options.create(true).read(true).append(true).open(path)?;
    // Behind a line that was cut off.
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    file.write_all(line)?;
    if lasting {
        file.sync_data()?;
    }
    Ok(())
}

/// Length of a file; 0 where there is none.
fn length(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
