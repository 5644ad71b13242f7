//! Deletions in nftables, by netlink, which are done together or not at all.

use std::io;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute,
    TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};

use crate::netlink::{self, Unread};

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
    /// The family of that name, if libvirt has rules for it.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Ip, Self::Ip6]
            .into_iter()
            .find(|family| family.name() == name)
    }

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
        Some(Protocol::from_raw(netlink::NETFILTER)),
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
            let answer = NetlinkMessage::<Unread>::deserialize(datagram)
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
