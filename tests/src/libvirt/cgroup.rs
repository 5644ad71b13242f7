//! A host's part of the machine's control groups.

use std::process::Command;

use anyhow::Result;

use crate::{SOON, eventually};

/// A control group at the root of the machine's, with those below it.
#[derive(Debug)]
pub(super) struct Cgroup {
    name: String,
}

impl Cgroup {
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Removes it. Its processes have been killed, and may take a moment to be gone.
    pub(super) fn remove(self) -> Result<()> {
        // Where the machine has the file system mounted, if anywhere, is its own affair.
        let script = r#"mount -t cgroup2 cgroup2 /mnt && cd /mnt && [ ! -d "$0" ] \
            || find "$0" -depth -type d -exec rmdir {} +"#;
        eventually(SOON, || {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, &self.name]);
            crate::run(&mut command).map(drop)
        })
    }
}
