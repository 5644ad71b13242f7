//! Which of the host's rules netd passes by.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::dump::{Chain, Hook, Rule, Ruleset};
use super::expression::{Action, Match};
use super::value::{Field, Values, address, name, prefix};
use crate::model::Prefix;

/// A network whose packets pass the host's rules by, and by what rules can name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// The network.
    pub network: String,
    /// Its bridge and the bridge's ports, by name and number.
    pub devices: Vec<(String, u32)>,
    /// Its subnets.
    pub subnets: Vec<Prefix>,
    /// Published ports of the host, and their guests': first and last of each.
    pub ports: Vec<(u16, u16)>,
    /// Bridges of other software: what rules say of them alone is no matter of netd's.
    pub foreign: Vec<String>,
}

/// A rule that netd passes by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The network that it names; none for a ban, which concerns all of them.
    pub network: Option<String>,
    /// Its table, chain and number, as nft names them.
    pub place: String,
    /// The rule.
    pub rule: String,
    /// What it names.
    pub names: String,
    /// So many more bans are in the same chain.
    pub more: usize,
}

impl Finding {
    /// What is to be done.
    #[must_use]
    pub fn remedy(&self) -> String {
        match &self.network {
            Some(network) => format!(
                "to have it count, put <netd:host firewall='respect'/> into the metadata of network \
                 '{network}' and run `netd reload`"
            ),
            None => "to keep the address from guests, use `netd ban add`, or \
                     <netd:host firewall='respect'/> for rules that are not of hook input"
                .to_owned(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place, rule, names, ..
        } = self;
        match &self.network {
            Some(network) => write!(
                f,
                "{place}: {rule}: names {names} of network '{network}', whose packets do not pass it"
            ),
            None => {
                write!(
                    f,
                    "{place}: {rule}: {names}, which guests' packets do not pass"
                )?;
                match self.more {
                    0 => Ok(()),
                    more => write!(f, "; {more} more there"),
                }
            }
        }
    }
}

/// Tables that are netd's, or libvirt's.
const OWN_TABLES: [&str; 2] = ["netd", "libvirt_network"];
/// How chains of libvirt's older backend begin.
const LIBVIRT: &str = "LIBVIRT_";
/// How deep chains may call each other (NFT_JUMP_STACK_SIZE).
const DEPTH: usize = 16;

/// What a rule names: of which network, and what.
type Named = (String, String);

/// The rules that name something of these networks, or ban somebody, and that their packets do not pass.
/// A rule that lets pass, or only leads to another chain, is none; nor is a policy.
#[must_use]
pub fn passed_by(ruleset: &Ruleset, guarded: &[Guarded]) -> Vec<Finding> {
    let mut walk = Walk {
        ruleset,
        guarded,
        seen: BTreeSet::new(),
        found: Vec::new(),
    };
    if guarded.is_empty() {
        return Vec::new();
    }
    for (index, chain) in ruleset.chains.iter().enumerate() {
        let Some(hook) = chain.hook else {
            continue;
        };
        let published = guarded.iter().any(|network| !network.ports.is_empty());
        if matches!(hook, Hook::Output) || (hook == Hook::Input && !published) {
            continue;
        }
        let devices = chain.devices.iter();
        let named = devices.filter_map(|device| walk.device(|own, _| own == device));
        let named = named.collect::<Vec<_>>().into_iter().next();
        walk.chain(index, hook, named.as_ref(), DEPTH);
    }
    let mut found = walk.found;
    found.sort();
    found.dedup();
    found
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    guarded: &'a [Guarded],
    seen: BTreeSet<(usize, bool, Option<Named>)>,
    found: Vec<Finding>,
}

impl Walk<'_> {
    fn chain(&mut self, index: usize, hook: Hook, named: Option<&Named>, depth: usize) {
        let Some(chain) = self.ruleset.chains.get(index) else {
            return;
        };
        let own = OWN_TABLES.contains(&chain.table.as_str()) || chain.name.starts_with(LIBVIRT);
        let here = (index, hook == Hook::Input, named.cloned());
        if own || depth == 0 || !self.seen.insert(here) {
            return;
        }
        for rule in &chain.rules {
            let by_itself = self.names(chain, rule);
            let named = by_itself.as_ref().or(named);
            self.follow(chain, rule, hook, named, depth);
            if !has_effect(rule) {
                continue;
            }
            match named {
                Some((network, names)) if hook != Hook::Input => {
                    self.found.push(Finding {
                        network: Some(network.clone()),
                        place: place(chain, rule),
                        rule: rule.text.clone(),
                        names: names.clone(),
                        more: 0,
                    });
                }
                _ => self.ban(chain, rule),
            }
        }
    }

    /// Go on where the rule leads.
    fn follow(
        &mut self,
        chain: &Chain,
        rule: &Rule,
        hook: Hook,
        named: Option<&Named>,
        depth: usize,
    ) {
        for action in &rule.actions {
            match action {
                Action::Jump(to) => {
                    if let Some(index) = self.find(chain, to) {
                        self.chain(index, hook, named, depth - 1);
                    }
                }
                Action::Map(field, set) => {
                    for (values, leads) in self.ruleset.set(chain, set) {
                        let one = Match {
                            field: *field,
                            negated: false,
                            values: values.clone(),
                        };
                        let named = self.match_names(chain, &one).or_else(|| named.cloned());
                        if let Some(Action::Jump(to)) = leads
                            && let Some(index) = self.find(chain, to)
                        {
                            self.chain(index, hook, named.as_ref(), depth - 1);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn find(&self, from: &Chain, to: &str) -> Option<usize> {
        let is_it = |chain: &Chain| {
            chain.family == from.family && chain.table == from.table && chain.name == to
        };
        self.ruleset.chains.iter().position(is_it)
    }

    /// Note a ban. There may be thousands, of which the first one of a chain is shown.
    fn ban(&mut self, chain: &Chain, rule: &Rule) {
        let refuses = |action: &Action| matches!(action, Action::Drop | Action::Reject);
        if !rule.actions.iter().any(refuses) || self.is_foreign(rule) {
            return;
        }
        let mut sources = rule.matches.iter().filter(|one| one.field == Field::Source);
        if !sources.any(|one| !one.negated && is_somebody(&one.values)) {
            return;
        }
        let whole = place(chain, rule);
        let (start, _) = whole.split_once(", handle").unwrap_or((&whole, ""));
        let before = self.found.iter_mut().find(|found| {
            found.network.is_none() && found.place.starts_with(&format!("{start}, handle"))
        });
        match before {
            Some(first) if first.place == whole => {}
            Some(first) => first.more += 1,
            None => self.found.push(Finding {
                network: None,
                place: whole,
                rule: rule.text.clone(),
                names: "bans by source".to_owned(),
                more: 0,
            }),
        }
    }

    /// Is the rule about other software's bridges alone?
    fn is_foreign(&self, rule: &Rule) -> bool {
        let foreign = |bytes: &[u8]| {
            let device = name(bytes);
            let mut networks = self.guarded.iter();
            networks.any(|network| network.foreign.contains(&device))
                && self.device(|own, _| own == device).is_none()
        };
        rule.matches.iter().any(|one| {
            matches!(one.field, Field::InName | Field::OutName)
                && !one.negated
                && matches!(&one.values, Values::Exact(bytes) if foreign(bytes))
        })
    }

    /// What of netd's the rule names.
    fn names(&self, chain: &Chain, rule: &Rule) -> Option<Named> {
        if self.is_foreign(rule) {
            return None;
        }
        let mut matches = rule.matches.iter();
        matches.find_map(|one| self.match_names(chain, one))
    }

    fn match_names(&self, chain: &Chain, one: &Match) -> Option<Named> {
        match &one.values {
            Values::Set(set) => {
                let elements = self.ruleset.set(chain, set).iter();
                elements
                    .filter(|(values, _)| !matches!(values, Values::Set(_)))
                    .find_map(|(values, _)| self.value_names(one.field, values, one.negated))
            }
            values => self.value_names(one.field, values, one.negated),
        }
    }

    fn value_names(&self, field: Field, values: &Values, negated: bool) -> Option<Named> {
        match field {
            Field::InName | Field::OutName => {
                let Values::Exact(bytes) = values else {
                    return None;
                };
                let text = name(bytes);
                let whole = bytes.contains(&0) || bytes.len() >= 16;
                self.device(|own, _| match whole {
                    true => own == text,
                    false => own.starts_with(&text),
                })
            }
            Field::InIndex | Field::OutIndex => {
                let Values::Exact(bytes) = values else {
                    return None;
                };
                let index = u32::from_ne_bytes(bytes.as_slice().try_into().ok()?);
                self.device(|_, own| own == index)
            }
            Field::Source | Field::Destination => {
                let wanted = prefixes(values)?;
                self.guarded.iter().find_map(|network| {
                    let own = network.subnets.iter().find(|own| wanted.overlaps(**own))?;
                    Some((network.network.clone(), format!("subnet {own}")))
                })
            }
            Field::Port if !negated => {
                let (first, last) = port_range(values)?;
                self.guarded.iter().find_map(|network| {
                    let own = network
                        .ports
                        .iter()
                        .find(|own| own.0 <= last && first <= own.1)?;
                    Some((
                        network.network.clone(),
                        format!("published port {}", own.0.max(first)),
                    ))
                })
            }
            Field::Port | Field::Other => None,
        }
    }

    fn device(&self, is_it: impl Fn(&str, u32) -> bool) -> Option<Named> {
        self.guarded.iter().find_map(|network| {
            let device = network
                .devices
                .iter()
                .find(|(name, index)| is_it(name, *index))?;
            Some((network.network.clone(), format!("device {}", device.0)))
        })
    }
}

/// Does the rule do anything to a packet but let it pass and lead it on?
fn has_effect(rule: &Rule) -> bool {
    let plain = |action: &Action| {
        matches!(
            action,
            Action::Accept | Action::Return | Action::Jump(_) | Action::Map(..)
        )
    };
    let counts = |action: &Action| matches!(action, Action::Other(name) if name == "counter");
    if rule.actions.iter().any(plain) {
        // Of what it lets pass, a count is all that is missed.
        return rule
            .actions
            .iter()
            .any(|action| !plain(action) && !counts(action));
    }
    !rule.actions.is_empty()
}

fn place(chain: &Chain, rule: &Rule) -> String {
    format!(
        "table {} {}, chain {}, handle {}",
        chain.family, chain.table, chain.name, rule.handle
    )
}

/// First and last port.
fn port_range(values: &Values) -> Option<(u16, u16)> {
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
    let range = match values {
        Values::Exact(bytes) => (port(bytes)?, port(bytes)?),
        Values::Range(first, last) => (port(first)?, port(last)?),
        Values::Set(_) | Values::Foreign(_) => return None,
    };
    // Every port is no port in particular.
    (range != (0, u16::MAX)).then_some(range)
}

/// The shortest prefix around these addresses; none for all of them.
fn prefixes(values: &Values) -> Option<Prefix> {
    let (first, last) = match values {
        Values::Exact(bytes) => (bytes, bytes),
        Values::Range(first, last) => (first, last),
        Values::Set(_) | Values::Foreign(_) => return None,
    };
    let ipv6 = match first.len() {
        4 => false,
        16 => true,
        _ => return None,
    };
    let found = prefix(first, last, ipv6).or_else(|| {
        let (low, high) = (address(first, ipv6), address(last, ipv6));
        let bits = if ipv6 { 128 } else { 32 };
        let around = (0..=bits).rev().filter_map(|len| Prefix::new(low, len));
        around.into_iter().find(|prefix| prefix.has(high))
    })?;
    (!found.is_everything()).then_some(found)
}

/// Are the sources somebody's, or such as nobody has outside?
fn is_somebody(values: &Values) -> bool {
    let Some(prefix) = prefixes(values) else {
        return matches!(values, Values::Set(_) | Values::Foreign(_));
    };
    match prefix.address() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            !(first == 0 || first == 127 || first >= 224 || (first, second) == (169, 254))
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local())
        }
    }
}
