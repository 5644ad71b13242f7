//! One document: a definition, and what is asked about it.

use serde_json::{Value, json};

use super::change::changes;
use super::damage::damage;
use super::invent::Inventor;
use super::write;
use crate::differential::random::Random;

/// Flags of `net-update`, as libvirt numbers them.
const CURRENT: u32 = 0;
const LIVE: u32 = 1;
const CONFIG: u32 = 2;
const BOTH: u32 = 3;

/// A definition, and what both sides are asked about it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its number in the seed's sequence.
    pub number: u64,
    /// Its text.
    pub xml: String,
    /// How often it was damaged.
    pub flaws: usize,
    /// Changes of the stored definition.
    pub changes: Vec<Value>,
    /// Is it to be started?
    pub start: bool,
    /// Changes of the running network.
    pub live: Vec<Value>,
}

impl Document {
    /// The document of that number. Each has random numbers of its own, so that it can be had alone.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        let mixed = Random::new(seed ^ number.rotate_left(32)).draw();
        let mut random = Random::new(mixed);
        let mut root = Inventor {
            random: &mut random,
        }
        .network();
        let flaws = *random.weighted(&[(45, 0), (35, 1), (13, 2), (7, 3)]);
        for _ in 0..flaws {
            damage(&mut root, &mut random);
        }
        let xml = write::text(&root, &mut random);
        let start = random.chance(if flaws == 0 { 20 } else { 4 });
        let mut inventor = Inventor {
            random: &mut random,
        };
        let stored = if inventor.random.chance(20) {
            changes(
                &root,
                &mut inventor,
                &[CONFIG, CONFIG, CONFIG, CURRENT, LIVE],
            )
        } else {
            Vec::new()
        };
        let live = if start && inventor.random.chance(70) {
            changes(&root, &mut inventor, &[LIVE, BOTH, BOTH, CURRENT, CONFIG])
        } else {
            Vec::new()
        };
        Self {
            number,
            xml,
            flaws,
            changes: stored,
            start,
            live,
        }
    }

    /// What an answer to that step depends on.
    #[must_use]
    pub fn text_of(&self, step: &str) -> String {
        let changed = step.contains("change") || step.contains("live") || step.contains("start");
        let changes = self.changes.iter().chain(&self.live).filter(|_| changed);
        let entries = changes.filter_map(|change| change[3].as_str());
        std::iter::once(&*self.xml)
            .chain(entries)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// As a line for whoever asks.
    #[must_use]
    pub fn line(&self) -> String {
        json!({
            "number": self.number,
            "flaws": self.flaws,
            "xml": self.xml,
            "changes": self.changes,
            "start": self.start,
            "live": self.live,
        })
        .to_string()
    }
}
