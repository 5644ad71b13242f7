//! Becoming root where a step needs it; everything is built as the user before.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
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
    again_with(task, arguments, &[])
}

/// The same with variables for it.
pub fn again_with(task: &str, arguments: &[String], environment: &[(&str, PathBuf)]) -> Result<()> {
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
    command.envs(environment.iter().cloned());
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// Lets cargo start by sudo, where needed, what it has built as the user.
pub fn runs_what_cargo_builds(cargo: &mut Command) -> Result<&mut Command> {
    if !is_root() {
        let host = host_triple()?.to_uppercase().replace(['-', '.'], "_");
        cargo.env(format!("CARGO_TARGET_{host}_RUNNER"), "sudo --preserve-env");
    }
    Ok(cargo)
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
