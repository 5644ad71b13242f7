//! Invents conversations: who with whom, by which ports, and every step from the first packet on.

use super::cast::{self, Family, Place};
use super::class::{Class, Classes};
use super::draw::{error, length, step, twist};
use super::random::Random;
use super::step::{Body, End, Oddity, Query, Step, Twist};
use super::stream::{self, Stream};

/// Ports that openers use, one after the other, so that none comes again before the first
/// conversation with it is long over.
const PORTS: std::ops::Range<u16> = 10_000..60_000;
/// Privileged ones.
const LOW_PORTS: std::ops::Range<u16> = 1..1024;
/// Ports that are conversed with.
const SERVICES: &[u16] = &[53, 80, 443, 5000, 33_434];

/// A conversation before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What happens, in two words.
    pub name: &'static str,
    /// Index of the opener in the cast.
    pub opener: usize,
    /// Index of the answerer.
    pub answerer: usize,
    /// Address family.
    pub family: Family,
    /// Port, or identifier, of the opener.
    pub opener_port: u16,
    /// Port of the answerer; of an echo, the identifier of a reply that the opener makes up.
    pub answerer_port: u16,
    /// Is it an echo?
    pub is_echo: bool,
    /// What they do.
    pub steps: Vec<Step>,
}

/// An endless supply of conversations.
#[derive(Debug)]
pub struct Inventor {
    random: Random,
    classes: Classes,
    next_port: u16,
    next_low_port: u16,
    /// The last conversations of NAT guests, to collide with.
    recent: Vec<(Protocol, Plan)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Echo,
    Sctp,
    Other,
}

impl Inventor {
    /// The supply that belongs to a seed.
    #[must_use]
    pub fn new(seed: u64, classes: &Classes) -> Self {
        Self {
            random: Random::new(seed),
            classes: classes.clone(),
            next_port: PORTS.start,
            next_low_port: LOW_PORTS.start,
            recent: Vec::new(),
        }
    }

    fn has(&self, class: Class) -> bool {
        self.classes.contains(&class)
    }

    /// The next conversation.
    pub fn invent(&mut self) -> Plan {
        let protocol = self.protocol();
        let (name, mut steps) = self.steps(protocol);
        // Changes take their time; no timeout shall strike between them.
        let (shortest, longest) = if self.has(Class::Changes) {
            (1, 8)
        } else {
            (10, 80)
        };
        for step in steps.iter_mut().skip(1) {
            // Associations that are being opened live for seconds only, on each side for others.
            if protocol != Protocol::Sctp && self.random.chance(2) {
                step.pause = self.random.between(shortest, longest);
            }
        }
        // A connection that its opener resets unanswered is over at once for the kernel, and its
        // port free; netd keeps it closed for some seconds. Who gets the port then is no matter.
        let taken_back = name == stream::TAKEN_BACK;
        let collide = matches!(protocol, Protocol::Tcp | Protocol::Udp | Protocol::Echo)
            && self.random.chance(6);
        if collide
            && !taken_back
            && let Some(plan) = self.collision(protocol, name, &steps)
        {
            return plan;
        }
        let (from, to) = *self.random.weighted(&[
            (70, (Place::Nat, Place::Outside)),
            (7, (Place::Nat, Place::Routed)),
            (7, (Place::Routed, Place::Outside)),
            (6, (Place::Outside, Place::Routed)),
            (2, (Place::Routed, Place::Nat)),
            (2, (Place::Outside, Place::Nat)),
            (3, (Place::Nat, Place::Host)),
            (2, (Place::Routed, Place::Host)),
            (3, (Place::Outside, Place::Host)),
        ]);
        let opener = *self.random.pick(&cast::at(from));
        let answerer = *self.random.pick(&cast::at(to));
        let family = if self.has(Class::Ipv6) && self.random.chance(40) {
            Family::V6
        } else {
            Family::V4
        };
        let opener_port = self.port(protocol);
        let mut plan = Plan {
            name,
            opener,
            answerer,
            family,
            opener_port,
            answerer_port: match protocol {
                Protocol::Tcp | Protocol::Udp | Protocol::Sctp => *self.random.pick(SERVICES),
                Protocol::Echo if self.random.chance(90) => opener_port,
                Protocol::Echo | Protocol::Other => 0,
            },
            is_echo: protocol == Protocol::Echo,
            steps,
        };
        if opener_port < LOW_PORTS.end {
            reach(&mut plan);
        }
        if to == Place::Host {
            ping_only(&mut plan);
        }
        if from == Place::Nat && to == Place::Outside && !taken_back {
            self.recent.push((protocol, plan.clone()));
            if self.recent.len() > 32 {
                self.recent.remove(0);
            }
        }
        plan
    }

    fn port(&mut self, protocol: Protocol) -> u16 {
        let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        let (next, range) = if ported && self.random.chance(4) {
            (&mut self.next_low_port, LOW_PORTS)
        } else {
            (&mut self.next_port, PORTS)
        };
        let port = *next;
        *next = if port + 1 == range.end {
            range.start
        } else {
            port + 1
        };
        port
    }

    fn protocol(&mut self) -> Protocol {
        let all = [
            (50, Class::Tcp, Protocol::Tcp),
            (30, Class::Udp, Protocol::Udp),
            (15, Class::Echo, Protocol::Echo),
            (8, Class::Sctp, Protocol::Sctp),
            (4, Class::Others, Protocol::Other),
        ];
        let some: Vec<(usize, Protocol)> = all
            .into_iter()
            .filter(|(_, class, _)| self.has(*class))
            .map(|(weight, _, protocol)| (weight, protocol))
            .collect();
        *self.random.weighted(&some)
    }

    /// The other NAT guest does something with the same ports to the same peer.
    fn collision(
        &mut self,
        protocol: Protocol,
        name: &'static str,
        steps: &[Step],
    ) -> Option<Plan> {
        let at = self
            .recent
            .iter()
            .rposition(|(other, _)| *other == protocol)?;
        let (_, first) = self.recent.remove(at);
        let opener = cast::at(Place::Nat)
            .into_iter()
            .find(|number| *number != first.opener)?;
        let mut plan = Plan {
            name,
            opener,
            steps: steps.to_vec(),
            ..first
        };
        reach(&mut plan);
        Some(plan)
    }

    fn steps(&mut self, protocol: Protocol) -> (&'static str, Vec<Step>) {
        match protocol {
            Protocol::Tcp => Stream::invent(&mut self.random, &self.classes),
            Protocol::Udp => self.datagrams(),
            Protocol::Echo => self.echoes(),
            Protocol::Sctp => ("sctp", self.sctp()),
            Protocol::Other => ("other protocol", self.other()),
        }
    }

    fn datagrams(&mut self) -> (&'static str, Vec<Step>) {
        let one_way = self.random.chance(25);
        let count = self.random.between(1, 8);
        let mut steps = Vec::new();
        for number in 0..count {
            let from = if number == 0 || one_way || self.random.chance(50) {
                End::Opener
            } else {
                End::Answerer
            };
            let twist = twist(&mut self.random, &self.classes);
            let length = length(&mut self.random, &self.classes, &twist);
            let body = Body::Udp {
                length,
                checksum: !self.random.chance(8) || twist.bad_checksum,
            };
            steps.push(step(from, body, twist));
            self.maybe_error(&mut steps, from.other(), 8);
        }
        let name = if one_way { "udp one way" } else { "udp" };
        (name, steps)
    }

    fn echoes(&mut self) -> (&'static str, Vec<Step>) {
        let mut steps = Vec::new();
        let query = if self.has(Class::Queries) && self.random.chance(20) {
            *self
                .random
                .pick(&[Query::Timestamp, Query::Information, Query::AddressMask])
        } else {
            Query::Echo
        };
        if self.has(Class::Strays) && self.random.chance(5) {
            let body = Body::Echo {
                query,
                reply: true,
                sequence: 1,
                length: 32,
            };
            let mut reply = step(End::Opener, body, Twist::default());
            reply.oddity = Some(Oddity::Stray);
            return ("echo reply to nobody", vec![reply]);
        }
        for sequence in 1..=self.random.between(1, 4) as u16 {
            let twist = twist(&mut self.random, &self.classes);
            let body = Body::Echo {
                query,
                reply: false,
                sequence,
                length: length(&mut self.random, &self.classes, &twist),
            };
            steps.push(step(End::Opener, body, twist));
            if self.random.chance(80) {
                let twist = self::twist(&mut self.random, &self.classes);
                let body = Body::Echo {
                    query,
                    reply: true,
                    sequence,
                    length: length(&mut self.random, &self.classes, &twist),
                };
                steps.push(step(End::Answerer, body, twist));
            } else {
                self.maybe_error(&mut steps, End::Answerer, 60);
            }
        }
        ("echo", steps)
    }

    fn sctp(&mut self) -> Vec<Step> {
        // INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, heartbeats, and sometimes an end.
        let mut chunks = vec![
            (End::Opener, 1, 0),
            (End::Answerer, 2, 77),
            (End::Opener, 10, 77),
            (End::Answerer, 11, 77),
            (End::Opener, 4, 77),
            (End::Answerer, 5, 77),
        ];
        chunks.truncate(self.random.between(1, 6));
        if chunks.len() == 6 && self.random.chance(50) {
            chunks.extend([
                (End::Opener, 7, 77),
                (End::Answerer, 8, 77),
                (End::Opener, 14, 77),
            ]);
        }
        chunks
            .into_iter()
            .map(|(from, chunk, tag)| step(from, Body::Sctp { chunk, tag }, Twist::default()))
            .collect()
    }

    fn other(&mut self) -> Vec<Step> {
        let protocol = *self.random.pick(&[47, 50, 253]);
        let count = self.random.between(1, 4);
        (0..count)
            .map(|number| {
                let from = if number == 0 || self.random.chance(50) {
                    End::Opener
                } else {
                    End::Answerer
                };
                let body = Body::Other {
                    protocol,
                    length: self.random.between(8, 64),
                };
                step(from, body, Twist::default())
            })
            .collect()
    }

    fn maybe_error(&mut self, steps: &mut Vec<Step>, from: End, percent: usize) {
        if self.has(Class::Errors) && self.random.chance(percent) {
            steps.push(error(&mut self.random, &self.classes, from));
        }
    }
}

/// Lets the first packet arrive: the port that is chosen for it becomes known, and is not mistaken
/// for a free one when its turn comes.
fn reach(plan: &mut Plan) {
    if let Some(first) = plan.steps.first_mut() {
        first.twist = Twist::default();
        if first.oddity == Some(Oddity::Checksum) {
            first.oddity = None;
        }
        if let Body::Udp { length, .. } | Body::Echo { length, .. } = &mut first.body {
            *length = (*length).min(1000);
        }
    }
}

/// Asks for nothing that the hypervisor's own clock answers.
fn ping_only(plan: &mut Plan) {
    for step in &mut plan.steps {
        if let Body::Echo { query, .. } = &mut step.body {
            *query = Query::Echo;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::step::Cut;

    #[test]
    fn a_seed_is_a_story() {
        let all = super::super::class::still();
        let told = |seed| {
            let mut inventor = Inventor::new(seed, &all);
            let plans: Vec<Plan> = (0..200).map(|_| inventor.invent()).collect();
            format!("{plans:?}")
        };
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn classes_can_be_left_out() {
        let only: Classes = [Class::Udp].into();
        let mut inventor = Inventor::new(1, &only);
        for _ in 0..500 {
            let plan = inventor.invent();
            assert_eq!(plan.family, Family::V4);
            for step in plan.steps {
                assert!(matches!(step.body, Body::Udp { .. }), "{step:?}");
                assert_eq!(step.twist.cut, Cut::Whole);
                assert!(!step.twist.bad_checksum && step.oddity.is_none());
            }
        }
    }
}
