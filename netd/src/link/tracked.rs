//! Connections that the kernel's own connection tracking has, for netd to go on with.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netd_common::proto;
use netd_common::state::State;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status,
    Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use rtnetlink::packet_core::{
    NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, Nla as _, ParseableParametrized as _,
};

use super::echo::{ECHO, ECHO6};
use crate::netlink;

// linux/netfilter/nfnetlink_conntrack.h
const CTA_ZONE: u16 = 18;

/// IP_CT_TCP_FLAG_CLOSE_INIT: this side has sent the first FIN.
const CLOSE_INIT: u8 = 4;

/// A connection that the kernel tracks. An ICMP query has its identifier for the port on the guest's
/// side, and none on its peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedConnection {
    /// IP protocol number: TCP, UDP or the family's ICMP.
    pub protocol: u8,
    /// Who opened it.
    pub guest: SocketAddr,
    /// Its peer.
    pub peer: SocketAddr,
    /// Who the peer takes the guest for.
    pub seen_as: SocketAddr,
    /// How far it has come.
    pub state: State,
    /// TCP, who has sent a FIN: bit 0 the guest, bit 1 its peer.
    pub fins: u8,
    /// For how many seconds the kernel would still remember it.
    pub remaining: u32,
}

/// The connections of the calling thread's network namespace whose opener `is_guest`; those that are over,
/// and those whose destination is translated, are left out.
///
/// # Errors
/// The kernel does not tell (CONFIG_NF_CT_NETLINK).
pub fn tracked_connections(
    is_guest: impl Fn(IpAddr) -> bool,
) -> io::Result<Vec<TrackedConnection>> {
    let mut found = Vec::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let inner: NetfilterMessageInner = ConntrackMessage::Get(Vec::new()).into();
        let question = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
        let each = |Answer(connection): Answer| {
            found.extend(connection.filter(|connection| is_guest(connection.guest.ip())));
        };
        netlink::ask_each(Some(netlink::NETFILTER), NLM_F_DUMP, question, each)?;
    }
    Ok(found)
}

/// What the kernel tells of one connection; none where it is not one to go on with. A hundred thousand of
/// them come, so each is made small at once.
struct Answer(Option<TrackedConnection>);

impl NetlinkDeserializable for Answer {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> io::Result<Self> {
        let message = NetfilterMessage::parse_with_param(payload, header.message_type)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Ok(Self(match message.inner {
            NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => {
                read(&attributes)
            }
            _ => None,
        }))
    }
}

fn read(attributes: &[ConntrackAttribute]) -> Option<TrackedConnection> {
    let (mut original, mut reply, mut tcp) = (None, None, None);
    let (mut status, mut remaining) = (Status::empty(), 0);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = direction(tuple, false),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = direction(tuple, true),
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            ConntrackAttribute::CtaTimeout(seconds) => remaining = *seconds,
            ConntrackAttribute::CtaProtoInfo(infos) => tcp = infos.iter().find_map(of_tcp),
            // Its addresses are not the host's.
            ConntrackAttribute::Other(other) if other.kind() == CTA_ZONE => return None,
            _ => {}
        }
    }
    let (protocol, guest, peer) = original?;
    let (_, answers, seen_as) = reply?;
    let (state, fins) = match protocol {
        proto::TCP => of_connection(tcp?)?,
        _ if status.contains(Status::Assured) => (State::Established, 0),
        _ if status.contains(Status::SeenReply) => (State::Answered, 0),
        _ => (State::New, 0),
    };
    (answers == peer).then_some(TrackedConnection {
        protocol,
        guest,
        peer,
        seen_as,
        state,
        fins,
        remaining,
    })
}

/// TCP's state, and the flags of both directions.
type Tcp = (u8, u8, u8);

fn of_tcp(info: &ProtoInfo) -> Option<Tcp> {
    let ProtoInfo::TCP(infos) = info else {
        return None;
    };
    let mut tcp = (0, 0, 0);
    for info in infos {
        match info {
            ProtoInfoTCP::State(state) => tcp.0 = *state,
            ProtoInfoTCP::OriginalFlags(flags) => tcp.1 = flags.flags,
            ProtoInfoTCP::ReplyFlags(flags) => tcp.2 = flags.flags,
            _ => {}
        }
    }
    Some(tcp)
}

/// State and FINs of a TCP connection that is not over. The states are those of `enum tcp_conntrack`
/// (linux/netfilter/nf_conntrack_tcp.h).
fn of_connection((state, original, reply): Tcp) -> Option<(State, u8)> {
    let first = |flags: u8| u8::from(flags & CLOSE_INIT != 0);
    let closing = first(original) | (first(reply) << 1);
    match state {
        1 => Some((State::New, 0)),
        2 => Some((State::Answered, 0)),
        3 => Some((State::Established, 0)),
        4 => Some((State::FinWait, closing)),
        5 => Some((State::CloseWait, closing)),
        6 => Some((State::LastAck, 3)),
        _ => None,
    }
}

/// Protocol, source and destination of a direction; `answers` says which one. Of ICMP only echoes are told.
fn direction(tuple: &[Tuple], answers: bool) -> Option<(u8, SocketAddr, SocketAddr)> {
    let (mut source, mut destination) = (None, None);
    let mut parts: &[ProtoTuple] = &[];
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(known) => parts = known,
            _ => {}
        }
    }
    let protocol = parts.iter().find_map(|part| match part {
        ProtoTuple::Protocol(number) => Some(u8::from(*number)),
        _ => None,
    })?;
    let (from, to) = match protocol {
        proto::TCP | proto::UDP => ports(parts)?,
        proto::ICMP => (ECHO.identifier(parts)?, 0),
        proto::ICMPV6 => (ECHO6.identifier(parts)?, 0),
        _ => return None,
    };
    let is_query = !matches!(protocol, proto::TCP | proto::UDP);
    let (from, to) = if is_query && answers {
        (to, from)
    } else {
        (from, to)
    };
    let (source, destination) = (source?, destination?);
    Some((
        protocol,
        SocketAddr::new(source, from),
        SocketAddr::new(destination, to),
    ))
}

fn ports(parts: &[ProtoTuple]) -> Option<(u16, u16)> {
    let (mut from, mut to) = (None, None);
    for part in parts {
        match part {
            ProtoTuple::SourcePort(port) => from = Some(*port),
            ProtoTuple::DestinationPort(port) => to = Some(*port),
            _ => {}
        }
    }
    Some((from?, to?))
}
