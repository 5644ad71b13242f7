//! A conversation that is going on, on both sides at once.

use std::collections::VecDeque;

use super::cast::{Actor, CAST, Place};
use super::craft::{self, Spot};
use super::header::{Header, TCP};
use super::scenario::Plan;
use super::step::{Body, End, Oddity, Step};
use super::topology::Side;

/// How many events of a conversation a report shows.
const SHOWN: usize = 12;

/// An event that went by, for reports.
#[derive(Clone, Debug)]
pub struct Past {
    /// Number of the event in the run.
    pub number: u64,
    /// What was sent, on both sides.
    pub sent: [Vec<Vec<u8>>; 2],
}

/// Its state: no model of what a translation should be, only what arrived.
#[derive(Debug)]
pub struct Conversation {
    /// Number in the session.
    pub number: usize,
    /// What is to happen.
    pub plan: Plan,
    /// The next step.
    next: usize,
    /// Rounds until then.
    waited: usize,
    /// Address and port by which the answerer knows the opener, by side.
    pub seen: [Option<Spot>; 2],
    /// The last packet that came in at each end, by side and end.
    received: [[Option<Vec<u8>>; 2]; 2],
    /// The last events.
    pub past: VecDeque<Past>,
}

impl Conversation {
    /// A conversation of which nothing has happened.
    #[must_use]
    pub fn new(number: usize, plan: Plan) -> Self {
        Self {
            number,
            plan,
            next: 0,
            waited: 0,
            seen: [None, None],
            received: [[None, None], [None, None]],
            past: VecDeque::new(),
        }
    }

    /// The next step, when its time has come.
    pub fn due(&mut self) -> Option<Step> {
        let step = self.plan.steps.get(self.next)?;
        if self.waited < step.pause {
            self.waited += 1;
            return None;
        }
        self.waited = 0;
        self.next += 1;
        Some(step.clone())
    }

    /// Has everything been said?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.next >= self.plan.steps.len()
    }

    /// Says no more.
    pub fn end(&mut self) {
        self.next = self.plan.steps.len();
    }

    /// Who is at an end.
    #[must_use]
    pub fn actor(&self, end: End) -> &'static Actor {
        match end {
            End::Opener => &CAST[self.plan.opener],
            End::Answerer => &CAST[self.plan.answerer],
        }
    }

    /// The answerer's address and port, and the opener's own.
    #[must_use]
    pub fn spot(&self, end: End) -> Spot {
        let address = self.actor(end).address(self.plan.family);
        match end {
            End::Opener => (address, self.plan.opener_port),
            End::Answerer => (address, self.plan.answerer_port),
        }
    }

    /// The packets of a step on one side; `None` where it needs something that has not arrived.
    #[must_use]
    pub fn packets(&self, step: &Step, side: Side, tag: u16) -> Option<Vec<Vec<u8>>> {
        let sender = self.actor(step.from);
        if sender.place == Place::Host {
            return None; // the host speaks for itself
        }
        let side = side as usize;
        let own = self.spot(step.from);
        if let Body::Error { router, .. } = step.body {
            let quoted = self.received[side][step.from.index()].as_deref()?;
            let to = Header::read(quoted)?.source;
            let from = match sender.router(self.plan.family) {
                Some(router_address) if router => router_address,
                _ => own.0,
            };
            let packets = craft::packets(
                &step.body,
                (from, 0),
                (to, 0),
                &step.twist,
                tag,
                Some(quoted),
            );
            return Some(packets);
        }
        let to = match step.from {
            End::Opener => self.spot(End::Answerer),
            End::Answerer => self.seen[side]?,
        };
        Some(craft::packets(&step.body, own, to, &step.twist, tag, None))
    }

    /// Takes note of a packet that was forwarded to the other end, and tells where that end now
    /// sees the opener, if it sees the opener at all by this.
    pub fn arrived(&mut self, step: &Step, side: Side, wire: usize, packet: &[u8]) -> Option<Spot> {
        let header = Header::read(packet)?;
        let end = step.from.other();
        if self.actor(end).wire != wire
            || self.actor(end).place == Place::Host
            || !header.has_start()
            // A fragment that not even holds TCP's header opens nothing.
            || (header.protocol == TCP && header.end < header.l4 + 20)
            || matches!(step.body, Body::Error { .. })
            || matches!(
                step.oddity,
                Some(Oddity::Checksum | Oddity::OutOfWindow | Oddity::WrongState)
            )
        {
            return None;
        }
        let side = side as usize;
        self.received[side][end.index()] = Some(packet[..header.end].to_vec());
        if end == End::Opener {
            return None;
        }
        let port = match header.ports(packet).0 {
            Some(at) => super::header::word(packet, at)?,
            None => self.plan.opener_port,
        };
        self.seen[side] = Some((header.source, port));
        self.seen[side]
    }

    /// Remembers an event.
    pub fn remember(&mut self, past: Past) {
        self.past.push_back(past);
        if self.past.len() > SHOWN {
            self.past.pop_front();
        }
    }
}
