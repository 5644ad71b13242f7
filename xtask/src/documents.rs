//! `differential --xml`: netd beside libvirt's own daemon.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use netd_tests::Netns;
use netd_tests::documents::{self, Run};

use crate::{hosts, root, tools};

/// Makes what the comparison needs, and goes on as root.
pub fn start(run: &Run) -> Result<()> {
    let mut environment: Vec<(&str, PathBuf)> = hosts::newest()?.into();
    environment.push(("NETD_BIN", tools::binary()?));
    let numbers = [run.seed, run.first, run.count];
    let mut words: Vec<String> = numbers.map(|number| number.to_string()).into();
    let save = run.save.as_deref().map(tools::text).transpose()?;
    words.extend(save.map(str::to_owned));
    root::again_with("documents-built", &words, &environment)
}

/// Runs it, as root, and tells what it found.
pub fn run(words: &[String]) -> Result<()> {
    let [seed, first, count, save @ ..] = words else {
        bail!("three numbers are needed");
    };
    let run = Run {
        seed: seed.parse().context("the seed")?,
        first: first.parse().context("the first document")?,
        count: count.parse().context("the number of documents")?,
        save: save.first().map(PathBuf::from),
    };
    Netns::sweep()?;
    let report = documents::run(&run, |progress| println!("{progress}"))?;
    let Some(report) = report else {
        bail!("without apt's reach there is no libvirt to compare with");
    };
    print!("{}", report.summary());
    if !report.is_clean() {
        bail!("netd and libvirt do not answer the same");
    }
    Ok(())
}
