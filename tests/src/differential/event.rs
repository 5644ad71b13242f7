//! One step of one conversation, as it was sent.

use std::time::Duration;

use super::craft::Spot;
use super::step::{Cut, Step};
use super::world::Way;

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
    /// How long after the first of those of netd's side the last one was sent, at least.
    pub(super) apart: Duration,
    /// The conversation's way.
    pub(super) way: Way,
    /// Is the opener to have another address outside than before?
    pub(super) is_moved: bool,
    /// Has the opener another card than when it was heard last?
    pub(super) is_replaced: bool,
    /// Where the answerer saw the opener first or anew, by side.
    pub(super) learned: [Option<Spot>; 2],
    /// Where it saw the opener before.
    pub(super) before: [Option<Spot>; 2],
}

impl Event {
    /// May netd hold fragments back? So it does until it knows of what packet they are.
    pub(super) fn may_be_held(&self) -> bool {
        self.step.twist.cut != Cut::Whole
    }
}
