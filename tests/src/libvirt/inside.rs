//! The way into a host.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::Result;

use super::PATIENCE;

/// How one gets into a host that runs; it may be copied.
#[derive(Clone, Copy, Debug)]
pub struct Inside {
    /// Its first process, by the machine's number.
    init: u32,
}

impl Inside {
    pub(super) fn of(init: u32) -> Self {
        Self { init }
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args(["--mount", "--net", "--pid", "--uts", "--"])
            // The working directory of the machine has no name inside.
            .args(["env", "--chdir=/"])
            .arg(program)
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("LIBVIRT_DEFAULT_URI", "qemu:///system")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command inside, whatever its end; none takes longer than [`PATIENCE`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn output<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        crate::output(&mut self.limited(words))
    }

    /// Runs a command inside and returns its stdout.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn run<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String> {
        crate::run(&mut self.limited(words))
    }

    fn limited<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.command("timeout");
        command.arg(PATIENCE.as_secs().to_string()).args(words);
        command
    }

    /// Where the machine finds a file of the host.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }
}
