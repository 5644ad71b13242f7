//! Which port each side gave to whom, as far as it was seen: the choice of a port is each side's
//! own, but whether the guest's own port is kept is not, nor is a change in the middle of a flow.

use std::collections::{HashMap, HashSet};

use super::compare::{CHANGED, HOSTS, UNSEEN};
use super::conversation::Conversation;
use super::craft::{self, Spot};
use super::event::Event;
use super::header::{TCP, UDP};
use super::step::End;
use super::topology::{SIDES, Side};

/// Side, protocol, other end and port.
type Use = (usize, u8, Spot, u16);

/// The conversations that a port may belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    One(usize),
    Several,
}

/// What is known of ports in use.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Which ports to whom a guest used or was given.
    taken: HashMap<Use, Holder>,
    /// Towards whom a guest was given a port that nobody saw, by side and protocol: its own was
    /// taken, and the packet died on the way.
    unseen: HashSet<(usize, u8, Spot)>,
    /// Which ports to whom are the host's in the kernel, by protocol: it was sent something there.
    hosts: HashSet<(u8, Spot, u16)>,
}

impl Ports {
    /// Takes note of what an opener is about to send: where that dies on the way, it may have been
    /// given its port before.
    pub(super) fn notice_sent(&mut self, conversation: &Conversation, protocol: u8) {
        let own = conversation.plan.opener_port;
        for side in SIDES {
            self.hold(side, protocol, conversation, own);
        }
    }

    /// A packet of the conversation came in from there.
    pub(super) fn hold(
        &mut self,
        side: Side,
        protocol: u8,
        conversation: &Conversation,
        port: u16,
    ) {
        let key = (side as usize, protocol, held_towards(conversation), port);
        self.taken
            .entry(key)
            .and_modify(|holder| {
                if *holder != Holder::One(conversation.number) {
                    *holder = Holder::Several;
                }
            })
            .or_insert(Holder::One(conversation.number));
    }

    /// Takes note of a port that somebody was given whom nobody will see.
    pub(super) fn notice_unseen(&mut self, event: &Event, conversation: &Conversation) {
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

    /// The other end has sent something to the port as which it knows the opener, and the kernel has
    /// given it to the host itself.
    pub(super) fn notice_hosts(&mut self, event: &Event, conversation: &Conversation) {
        let protocol = craft::protocol(&event.step.body, conversation.plan.family);
        if let Some((_, port)) = event.before[Side::Kernel as usize] {
            let other = held_towards(conversation);
            self.hosts.insert((protocol, other, port));
        }
    }

    /// Is a port in use by another conversation?
    fn is_taken(&self, key: Use, by: &Conversation) -> bool {
        let holder = self.taken.get(&key);
        holder.is_some_and(|holder| *holder != Holder::One(by.number))
    }

    /// Has another conversation used its port towards the same end?
    pub(super) fn is_shared(&self, conversation: &Conversation) -> bool {
        let Some(first) = conversation.plan.steps.first() else {
            return false;
        };
        let protocol = craft::protocol(&first.body, conversation.plan.family);
        let (other, own) = (held_towards(conversation), conversation.plan.opener_port);
        SIDES.iter().any(|side| {
            let key = (*side as usize, protocol, other, own);
            self.is_taken(key, conversation)
        })
    }

    /// What is wrong with a translation, where the packets do not tell.
    pub(super) fn translation_note(
        &self,
        event: &Event,
        conversation: &Conversation,
    ) -> Option<String> {
        let [Some(kernel), Some(netd)] = event.learned else {
            return None;
        };
        for side in SIDES {
            let (now, before) = (event.learned[side as usize]?, event.before[side as usize]);
            let may_change = event.step.fresh || event.is_moved || event.is_replaced;
            // What leaked before with the guest's own address was of no flow.
            let own = conversation.spot(End::Opener).0;
            let has_changed = |before: Spot| before != now && before.0 != own;
            if before.is_some_and(has_changed) && !may_change {
                return Some(format!("{side:?} {CHANGED}"));
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
                let hosts = side == Side::Kernel && self.hosts.contains(&(protocol, other, own));
                let why = match self.unseen.contains(&(at, protocol, other)) {
                    _ if hosts => HOSTS,
                    true => UNSEEN,
                    false => "",
                };
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

/// The other end of a port's use; an echo has a port at one end only.
fn held_towards(conversation: &Conversation) -> Spot {
    let (address, port) = conversation.spot(End::Answerer);
    (address, if conversation.plan.is_echo { 0 } else { port })
}
