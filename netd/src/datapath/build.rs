//! The build that programs are of, as it shows below a layout's directory: the mark of those in place,
//! and the maps that they have for themselves.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use super::error::{Result, io};
use super::programs::OBJECT;
use super::{log, slow_paths};

/// The build that these programs are of, as it shows below a layout's directory.
pub(super) struct Build {
    layout: PathBuf,
    id: String,
}

impl Build {
    pub(super) fn new(layout: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        OBJECT.hash(&mut hasher);
        Self {
            layout: layout.to_owned(),
            id: format!("{:016x}", hasher.finish()),
        }
    }

    /// The mark that says that all programs in place are of this build, beside their links. It goes
    /// with them.
    pub(super) fn mark(&self) -> PathBuf {
        self.layout.join("build").join(&self.id)
    }

    /// Where the maps are that the build's programs have for themselves.
    pub(super) fn maps(&self) -> PathBuf {
        self.layout.join("slow").join(&self.id)
    }

    /// Are the programs that an earlier agent left in place those of this build, with all that they
    /// need?
    pub(super) fn is_in_place(&self) -> bool {
        let maps = self.maps();
        // Those that log do it for the agent that loaded them.
        !log::wanted()
            && self.mark().is_dir()
            && slow_paths::MAPS.iter().all(|map| maps.join(map).exists())
    }

    /// Other builds' programs are no longer all in place.
    pub(super) fn forget_marks(&self) -> Result<()> {
        let marks = self.layout.join("build");
        match std::fs::remove_dir_all(&marks) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("remove", &marks)(error))
            }
            _ => Ok(()),
        }
    }

    /// No program of another build is in place any more.
    pub(super) fn forget_others(&self) -> Result<()> {
        let slow = self.layout.join("slow");
        for entry in std::fs::read_dir(&slow).map_err(io("list", &slow))? {
            let path = entry.map_err(io("list", &slow))?.path();
            if path != self.maps() {
                std::fs::remove_dir_all(&path).map_err(io("remove", &path))?;
            }
        }
        Ok(())
    }
}
