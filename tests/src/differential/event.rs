//! One step of one conversation, as it was sent.

use super::craft::Spot;
use super::step::Step;

/// One step of one conversation in this round.
#[derive(Debug)]
pub(super) struct Event {
    /// Its number in the session.
    pub(super) number: u64,
    /// Index of the conversation.
    pub(super) conversation: usize,
    /// What is done.
    pub(super) step: Step,
    /// What it is known by in headers.
    pub(super) tag: u16,
    /// Where it is sent.
    pub(super) wire: usize,
    /// Packets, by side.
    pub(super) sent: [Vec<Vec<u8>>; 2],
    /// Where the answerer saw the opener first or anew, by side.
    pub(super) learned: [Option<Spot>; 2],
    /// Where it saw the opener before.
    pub(super) before: [Option<Spot>; 2],
}
