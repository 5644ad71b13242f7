//! `msrv`: does the workspace build with the oldest Rust that it says it does?

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{cargo, said, succeed, target, workspace};

/// Checks every crate with the toolchain of `rust-version`. The build script of netd compiles the eBPF programs
/// with it and links them.
pub fn msrv() -> Result<()> {
    let version = rust_version()?;
    succeed(Command::new("rustup").args([
        "toolchain",
        "install",
        &version,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
        "--no-self-update",
    ]))?;
    println!("checking with Rust {version}");
    succeed(
        // Not the one that this program was built by.
        Command::new("rustup")
            .args(["run", &version, "cargo", "check", "--locked"])
            .args(["--all-targets", "--target-dir"])
            .arg(target().join("msrv"))
            .env("RUSTUP_TOOLCHAIN", &version)
            .env_remove("CARGO")
            .env_remove("RUSTC")
            .current_dir(workspace()),
    )
}

/// `rust-version` of the workspace.
fn rust_version() -> Result<String> {
    let metadata = said(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut versions = packages
        .iter()
        .map(|package| package["rust_version"].as_str());
    let first = versions.next().flatten().context("no rust-version")?;
    if versions.any(|version| version != Some(first)) {
        bail!("crates of the workspace name several versions of Rust");
    }
    Ok(first.to_owned())
}
