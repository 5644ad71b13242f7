//! `differential --xml`: netd beside libvirt's own daemon.

use std::path::{Path, PathBuf};

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
    for path in [&run.save, &run.record] {
        let path = path.as_deref().map(tools::text).transpose()?;
        words.push(path.unwrap_or_default().to_owned());
    }
    root::again_with("documents-built", &words, &environment)
}

/// Runs it, as root, and tells what it found.
pub fn run(words: &[String]) -> Result<()> {
    let [seed, first, count, save, record] = words else {
        bail!("three numbers and two files are needed");
    };
    let file = |path: &String| Some(PathBuf::from(path)).filter(|path| path != Path::new(""));
    let run = Run {
        seed: seed.parse().context("the seed")?,
        first: first.parse().context("the first document")?,
        count: count.parse().context("the number of documents")?,
        save: file(save),
        record: file(record),
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
