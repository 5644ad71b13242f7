//! How fast netd is beside its peers: see `docs/performance.md`. `cargo xtask bench` runs it, as root.

mod bench;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use bench::{Choice, Effort, Phase};
use clap::Parser;

/// Measure netd beside its peers, in network namespaces.
#[derive(Parser)]
struct Arguments {
    /// A few rounds, a hundred networks: under four minutes (the default)
    #[arg(long, conflicts_with = "full")]
    short: bool,
    /// More rounds of more packets, a thousand networks: under half an hour
    #[arg(long)]
    full: bool,
    /// The only parts to measure, by comma
    #[arg(long, value_delimiter = ',')]
    only: Vec<Phase>,
    /// Write every sample, and the machine, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw packets per second to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match measure(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<()> {
    let effort = if arguments.full {
        Effort::full()
    } else {
        Effort::short()
    };
    let choice = Choice {
        effort,
        phases: if arguments.only.is_empty() {
            Phase::ALL.to_vec()
        } else {
            arguments.only
        },
        interrupted: Arc::default(),
    };
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&choice.interrupted))?;
    }
    let report = bench::run(&choice)?;
    // The tables first: a file that cannot be written must not cost them.
    print!("{}", report.text());
    if let Some(path) = arguments.json {
        bench::write(&path, &report.json()?)?;
    }
    if let Some(path) = arguments.svg {
        bench::write(&path, &bench::plot(&report))?;
    }
    Ok(())
}
