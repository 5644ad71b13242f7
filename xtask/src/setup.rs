//! The Rust side of what is needed: one stable toolchain, its sources, the BPF linker.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tools::{online, succeed};

/// Links with the LLVM that comes with rustc, so it must fit the toolchain.
const BPF_LINKER: &str = "0.10.3";
/// Finds dependencies that nothing uses.
const CARGO_MACHETE: &str = "0.9.2";
/// Looks at licences and sources of dependencies.
const CARGO_DENY: &str = "0.20.2";
/// Makes Debian's packages.
const CARGO_DEB: &str = "3.8.0";

/// What building netd needs.
pub fn build_tools() -> Result<()> {
    rust_src()?;
    cargo_tool("bpf-linker", BPF_LINKER)
}

/// What `lint` needs besides.
pub fn lint_tools() -> Result<()> {
    for (component, program) in [("rustfmt", "rustfmt"), ("clippy", "clippy-driver")] {
        if version(program).is_none() {
            rustup_component(component)?;
        }
    }
    cargo_tool("cargo-machete", CARGO_MACHETE)?;
    cargo_tool("cargo-deny", CARGO_DENY)
}

/// What `dist` needs besides.
pub fn dist_tools() -> Result<()> {
    cargo_tool("cargo-deb", CARGO_DEB)
}

/// The sources of `core`: cargo builds it for the BPF target, which has no ready-made one.
fn rust_src() -> Result<()> {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("rustc cannot be started: install Rust from https://rustup.rs")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(());
    }
    rustup_component("rust-src")
}

fn rustup_component(component: &str) -> Result<()> {
    println!("installing {component} (rustup component add {component})");
    succeed(online("rustup").args(["component", "add", component])).with_context(|| {
        format!(
            "{component} is missing and rustup cannot add it: install it for the toolchain in use"
        )
    })
}

/// A program that cargo installs, at exactly that version.
fn cargo_tool(program: &str, wanted: &str) -> Result<()> {
    match version(program) {
        Some(installed) if installed.split_whitespace().any(|word| word == wanted) => return Ok(()),
        Some(other) => println!("installing {program} {wanted} (found {other})"),
        None => println!("installing {program} {wanted} (some minutes)"),
    }
    succeed(online("cargo").args([
        "install",
        program,
        "--version",
        wanted,
        "--locked",
        "--force",
        "--quiet",
    ]))?;
    match version(program) {
        Some(text) if text.contains(wanted) => Ok(()),
        _ => bail!("{program} {wanted} was installed but another one, or none, is in PATH first"),
    }
}

/// What `PROGRAM --version` says; `None` where there is no such program.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
