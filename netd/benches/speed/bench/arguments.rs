//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;

use super::{Choice, Effort, Phase, plot};

/// Measure netd beside its peers, in network namespaces.
#[derive(Parser)]
struct Arguments {
    /// A few rounds, a hundred networks: about five minutes (the default)
    #[arg(long, conflicts_with_all = ["full", "smallest"])]
    short: bool,
    /// More rounds of more packets, a thousand networks: about 25 minutes
    #[arg(long, conflicts_with = "smallest")]
    full: bool,
    /// As little as shows that everything works; the figures mean nothing
    #[arg(long)]
    smallest: bool,
    /// The only parts to measure, by comma
    #[arg(long, value_delimiter = ',')]
    only: Vec<Phase>,
    /// Write every sample, and the machine, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw packets and TCP per second to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// Measures what the words say (the first one is the program's name), prints the tables and writes
/// the files. A word that is not understood ends the process, as a wish for help does.
///
/// # Errors
/// As [`super::run`], or a file cannot be written.
pub fn perform(words: impl Iterator<Item = OsString>) -> Result<()> {
    let arguments = Arguments::parse_from(words);
    let effort = if arguments.full {
        Effort::full()
    } else if arguments.smallest {
        Effort::smallest()
    } else {
        Effort::short()
    };
    let phases = if arguments.only.is_empty() {
        Phase::ALL.to_vec()
    } else {
        arguments.only
    };
    let choice = Choice {
        effort,
        phases,
        interrupted: Arc::default(),
    };
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&choice.interrupted))?;
    }
    let report = super::run(&choice)?;
    // The tables first: a file that cannot be written must not cost them.
    print!("{}", report.text());
    if let Some(path) = arguments.json {
        write(&path, &report.json()?)?;
    }
    if let Some(path) = arguments.svg {
        write(&path, &plot::plot(&report))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
