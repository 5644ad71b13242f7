//! A run on one pair of topologies: in each round every conversation that is going on takes a
//! step, the same on both sides; then what came in is compared.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arrival::{Arrival, Origin};
use super::canary;
use super::cast::{CAST, FAR, Family, HOST_NUMBER, Place};
use super::change::{Change, is_dropped, is_forbidden};
use super::class::{Class, Classes};
use super::compare::{Difference, same};
use super::conversation::{Conversation, Past};
use super::craft;
use super::event::Event;
use super::fragment;
use super::header::Header;
use super::known::{Then, explain};
use super::ports::Ports;
use super::random::Random;
use super::report::Report;
use super::scenario::{Inventor, Plan};
use super::sorting::{Frames, Sorted, arrivals, ends, sort};
use super::step::{Body, End, Oddity, Step};
use super::tap::frame;
use super::topology::{SIDES, Side, Topology};
use super::world::{Way, World};

/// Conversations that go on at the same time.
const WIDTH: usize = 256;
/// Silence after which a round is over when as much came in on one side as on the other.
const SILENCE: Duration = Duration::from_millis(1);
/// The same when something may be missing.
const PATIENCE: Duration = Duration::from_millis(15);
/// And when it is about to be reported, some times over: netd's agent takes part where fragments
/// overtake each other, and may have to wait for a processor.
const LAST_CALL: Duration = Duration::from_millis(50);
const LAST_CALLS: usize = 100;

/// Rounds in which a fragment may come that netd has held back.
const ROUNDS_HELD: usize = 3;
/// Rounds between two changes.
const FEWEST: usize = 0;
const MOST: usize = 4;
/// Makes the seed of the changes from that of the conversations.
const CHANGES: u64 = 0x6368_616e_6765_7321;
/// How many changes a report shows.
const SHOWN: usize = 8;

/// By which ways openers spoke to answerers, by their numbers in the cast: the last one, and whether it
/// was another one before.
type Users = HashMap<(usize, usize, Family), (Way, bool)>;

/// The state between rounds.
#[derive(Debug)]
pub struct Session<'a> {
    topologies: &'a mut [Topology; 2],
    seed: u64,
    inventor: Inventor,
    conversations: Vec<Conversation>,
    begun: usize,
    number: u64,
    tag: u16,
    /// Tags of fragments.
    cut: HashSet<u16>,
    /// The same of the last rounds, with what was sent on netd's side: fragments of it may come yet.
    cut_lately: VecDeque<Vec<(u16, Vec<Vec<u8>>)>>,
    /// Conversations of the last round, by tag.
    before: HashMap<u16, usize>,
    /// By which ways guests used a protocol without ports, by peer and protocol.
    users: HashMap<(IpAddr, u8), Users>,
    ports: Ports,
    world: World,
    /// What changes are drawn from; none where nothing is to move.
    changes: Option<Random>,
    /// Rounds until the next change.
    pause: usize,
    /// The last changes.
    changed: Vec<String>,
    /// Who outside sent which protocol without ports to the hypervisor.
    sent_to_host: HashSet<(IpAddr, u8)>,
    /// Which guests netd alone gave such a protocol to, by the same.
    given: HashMap<(IpAddr, u8), HashSet<IpAddr>>,
}

impl<'a> Session<'a> {
    /// A session on two topologies that nothing was sent through yet.
    #[must_use]
    pub fn new(
        topologies: &'a mut [Topology; 2],
        seed: u64,
        classes: &Classes,
        world: World,
    ) -> Self {
        // Of its own, so that the conversations of a seed are the same whatever changes.
        let changes = Random::new(seed ^ CHANGES);

        Self {
            topologies,
            seed,
            inventor: Inventor::new(seed, classes),
            conversations: Vec::new(),
            begun: 0,
            number: 0,
            tag: 0,
            cut: HashSet::new(),
            before: HashMap::new(),
            cut_lately: VecDeque::new(),
            users: HashMap::new(),
            ports: Ports::default(),
            world,
            changes: classes.contains(&Class::Changes).then_some(changes),
            pause: FEWEST,
            changed: Vec::new(),
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
        // What is to show changes later has to be under way before.
        if self.changes.is_some()
            && let Err(wrong) = canary::wait(self.topologies, &self.world)?
        {
            report.stuck("beginning", &wrong, &self.changed, self.seed);
            return Ok(());
        }
        while report.sent < until {
            self.round(report)?;
            if !self.change(report)? {
                break;
            }
        }
        Ok(())
    }

    /// Is there somebody at each end? The hypervisor may have lost the address that it is spoken to by.
    fn has_everybody(&self, conversation: &Conversation) -> bool {
        conversation.plan.answerer != HOST_NUMBER || !self.world.other_host
    }

    /// Changes both sides, when it is time, and waits until both show it. False where one of them
    /// does not.
    fn change(&mut self, report: &mut Report) -> Result<bool> {
        let Some(random) = &mut self.changes else {
            return Ok(true);
        };
        if self.pause > 0 {
            self.pause -= 1;
            return Ok(true);
        }
        self.pause = random.between(FEWEST, MOST);
        let change = Change::draw(random, &self.world);
        canary::refresh(self.topologies, &self.world)?;
        let deeds = change.make(&mut self.world);
        self.changed
            .push(format!("{change} (after {})", self.number));
        if self.changed.len() > SHOWN {
            self.changed.remove(0);
        }
        for topology in &mut *self.topologies {
            topology.carry_out(&deeds, &self.world)?;
        }
        let mut conversations = std::mem::take(&mut self.conversations);
        conversations.retain(|conversation| {
            self.has_everybody(conversation)
                && !(change.moves_ways() && self.ports.is_shared(conversation))
        });
        self.conversations = conversations;
        *report.changes.entry(change.name()).or_default() += 1;
        match canary::wait(self.topologies, &self.world)? {
            Ok(took) => {
                report.note_change(took);
                Ok(true)
            }
            Err(wrong) => {
                report.stuck(change.name(), &wrong, &self.changed, self.seed);
                Ok(false)
            }
        }
    }

    fn round(&mut self, report: &mut Report) -> Result<()> {
        while self.conversations.len() < WIDTH {
            let plan = self.inventor.invent();
            let conversation = Conversation::new(self.begun, plan);
            self.begun += 1;
            if self.has_everybody(&conversation) {
                self.conversations.push(conversation);
            }
        }
        let mut events = self.events();
        let mut frames = Frames::default();
        crate::at_once(|| self.send(&mut events))?;
        report.sent += events
            .iter()
            .map(|event| event.sent[0].len() as u64)
            .sum::<u64>();
        let cut = events.iter().filter(|event| event.may_be_held());
        let netd = Side::Netd as usize;
        self.cut_lately.push_front(
            cut.map(|event| (event.tag, event.sent[netd].clone()))
                .collect(),
        );
        self.cut_lately.truncate(ROUNDS_HELD + 1);
        self.collect(&mut frames, None)?;
        let mut calls = 0;
        while calls < LAST_CALLS && self.judge(&mut events, &frames, None) {
            self.collect(&mut frames, Some(LAST_CALL))?;
            calls += 1;
        }
        report.events += events.len() as u64;
        self.judge(&mut events, &frames, Some(report));
        let number = |event: &Event| self.conversations[event.conversation].number;
        self.before = events
            .iter()
            .map(|event| (event.tag, number(event)))
            .collect();
        self.conversations
            .retain(|conversation| !conversation.is_over());
        Ok(())
    }

    /// Sends what each event is, into both sides.
    fn send(&self, events: &mut [Event]) -> Result<()> {
        for event in events {
            let conversation = &self.conversations[event.conversation];
            let sender = conversation.number_of(event.step.from);
            for side in SIDES {
                // When the first one was surely with the hypervisor, and the last one surely not.
                let mut arrived = None;
                for packet in &event.sent[side as usize] {
                    let to = Header::read(packet).map(|header| header.destination);
                    let from = match to {
                        Some(to) => self.world.station(sender, to),
                        None => continue, // the harness makes none
                    };
                    let tap = &self.topologies[side as usize].taps[from.wire];
                    let now = Instant::now();
                    tap.send(&frame(&from, packet))?;
                    let first = *arrived.get_or_insert_with(Instant::now);
                    event.apart = now.saturating_duration_since(first);
                }
            }
        }
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
            let protocol = craft::protocol(&step.body, conversation.plan.family);
            let (from, to) = (conversation.plan.opener, conversation.plan.answerer);
            let way = self.world.way(from, to, conversation.plan.family);
            let is_moved = step.from == End::Opener && conversation.is_readdressed(way);
            let is_replaced = conversation.is_replaced(way);
            if step.from == End::Opener {
                self.ports.notice_sent(conversation, protocol);
            }
            let destination = kernel.first().and_then(|packet| Header::read(packet));
            let to = destination.map_or(conversation.spot(step.from.other()).0, |header| {
                header.destination
            });
            let sender = conversation.number_of(step.from);
            events.push(Event {
                number: self.number,
                conversation: at,
                wire: self.world.station(sender, to).wire,
                way,
                is_moved,
                is_replaced,
                step,
                tag,
                sent: [kernel, netd],
                apart: Duration::ZERO,
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
                let topology = &self.topologies[side as usize];
                for (wire, frames) in frames[side as usize].iter_mut().enumerate() {
                    while let Some(frame) = topology.receive(wire, &self.world)? {
                        frames.push(frame);
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
        let sorted = sort(events, frames);
        self.learn(events, &sorted);
        let mut unexplained = false;
        let none = Vec::new();
        for (at, event) in events.iter_mut().enumerate() {
            let conversation = &self.conversations[event.conversation];
            self.ports.notice_unseen(event, conversation);
            let [kernel, netd] = SIDES.map(|side| {
                let frames = sorted.get(&(Some(at), side as usize)).unwrap_or(&none);
                arrivals(frames, conversation, side)
            });
            if let Some(report) = report.as_deref_mut() {
                report.compared += kernel.len().max(netd.len()) as u64;
            }
            if report.is_some() && is_hosts(event, conversation, &kernel) {
                self.ports.notice_hosts(event, conversation);
            }
            let note = self.ports.translation_note(event, conversation);
            if same(&kernel, &netd) && note.is_none() {
                if report.is_some() {
                    self.remember(event);
                    self.end_after(event);
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
                apart: event.apart,
                note,
                mtu: self.mtu_for(conversation),
                is_moved: event.is_moved,
                is_replaced: event.is_replaced,
                is_forbidden: self.world.rules && is_forbidden(&conversation.plan),
                is_dropped: self.world.rules
                    && is_dropped(
                        &conversation.plan,
                        event.step.from,
                        craft::protocol(&event.step.body, conversation.plan.family),
                    ),
                is_known_elsewhere: conversation.is_readdressed(event.way),
                has_tried_another_way: conversation.has_tried_another_way(),
                changes: &self.changed,
                host_was_sent: both.is_some_and(|both| self.sent_to_host.contains(&both)),
                another_was_given: both
                    .and_then(|both| self.given.get(&both))
                    .is_some_and(|guests| guests.iter().any(|guest| *guest != sender)),
                holder_has_moved: both.is_some_and(|both| self.holder_has_moved(both)),
            };
            let known = explain(&difference);
            unexplained |= known.is_none();
            if let Some(report) = report.as_deref_mut() {
                let then = known.map_or(Then::Ends, |known| known.then);
                report.note(&difference, known, self.seed);
                self.remember(event);
                match then {
                    Then::GoesOn => {}
                    Then::Anew => self.conversations[event.conversation].begin_anew(event.way),
                    // What follows would only differ in consequence.
                    Then::Ends => self.conversations[event.conversation].end(),
                }
            }
        }
        if report.is_some() {
            self.end_belated(&sorted);
        }
        unexplained |= self.strangers(&sorted, report);
        unexplained
    }

    /// Ends a conversation that is none any more, though both sides did the same.
    fn end_after(&mut self, event: &Event) {
        let conversation = &mut self.conversations[event.conversation];
        // Connection tracking takes it up in its middle, and knows no window then.
        let is_taken_up = event.is_moved && event.step.body.has_states();
        if is_taken_up || self.world.rules && is_forbidden(&conversation.plan) {
            conversation.end();
        }
    }

    /// Ends conversations of which something came too late for its round, be it on both sides: nobody has
    /// taken note of what it left.
    fn end_belated(&mut self, sorted: &Sorted) {
        let strangers = SIDES.map(|side| sorted.get(&(None, side as usize)));
        for (_, _, frame) in strangers.into_iter().flatten().flatten() {
            let header = Header::read(frame.get(14..).unwrap_or_default());
            let Some(number) = header.and_then(|header| self.before.get(&header.tag)) else {
                continue;
            };
            let mut all = self.conversations.iter_mut();
            if let Some(belated) = all.find(|conversation| conversation.number == *number) {
                belated.end();
            }
        }
    }

    /// MTU of the way between guests and outside that a conversation takes.
    fn mtu_for(&self, conversation: &Conversation) -> usize {
        let ends = [End::Opener, End::Answerer].map(|end| conversation.number_of(end));
        let guest = ends.into_iter().find(|end| CAST[*end].network.is_some());
        guest.map_or(self.world.mtu[0], |guest| {
            self.world.path_mtu(guest, ends.contains(&FAR))
        })
    }

    /// Has a guest that used a protocol without ports another way or card since?
    fn holder_has_moved(&self, both: (IpAddr, u8)) -> bool {
        self.users.get(&both).is_some_and(|users| {
            users.iter().any(|((from, to, family), (way, has_moved))| {
                *has_moved || self.world.way(*from, *to, *family).has_moved(*way)
            })
        })
    }

    fn remember(&mut self, event: &Event) {
        let conversation = &mut self.conversations[event.conversation];
        if event.step.from == End::Opener {
            let arrived = event.learned.iter().any(Option::is_some);
            conversation.goes_by(event.way, arrived);
            let Plan {
                opener,
                answerer,
                family,
                ..
            } = conversation.plan;
            if let Some(both) = peer_and_protocol(conversation, &event.step) {
                let users = self.users.entry(both).or_default();
                let user = users.entry((opener, answerer, family));
                let (way, has_moved) = user.or_insert((event.way, false));
                *has_moved |= event.way.has_moved(*way);
                *way = event.way;
            }
        }
        self.conversations[event.conversation].remember(Past {
            number: event.number,
            sent: event.sent.clone(),
        });
    }

    /// Is a frame of netd's a fragment that waited for the first one, until its round was over? It is
    /// missed there, where anything was to come of it.
    fn was_held(&self, frame: &[u8]) -> bool {
        let packet = frame.get(14..).unwrap_or_default();
        let mut cut = self.cut_lately.iter().flatten();
        Header::read(packet).is_some_and(|header| !header.has_start())
            && cut.any(|(tag, sent)| fragment::may_be_of(packet, *tag, sent))
    }

    /// What came in without any event that could have caused it.
    fn strangers(&self, sorted: &Sorted, report: Option<&mut Report>) -> bool {
        let none = Vec::new();
        let [kernel, netd] = SIDES.map(|side| {
            let frames = sorted.get(&(None, side as usize)).unwrap_or(&none);
            let mut list: Vec<Arrival> = frames
                .iter()
                .filter(|(_, _, frame)| side == Side::Kernel || !self.was_held(frame))
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

    /// Takes note of what reached the other end.
    fn learn(&mut self, events: &mut [Event], sorted: &Sorted) {
        for (at, event) in events.iter_mut().enumerate() {
            for side in SIDES {
                let Some(frames) = sorted.get(&(Some(at), side as usize)) else {
                    continue;
                };
                let conversation = &mut self.conversations[event.conversation];
                let private = conversation.spot(End::Opener).0;
                let there = conversation.number_of(End::Answerer);
                for (origin, wire, frame) in frames {
                    if *origin != Origin::Sender {
                        continue;
                    }
                    let packet = &frame[14..];
                    event.learned[side as usize] = conversation
                        .arrived(&event.step, side, (*wire, packet), &self.world)
                        .or(event.learned[side as usize]);
                    // Whatever it was, it may have taken the port.
                    if let Some((from, _, protocol)) = ends(packet)
                        && event.step.from == End::Opener
                        && self.world.is_at(there, *wire)
                        && from.0 != private
                    {
                        self.ports.hold(side, protocol, conversation, from.1);
                    }
                }
            }
        }
    }
}

/// Was a guest's peer heard by the host itself, or dropped by it, instead of by the guest?
fn is_hosts(event: &Event, conversation: &Conversation, kernel: &[Arrival]) -> bool {
    event.step.from == End::Answerer
        && conversation.actor(End::Opener).place == Place::Nat
        && kernel.iter().all(|one| one.origin != Origin::Sender)
        && !matches!(event.step.body, Body::Error { .. })
        && event.step.oddity != Some(Oddity::Checksum)
        && !event.step.twist.bad_header
}

/// Towards whom, and which protocol without ports a step is of: who is outside, or of the network that
/// nobody hides.
fn peer_and_protocol(conversation: &Conversation, step: &Step) -> Option<(IpAddr, u8)> {
    let Body::Other { protocol, .. } = step.body else {
        return None;
    };
    let open = |end: &End| {
        matches!(
            conversation.actor(*end).place,
            Place::Outside | Place::Routed
        )
    };
    let peer = [End::Answerer, End::Opener].into_iter().find(open)?;
    Some((conversation.spot(peer).0, protocol))
}
