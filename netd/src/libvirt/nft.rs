//! nftables by netlink, as far as libvirt's rules need it: lists of chains and rules, and deletions that
//! are done together or not at all.

use std::io;
use std::num::NonZeroU32;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, ExpressionAttribute, Expressions, Immediate,
    ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};

/// The protocol's number (linux/netlink.h).
const NETLINK_NETFILTER: NonZeroU32 = NonZeroU32::new(12).unwrap();

/// Number of nf_tables among netfilter's subsystems, which names what a batch is for.
const NF_TABLES: u16 = 10;

/// The families that libvirt has rules for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// As `nft` writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    fn header(self) -> NetfilterHeader {
        let family = match self {
            Self::Ip => NetfilterProtoFamily::IPv4,
            Self::Ip6 => NetfilterProtoFamily::IPv6,
        };
        NetfilterHeader::new(family, 0, 0)
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// A rule, as far as it leads to another chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number in its table.
    pub handle: u64,
    /// The chain it goes to.
    pub target: Option<String>,
    /// It only counts what it sends there: it asks nothing of a packet.
    pub plain: bool,
}

/// What is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// One rule, by number.
    Rule(Chain, u64),
    /// All rules of a chain.
    Rules(Chain),
    /// A chain without rules, to which none leads.
    Chain(Chain),
    /// A table with all it has.
    Table(Family, String),
}

/// An answer of the kernel's, to be read one by one: what some other program's rule says must not keep
/// the rest from being read.
struct Answer {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkDeserializable for Answer {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> io::Result<Self> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

fn list(family: Family, question: NfTablesMessage) -> io::Result<Vec<NfTablesMessage>> {
    use rtnetlink::packet_core::ParseableParametrized as _;

    let question = NetfilterMessage::new(family.header(), question);
    let answers: Vec<Answer> = crate::netlink::ask(Some(NETLINK_NETFILTER), NLM_F_DUMP, question)?;
    let read = |answer: Answer| {
        let message = NetfilterMessage::parse_with_param(&answer.body, answer.kind).ok()?;
        match message.inner {
            NetfilterMessageInner::NfTables(message) => Some(message),
            _ => None,
        }
    };
    Ok(answers.into_iter().filter_map(read).collect())
}

/// Tables of a family, by name. A kernel without nf_tables has none.
pub fn tables(family: Family) -> io::Result<Vec<String>> {
    let attributes = Vec::new();
    let question = NfTablesMessage::GetTable(TableMessage { attributes });
    let answers = match list(family, question) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        // The socket is there and nobody has loaded the module.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        answers => answers?,
    };
    let name = |answer: NfTablesMessage| match answer {
        NfTablesMessage::NewTable(table) => table.attributes.into_iter().find_map(|a| match a {
            TableAttribute::Name(name) => Some(name),
            _ => None,
        }),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(name).collect())
}

/// Chains of a family.
pub fn chains(family: Family) -> io::Result<Vec<Chain>> {
    let attributes = Vec::new();
    let question = NfTablesMessage::GetChain(ChainMessage { attributes });
    let chain = |answer: NfTablesMessage| {
        let NfTablesMessage::NewChain(chain) = answer else {
            return None;
        };
        let (mut table, mut name) = (None, None);
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(of) => table = Some(of),
                ChainAttribute::Name(own) => name = Some(own),
                _ => {}
            }
        }
        Some(Chain {
            family,
            table: table?,
            name: name?,
        })
    };
    Ok(list(family, question)?
        .into_iter()
        .filter_map(chain)
        .collect())
}

/// Rules of a chain.
pub fn rules(chain: &Chain) -> io::Result<Vec<Rule>> {
    let question = NfTablesMessage::GetRule(RuleMessage {
        attributes: of_chain(chain),
    });
    let rule = |answer: NfTablesMessage| {
        let NfTablesMessage::NewRule(rule) = answer else {
            return None;
        };
        // A kernel that does not know the question's attributes answers with all rules.
        let of = |attribute: &RuleAttribute| match attribute {
            RuleAttribute::Table(table) => *table == chain.table,
            RuleAttribute::Chain(name) => *name == chain.name,
            _ => true,
        };
        rule.attributes.iter().all(of).then(|| read_rule(&rule))?
    };
    Ok(list(chain.family, question)?
        .into_iter()
        .filter_map(rule)
        .collect())
}

fn read_rule(rule: &RuleMessage) -> Option<Rule> {
    let mut handle = None;
    let (mut target, mut plain) = (None, true);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Handle(number) => handle = Some(*number),
            RuleAttribute::Expressions(list) => {
                for expression in list {
                    match read_expression(expression) {
                        Expression::Counter => {}
                        Expression::Jump(chain) => target = Some(chain),
                        Expression::Other => plain = false,
                    }
                }
            }
            _ => {}
        }
    }
    Some(Rule {
        handle: handle?,
        target,
        plain,
    })
}

/// What an expression does, as far as it matters here.
enum Expression {
    Counter,
    Jump(String),
    Other,
}

fn read_expression(element: &ListAttribute<ExpressionAttribute>) -> Expression {
    let ListAttribute::Element(parts) = element else {
        return Expression::Other;
    };
    let counts = |part: &ExpressionAttribute| matches!(part, ExpressionAttribute::Name(name) if name == "counter");
    if parts.iter().any(counts) {
        return Expression::Counter;
    }
    let immediate = parts.iter().find_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Immediate(immediate)) => Some(immediate),
        _ => None,
    });
    let verdict = immediate.into_iter().flatten().find_map(|part| match part {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    });
    let chain = verdict.into_iter().flatten().find_map(|part| match part {
        VerdictAttribute::Chain(chain) => Some(chain.clone()),
        _ => None,
    });
    chain.map_or(Expression::Other, Expression::Jump)
}

fn of_chain(chain: &Chain) -> Vec<RuleAttribute> {
    vec![
        RuleAttribute::Table(chain.table.clone()),
        RuleAttribute::Chain(chain.name.clone()),
    ]
}

impl Deletion {
    fn message(&self) -> NetfilterMessage {
        let (family, message) = match self {
            Self::Rule(chain, handle) => {
                let mut attributes = of_chain(chain);
                attributes.push(RuleAttribute::Handle(*handle));
                let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
                (chain.family, message)
            }
            Self::Rules(chain) => {
                let attributes = of_chain(chain);
                let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
                (chain.family, message)
            }
            Self::Chain(chain) => {
                let attributes = vec![
                    ChainAttribute::Table(chain.table.clone()),
                    ChainAttribute::Name(chain.name.clone()),
                ];
                let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
                (chain.family, message)
            }
            Self::Table(family, name) => {
                let attributes = vec![TableAttribute::Name(name.clone())];
                (
                    *family,
                    NfTablesMessage::DeleteTable(TableMessage { attributes }),
                )
            }
        };
        NetfilterMessage::new(family.header(), message)
    }
}

/// Delete all of it, or nothing.
///
/// # Errors
/// The kernel's word about the first that cannot be deleted: then everything is as it was.
pub fn delete(deletions: &[Deletion]) -> io::Result<()> {
    use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

    let control = |message: ControlMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NF_TABLES);
        NetfilterMessage::new(header, message)
    };
    let mut batch = Vec::new();
    append(&mut batch, control(ControlMessage::BatchBegin), 0);
    for deletion in deletions {
        append(&mut batch, deletion.message(), NLM_F_ACK);
    }
    append(&mut batch, control(ControlMessage::BatchEnd), 0);
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(Protocol::from_raw(NETLINK_NETFILTER)),
    )?;
    rustix::net::send(&socket, &batch, SendFlags::empty())?;
    // The kernel has done it, and put its answers into the socket, before it returns from the sending.
    let mut answered = 0;
    let mut buffer = vec![0; 64 << 10];
    while answered < deletions.len() {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], flags)?;
        let mut datagram = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        while !datagram.is_empty() {
            let answer = NetlinkMessage::<Answer>::deserialize(datagram)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if let NetlinkPayload::Error(error) = answer.payload {
                if error.code.is_some() {
                    return Err(error.to_io());
                }
                answered += 1;
            }
            let length = (answer.header.length as usize).next_multiple_of(4);
            datagram = datagram.get(length..).unwrap_or_default();
        }
    }
    Ok(())
}

fn append(batch: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
    debug_assert!(matches!(
        message.subsys(),
        NetfilterSubsystem::None | NetfilterSubsystem::NfTables
    ));
    let payload = NetlinkPayload::InnerMessage(message);
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let start = batch.len();
    batch.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut batch[start..start + message.buffer_len()]);
}
