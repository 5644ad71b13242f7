//! Steps as an administrator reads them.

use super::step::{Act, DatapathAct, Step};
use crate::datapath::records::Change;

/// More records of one map than that are counted, not listed.
const LISTED: usize = 4;

/// A sentence for each step; many records of one map that change together are one sentence.
#[must_use]
pub fn sentences(steps: &[Step]) -> Vec<String> {
    let alike = steps
        .chunk_by(|a, b| a.network == b.network && kind(a).is_some_and(|k| kind(b) == Some(k)));
    let mut sentences = Vec::new();
    for some in alike {
        match some.first().and_then(kind) {
            Some((verb, map)) if some.len() > LISTED => {
                sentences.push(format!("{verb} {} records in map {map}", some.len()));
            }
            _ => sentences.extend(some.iter().map(ToString::to_string)),
        }
    }
    sentences
}

/// What is done to which map.
fn kind(step: &Step) -> Option<(&'static str, &'static str)> {
    match &step.act {
        Act::Datapath(DatapathAct::Record { change, .. }) => {
            let verb = match change {
                Change::Set(_) => "write",
                Change::Remove(_) => "remove",
            };
            Some((verb, change.record().map()))
        }
        _ => None,
    }
}
