//! Links of the kernel's that stay because they are pinned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::programs::Program;
use aya::programs::links::{FdLink, PinnedLink};

use super::hook::Attachment;
use super::link::Link;
use super::refusal::Refusal;
use crate::datapath::error::{Result, io};

/// Put the program into the place of the one whose link is pinned, by `replace`; without a pin, or
/// with one whose device has gone, attach it by `create` and pin that.
pub(super) fn attach(
    path: &Path,
    program: &mut Program,
    replace: impl FnOnce(&mut Program, FdLink) -> std::result::Result<FdLink, Refusal>,
    create: impl FnOnce(&mut Program) -> std::result::Result<FdLink, Refusal>,
) -> std::result::Result<(), Refusal> {
    if path.exists() {
        let pinned = FdLink::from(PinnedLink::from_pin(path)?);
        match replace(program, pinned) {
            // Dropping the handle of a pinned link leaves it attached.
            Ok(link) => {
                drop(link);
                return Ok(());
            }
            Err(refusal) if refusal.dead => {
                let message = refusal.message;
                tracing::debug!(path = %path.display(), message, "pinned link is dead, attaching anew");
                remove(path)?;
            }
            // The earlier program stays in place.
            Err(refusal) => return Err(refusal),
        }
    }
    create(program)?.pin(path)?;
    Ok(())
}

/// Take the program whose link is pinned off its device, and remove the pin. Nothing there is no error.
pub(super) fn detach(path: &Path) -> Result<()> {
    let link = Link::open(path);
    // First, so that a pin never stands for a program that is not attached.
    remove(path)?;
    match link.map_err(io("open", path))? {
        Some(link) => link.detach().map_err(io("detach", path)),
        None => Ok(()),
    }
}

/// Remove a pin; its link goes some time later. Nothing there is no error.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Names of what is pinned in a directory; none where there is no directory.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io("list", dir))?,
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(io("list", dir))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// The pins of one mechanism's links in a directory that it shares with others.
pub(super) struct Links {
    dir: PathBuf,
}

impl Links {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
        }
    }

    /// Where the link of a place is pinned.
    pub fn path(&self, place: impl std::fmt::Display) -> PathBuf {
        self.dir.join(place.to_string())
    }

    /// Is the link of that program at a device pinned?
    pub fn has(&self, ifindex: u32, program: &str) -> bool {
        Attachment::of(ifindex, program).is_some_and(|place| self.path(place).exists())
    }

    /// The places of those whose names `parse` knows.
    pub fn places<P: Ord>(&self, parse: impl Fn(&str) -> Option<P>) -> Result<BTreeSet<P>> {
        let names = names(&self.dir)?;
        Ok(names.iter().filter_map(|name| parse(name)).collect())
    }
}
