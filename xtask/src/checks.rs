//! `test` and `lint`.

use std::process::Command;

use anyhow::{Result, bail};

use crate::tools::{binary, cargo, module, succeed};
use crate::{dist, exposure, hosts, root, structure};

/// Namespace tests wait for half of their time, so more of them than processors run at a time.
const TEST_THREADS: &str = "6";
/// Emulated guests are work for a processor each.
const CLIENT_THREADS: &str = "2";

/// What the names of tests begin with that are run by `--clients` alone.
const HEAVY: &str = "heavy::";

/// Every test but those with guests of every libvirt, or these alone. The test programs run as root, the
/// compiler as the user.
pub fn test(clients: bool, arguments: &[String]) -> Result<()> {
    netd_tests::Netns::sweep()?;
    let mut command = cargo();
    // One failure does not hide another.
    command
        .args(["test", "--no-fail-fast"])
        .env("NETD_BIN", binary()?)
        .env("NETD_MODULE", module()?);
    hosts::provide(&mut command, clients)?;
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let threads = if clients {
            CLIENT_THREADS
        } else {
            TEST_THREADS
        };
        command.env("RUST_TEST_THREADS", threads);
    }
    root::runs_what_cargo_builds(&mut command)?;
    let (for_cargo, for_tests) = match arguments.iter().position(|word| word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, [].as_slice()),
    };
    if clients {
        command.env("NETD_DEBS", dist::folder());
        command.args(["--package", "netd-tests", "--test", "guests"]);
        command.args(["--package", "netd-libvirt", "--lib"]);
        if for_cargo.is_empty() {
            command.arg(HEAVY);
        }
    }
    // The tests that need root are ignored by a plain `cargo test`.
    command.args(for_cargo).args(["--", "--include-ignored"]);
    if !clients {
        command.args(["--skip", HEAVY]);
    }
    succeed(command.args(for_tests))
}

/// Circles between modules, files and functions that are too long.
pub fn structure() -> Result<()> {
    let findings = structure::findings()?;
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}", findings.join("\n"))
}

/// Everything a reviewer should not have to look for.
pub fn lint() -> Result<()> {
    let mut failed = Vec::new();
    let mut check = |name: &'static str, command: &mut Command| {
        println!("lint: {name}");
        if let Err(error) = succeed(command) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    check("formatting", cargo().args(["fmt", "--all", "--check"]));
    let strict = ["--", "--deny", "warnings"];
    check(
        "clippy",
        cargo()
            .args(["clippy", "--quiet", "--all-targets"])
            .args(strict),
    );
    // The one stable toolchain builds `core` for the BPF target when told that it may.
    check(
        "clippy, eBPF",
        cargo()
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["clippy", "--quiet", "--release", "--package", "netd-ebpf"])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            .args(strict),
    );
    check(
        "documentation",
        cargo()
            .env("RUSTDOCFLAGS", "--deny warnings")
            .args(["doc", "--quiet", "--no-deps"]),
    );
    // Under `cargo run`, which this is, it would take its own name for a directory.
    check(
        "unused dependencies",
        cargo().arg("machete").env_remove("CARGO_PKG_NAME"),
    );
    // Known vulnerabilities are left out: their list is not to be had everywhere.
    let subjects = ["licenses", "bans", "sources"];
    // It reads the crates of every platform, of which a build here fetches Linux's alone.
    check(
        "dependencies of every platform",
        cargo().args(["fetch", "--quiet", "--locked"]),
    );
    check(
        "dependencies",
        cargo().args(["deny", "--offline", "check"]).args(subjects),
    );
    for (name, outcome) in [("structure", structure()), ("unit", exposure::exposure())] {
        println!("lint: {name}");
        if let Err(error) = outcome {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("lint: all well");
        return Ok(());
    }
    bail!("lint failed: {}", failed.join(", "))
}
