//! Commands that the tasks are made of: cargo in the workspace, what it built, and what has to download.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::root;

/// The root of the workspace, where cargo runs.
pub fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// The target directory that this program lies in, or the usual one.
pub fn target() -> PathBuf {
    let this = std::env::current_exe().ok();
    let target = this
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::parent);
    target.map_or_else(|| workspace().join("target"), Path::to_owned)
}

/// A path as text, for commands.
pub fn text(path: &Path) -> Result<&str> {
    let text = path.to_str();
    text.with_context(|| format!("{} is no text", path.display()))
}

/// Cargo in the workspace.
pub fn cargo() -> Command {
    let mut command = online(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Runs a command, shown, to its success.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Builds the release binary, with the eBPF object in it, and the module for libvirtd.
pub fn build() -> Result<()> {
    println!("building netd");
    let packages = ["--package", "netd", "--package", "netd-libvirt"];
    succeed(cargo().args(["build", "--release"]).args(packages))
}

/// Builds test programs of the package `netd-tests`, and returns where they are.
pub fn built_tests(names: &[&str]) -> Result<Vec<PathBuf>> {
    built_tests_in(&workspace(), names)
}

/// The same in any tree. Other trees are built in one place below this one's target directory, so that
/// what they depend on is compiled once.
pub fn built_tests_in(tree: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.current_dir(tree);
    if tree != workspace() {
        let target = workspace().join("target/against/build");
        command.env("CARGO_TARGET_DIR", target);
    }
    command.args(["test", "--no-run", "--package", "netd-tests"]);
    for name in names {
        command.args(["--test", name]);
    }
    println!("building the tests {}", names.join(", "));
    let output = command
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut built = Vec::new();
    for message in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(message)?;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        if let Some(program) = message["executable"].as_str()
            && names.contains(&name)
        {
            built.push(PathBuf::from(program));
        }
    }
    if built.len() != names.len() {
        bail!("of the tests {} cargo built {built:?}", names.join(", "));
    }
    Ok(built)
}

/// Where the release binary is: beside the directory this program was built into.
pub fn binary() -> Result<PathBuf> {
    built("netd")
}

/// Path of the module for libvirtd.
pub fn module() -> Result<PathBuf> {
    built("libnetd_libvirt.so")
}

fn built(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding the target directory")?;
    let target = this
        .parent()
        .and_then(|profile| profile.parent())
        .context("xtask does not lie in a target directory")?;
    let path = target.join("release").join(name);
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}

/// A command that may have to download. In a network namespace that leads nowhere, as a fresh one
/// does, root lends it the machine's own network; what is built is the same.
pub fn online(program: &str) -> Command {
    let machine = Path::new("/proc/1/ns/net");
    let elsewhere = || {
        let own = fs::read_link("/proc/self/ns/net").ok()?;
        Some(fs::read_link(machine).ok()? != own)
    };
    if root::is_root() && !has_route() && elsewhere().unwrap_or(false) {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", machine.display()))
            .arg("--")
            .arg(program);
        return command;
    }
    Command::new(program)
}

/// Does any route leave this namespace?
fn has_route() -> bool {
    let v4 = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
    // A header line in IPv4's; routes of the loopback in IPv6's.
    v4.lines().count() > 1 || v6.lines().any(|line| !line.trim_end().ends_with(" lo"))
}

/// What a command prints, which must succeed.
pub fn said(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
