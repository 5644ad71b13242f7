//! Becoming root where a step needs it; everything is built as the user before.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

/// Is this process root?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as root, by sudo where needed.
pub fn command(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Replaces this process by itself as root, with another task.
pub fn again(task: &str, arguments: &[String]) -> Result<()> {
    let this = std::env::current_exe().context("finding this program")?;
    let mut command = if is_root() {
        Command::new(this)
    } else {
        println!("going on as root (sudo)");
        let mut sudo = Command::new("sudo");
        sudo.arg("--preserve-env").arg(this);
        sudo
    };
    let program: OsString = command.get_program().to_owned();
    command.arg(task).arg("--").args(arguments);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
