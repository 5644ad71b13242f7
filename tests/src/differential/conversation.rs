//! A conversation that is going on, on both sides at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::cast::{Actor, CAST, Place};
use super::craft::{self, Spot};
use super::header::{Header, TCP};
use super::scenario::Plan;
use super::step::{Body, End, Oddity, Step};
use super::topology::Side;
use super::world::{Way, World};

/// How many events of a conversation a report shows.
const SHOWN: usize = 12;

/// Silence within which neither side forgets what is going on, whatever the protocol. On a machine
/// that is too busy it takes longer; what the sides do then is each one's own.
const MEMORY: Duration = Duration::from_secs(5);
/// The same of SCTP, and of its associations that are being closed.
const SCTP_MEMORY: Duration = Duration::from_secs(2);
const SHUTDOWN_MEMORY: Duration = Duration::from_millis(250);

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
    /// When something was said last.
    spoke: Option<Instant>,
    /// Address and port by which the answerer knows the opener, by side.
    pub seen: [Option<Spot>; 2],
    /// The way on which the opener's last packet arrived.
    way: Option<Way>,
    /// Has the opener sent something by another way since then, that died?
    has_tried: bool,
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
            spoke: None,
            seen: [None, None],
            way: None,
            has_tried: false,
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
        let memory = match step.body {
            Body::Sctp { chunk: 8 | 14, .. } => SHUTDOWN_MEMORY,
            Body::Sctp { .. } => SCTP_MEMORY,
            _ => MEMORY,
        };
        let step = step.clone();
        if self.spoke.is_some_and(|spoke| spoke.elapsed() > memory) {
            self.end();
            return None;
        }
        self.spoke = Some(Instant::now());
        self.waited = 0;
        self.next += 1;
        Some(step)
    }

    /// Is the opener to have another address outside by that way than the answerer knows?
    #[must_use]
    pub fn is_readdressed(&self, way: Way) -> bool {
        self.way.is_some_and(|before| way.is_readdressed(before))
    }

    /// Has the opener another card than when it was heard last?
    #[must_use]
    pub fn is_replaced(&self, way: Way) -> bool {
        self.way.is_some_and(|before| way.mac != before.mac)
    }

    /// What the opener sent by that way has arrived, or not.
    pub fn goes_by(&mut self, way: Way, arrived: bool) {
        self.has_tried = !arrived && (self.has_tried || self.is_readdressed(way));
        if arrived {
            self.way = Some(way);
        }
    }

    /// Has the opener sent something by another way than the answerer knows, that died?
    #[must_use]
    pub fn has_tried_another_way(&self) -> bool {
        self.has_tried
    }

    /// Has nobody answer before the opener has spoken again on that way.
    pub fn begin_anew(&mut self, way: Way) {
        self.way = Some(way);
        self.has_tried = false;
        self.seen = [None, None];
        self.received = Default::default();
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

    /// Number in the cast of who is at an end.
    #[must_use]
    pub fn number_of(&self, end: End) -> usize {
        match end {
            End::Opener => self.plan.opener,
            End::Answerer => self.plan.answerer,
        }
    }

    /// Who is at an end.
    #[must_use]
    pub fn actor(&self, end: End) -> &'static Actor {
        &CAST[self.number_of(end)]
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
    pub fn arrived(
        &mut self,
        step: &Step,
        side: Side,
        (wire, packet): (usize, &[u8]),
        world: &World,
    ) -> Option<Spot> {
        let header = Header::read(packet)?;
        let end = step.from.other();
        if !world.is_at(self.number_of(end), wire)
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
