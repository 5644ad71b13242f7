//! nftables' rules as the kernel tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Hook as HookAttribute, ListAttribute,
    NfTablesMessage, RuleAttribute, RuleMessage, SetElementAttribute, SetElementFlags,
    SetElementList, SetElementMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use rtnetlink::packet_core::{NLM_F_DUMP, Nla as _, ParseableParametrized as _};

use super::expression::{self, Action, Match};
use super::value::{self, Values};
use crate::netlink::{self, Unread};

/// Where a chain stands (linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To the host.
    Input,
    /// Through the host.
    Forward,
    /// From the host.
    Output,
    /// After routing.
    Postrouting,
    /// Where a device hands frames up.
    Ingress,
    /// Where it is given them.
    Egress,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number in its table.
    pub handle: u64,
    /// What it asks of a packet.
    pub matches: Vec<Match>,
    /// What it does to those that are so.
    pub actions: Vec<Action>,
    /// It asks nothing of a packet, and does nothing but count it and go on with its verdict.
    pub plain: bool,
    /// As `nft` prints it, as far as that is simple.
    pub text: String,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family of its table, as nft writes it.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it stands; none for one that others lead to.
    pub hook: Option<Hook>,
    /// Its devices, at a device's hook.
    pub devices: Vec<String>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// What a set holds: single values, or intervals from one value to before another, each with where a map
/// leads.
pub type Elements = Vec<(Values, Option<Action>)>;

/// All rules of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Every table, by family and name.
    pub tables: BTreeSet<(&'static str, String)>,
    /// Every chain.
    pub chains: Vec<Chain>,
    /// Sets that rules ask, by family, table and name.
    pub sets: BTreeMap<(&'static str, String, String), Elements>,
}

/// A family's name, as nft writes it.
fn family_name(family: NetfilterProtoFamily) -> Option<&'static str> {
    Some(match family {
        NetfilterProtoFamily::Inet => "inet",
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        NetfilterProtoFamily::NetDev => "netdev",
        // Frames that stay in a bridge, and ARP, are no business of netd's.
        _ => return None,
    })
}

/// The hook of a number, which depends on the family.
fn hook(family: &str, number: u32) -> Option<Hook> {
    Some(match (family, number) {
        ("netdev", 0) | ("inet", 5) => Hook::Ingress,
        ("netdev", 1) => Hook::Egress,
        (_, 0) => Hook::Prerouting,
        (_, 1) => Hook::Input,
        (_, 2) => Hook::Forward,
        (_, 3) => Hook::Output,
        (_, 4) => Hook::Postrouting,
        _ => return None,
    })
}

fn ask(
    family: NetfilterProtoFamily,
    question: NfTablesMessage,
) -> io::Result<Vec<(&'static str, NfTablesMessage)>> {
    let header = NetfilterHeader::new(family, 0, 0);
    let question = NetfilterMessage::new(header, question);
    let answers: Vec<Unread> = netlink::ask(Some(netlink::NETFILTER), NLM_F_DUMP, question)?;
    let read = |answer: Unread| {
        let message = NetfilterMessage::parse_with_param(&answer.body, answer.kind)
            .inspect_err(|error| tracing::debug!(%error, "an unknown piece of nftables"))
            .ok()?;
        let family = family_name(message.header.family)?;
        match message.inner {
            NetfilterMessageInner::NfTables(message) => Some((family, message)),
            _ => None,
        }
    };
    Ok(answers.into_iter().filter_map(read).collect())
}

impl Ruleset {
    /// Read the rules of the calling thread's network namespace. A kernel without nf_tables has none.
    ///
    /// # Errors
    /// The kernel does not tell, or changes them faster than they are read.
    pub fn read() -> io::Result<Self> {
        // A change meanwhile breaks off a list.
        for _ in 0..5 {
            match Self::read_once() {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn read_once() -> io::Result<Self> {
        let all = NetfilterProtoFamily::Unspec;
        let attributes = Vec::new();
        let question = NfTablesMessage::GetTable(TableMessage { attributes });
        let tables = match ask(all, question) {
            // The socket is not there, or nobody has loaded the module behind it.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPROTONOSUPPORT | libc::EINVAL)
                ) =>
            {
                return Ok(Self::default());
            }
            tables => tables?,
        };
        let mut ruleset = Self::default();
        for (family, message) in tables {
            if let NfTablesMessage::NewTable(message) = message {
                let name = table_name(message).map(|name| (family, name));
                ruleset.tables.extend(name);
            }
        }
        let attributes = Vec::new();
        let question = NfTablesMessage::GetChain(ChainMessage { attributes });
        for (family, message) in ask(all, question)? {
            if let NfTablesMessage::NewChain(message) = message {
                ruleset.chains.extend(read_chain(family, message));
            }
        }
        let attributes = Vec::new();
        let question = NfTablesMessage::GetRule(RuleMessage { attributes });
        for (family, message) in ask(all, question)? {
            if let NfTablesMessage::NewRule(message) = message {
                ruleset.add_rule(family, message);
            }
        }
        for (family, table, set) in ruleset.asked() {
            let elements = read_set(family, &table, &set)?;
            ruleset.sets.insert((family, table, set), elements);
        }
        Ok(ruleset)
    }

    fn add_rule(&mut self, family: &'static str, message: RuleMessage) {
        let (mut table, mut chain, mut handle) = (None, None, 0);
        let mut expressions = Vec::new();
        for attribute in message.attributes {
            match attribute {
                RuleAttribute::Table(name) => table = Some(name),
                RuleAttribute::Chain(name) => chain = Some(name),
                RuleAttribute::Handle(number) => handle = number,
                RuleAttribute::Expressions(list) => expressions = list,
                _ => {}
            }
        }
        let (Some(table), Some(name)) = (table, chain) else {
            return;
        };
        let here = |chain: &&mut Chain| {
            chain.family == family && chain.table == table && chain.name == name
        };
        if let Some(chain) = self.chains.iter_mut().find(here) {
            let read = expression::read(family, &expressions);
            chain.rules.push(Rule {
                handle,
                matches: read.matches,
                actions: read.actions,
                plain: read.plain,
                text: read.text,
            });
        }
    }

    /// The sets that rules ask about something that matters.
    fn asked(&self) -> BTreeSet<(&'static str, String, String)> {
        let mut asked = BTreeSet::new();
        for chain in &self.chains {
            let mut add = |set: &str| {
                asked.insert((chain.family, chain.table.clone(), set.to_owned()));
            };
            for rule in &chain.rules {
                for one in &rule.matches {
                    if let Values::Set(set) = &one.values {
                        add(set);
                    }
                }
                for action in &rule.actions {
                    if let Action::Map(_, set) = action {
                        add(set);
                    }
                }
            }
        }
        asked
    }

    /// What a set holds.
    pub(super) fn set(&self, chain: &Chain, name: &str) -> &[(Values, Option<Action>)] {
        let key = (chain.family, chain.table.clone(), name.to_owned());
        self.sets.get(&key).map_or(&[], Vec::as_slice)
    }
}

fn table_name(message: TableMessage) -> Option<String> {
    let mut attributes = message.attributes.into_iter();
    attributes.find_map(|attribute| match attribute {
        TableAttribute::Name(name) => Some(name),
        _ => None,
    })
}

fn read_chain(family: &'static str, message: ChainMessage) -> Option<Chain> {
    let (mut table, mut name, mut place) = (None, None, None);
    let mut devices = Vec::new();
    for attribute in message.attributes {
        match attribute {
            ChainAttribute::Table(of) => table = Some(of),
            ChainAttribute::Name(own) => name = Some(own),
            ChainAttribute::Hook(parts) => {
                for part in parts {
                    match part {
                        HookAttribute::Number(number) => place = hook(family, number.into()),
                        HookAttribute::NetDeviceName(device) => devices.push(device),
                        HookAttribute::NetDevices(list) => devices.extend(list.iter().map(|nla| {
                            let mut bytes = vec![0; nla.value_len()];
                            nla.emit_value(&mut bytes);
                            value::name(&bytes)
                        })),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    devices.dedup();
    Some(Chain {
        family,
        table: table?,
        name: name?,
        hook: place,
        devices,
        rules: Vec::new(),
    })
}

fn read_set(family: &'static str, table: &str, set: &str) -> io::Result<Elements> {
    let number = match family {
        "ip" => NetfilterProtoFamily::IPv4,
        "ip6" => NetfilterProtoFamily::IPv6,
        "netdev" => NetfilterProtoFamily::NetDev,
        _ => NetfilterProtoFamily::Inet,
    };
    let question = SetElementMessage {
        attributes: vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(set.to_owned()),
        ],
    };
    let answers = match ask(number, NfTablesMessage::GetSetElement(question)) {
        // It went meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        answers => answers?,
    };
    let mut all = Vec::new();
    for (_, message) in answers {
        let NfTablesMessage::NewSetElement(message) = message else {
            continue;
        };
        for attribute in message.attributes {
            if let SetElementList::Elements(list) = attribute {
                all.extend(list.iter().filter_map(read_element));
            }
        }
    }
    Ok(intervals(all))
}

/// One element: its value, whether an interval ends before it, and where a map leads.
type Element = (Vec<u8>, bool, Option<Action>);

fn read_element(element: &ListAttribute<SetElementAttribute>) -> Option<Element> {
    let ListAttribute::Element(parts) = element else {
        return None;
    };
    let (mut key, mut end, mut leads) = (None, false, None);
    for part in parts {
        match part {
            SetElementAttribute::Key(DataAttribute::Value(value)) => key = Some(value.clone()),
            SetElementAttribute::Flags(flags) => {
                end = flags.contains(SetElementFlags::IntervalEnd);
            }
            SetElementAttribute::Data(DataAttribute::Verdict(parts)) => {
                leads = expression::verdict(parts)
            }
            _ => {}
        }
    }
    Some((key?, end, leads))
}

/// Single values and intervals of a set's elements. An interval is its first value and the first behind
/// it, with a mark; they come in any order.
fn intervals(mut all: Vec<Element>) -> Elements {
    if !all.iter().any(|(_, end, _)| *end) {
        let single = |(key, _, leads)| (Values::Exact(key), leads);
        return all.into_iter().map(single).collect();
    }
    all.sort_by(|a, b| (&a.0, !a.1).cmp(&(&b.0, !b.1)));
    let mut elements = Elements::new();
    let mut open: Option<(Vec<u8>, Option<Action>)> = None;
    for (key, end, leads) in all {
        if let Some((first, leads)) = open.take() {
            elements.push((Values::Range(first, value::before(&key)), leads));
        }
        if !end {
            open = Some((key, leads));
        }
    }
    if let Some((first, leads)) = open {
        let last = vec![0xff; first.len()];
        elements.push((Values::Range(first, last), leads));
    }
    elements
}

/// Tables of the older iptables, whose rules nobody reads here.
#[must_use]
pub fn legacy_tables() -> Vec<String> {
    let mut tables = Vec::new();
    for (file, program) in [
        ("ip_tables_names", "iptables-legacy"),
        ("ip6_tables_names", "ip6tables-legacy"),
    ] {
        // Without the module there is no file.
        let names = std::fs::read_to_string(Path::new("/proc/net").join(file)).unwrap_or_default();
        tables.extend(names.lines().map(|name| format!("{program} -t {name}")));
    }
    tables
}
