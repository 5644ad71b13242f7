//! Builds the eBPF programs: netd's, which the library embeds, and the benchmark's.
//!
//! A cargo call of its own instead of aya-build's, which leaves the BPF instruction set at its
//! first version. The third (Linux 5.1) has 32-bit arithmetic and jumps and atomic operations
//! that return a value.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

const TARGET: &str = "bpfel-unknown-none";

fn main() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("cargo sets {name}"));
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    for source in ["netd-common/src", "netd-ebpf/src", "netd-ebpf/Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let built = build(&root, &out.join("ebpf"), &arch)?;
    // The library embeds all but the last, which is the benchmark's.
    for object in [
        "netd-ebpf",
        "netd-probe",
        "netd-relay",
        "netd-release",
        "netd-bench",
    ] {
        let built = built.join(object);
        std::fs::copy(&built, out.join(object))
            .with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(())
}

/// Build the objects; returns the directory they are in.
fn build(root: &Path, target_dir: &Path, arch: &str) -> anyhow::Result<PathBuf> {
    let flags = [
        // What aya-ebpf takes the layout of pt_regs from.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Else LLVM turns every zeroing, of three bytes even, into a call of a function with a loop:
        // a fifth of the time of a packet by XDP, a quarter of the verifier's work, and 32 bytes of
        // the stack, which then is too small for Linux 6.1.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        // `core` is built from source, which is an unstable option of cargo. This admits it for
        // the one toolchain there is, and for nothing but this build.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // A wrapper that cargo was told of (clippy's) is for the host's crates.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC")
        .args(["build", "--release", "--package", "netd-ebpf", "--bins"])
        .args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "the eBPF programs do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target_dir.join(TARGET).join("release"))
}
