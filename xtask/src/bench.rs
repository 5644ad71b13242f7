//! `bench`: how fast netd is beside its peers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::tools::{binary, build, cargo, succeed};
use crate::{against, packages, root};

/// What to measure, and where to put it.
#[derive(Args)]
pub struct Choice {
    /// A few rounds, a hundred networks: about five minutes (the default)
    #[arg(long, conflicts_with = "full")]
    short: bool,
    /// More rounds of more packets, a thousand networks: about 25 minutes
    #[arg(long)]
    full: bool,
    /// The only parts to measure, by comma: streams, connections, latency, flows, forwards,
    /// networks, agent
    #[arg(long)]
    only: Option<String>,
    /// Write every sample, and the machine, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw packets and TCP per second to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Instead of all that, compare what a packet costs in each program with a revision, or the tree in
    /// a directory; a case that got more than 3 % slower fails
    #[arg(long, value_name = "REV", conflicts_with_all = ["short", "full", "only", "json", "svg"])]
    against: Option<String>,
}

/// Runs the benchmark of the package `netd`: as root, while the compiler is the user's.
pub fn bench(choice: &Choice) -> Result<()> {
    if let Some(other) = &choice.against {
        packages::install(packages::RUN)?;
        return against::against(other);
    }
    packages::install(packages::BENCH)?;
    build()?;
    let mut command = cargo();
    command
        .args(["bench", "--package", "netd", "--bench", "speed", "--"])
        .env("NETD_BIN", binary()?);
    if choice.full {
        command.arg("--full");
    }
    if let Some(parts) = &choice.only {
        command.args(["--only", parts]);
    }
    for (flag, file) in [("--json", &choice.json), ("--svg", &choice.svg)] {
        if let Some(file) = file {
            // cargo starts it elsewhere.
            let file = std::path::absolute(file)
                .with_context(|| format!("the place of {}", file.display()))?;
            command.arg(flag).arg(file);
        }
    }
    succeed(root::runs_what_cargo_builds(&mut command)?)
}
