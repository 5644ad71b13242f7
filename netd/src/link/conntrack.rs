//! Connections that netd has translated, given to the kernel's own connection tracking: it goes on with
//! them as it would with its own when netd no longer sees their packets.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netd_common::proto;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol,
    Status, TCPFlags, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL,
};

use super::echo::{ECHO, ECHO6};
use crate::netlink;

// linux/netfilter/nfnetlink_conntrack.h
const CTA_NAT_SRC: u16 = 6;
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_V4_MAXIP: u16 = 2;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_NAT_V6_MAXIP: u16 = 5;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;

/// TCP_CONNTRACK_ESTABLISHED.
const ESTABLISHED: u8 = 3;
/// IP_CT_TCP_FLAG_BE_LIBERAL: the kernel knows no sequence numbers of a connection that it is told of.
const LIBERAL: u8 = 8;

/// How long the kernel keeps a connection of which it sees no packet, in seconds: TCP's, UDP's, and an
/// echo's.
const TCP_TIMEOUT: u32 = 5 * 24 * 3600;
const TIMEOUT: u32 = 120;
const ECHO_TIMEOUT: u32 = 30;

/// How long the kernel keeps a connection that netd carries and whose packets it sees for once: longer
/// than TCP's keepalive leaves an idle one silent (two hours, RFC 1122, section 4.2.3.6).
const RUNNING_TIMEOUT: u32 = 7500;

/// TCP or UDP that netd carries, as the kernel's rules would see its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    /// Is it TCP?
    pub tcp: bool,
    /// Who opened it.
    pub from: SocketAddr,
    /// With whom.
    pub to: SocketAddr,
}

/// Let the kernel take these connections for established ones, in the calling thread's network
/// namespace: rules are about to see packets from the middle of them.
///
/// # Errors
/// What the kernel says of the first that it refuses (CONFIG_NF_CT_NETLINK); the others are done.
pub fn note_running(connections: &[Running]) -> io::Result<()> {
    let mut refusal = Ok(());
    for connection in connections {
        let Running { tcp, from, to } = *connection;
        let protocol = if tcp { proto::TCP } else { proto::UDP };
        let mut attributes = vec![
            ConntrackAttribute::CtaTupleOrig(tuple(protocol, from, to, false)),
            ConntrackAttribute::CtaTupleReply(tuple(protocol, to, from, true)),
            // It ends by itself: what ends the connection may not come by.
            ConntrackAttribute::CtaStatus(
                Status::Confirmed | Status::SeenReply | Status::Assured | Status::FixedTimeout,
            ),
            ConntrackAttribute::CtaTimeout(if tcp { RUNNING_TIMEOUT } else { TIMEOUT }),
        ];
        attributes.extend(tcp.then(established));
        let flags = NLM_F_ACK | NLM_F_CREATE;
        let answer = ask(flags, from, ConntrackMessage::New(attributes));
        match answer {
            // Noted by an earlier call.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            answer => refusal = refusal.and(answer),
        }
    }
    refusal
}

/// TCP, UDP or echo requests from a guest, with a translated source. An echo has its identifier for the
/// port on the guest's side, and none on its peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// IP protocol number.
    pub protocol: u8,
    /// The guest.
    pub guest: SocketAddr,
    /// Its peer.
    pub peer: SocketAddr,
    /// Who the peer takes the guest for.
    pub seen_as: SocketAddr,
}

/// Have the kernel track these connections in the calling thread's network namespace. What it knew of
/// one from an earlier time, its sequence numbers say, is forgotten.
///
/// # Errors
/// The kernel refuses one (CONFIG_NF_CT_NETLINK); those before it are tracked.
pub fn track(connections: &[Translated]) -> io::Result<()> {
    for connection in connections {
        let old = ConntrackMessage::Delete(vec![original(connection)]);
        match ask(NLM_F_ACK, connection.guest, old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        ask(
            flags,
            connection.guest,
            ConntrackMessage::New(attributes(connection)),
        )?;
    }
    Ok(())
}

fn ask(flags: u16, end: SocketAddr, message: ConntrackMessage) -> io::Result<()> {
    let family = match end {
        SocketAddr::V4(_) => NetfilterProtoFamily::IPv4,
        SocketAddr::V6(_) => NetfilterProtoFamily::IPv6,
    };
    let inner: NetfilterMessageInner = message.into();
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
    netlink::ask::<_, NetfilterMessage>(Some(netlink::NETFILTER), flags, message).map(drop)
}

fn original(connection: &Translated) -> ConntrackAttribute {
    let Translated {
        protocol,
        guest,
        peer,
        ..
    } = *connection;
    ConntrackAttribute::CtaTupleOrig(tuple(protocol, guest, peer, false))
}

fn attributes(connection: &Translated) -> Vec<ConntrackAttribute> {
    let Translated {
        protocol,
        guest,
        peer,
        seen_as,
    } = *connection;
    let assured = Status::Confirmed | Status::SeenReply | Status::Assured;
    let (status, timeout) = match protocol {
        proto::TCP => (assured, TCP_TIMEOUT),
        proto::UDP => (assured, TIMEOUT),
        // The kernel never calls one assured.
        _ => (assured - Status::Assured, ECHO_TIMEOUT),
    };
    let mut attributes = vec![
        original(connection),
        // As it were without translation: the kernel finds the translated one by what follows.
        ConntrackAttribute::CtaTupleReply(tuple(protocol, peer, guest, true)),
        ConntrackAttribute::CtaStatus(status),
        ConntrackAttribute::CtaTimeout(timeout),
        ConntrackAttribute::Other(source(seen_as)),
    ];
    attributes.extend((protocol == proto::TCP).then(established));
    attributes
}

/// TCP that both sides have opened, whose sequence numbers may be any.
fn established() -> ConntrackAttribute {
    let mut info = vec![ProtoInfoTCP::State(ESTABLISHED)];
    // Its fields are the crate's to set, by what the kernel would send.
    if let Ok(flags) = TCPFlags::parse(&[LIBERAL, LIBERAL]) {
        info.push(ProtoInfoTCP::OriginalFlags(flags.clone()));
        info.push(ProtoInfoTCP::ReplyFlags(flags));
    }
    ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(info)])
}

/// A direction; `answers` says which one.
fn tuple(protocol: u8, from: SocketAddr, to: SocketAddr, answers: bool) -> Vec<Tuple> {
    let identifier = if answers { to.port() } else { from.port() };
    let mut parts = vec![ProtoTuple::Protocol(Protocol::from(protocol))];
    parts.extend(match protocol {
        proto::ICMP => ECHO.parts(identifier, answers),
        proto::ICMPV6 => ECHO6.parts(identifier, answers),
        _ => vec![
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ],
    });
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(from.ip()),
            IPTuple::DestinationAddress(to.ip()),
        ]),
        Tuple::Proto(parts),
    ]
}

/// The one address, and port or identifier, that the source is translated to.
fn source(to: SocketAddr) -> DefaultNla {
    let (min, max, address) = match to.ip() {
        IpAddr::V4(address) => (
            CTA_NAT_V4_MINIP,
            CTA_NAT_V4_MAXIP,
            address.octets().to_vec(),
        ),
        IpAddr::V6(address) => (
            CTA_NAT_V6_MINIP,
            CTA_NAT_V6_MAXIP,
            address.octets().to_vec(),
        ),
    };
    let port = to.port().to_be_bytes().to_vec();
    let ports = nested(&[
        DefaultNla::new(CTA_PROTONAT_PORT_MIN, port.clone()),
        DefaultNla::new(CTA_PROTONAT_PORT_MAX, port),
    ]);
    DefaultNla::new(
        CTA_NAT_SRC | NLA_F_NESTED,
        nested(&[
            DefaultNla::new(min, address.clone()),
            DefaultNla::new(max, address),
            DefaultNla::new(CTA_NAT_PROTO | NLA_F_NESTED, ports),
        ]),
    )
}

fn nested(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}
