//! `differential`: netd beside the kernel's own NAT.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use netd_tests::Netns;
use netd_tests::differential::{self, Class, Classes, Translator, class};
use netd_tests::documents::Run;

/// What there is to send.
const PROTOCOLS: [Class; 5] = [
    Class::Tcp,
    Class::Udp,
    Class::Echo,
    Class::Sctp,
    Class::Others,
];

/// What to send.
#[derive(Args)]
pub struct Choice {
    /// Seed of the random numbers; every 200000 packets the next one is used
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// So many definitions of networks instead of packets, beside Debian's newest libvirt, whose file
    /// system is fetched
    #[arg(long, value_name = "DOCUMENTS", num_args = 0..=1, default_missing_value = "500",
          conflicts_with_all = ["packets", "only", "without"])]
    pub xml: Option<u64>,
    /// Number of the first definition
    #[arg(long, default_value_t = 0, requires = "xml")]
    pub from: u64,
    /// File for all that differs, a line of JSON each
    #[arg(long, value_name = "FILE", requires = "xml")]
    pub save: Option<PathBuf>,
    /// Packets to send into each side
    #[arg(long, default_value_t = 100_000)]
    packets: u64,
    /// The only classes of traffic, by comma; all of them unless said, and all protocols where none
    /// is named
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Classes of traffic to leave out, by comma
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
}

impl Choice {
    /// The definitions to ask about.
    pub fn documents(&self, count: u64) -> Run {
        Run {
            seed: self.seed,
            first: self.from,
            count,
            save: self.save.clone(),
        }
    }

    /// Seed, number of packets and the names of the classes, for this program as root.
    pub fn words(&self) -> Result<Vec<String>> {
        let mut classes = if self.only.is_empty() {
            class::all()
        } else {
            let names = self.only.iter().map(|name| name.parse());
            names.collect::<Result<Classes>>()?
        };
        if PROTOCOLS.iter().all(|protocol| !classes.contains(protocol)) {
            classes.extend(PROTOCOLS);
        }
        for name in &self.without {
            classes.remove(&name.parse()?);
        }
        if PROTOCOLS.iter().all(|protocol| !classes.contains(protocol)) {
            bail!("without any protocol there is nothing to send");
        }
        let names = classes.iter().map(|class| class.name().to_owned());
        Ok([self.seed.to_string(), self.packets.to_string()]
            .into_iter()
            .chain(names)
            .collect())
    }
}

/// Runs it, as root, and tells what it found.
pub fn run(words: &[String]) -> Result<()> {
    let [seed, packets, names @ ..] = words else {
        bail!("seed and number of packets are missing");
    };
    let classes = names
        .iter()
        .map(|name| name.parse())
        .collect::<Result<Classes>>()?;
    println!("classes of traffic: {}", names.join(", "));
    Netns::sweep()?;
    let report = differential::run(
        Translator::Netd(&crate::tools::binary()?),
        seed.parse().context("the seed")?,
        packets.parse().context("the number of packets")?,
        &classes,
        |progress| println!("{progress}"),
    )?;
    print!("{}", report.summary());
    if !report.is_clean() {
        bail!("netd and the kernel do not do the same");
    }
    Ok(())
}
