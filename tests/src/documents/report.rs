//! What a run found.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::answer::{Answer, Answers};
use super::compare::Difference;
use super::known::known;

/// Differences of one kind that are told in full.
const TOLD: u64 = 2;

/// Counters, and what differed.
#[derive(Debug, Default)]
pub struct Report {
    /// The version of libvirt that netd was compared with.
    pub version: String,
    /// Documents that both were asked about.
    pub documents: u64,
    /// How often libvirt took what, by step, and how often it refused it.
    pub steps: BTreeMap<String, [u64; 2]>,
    /// Unexplained differences by kind.
    pub unexplained: BTreeMap<String, u64>,
    /// Deliberate ones by their row in the document.
    pub known: BTreeMap<&'static str, u64>,
    /// The first few of each kind in full.
    pub details: Vec<String>,
    /// Time it took.
    pub took: Duration,
}

impl Report {
    /// Counts what libvirt answered about a document.
    pub fn count(&mut self, answers: &Answers) {
        self.documents += 1;
        for (step, answer) in &answers.0 {
            let step: String = step.chars().filter(|c| !c.is_ascii_digit()).collect();
            let refused = matches!(answer, Answer::Refused { .. });
            self.steps.entry(step.trim_end().to_owned()).or_default()[usize::from(refused)] += 1;
        }
    }

    /// Counts a difference; what is told of it, where it is a new one.
    pub fn note(&mut self, difference: &Difference, seed: u64) -> Option<String> {
        if let Some(row) = known(difference) {
            *self.known.entry(row).or_default() += 1;
            return None;
        }
        let count = self.unexplained.entry(difference.kind()).or_default();
        *count += 1;
        (*count <= TOLD).then(|| difference.report(seed))
    }

    /// Did both answer the same, but for what is meant to differ?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unexplained.is_empty()
    }

    /// The summary.
    #[must_use]
    pub fn summary(&self) -> String {
        // Writing to a string does not fail.
        let mut text = format!(
            "{} documents, libvirt {}, {:.0} s\n",
            self.documents,
            self.version,
            self.took.as_secs_f64()
        );
        for (step, [taken, refused]) in &self.steps {
            let _ = writeln!(text, "{taken:>8} taken, {refused:>6} refused: {step}");
        }
        for (row, count) in &self.known {
            let _ = writeln!(text, "{count:>8} known: {row}");
        }
        let mut kinds: Vec<_> = self.unexplained.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (kind, count) in kinds {
            let _ = writeln!(text, "{count:>8} UNEXPLAINED: {kind}");
        }
        if self.is_clean() {
            let _ = writeln!(text, "no unexplained difference");
        }
        text
    }
}
