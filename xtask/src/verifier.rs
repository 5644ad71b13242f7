//! `verifier`: how many instructions the kernel's verifier walks for each program, and the record that
//! the packet tests compare with.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::root;
use crate::tools::{cargo, succeed, workspace};

/// The test that prints the numbers, and compares them.
const TEST: &str = "verified::no_program_costs_the_verifier_more_than_recorded";

/// Instructions by kernel series and program.
pub type Record = BTreeMap<String, BTreeMap<String, u32>>;

/// Compare, or record.
#[derive(Args)]
pub struct Choice {
    /// Record what this kernel counts, in place of its earlier record
    #[arg(long)]
    write: bool,
}

/// Compares this kernel's numbers with their record, or records them.
pub fn verifier(choice: &Choice) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "netd-tests", "--test", "prog", TEST]);
    root::runs_what_cargo_builds(&mut command)?;
    command.args(["--", "--exact", "--include-ignored", "--nocapture"]);
    if !choice.write {
        return succeed(&mut command);
    }
    let output = command
        .env("NETD_VERIFIED_PRINT", "1")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    write(counts(&String::from_utf8_lossy(&output.stdout)))
}

/// The numbers in what the test printed.
pub fn counts(output: &str) -> Record {
    let mut record = Record::new();
    for line in output.lines() {
        // A test's first line may follow its name.
        let words = line.split_once("verified ").map_or("", |(_, rest)| rest);
        let mut words = words.split_whitespace();
        if let (Some(series), Some(program), Some(Ok(count))) =
            (words.next(), words.next(), words.next().map(str::parse))
        {
            let programs = record.entry(series.to_owned()).or_default();
            programs.insert(program.to_owned(), count);
        }
    }
    record
}

/// Puts those kernels' numbers in the place of their earlier ones.
pub fn write(counts: Record) -> Result<()> {
    if counts.is_empty() {
        bail!("the test printed no numbers");
    }
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut record: Record =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    for (series, programs) in counts {
        println!("recording {} programs of Linux {series}", programs.len());
        record.insert(series, programs);
    }
    let text = serde_json::to_string_pretty(&record)? + "\n";
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn path() -> PathBuf {
    workspace().join("tests/prog/verified.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_among_other_lines() {
        let output = "running 1 test\ntest verified::x ... verified 6.1 sweep 42\n\
            verified 6.1 sweep_start 7\nverified nothing\nok";
        let programs = BTreeMap::from([("sweep".into(), 42), ("sweep_start".into(), 7)]);
        assert_eq!(counts(output), Record::from([("6.1".into(), programs)]));
    }
}
