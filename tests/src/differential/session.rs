//! A run on one pair of topologies: in each round every conversation that is going on takes a
//! step, the same on both sides; then what came in is compared.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arrival::{Arrival, Origin, join};
use super::cast::{Place, WIRES};
use super::class::Classes;
use super::compare::{Difference, UNSEEN, same};
use super::conversation::{Conversation, Past};
use super::craft;
use super::event::Event;
use super::fragment;
use super::header::{Header, ICMP, ICMP6, TCP, UDP, word};
use super::known::explain;
use super::report::Report;
use super::scenario::Inventor;
use super::step::{Body, End, Step};
use super::tap::frame;
use super::topology::{SIDES, Side, Topology};

/// Conversations that go on at the same time.
const WIDTH: usize = 256;
/// Silence after which a round is over when as much came in on one side as on the other.
const SILENCE: Duration = Duration::from_millis(1);
/// The same when something may be missing.
const PATIENCE: Duration = Duration::from_millis(15);
/// And when it is about to be reported.
const LAST_CALL: Duration = Duration::from_millis(100);

/// Frames by side and wire.
type Frames = [[Vec<Vec<u8>>; WIRES]; 2];
/// What came in about an event, or about none.
type Sorted = HashMap<(Option<usize>, usize), Vec<(Origin, usize, Vec<u8>)>>;

/// The state between rounds.
#[derive(Debug)]
pub struct Session<'a> {
    topologies: &'a [Topology; 2],
    seed: u64,
    inventor: Inventor,
    conversations: Vec<Conversation>,
    begun: usize,
    number: u64,
    tag: u16,
    /// Tags of fragments.
    cut: HashSet<u16>,
    /// Which ports to whom a NAT guest used or was given, by side, protocol and other end.
    taken: HashMap<(usize, u8, craft::Spot, u16), Holder>,
    /// Towards whom a NAT guest was given a port that nobody saw, by side and protocol: its own
    /// was taken, and the packet died on the way.
    unseen: HashSet<(usize, u8, craft::Spot)>,
    /// Who outside sent which protocol without ports to the hypervisor.
    sent_to_host: HashSet<(IpAddr, u8)>,
    /// Which guests netd alone gave such a protocol to, by the same.
    given: HashMap<(IpAddr, u8), HashSet<IpAddr>>,
}

/// The conversations that a port may belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    One(usize),
    Several,
}

impl<'a> Session<'a> {
    /// A session on two topologies that nothing was sent through yet.
    #[must_use]
    pub fn new(topologies: &'a [Topology; 2], seed: u64, classes: &Classes) -> Self {
        Self {
            topologies,
            seed,
            inventor: Inventor::new(seed, classes),
            conversations: Vec::new(),
            begun: 0,
            number: 0,
            tag: 0,
            cut: HashSet::new(),
            taken: HashMap::new(),
            unseen: HashSet::new(),
            sent_to_host: HashSet::new(),
            given: HashMap::new(),
        }
    }

    /// Sends about `packets` packets into each side and compares.
    ///
    /// # Errors
    /// A wire is gone.
    pub fn run(&mut self, packets: u64, report: &mut Report) -> Result<()> {
        let until = report.sent + packets;
        while report.sent < until {
            self.round(report)?;
        }
        Ok(())
    }

    fn round(&mut self, report: &mut Report) -> Result<()> {
        while self.conversations.len() < WIDTH {
            let plan = self.inventor.invent();
            self.conversations.push(Conversation::new(self.begun, plan));
            self.begun += 1;
        }
        let mut events = self.events();
        let mut frames = Frames::default();
        for event in &events {
            let sender = self.conversations[event.conversation].actor(event.step.from);
            for side in SIDES {
                for packet in &event.sent[side as usize] {
                    let tap = &self.topologies[side as usize].taps[event.wire];
                    tap.send(&frame(sender, packet))?;
                }
            }
            report.sent += event.sent[0].len() as u64;
        }
        self.collect(&mut frames, None)?;
        if self.judge(&mut events, &frames, None) {
            self.collect(&mut frames, Some(LAST_CALL))?;
        }
        report.events += events.len() as u64;
        self.judge(&mut events, &frames, Some(report));
        self.conversations
            .retain(|conversation| !conversation.is_over());
        Ok(())
    }

    /// The next step of every conversation.
    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for at in 0..self.conversations.len() {
            let Some(step) = self.conversations[at].due() else {
                continue;
            };
            let tag = self.next_tag(&step);
            let conversation = &self.conversations[at];
            let packets = SIDES.map(|side| conversation.packets(&step, side, tag));
            let [Some(kernel), Some(netd)] = packets else {
                continue; // nothing to answer has arrived
            };
            self.number += 1;
            if conversation.actor(step.from.other()).place == Place::Host
                && let Some(both) = peer_and_protocol(conversation, &step)
            {
                self.sent_to_host.insert(both);
            }
            // What dies on the way may have been given its port before.
            if step.from == End::Opener {
                for side in SIDES {
                    let protocol = craft::protocol(&step.body, conversation.plan.family);
                    let own = conversation.plan.opener_port;
                    let key = (side as usize, protocol, held_towards(conversation), own);
                    hold(&mut self.taken, key, conversation.number);
                }
            }
            events.push(Event {
                number: self.number,
                conversation: at,
                wire: conversation.actor(step.from).wire,
                step,
                tag,
                sent: [kernel, netd],
                learned: [None, None],
                before: conversation.seen,
            });
        }
        events
    }

    /// What the step's packets are known by. As it is the identification of fragments, it comes
    /// once only for those.
    fn next_tag(&mut self, step: &Step) -> u16 {
        loop {
            self.tag = if self.tag == u16::MAX {
                1
            } else {
                self.tag + 1
            };
            if !step.may_be_cut() || self.cut.insert(self.tag) {
                return self.tag;
            }
        }
    }

    /// Reads all wires until they are silent.
    fn collect(&self, frames: &mut Frames, patience: Option<Duration>) -> Result<()> {
        let mut last = Instant::now();
        loop {
            let mut any = false;
            for side in SIDES {
                for (wire, tap) in self.topologies[side as usize].taps.iter().enumerate() {
                    while let Some(frame) = tap.receive()? {
                        frames[side as usize][wire].push(frame);
                        any = true;
                    }
                }
            }
            if any {
                last = Instant::now();
                continue;
            }
            let [kernel, netd] = &frames;
            let complete = kernel.iter().zip(netd).all(|(a, b)| a.len() == b.len());
            let limit = patience.unwrap_or(if complete { SILENCE } else { PATIENCE });
            if last.elapsed() >= limit {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Compares a round. Without a report it only tells whether there would be anything to report.
    fn judge(
        &mut self,
        events: &mut [Event],
        frames: &Frames,
        mut report: Option<&mut Report>,
    ) -> bool {
        let sorted = self.sort(events, frames);
        self.learn(events, &sorted);
        let mut unexplained = false;
        let none = Vec::new();
        for (at, event) in events.iter_mut().enumerate() {
            self.notice_unseen(event);
            let conversation = &self.conversations[event.conversation];
            let [kernel, netd] = SIDES.map(|side| {
                let frames = sorted.get(&(Some(at), side as usize)).unwrap_or(&none);
                arrivals(frames, conversation, side)
            });
            if let Some(report) = report.as_deref_mut() {
                report.compared += kernel.len().max(netd.len()) as u64;
            }
            let note = self.translation_note(event);
            if same(&kernel, &netd) && note.is_none() {
                if report.is_some() {
                    self.remember(event);
                }
                continue;
            }
            let both = peer_and_protocol(conversation, &event.step);
            let sender = conversation.spot(event.step.from).0;
            if kernel.is_empty()
                && let (Some(both), [Arrival { origin, .. }]) = (both, &netd[..])
                && *origin == Origin::Sender
            {
                self.given.entry(both).or_default().insert(sender);
            }
            let difference = Difference {
                number: event.number,
                conversation,
                step: &event.step,
                sender: conversation.actor(event.step.from),
                receiver: conversation.actor(event.step.from.other()),
                sent: &event.sent,
                kernel: &kernel,
                netd: &netd,
                note,
                host_was_sent: both.is_some_and(|both| self.sent_to_host.contains(&both)),
                another_was_given: both
                    .and_then(|both| self.given.get(&both))
                    .is_some_and(|guests| guests.iter().any(|guest| *guest != sender)),
            };
            let known = explain(&difference);
            unexplained |= known.is_none();
            if let Some(report) = report.as_deref_mut() {
                let goes_on = known.is_some_and(|known| known.goes_on);
                report.note(&difference, known, self.seed);
                self.remember(event);
                if !goes_on {
                    // What follows would only differ in consequence.
                    self.conversations[event.conversation].end();
                }
            }
        }
        unexplained |= self.strangers(&sorted, report);
        unexplained
    }

    fn remember(&mut self, event: &Event) {
        self.conversations[event.conversation].remember(Past {
            number: event.number,
            sent: event.sent.clone(),
        });
    }

    /// What came in without any event that could have caused it.
    fn strangers(&self, sorted: &Sorted, report: Option<&mut Report>) -> bool {
        let none = Vec::new();
        let [kernel, netd] = SIDES.map(|side| {
            let frames = sorted.get(&(None, side as usize)).unwrap_or(&none);
            let mut list: Vec<Arrival> = frames
                .iter()
                .map(|(origin, wire, frame)| Arrival::new(*origin, *wire, frame, None, 0))
                .collect();
            list.sort_by(|a, b| a.key().cmp(&b.key()));
            list
        });
        if same(&kernel, &netd) {
            return false;
        }
        if let Some(report) = report {
            report.strangers(&kernel, &netd, self.seed, self.number);
        }
        true
    }

    /// Which event each frame belongs to.
    fn sort(&self, events: &[Event], frames: &Frames) -> Sorted {
        let tags: HashMap<u16, usize> = events
            .iter()
            .enumerate()
            .map(|(at, event)| (event.tag, at))
            .collect();
        let mut sorted = Sorted::new();
        for side in SIDES {
            let side = side as usize;
            // Answers of the hypervisor itself are found by the ports of what they answer.
            let mut answered = HashMap::new();
            for (at, event) in events.iter().enumerate() {
                for packet in &event.sent[side] {
                    if let Some((from, to, protocol)) = ends(packet) {
                        answered.insert((to, from, protocol, event.wire), at);
                    }
                }
            }
            let mut renumbered = HashMap::new();
            // Later fragments of the hypervisor's answers have no ports: they go with the first.
            let mut heads = HashMap::new();
            for (wire, frames) in frames[side].iter().enumerate() {
                for frame in frames {
                    let mut frame = frame.clone();
                    let packet = frame.get_mut(14..).unwrap_or_default();
                    if let Some(tag) = fragment::of(packet, wire, events, side, &mut renumbered) {
                        fragment::number(packet, tag);
                    }
                    let (mut event, mut origin) =
                        cause(packet, wire, events, side, &tags, &answered);
                    if origin != Origin::Sender
                        && let Some((of, is_first)) = fragment::whole(packet)
                    {
                        if is_first {
                            heads.insert(of, (event, origin));
                        } else if let Some(first) = heads.get(&of) {
                            (event, origin) = *first;
                        }
                    }
                    sorted
                        .entry((event, side))
                        .or_default()
                        .push((origin, wire, frame));
                }
            }
        }
        sorted
    }

    /// Takes note of what reached the other end.
    fn learn(&mut self, events: &mut [Event], sorted: &Sorted) {
        for (at, event) in events.iter_mut().enumerate() {
            for side in SIDES {
                let Some(frames) = sorted.get(&(Some(at), side as usize)) else {
                    continue;
                };
                let conversation = &mut self.conversations[event.conversation];
                let other = held_towards(conversation);
                let private = conversation.spot(End::Opener).0;
                let wire_there = conversation.actor(End::Answerer).wire;
                for (origin, wire, frame) in frames {
                    if *origin != Origin::Sender {
                        continue;
                    }
                    let packet = &frame[14..];
                    event.learned[side as usize] = conversation
                        .arrived(&event.step, side, *wire, packet)
                        .or(event.learned[side as usize]);
                    // Whatever it was, it may have taken the port.
                    if let Some((from, _, protocol)) = ends(packet)
                        && event.step.from == End::Opener
                        && *wire == wire_there
                        && from.0 != private
                    {
                        let key = (side as usize, protocol, other, from.1);
                        hold(&mut self.taken, key, conversation.number);
                    }
                }
            }
        }
    }

    /// Takes note of a port that somebody was given whom nobody will see.
    fn notice_unseen(&mut self, event: &Event) {
        let conversation = &self.conversations[event.conversation];
        if event.step.from != End::Opener {
            return;
        }
        let protocol = craft::protocol(&event.step.body, conversation.plan.family);
        let (other, own) = (held_towards(conversation), conversation.plan.opener_port);
        for side in SIDES.map(|side| side as usize) {
            let is_unseen = event.learned[side].is_none() && event.before[side].is_none();
            if is_unseen && self.is_taken((side, protocol, other, own), conversation) {
                self.unseen.insert((side, protocol, other));
            }
        }
    }

    /// Is a port in use by another conversation?
    fn is_taken(&self, key: (usize, u8, craft::Spot, u16), by: &Conversation) -> bool {
        let holder = self.taken.get(&key);
        holder.is_some_and(|holder| *holder != Holder::One(by.number))
    }

    /// The choice of a port is each side's own, but whether the guest's own port is kept is not,
    /// nor is a change in the middle of a flow.
    fn translation_note(&self, event: &Event) -> Option<String> {
        let conversation = &self.conversations[event.conversation];
        let [Some(kernel), Some(netd)] = event.learned else {
            return None;
        };
        for side in SIDES {
            let (now, before) = (event.learned[side as usize]?, event.before[side as usize]);
            if before.is_some_and(|before| before != now) && !event.step.fresh {
                return Some(format!("{side:?} changed the translation within a flow"));
            }
        }
        if kernel.0 != netd.0 {
            return None; // the packets tell
        }
        let own = conversation.plan.opener_port;
        let protocol = craft::protocol(&event.step.body, conversation.plan.family);
        for (side, mine, others) in [
            (Side::Kernel, kernel.1, netd.1),
            (Side::Netd, netd.1, kernel.1),
        ] {
            let (at, other) = (side as usize, held_towards(conversation));
            let in_use = self.is_taken((at, protocol, other, own), conversation);
            if mine != own && others == own && !in_use {
                let unseen = self.unseen.contains(&(at, protocol, other));
                let why = if unseen { UNSEEN } else { "" };
                return Some(format!("only {side:?} replaced the source port{why}"));
            }
            // An echo's identifier is no port.
            if mine < 1024 && others >= 1024 && matches!(protocol, TCP | UDP) {
                return Some(format!("only {side:?} uses a privileged source port"));
            }
        }
        None
    }
}

/// Who is outside, and which protocol without ports a step is of.
fn peer_and_protocol(conversation: &Conversation, step: &Step) -> Option<(IpAddr, u8)> {
    let Body::Other { protocol, .. } = step.body else {
        return None;
    };
    let outside = [End::Opener, End::Answerer]
        .into_iter()
        .find(|end| conversation.actor(*end).place == Place::Outside)?;
    Some((conversation.spot(outside).0, protocol))
}

/// The other end of a port's use; an echo has a port at one end only.
fn held_towards(conversation: &Conversation) -> craft::Spot {
    let (address, port) = conversation.spot(End::Answerer);
    (address, if conversation.plan.is_echo { 0 } else { port })
}

fn hold(
    taken: &mut HashMap<(usize, u8, craft::Spot, u16), Holder>,
    key: (usize, u8, craft::Spot, u16),
    conversation: usize,
) {
    taken
        .entry(key)
        .and_modify(|holder| {
            if *holder != Holder::One(conversation) {
                *holder = Holder::Several;
            }
        })
        .or_insert(Holder::One(conversation));
}

/// What came in about one event on one side, in an order that is the same on both.
fn arrivals(
    frames: &[(Origin, usize, Vec<u8>)],
    conversation: &Conversation,
    side: Side,
) -> Vec<Arrival> {
    let seen = conversation.seen[side as usize];
    let own_port = conversation.plan.opener_port;
    let mut groups: HashMap<(Origin, usize), Vec<Vec<u8>>> = HashMap::new();
    for (origin, wire, frame) in frames {
        let group = groups.entry((*origin, *wire)).or_default();
        group.push(frame.clone());
    }
    let mut list: Vec<Arrival> = groups
        .into_iter()
        .flat_map(|((origin, wire), frames)| {
            join(frames).into_iter().map(move |(frame, pieces)| {
                Arrival::new(origin, wire, &frame, seen, own_port).in_pieces(pieces)
            })
        })
        .collect();
    list.sort_by(|a, b| a.key().cmp(&b.key()));
    list
}

/// Source, destination and protocol of a packet.
fn ends(packet: &[u8]) -> Option<(craft::Spot, craft::Spot, u8)> {
    let header = Header::read(packet)?;
    let (source, destination) = header.ports(packet);
    let port = |at: Option<usize>| at.and_then(|at| word(packet, at)).unwrap_or_default();
    let from = (header.source, port(source));
    Some((
        from,
        (header.destination, port(destination)),
        header.protocol,
    ))
}

/// The event that made a packet come in on a wire.
fn cause(
    packet: &[u8],
    wire: usize,
    events: &[Event],
    side: usize,
    tags: &HashMap<u16, usize>,
    answered: &HashMap<(craft::Spot, craft::Spot, u8, usize), usize>,
) -> (Option<usize>, Origin) {
    let Some(header) = Header::read(packet) else {
        return (None, Origin::Unknown);
    };
    // Errors that somebody sends are about packets of earlier rounds.
    if let Some(at) = header.quote(packet)
        && let Some(quoted) = Header::read(&packet[at..header.end])
        && let Some(event) = tags.get(&quoted.tag)
    {
        return (Some(*event), Origin::Error);
    }
    if let Some(event) = tags.get(&header.tag) {
        let sent = &events[*event].sent[side];
        if sent.iter().any(|sent| carries(packet, &header, sent)) {
            return (Some(*event), Origin::Sender);
        }
    }
    let answer = ends(packet)
        .and_then(|(from, to, protocol)| answered.get(&(from, to, protocol, wire)).copied());
    match answer {
        Some(event) => (Some(event), Origin::Answer),
        None => (None, Origin::Unknown),
    }
}

/// Is a packet that came in the one that was sent, whatever its addresses and ports are now?
fn carries(packet: &[u8], header: &Header, sent: &[u8]) -> bool {
    let Some(origin) = Header::read(sent) else {
        return false;
    };
    if origin.protocol != header.protocol {
        return false;
    }
    // Fragments have nothing but their tag and an end that no translation changes: the tag alone
    // may be an identification that the hypervisor chose for an answer of its own.
    if header.fragment.is_some() || origin.fragment.is_some() {
        return header.source == origin.source || header.destination == origin.destination;
    }
    let mark = match header.protocol {
        TCP => 4..13,
        ICMP | ICMP6 => 0..2,
        _ => 0..0,
    };
    let part = |bytes: &[u8], header: &Header| -> Option<Vec<u8>> {
        Some(bytes.get(header.l4..)?.get(mark.clone())?.to_vec())
    };
    header.end - header.l4 == origin.end - origin.l4 && part(packet, header) == part(sent, &origin)
}
