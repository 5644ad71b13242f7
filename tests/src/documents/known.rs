//! The differences that are meant. They are data (`known.txt`), each with its row in
//! `docs/reference/libvirt.md`, which says why.

use super::answer::Answer;
use super::compare::Difference;

/// Row, step, what stands in libvirt's answer and what in netd's at the place where the two begin to differ, and what
/// stands in the document. What is empty may be anything, and `|` stands between alternatives.
const KNOWN: &str = include_str!("known.txt");

/// The row of documents with more than one mistake: each side tells the first that it finds.
const SEVERAL: &str = "several mistakes";

/// A deliberate difference.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The row of the document that says why.
    pub row: &'static str,
    step: &'static str,
    libvirt: &'static str,
    netd: &'static str,
    xml: &'static str,
}

/// All of them.
pub fn all() -> impl Iterator<Item = Known> {
    let lines = KNOWN.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut fields = line.split('\t');
        Some(Known {
            row: fields.next()?,
            step: fields.next()?,
            libvirt: fields.next()?,
            netd: fields.next()?,
            xml: fields.next().unwrap_or_default(),
        })
    })
}

/// Every row that a difference may have.
pub fn rows() -> impl Iterator<Item = &'static str> {
    all().map(|known| known.row).chain([SEVERAL])
}

/// The row of a difference, if it is meant.
#[must_use]
pub fn known(difference: &Difference) -> Option<&'static str> {
    let [libvirt, netd] = difference.places();
    let holds = |text: &str, parts: &str| parts.split('|').any(|part| text.contains(part));
    let is_it = |known: &Known| {
        holds(&difference.step, known.step)
            && holds(&libvirt, known.libvirt)
            && holds(&netd, known.netd)
            && holds(&difference.xml, known.xml)
    };
    if let Some(known) = all().find(is_it) {
        return Some(known.row);
    }
    let is_refusal = |answer: &Answer| matches!(answer, Answer::Refused { .. });
    let both = is_refusal(&difference.libvirt) && is_refusal(&difference.netd);
    (both && difference.flaws > 1).then_some(SEVERAL)
}
