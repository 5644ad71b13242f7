//! libvirt as oracle: the same random definitions of networks to libvirt's own daemon and to netd.
//!
//! An [`invent::Inventor`] thinks of definitions that libvirt's documentation allows, and
//! [`damage`] makes mistakes in more than half of them; all is reproducible by seed and number
//! ([`document`]). Both daemons run on hosts of their own, made of one file system ([`side`]). They are asked by libvirt's own
//! binding for Python (`ask.py`): to store the definition, with its schema and without, to print it, to
//! change it, and a part of them to start it, with what dnsmasq is given then. [`mod@compare`] holds the answers side by side.
//!
//! What differs on purpose is listed in [`known`], each with its row in `docs/reference/libvirt.md`.

pub mod answer;
pub mod change;
pub mod compare;
pub mod damage;
pub mod document;
pub mod invent;
pub mod known;
pub mod report;
pub mod side;
pub mod tree;
pub mod write;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

pub use document::Document;
pub use report::Report;

use answer::Answers;
use compare::compare;
use side::{Side, Who};

/// Documents after which it is told how far it is.
const PROGRESS: u64 = 500;
/// Answers that one side may be ahead of the other.
const AHEAD: usize = 50;

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Run {
    /// Seed of the random numbers.
    pub seed: u64,
    /// Number of the first document.
    pub first: u64,
    /// How many documents.
    pub count: u64,
    /// Where every difference is written to, a line of JSON each.
    pub save: Option<PathBuf>,
}

/// Asks both about documents and compares. `progress` is told what differs, and how far it is. Nothing where the hosts
/// could not be made.
///
/// # Errors
/// Not root, a daemon cannot be started or asked.
pub fn run(run: &Run, mut progress: impl FnMut(&str)) -> Result<Option<Report>> {
    let Run {
        seed, first, count, ..
    } = *run;
    let mut save = run.save.as_ref().map(File::create).transpose()?;
    let started = Instant::now();
    let (Some(libvirt), Some(netd)) = (Side::new(Who::Libvirt)?, Side::new(Who::Netd)?) else {
        return Ok(None);
    };
    let mut report = Report {
        version: libvirt.version()?,
        ..Report::default()
    };
    let numbers = first..first + count;
    thread::scope(|scope| -> Result<()> {
        let answers = [libvirt, netd].map(|mut side| {
            let (sender, receiver) = sync_channel::<Result<Answers>>(AHEAD);
            let numbers = numbers.clone();
            scope.spawn(move || {
                for number in numbers {
                    let answers = side.ask(&Document::new(seed, number));
                    let is_end = answers.is_err();
                    if sender.send(answers.with_context(|| side.log())).is_err() || is_end {
                        return;
                    }
                }
            });
            receiver
        });
        for number in numbers.clone() {
            let document = Document::new(seed, number);
            let [libvirt, netd] = &answers;
            let gone = |_| anyhow!("a side ended before document {number}");
            let (libvirt, netd) = (libvirt.recv().map_err(gone)??, netd.recv().map_err(gone)??);
            report.count(&libvirt);
            for difference in compare(&document, &libvirt, &netd) {
                if let Some(save) = &mut save {
                    writeln!(save, "{}", difference.line(seed))?;
                }
                if let Some(told) = report.note(&difference, seed) {
                    progress(&told);
                }
            }
            if report.documents.is_multiple_of(PROGRESS) {
                let found: u64 = report.unexplained.values().sum();
                progress(&format!(
                    "{} of {count} documents, {found} unexplained differences",
                    report.documents
                ));
            }
        }
        Ok(())
    })?;
    report.took = started.elapsed();
    Ok(Some(report))
}
