//! What a run found.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::arrival::Arrival;
use super::canary::{self, Took};
use super::compare::Difference;
use super::known::{KNOWN, Known};

/// Differences of one kind that are told in full.
const TOLD: u64 = 2;

/// Counters, and what differed.
#[derive(Debug, Default)]
pub struct Report {
    /// Packets sent into each side.
    pub sent: u64,
    /// Events: packets before fragmentation.
    pub events: u64,
    /// Packets that came in and were compared.
    pub compared: u64,
    /// Changes of both sides, by kind.
    pub changes: BTreeMap<&'static str, u64>,
    /// The longest time until one had come about, on the kernel's side and on the other.
    pub slowest: Took,
    /// Time it took, without building the sides.
    pub took: Duration,
    /// Unexplained differences by kind.
    pub unexplained: BTreeMap<String, u64>,
    /// Deliberate ones by name.
    pub known: BTreeMap<&'static str, u64>,
    /// The first few of each kind in full.
    pub details: Vec<String>,
}

impl Report {
    /// Counts a difference.
    pub(super) fn note(
        &mut self,
        difference: &Difference,
        known: Option<&'static Known>,
        seed: u64,
    ) {
        if let Some(known) = known {
            *self.known.entry(known.name).or_default() += 1;
            return;
        }
        let count = self.unexplained.entry(difference.kind()).or_default();
        *count += 1;
        if *count <= TOLD {
            self.details.push(difference.report(seed));
        }
    }

    /// A change had come about after that time.
    pub(super) fn note_change(&mut self, took: Took) {
        for (slowest, took) in self.slowest.iter_mut().zip(took) {
            *slowest = took.max(*slowest);
        }
    }

    /// A side does not do what it should after a change.
    pub(super) fn stuck(&mut self, change: &str, wrong: &str, changed: &[String], seed: u64) {
        let kind = canary::kind(change, wrong);
        *self.unexplained.entry(kind).or_default() += 1;
        let changed = changed.join("; ");
        self.details
            .push(format!("seed {seed}, after {changed}:\n{wrong}"));
    }

    /// Counts packets that came in on one side only and answer nothing.
    pub(super) fn strangers(
        &mut self,
        kernel: &[Arrival],
        netd: &[Arrival],
        seed: u64,
        number: u64,
    ) {
        let list = |arrivals: &[Arrival]| {
            let mut kinds: Vec<String> = arrivals.iter().map(Arrival::outcome).collect();
            kinds.dedup();
            kinds.join(" + ")
        };
        let kind = format!("of no event: kernel {}, netd {}", list(kernel), list(netd));
        let count = self.unexplained.entry(kind).or_default();
        *count += 1;
        if *count <= TOLD {
            let mut text =
                format!("seed {seed}, round before event {number}: packets of no event\n");
            for (name, arrivals) in [("kernel", kernel), ("netd", netd)] {
                for arrival in arrivals {
                    let _ = writeln!(text, "  {name:>6} got  {}", arrival.shown());
                }
            }
            self.details.push(text);
        }
    }

    /// Did both sides do the same, but for what is meant to differ?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unexplained.is_empty()
    }

    /// The summary.
    #[must_use]
    pub fn summary(&self) -> String {
        let rate = self.sent as f64 / self.took.as_secs_f64().max(0.001);
        let mut text = format!(
            "{} packets sent into each side, {} that came in compared, {:.1} s, {rate:.0} packets/s\n",
            self.sent,
            self.compared,
            self.took.as_secs_f64()
        );
        if !self.changes.is_empty() {
            let total: u64 = self.changes.values().sum();
            let kinds = self
                .changes
                .iter()
                .map(|(name, count)| format!("{count} {name}"));
            let [kernel, netd] = self.slowest;
            let _ = writeln!(
                text,
                "{total} changes of both sides: {}; the slowest had come about after {kernel:.1?} \
                 in the kernel and {netd:.1?} in netd",
                kinds.collect::<Vec<String>>().join(", ")
            );
        }
        for known in KNOWN {
            if let Some(count) = self.known.get(known.name) {
                let _ = writeln!(text, "{count:>8} known: {}: {}", known.name, known.why);
            }
        }
        for (kind, count) in &self.unexplained {
            let _ = writeln!(text, "{count:>8} UNEXPLAINED: {kind}");
        }
        if self.is_clean() {
            let _ = writeln!(text, "no unexplained difference");
        }
        text
    }
}
