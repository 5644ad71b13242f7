//! A client of DHCPv6 that asks for one network's prefixes (IA_PD; RFC 8415, section 18.2): what it sends
//! and when, and what is to be done with what it gets. It knows no socket and no clock of its own.
//!
//! A prefix that the server takes back stays for a while, no longer preferred: guests have addresses of it,
//! and are to hear that these are old before they are gone (RFC 9096, section 3.1).

use std::net::Ipv6Addr;
use std::time::Duration;

use super::message::{Answer, NO_BINDING, Request, SUCCESS, kind};

/// For how long guests may use an address that was advertised last (RFC 9096, section 3.4, has 90 minutes).
pub const LINGER: Duration = Duration::from_secs(5400);
/// The shortest time between two conversations with a server.
const PAUSE: Duration = Duration::from_secs(5);
/// As far away as a deadline can be.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// So many times a server is asked that has offered prefixes (section 7.6).
const REQUESTS: u32 = 10;

/// So many times all servers are asked for the prefixes that there are, before they are asked for any.
const REBINDS: u32 = 4;

/// How a message is repeated (section 15): after the first time, and at most after the second.
#[derive(Clone, Copy)]
struct Pace {
    first: u32,
    most: u32,
}

const SOLICIT: Pace = Pace {
    first: 1,
    most: 3600,
};
const REQUEST: Pace = Pace { first: 1, most: 30 };
const RENEW: Pace = Pace {
    first: 10,
    most: 600,
};

/// A prefix that a network may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The prefix.
    pub prefix: (Ipv6Addr, u8),
    /// It is good for new connections.
    pub is_preferred: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to all servers.
    Send(Vec<u8>),
    /// The network has these prefixes now.
    Use(Vec<Given>),
}

/// A prefix with the ends of its lifetimes.
#[derive(Clone, Copy, Debug)]
struct Held {
    prefix: (Ipv6Addr, u8),
    preferred_until: Duration,
    valid_until: Duration,
    /// No server knows of it any more: it is kept for those who have addresses of it.
    lingers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It looks for a server.
    Soliciting,
    /// It has chosen one.
    Requesting,
    /// It has prefixes, and nothing to ask.
    Bound,
    /// It asks the server that gave them for more time.
    Renewing,
    /// It asks any.
    Rebinding,
}

/// The client of one network. Times are those since some point in the past.
pub struct Client {
    /// Who it is (DUID).
    identity: Vec<u8>,
    /// Which network (IAID).
    network: [u8; 4],
    /// The length of prefix that it would like.
    length: u8,
    random: Box<dyn FnMut() -> u32 + Send>,
    state: State,
    server: Vec<u8>,
    held: Vec<Held>,
    told: Vec<Given>,
    renew_at: Duration,
    rebind_at: Duration,
    /// Of the running exchange.
    transaction: [u8; 3],
    began: Option<Duration>,
    tries: u32,
    wait: Duration,
    /// When to send next.
    next: Duration,
    offer: Option<Answer>,
    solicit_max: u32,
}

impl Client {
    /// A client that begins at `now`, with what its network has from before.
    pub fn new(
        identity: Vec<u8>,
        network: [u8; 4],
        length: u8,
        before: &[Given],
        now: Duration,
        random: Box<dyn FnMut() -> u32 + Send>,
    ) -> Self {
        let held = before.iter().map(|given| Held {
            prefix: given.prefix,
            preferred_until: match given.is_preferred {
                true => now + LINGER,
                false => now,
            },
            valid_until: now + LINGER,
            lingers: !given.is_preferred,
        });
        let mut client = Self {
            identity,
            network,
            length,
            random,
            state: State::Soliciting,
            server: Vec::new(),
            held: held.collect(),
            told: before.to_vec(),
            renew_at: FOREVER,
            rebind_at: FOREVER,
            transaction: [0; 3],
            began: None,
            tries: 0,
            wait: Duration::ZERO,
            next: now,
            offer: None,
            solicit_max: SOLICIT.most,
        };
        client.link_changed(now);
        client
    }

    /// The link may be another one: what the client has may be nobody's here (section 18.2.12).
    pub fn link_changed(&mut self, now: Duration) {
        if self.held.iter().any(|held| held.preferred_until > now) {
            self.enter(State::Rebinding, now);
            self.rebind_at = now;
        } else {
            self.enter(State::Soliciting, now);
            // Section 18.2.1: after a power failure not all at once.
            self.next = now + Duration::from_millis(u64::from((self.random)() % 1000));
        }
    }

    /// When [`Self::act`] is to be called.
    pub fn deadline(&self) -> Duration {
        let ends = self.held.iter().flat_map(|held| {
            let preferred = self.is_told_preferred(held).then_some(held.preferred_until);
            [preferred, Some(held.valid_until)].into_iter().flatten()
        });
        let own = match self.state {
            State::Bound => self.renew_at,
            State::Renewing => self.next.min(self.rebind_at),
            _ => self.next,
        };
        ends.chain([own]).min().unwrap_or(own)
    }

    fn is_told_preferred(&self, held: &Held) -> bool {
        let told = self.told.iter().find(|given| given.prefix == held.prefix);
        told.is_some_and(|given| given.is_preferred)
    }

    /// What is due.
    pub fn act(&mut self, now: Duration) -> Vec<Action> {
        self.held.retain(|held| held.valid_until > now);
        let lives = self.held.iter().any(|held| held.preferred_until > now);
        match self.state {
            State::Bound if now >= self.renew_at => self.enter(State::Renewing, now),
            State::Renewing if now >= self.rebind_at => self.enter(State::Rebinding, now),
            _ => {}
        }
        let in_vain = now >= self.next && self.tries >= REBINDS;
        if self.state == State::Rebinding && (!lives || in_vain) {
            self.enter(State::Soliciting, now);
        }
        let mut actions = self.tell(now);
        if self.state != State::Bound && now >= self.next {
            if let Some(offer) = self.offer.take() {
                self.choose(&offer, now);
            } else if self.state == State::Requesting && self.tries >= REQUESTS {
                self.enter(State::Soliciting, now);
            }
            actions.push(self.send(now));
        }
        actions
    }

    /// A message came.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) -> Vec<Action> {
        let Some(answer) = Answer::read(bytes, self.network) else {
            return Vec::new();
        };
        // Sections 16.3 and 16.10. Who has asked nothing is told nothing.
        if answer.transaction != self.transaction
            || answer.client != self.identity
            || self.began.is_none()
        {
            return Vec::new();
        }
        if let Some(most) = answer.solicit_max_rt {
            self.solicit_max = most;
        }
        match (answer.kind, &self.state) {
            (kind::ADVERTISE, State::Soliciting) => self.consider(answer, now),
            (kind::REPLY, State::Requesting | State::Renewing) if answer.server == self.server => {
                self.take(answer, now)
            }
            (kind::REPLY, State::Rebinding) => self.take(answer, now),
            _ => Vec::new(),
        }
    }

    /// What tells the server that its prefixes are not needed any more; none without any.
    pub fn release(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.server.is_empty() || self.held.iter().all(|held| held.lingers) {
            return None;
        }
        self.transaction = self.new_transaction();
        self.began = Some(now);
        Some(self.message(kind::RELEASE, now))
    }

    fn enter(&mut self, state: State, now: Duration) {
        self.state = state;
        self.transaction = self.new_transaction();
        self.began = None;
        self.tries = 0;
        self.wait = Duration::ZERO;
        self.next = now;
        self.offer = None;
    }

    fn new_transaction(&mut self) -> [u8; 3] {
        let [a, b, c, _] = (self.random)().to_be_bytes();
        [a, b, c]
    }

    fn send(&mut self, now: Duration) -> Action {
        self.began.get_or_insert(now);
        self.tries += 1;
        let (kind, pace) = match self.state {
            State::Soliciting => (
                kind::SOLICIT,
                Pace {
                    most: self.solicit_max,
                    ..SOLICIT
                },
            ),
            State::Requesting => (kind::REQUEST, REQUEST),
            State::Rebinding => (kind::REBIND, RENEW),
            State::Bound | State::Renewing => (kind::RENEW, RENEW),
        };
        let base = match self.wait {
            Duration::ZERO => Duration::from_secs(pace.first.into()),
            wait => (wait * 2).min(Duration::from_secs(pace.most.into())),
        };
        // A tenth more or less; of the first solicitation only more, so that it is not the only one to be
        // answered (section 18.2.1).
        let tenth = base / 10;
        let more = tenth * ((self.random)() % 1001) / 1000;
        self.wait = match (
            self.state == State::Soliciting && self.tries == 1,
            (self.random)() & 1,
        ) {
            (true, _) | (_, 0) => base + more,
            _ => base.saturating_sub(more),
        };
        self.next = now + self.wait;
        Action::Send(self.message(kind, now))
    }

    fn message(&self, kind: u8, now: Duration) -> Vec<u8> {
        // Kea looks at the first one of a release alone.
        let known = self.held.iter().filter(|held| !held.lingers);
        let has: Vec<_> = known.map(|held| held.prefix).collect();
        let likes = [(Ipv6Addr::UNSPECIFIED, self.length)];
        let is_of_server = matches!(kind, kind::REQUEST | kind::RENEW | kind::RELEASE);
        let elapsed = now.saturating_sub(self.began.unwrap_or(now)).as_millis() / 10;
        Request {
            kind,
            transaction: self.transaction,
            client: &self.identity,
            server: is_of_server.then_some(&self.server),
            elapsed: u16::try_from(elapsed).unwrap_or(u16::MAX),
            network: self.network,
            prefixes: if has.is_empty() { &likes } else { &has },
        }
        .bytes()
    }

    /// A server offers prefixes. Others may want more to be chosen, and have until the first repetition.
    fn consider(&mut self, offer: Answer, now: Duration) -> Vec<Action> {
        if offer.status != SUCCESS || offer.prefixes.is_empty() {
            return Vec::new();
        }
        let most = offer.preference == u8::MAX;
        let known = self.offer.as_ref().map(|known| known.preference);
        if known.is_none_or(|known| known < offer.preference) {
            self.offer = Some(offer);
        }
        if !most && self.tries < 2 {
            return Vec::new();
        }
        let Some(offer) = self.offer.take() else {
            return Vec::new();
        };
        self.choose(&offer, now);
        vec![self.send(now)]
    }

    fn choose(&mut self, offer: &Answer, now: Duration) {
        self.enter(State::Requesting, now);
        self.server.clone_from(&offer.server);
    }

    /// A server has answered for good.
    fn take(&mut self, answer: Answer, now: Duration) -> Vec<Action> {
        if answer.status == NO_BINDING && self.state != State::Requesting {
            // Section 18.2.10.1: the prefixes are to be asked for as if they were new.
            self.server.clone_from(&answer.server);
            self.enter(State::Requesting, now);
            return vec![self.send(now)];
        }
        let usable = answer.prefixes.iter().any(|granted| granted.preferred > 0);
        if answer.status != SUCCESS || !usable {
            // What it takes back counts, but it has nothing to give: somebody else may.
            if answer.status == SUCCESS && !answer.prefixes.is_empty() {
                self.note(&answer, now);
            }
            self.enter(State::Soliciting, now);
            self.next = now + PAUSE;
            return self.tell(now);
        }
        // Who was not asked about them before knows of no others.
        if self.state != State::Renewing {
            for held in &mut self.held {
                held.preferred_until = held.preferred_until.min(now);
                held.valid_until = held.valid_until.min(now + LINGER);
                held.lingers = true;
            }
        }
        self.note(&answer, now);
        self.server = answer.server;
        let shortest = |of: fn(&Held) -> Duration| {
            let preferred = self.held.iter().filter(|held| held.preferred_until > now);
            preferred.map(of).min().unwrap_or(now).saturating_sub(now)
        };
        let preferred = shortest(|held| held.preferred_until);
        let (t1, t2) = answer.times;
        // Section 21.21: where the server leaves it to the client.
        let at = |seconds: u32, of: Duration| match seconds {
            0 => of,
            u32::MAX => FOREVER,
            seconds => Duration::from_secs(seconds.into()),
        };
        let t1 = at(t1, preferred / 2).max(PAUSE);
        let t2 = at(t2, preferred * 4 / 5).max(t1);
        self.enter(State::Bound, now);
        self.renew_at = now + t1;
        self.rebind_at = now + t2;
        self.tell(now)
    }

    /// What the server says of prefixes. Those of which it says nothing stay as they are (section 18.2.10.1).
    fn note(&mut self, answer: &Answer, now: Duration) {
        let until = |seconds: u32| match seconds {
            u32::MAX => FOREVER,
            seconds => now + Duration::from_secs(seconds.into()),
        };
        for granted in &answer.prefixes {
            let known = self
                .held
                .iter()
                .position(|held| held.prefix == granted.prefix);
            let new = Held {
                prefix: granted.prefix,
                preferred_until: until(granted.preferred),
                valid_until: until(granted.valid),
                lingers: false,
            };
            match known {
                // Taken back: guests have addresses of it.
                Some(at) if granted.valid == 0 => {
                    let held = &mut self.held[at];
                    held.lingers = true;
                    held.preferred_until = now;
                    held.valid_until = held.valid_until.min(now + LINGER);
                }
                Some(at) => self.held[at] = new,
                None if granted.valid > 0 => self.held.push(new),
                None => {}
            }
        }
    }

    fn tell(&mut self, now: Duration) -> Vec<Action> {
        let given = self.held.iter().map(|held| Given {
            prefix: held.prefix,
            is_preferred: held.preferred_until > now,
        });
        let given: Vec<Given> = given.collect();
        if given == self.told {
            return Vec::new();
        }
        self.told.clone_from(&given);
        vec![Action::Use(given)]
    }
}

#[cfg(test)]
mod tests;
