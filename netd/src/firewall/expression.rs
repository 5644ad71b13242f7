//! A rule's expressions as what it asks and does. nftables compiles `ip saddr 10.0.0.0/8 drop` to loads
//! into registers, comparisons and a verdict; here they are put together again, as far as they can name
//! a device, an address or a port.

use std::collections::BTreeMap;

use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};
use rtnetlink::packet_core::{DefaultNla, Nla as _};

use super::value::{Field, Values, name, show};

/// A question of a rule's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// About what.
    pub field: Field,
    /// It is to be something else.
    pub negated: bool,
    /// What it is compared with.
    pub values: Values,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the packet pass.
    Accept,
    /// Drop it.
    Drop,
    /// Refuse it with an answer.
    Reject,
    /// Go on where the chain was called.
    Return,
    /// Go on in another chain.
    Jump(String),
    /// Do what a map says of a field.
    Map(Field, String),
    /// Anything else, by its name.
    Other(String),
}

/// A rule, read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub matches: Vec<Match>,
    pub actions: Vec<Action>,
    /// See [`super::Rule`].
    pub plain: bool,
    pub text: String,
}

/// What a register holds.
#[derive(Clone, Debug)]
struct Loaded {
    field: Field,
    /// How nft writes it.
    words: String,
    mask: Option<Vec<u8>>,
}

/// What a verdict says.
pub(super) fn verdict(parts: &[VerdictAttribute]) -> Option<Action> {
    let chain = parts.iter().find_map(|part| match part {
        VerdictAttribute::Chain(chain) => Some(chain.clone()),
        _ => None,
    });
    let code = parts.iter().find_map(|part| match part {
        VerdictAttribute::Code(code) => Some(*code),
        _ => None,
    })?;
    Some(match (code, chain) {
        (Verdict::Jump | Verdict::Goto, Some(chain)) => Action::Jump(chain),
        // NF_DROP and NF_ACCEPT (linux/netfilter.h).
        (Verdict::Other(0), _) => Action::Drop,
        (Verdict::Other(1), _) => Action::Accept,
        (Verdict::Other(_), _) => Action::Other("queue".to_owned()),
        _ => Action::Return,
    })
}

struct Reader {
    family: &'static str,
    /// Registers of 32 bits.
    registers: BTreeMap<u32, Loaded>,
    /// Those that hold a value of the rule's own.
    constants: BTreeMap<u32, Vec<u8>>,
    ipv6: Option<bool>,
    protocol: Option<&'static str>,
    read: Read,
}

/// Read a rule of a table's family.
pub(super) fn read(
    family: &'static str,
    expressions: &[ListAttribute<ExpressionAttribute>],
) -> Read {
    let mut reader = Reader {
        family,
        registers: BTreeMap::new(),
        constants: BTreeMap::new(),
        ipv6: match family {
            "ip" => Some(false),
            "ip6" => Some(true),
            _ => None,
        },
        protocol: None,
        read: Read {
            plain: true,
            ..Read::default()
        },
    };
    for expression in expressions {
        let ListAttribute::Element(parts) = expression else {
            continue;
        };
        let name = parts.iter().find_map(|part| match part {
            ExpressionAttribute::Name(name) => Some(name.as_str()),
            _ => None,
        });
        let data = parts.iter().find_map(|part| match part {
            ExpressionAttribute::Data(data) => Some(data),
            _ => None,
        });
        let name = name.unwrap_or("?");
        reader.read.plain &= matches!(name, "counter" | "immediate");
        reader.expression(name, data);
    }
    reader.read
}

/// A register's number in units of 32 bits: the old ones have 128.
fn number(register: Register) -> u32 {
    match u32::from(register) {
        old @ 1..=4 => 8 + (old - 1) * 4,
        other => other,
    }
}

fn value(data: &DataAttribute) -> Option<Vec<u8>> {
    match data {
        DataAttribute::Value(value) => Some(value.clone()),
        _ => None,
    }
}

/// The value of an attribute that nobody has read yet.
fn raw(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    // The upper bits say how the value is written (NLA_TYPE_MASK).
    let found = attributes.iter().find(|nla| nla.kind() & 0x3fff == kind)?;
    let mut bytes = vec![0; found.value_len()];
    found.emit_value(&mut bytes);
    Some(bytes)
}

impl Reader {
    fn say(&mut self, words: &str) {
        if !self.read.text.is_empty() {
            self.read.text.push(' ');
        }
        self.read.text += words;
    }

    fn act(&mut self, action: Action, words: &str) {
        self.read.actions.push(action);
        self.say(words);
    }

    fn expression(&mut self, name: &str, data: Option<&Expressions>) {
        match data {
            Some(Expressions::Meta(parts)) => self.meta(parts),
            Some(Expressions::Payload(parts)) => self.payload(parts),
            Some(Expressions::Bitwise(parts)) => self.bitwise(parts),
            Some(Expressions::Cmp(parts)) => self.cmp(parts),
            Some(Expressions::Lookup(parts)) => self.lookup(parts),
            Some(Expressions::Immediate(parts)) => self.immediate(parts),
            Some(Expressions::Other { attributes, .. }) => self.other(name, attributes),
            _ => self.other(name, &[]),
        }
    }

    fn meta(&mut self, parts: &[Meta]) {
        let (mut key, mut to, mut from) = (None, None, None);
        for part in parts {
            match part {
                Meta::Key(is) => key = Some(*is),
                Meta::DestinationRegister(register) => to = Some(number(*register)),
                Meta::SourceRegister(register) => from = Some(number(*register)),
                _ => {}
            }
        }
        let Some(key) = key else {
            return;
        };
        let (field, words) = match key {
            MetaKey::Iifname => (Field::InName, "iifname"),
            MetaKey::Oifname => (Field::OutName, "oifname"),
            MetaKey::Iif => (Field::InIndex, "iif"),
            MetaKey::Oif => (Field::OutIndex, "oif"),
            MetaKey::Nfproto => (Field::Other, "meta nfproto"),
            MetaKey::EtherTypeProtocol => (Field::Other, "meta protocol"),
            MetaKey::L4Proto => (Field::Other, "meta l4proto"),
            MetaKey::Mark => (Field::Other, "meta mark"),
            _ => (Field::Other, "meta …"),
        };
        if from.is_some() {
            self.act(
                Action::Other("meta set".to_owned()),
                &format!("{words} set …"),
            );
        } else if let Some(to) = to {
            let words = words.to_owned();
            self.load(to, field, words);
        }
    }

    fn load(&mut self, register: u32, field: Field, words: String) {
        let loaded = Loaded {
            field,
            words,
            mask: None,
        };
        self.registers.insert(register, loaded);
    }

    fn payload(&mut self, parts: &[Payload]) {
        let (mut base, mut offset, mut len, mut to) = (0, 0, 0, None);
        for part in parts {
            match part {
                Payload::Base(is) => base = *is,
                Payload::Offset(is) => offset = *is,
                Payload::Len(is) => len = *is,
                Payload::DestinationRegister(register) => to = Some(number(*register)),
                _ => {}
            }
        }
        let Some(to) = to else {
            return self.act(Action::Other("payload set".to_owned()), "payload set …");
        };
        // NFT_PAYLOAD_NETWORK_HEADER and NFT_PAYLOAD_TRANSPORT_HEADER (linux/netfilter/nf_tables.h).
        let ipv6 = self.ipv6.unwrap_or(offset == 8 || offset == 24);
        let (field, words) = match (base, offset, ipv6) {
            (1, 12, false) if len <= 4 => (Field::Source, "ip saddr".to_owned()),
            (1, 16, false) if len <= 4 => (Field::Destination, "ip daddr".to_owned()),
            (1, 8, true) if len <= 16 => (Field::Source, "ip6 saddr".to_owned()),
            (1, 24, true) if len <= 16 => (Field::Destination, "ip6 daddr".to_owned()),
            (2, 2, _) if len == 2 => {
                let protocol = self.protocol.unwrap_or("th");
                (Field::Port, format!("{protocol} dport"))
            }
            (2, 0, _) if len == 2 => (Field::Other, "sport".to_owned()),
            _ => (Field::Other, "…".to_owned()),
        };
        self.load(to, field, words);
    }

    fn bitwise(&mut self, parts: &[Bitwise]) {
        let (mut from, mut to, mut mask) = (None, None, None);
        for part in parts {
            match part {
                Bitwise::SourceRegister(register) => from = Some(number(*register)),
                Bitwise::DestinationRegister(register) => to = Some(number(*register)),
                Bitwise::Mask(data) => mask = value(data),
                _ => {}
            }
        }
        if let (Some(from), Some(to)) = (from, to)
            && let Some(mut loaded) = self.registers.get(&from).cloned()
        {
            loaded.mask = mask;
            self.registers.insert(to, loaded);
        }
    }

    fn loaded(&self, register: u32) -> Loaded {
        self.registers.get(&register).cloned().unwrap_or(Loaded {
            field: Field::Other,
            words: "…".to_owned(),
            mask: None,
        })
    }

    fn cmp(&mut self, parts: &[Cmp]) {
        let (mut from, mut op, mut data) = (0, Operator::Equal, Vec::new());
        for part in parts {
            match part {
                Cmp::SourceRegister(register) => from = number(*register),
                Cmp::Op(is) => op = *is,
                Cmp::Data(is) => data = value(is).unwrap_or_default(),
                _ => {}
            }
        }
        let loaded = self.loaded(from);
        let negated = match op {
            Operator::Equal => false,
            Operator::NotEqual => true,
            _ => return self.say(&format!("{} …", loaded.words)),
        };
        self.note_protocol(&loaded, &data);
        if is_silent(&loaded, self.family) {
            return;
        }
        let values = exact(&loaded, data);
        self.compare(loaded, negated, values);
    }

    /// What the rule is about decides how later offsets read.
    fn note_protocol(&mut self, loaded: &Loaded, data: &[u8]) {
        match (loaded.words.as_str(), data) {
            ("meta nfproto", [2]) | ("meta protocol", [0x08, 0x00]) => self.ipv6 = Some(false),
            ("meta nfproto", [10]) | ("meta protocol", [0x86, 0xdd]) => self.ipv6 = Some(true),
            ("meta l4proto", [6]) => self.protocol = Some("tcp"),
            ("meta l4proto", [17]) => self.protocol = Some("udp"),
            _ => {}
        }
    }

    fn compare(&mut self, loaded: Loaded, negated: bool, values: Values) {
        let ipv6 = loaded.words.starts_with("ip6");
        let shown = show(loaded.field, &values, ipv6);
        let not = if negated { "!= " } else { "" };
        self.say(&format!("{} {not}{shown}", loaded.words));
        if loaded.field != Field::Other {
            self.read.matches.push(Match {
                field: loaded.field,
                negated,
                values,
            });
        }
    }

    fn lookup(&mut self, parts: &[Lookup]) {
        let (mut from, mut set, mut map, mut negated) = (0, String::new(), false, false);
        for part in parts {
            match part {
                Lookup::SourceRegister(register) => from = number(*register),
                Lookup::Set(name) => set.clone_from(name),
                Lookup::DestinationRegister(_) => map = true,
                // NFT_LOOKUP_F_INV
                Lookup::Flags(flags) => negated = flags & 1 != 0,
                _ => {}
            }
        }
        let loaded = self.loaded(from);
        if map {
            let words = format!("{} vmap @{set}", loaded.words);
            return self.act(Action::Map(loaded.field, set), &words);
        }
        self.compare(loaded, negated, Values::Set(set));
    }

    fn immediate(&mut self, parts: &[Immediate]) {
        let found = parts.iter().find_map(|part| match part {
            Immediate::Data(DataAttribute::Verdict(parts)) => Some(parts),
            _ => None,
        });
        // Others are values that a later expression uses.
        let to = parts.iter().find_map(|part| match part {
            Immediate::DestinationRegister(register) => Some(number(*register)),
            _ => None,
        });
        let constant = parts.iter().find_map(|part| match part {
            Immediate::Data(data) => value(data),
            _ => None,
        });
        if let (Some(to), Some(constant)) = (to, constant) {
            self.constants.insert(to, constant);
        }
        if let Some(action) = found.and_then(|parts| verdict(parts)) {
            let words = match &action {
                Action::Accept => "accept".to_owned(),
                Action::Drop => "drop".to_owned(),
                Action::Return => "return".to_owned(),
                Action::Jump(chain) => format!("jump {chain}"),
                Action::Other(name) => name.clone(),
                Action::Reject | Action::Map(..) => String::new(),
            };
            self.act(action, &words);
        }
    }

    fn other(&mut self, expression: &str, attributes: &[DefaultNla]) {
        match expression {
            "reject" => self.act(Action::Reject, "reject"),
            "range" => self.range(attributes),
            // An extension of iptables: NFTA_MATCH_NAME, NFTA_MATCH_INFO, NFTA_TARGET_NAME.
            "match" => {
                let name = raw(attributes, 1).map(|bytes| name(&bytes));
                let info = raw(attributes, 3).unwrap_or_default();
                self.extension(&name.unwrap_or_default(), &info);
            }
            "target" => {
                let target = raw(attributes, 1)
                    .map(|bytes| name(&bytes))
                    .unwrap_or_default();
                let action = match target.as_str() {
                    "REJECT" => Action::Reject,
                    _ => Action::Other(target.clone()),
                };
                // struct nf_nat_range2 (linux/netfilter/nf_nat.h): flags, then the first address.
                if target == "DNAT" {
                    let info = raw(attributes, 3).unwrap_or_default();
                    let len = if self.ipv6 == Some(true) { 16 } else { 4 };
                    self.leads_to(info.get(4..4 + len).map(<[u8]>::to_vec));
                }
                self.act(action, &format!("-j {target}"));
            }
            // They ask about the packet, or put something into a register.
            "ct" | "fib" | "rt" | "socket" | "exthdr" | "hash" | "numgen" | "osf" | "byteorder"
            | "limit" | "connlimit" | "xfrm" | "tunnel" => self.say(&format!("{expression} …")),
            "nat" => {
                // NFTA_NAT_TYPE, NFTA_NAT_REG_ADDR_MIN; NFT_NAT_DNAT.
                let word = |kind| {
                    let bytes = raw(attributes, kind)?;
                    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
                };
                let is_dnat = word(1) == Some(1);
                let words = if is_dnat {
                    "dnat to …"
                } else {
                    "snat to …"
                };
                self.act(Action::Other("nat".to_owned()), words);
                if is_dnat {
                    let register = word(3).map(|register| number(Register::from(register)));
                    let address = register.and_then(|register| self.constants.get(&register));
                    self.leads_to(address.cloned());
                }
            }
            "masq" => self.act(Action::Other("masquerade".to_owned()), "masquerade"),
            "redir" => self.act(Action::Other("redirect".to_owned()), "redirect"),
            other => self.act(Action::Other(other.to_owned()), other),
        }
    }

    /// The rule gives the packet this destination, so it names that as one that asks for it does.
    fn leads_to(&mut self, address: Option<Vec<u8>>) {
        if let Some(address) = address.filter(|address| matches!(address.len(), 4 | 16)) {
            self.read.matches.push(Match {
                field: Field::Destination,
                negated: false,
                values: Values::Exact(address),
            });
        }
    }

    fn range(&mut self, attributes: &[DefaultNla]) {
        // NFTA_RANGE_SREG, _OP, _FROM_DATA, _TO_DATA; data hold a value's attribute, whose header has
        // four bytes.
        let word = |kind| {
            let bytes = raw(attributes, kind)?;
            Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
        };
        let data = |kind| Some(raw(attributes, kind)?.get(4..)?.to_vec());
        let register = Register::from(word(1).unwrap_or(0));
        let loaded = self.loaded(number(register));
        if let (Some(first), Some(last)) = (data(3), data(4)) {
            self.compare(loaded, word(2) == Some(1), Values::Range(first, last));
        }
    }

    /// A match of iptables' that has no expression of its own.
    fn extension(&mut self, name: &str, info: &[u8]) {
        let half = |at: usize| {
            let bytes = info.get(at..at + 2)?;
            Some(u16::from_ne_bytes(bytes.try_into().ok()?))
        };
        let port = |this: &mut Self, first: u16, last: u16| {
            let values = Values::Range(first.to_be_bytes().into(), last.to_be_bytes().into());
            this.read.matches.push(Match {
                field: Field::Port,
                negated: false,
                values,
            });
        };
        match name {
            "comment" => return,
            // struct xt_tcp and xt_udp (linux/netfilter/xt_tcpudp.h) begin with source ports and
            // destination ports, each first and last.
            "tcp" | "udp" => {
                if let (Some(first), Some(last)) = (half(4), half(6))
                    && (first, last) != (0, u16::MAX)
                {
                    port(self, first, last);
                    self.say(&format!("-m {name} --dport {first}:{last}"));
                }
                return;
            }
            // struct xt_multiport_v1 (linux/netfilter/xt_multiport.h): flags, count, ports, which of
            // them begin ranges.
            "multiport" if matches!(info.first(), Some(1 | 2)) => {
                let count = usize::from(info.get(1).copied().unwrap_or(0)).min(15);
                let mut at = 0;
                while at < count {
                    let first = half(2 + 2 * at).unwrap_or(0);
                    let begins = info.get(32 + at).is_some_and(|flag| *flag != 0);
                    at += 1;
                    let mut last = first;
                    if begins {
                        last = half(2 + 2 * at).unwrap_or(first);
                        at += 1;
                    }
                    port(self, first, last);
                }
            }
            // A set of ipset's; which one and which end of the packet is the module's secret. Bans are
            // what such rules are mostly for.
            "set" => self.read.matches.push(Match {
                field: Field::Source,
                negated: false,
                values: Values::Foreign("ipset".to_owned()),
            }),
            _ => {}
        }
        self.say(&format!("-m {name} …"));
    }
}

/// Is the comparison one that nft leaves out where the next one says it as well?
fn is_silent(loaded: &Loaded, family: &str) -> bool {
    match loaded.words.as_str() {
        "meta nfproto" => family == "inet",
        "meta protocol" => family == "netdev",
        _ => false,
    }
}

/// A value with a mask is a range of values.
fn exact(loaded: &Loaded, data: Vec<u8>) -> Values {
    let is_address = matches!(loaded.field, Field::Source | Field::Destination);
    let full = if loaded.words.starts_with("ip6") {
        16
    } else {
        4
    };
    if !is_address || (loaded.mask.is_none() && data.len() == full) {
        return Values::Exact(data);
    }
    let mask = loaded
        .mask
        .clone()
        .unwrap_or_else(|| vec![0xff; data.len()]);
    let (mut first, mut last) = (vec![0; full], vec![0xff; full]);
    for (at, byte) in data.iter().enumerate().take(full) {
        let mask = mask.get(at).copied().unwrap_or(0xff);
        first[at] = byte & mask;
        last[at] = byte | !mask;
    }
    Values::Range(first, last)
}
