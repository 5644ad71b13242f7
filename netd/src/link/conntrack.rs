//! Connections that netd has translated, given to the kernel's own connection tracking: it goes on with
//! them as it would with its own when netd no longer sees their packets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

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

/// The protocol's number (linux/netlink.h).
const NETLINK_NETFILTER: NonZeroU32 = NonZeroU32::new(12).unwrap();

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

/// How long the kernel keeps a connection of which it sees no packet, in seconds: TCP's, and others'.
const TCP_TIMEOUT: u32 = 5 * 24 * 3600;
const TIMEOUT: u32 = 120;

/// TCP or UDP from a guest, with a translated source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Is it TCP?
    pub tcp: bool,
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
        match ask(NLM_F_ACK, connection, old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        ask(
            flags,
            connection,
            ConntrackMessage::New(attributes(connection)),
        )?;
    }
    Ok(())
}

fn ask(flags: u16, connection: &Translated, message: ConntrackMessage) -> io::Result<()> {
    let family = match connection.guest {
        SocketAddr::V4(_) => NetfilterProtoFamily::IPv4,
        SocketAddr::V6(_) => NetfilterProtoFamily::IPv6,
    };
    let inner: NetfilterMessageInner = message.into();
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
    crate::netlink::ask::<_, NetfilterMessage>(Some(NETLINK_NETFILTER), flags, message).map(drop)
}

fn original(connection: &Translated) -> ConntrackAttribute {
    ConntrackAttribute::CtaTupleOrig(tuple(connection.tcp, connection.guest, connection.peer))
}

fn attributes(connection: &Translated) -> Vec<ConntrackAttribute> {
    let Translated {
        tcp,
        guest,
        peer,
        seen_as,
    } = *connection;
    let mut attributes = vec![
        original(connection),
        // As it were without translation: the kernel finds the translated one by what follows.
        ConntrackAttribute::CtaTupleReply(tuple(tcp, peer, guest)),
        ConntrackAttribute::CtaStatus(Status::Confirmed | Status::SeenReply | Status::Assured),
        ConntrackAttribute::CtaTimeout(if tcp { TCP_TIMEOUT } else { TIMEOUT }),
        ConntrackAttribute::Other(source(seen_as)),
    ];
    if tcp {
        let mut info = vec![ProtoInfoTCP::State(ESTABLISHED)];
        // Its fields are the crate's to set, by what the kernel would send.
        if let Ok(flags) = TCPFlags::parse(&[LIBERAL, LIBERAL]) {
            info.push(ProtoInfoTCP::OriginalFlags(flags.clone()));
            info.push(ProtoInfoTCP::ReplyFlags(flags));
        }
        attributes.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(info)]));
    }
    attributes
}

fn tuple(tcp: bool, from: SocketAddr, to: SocketAddr) -> Vec<Tuple> {
    let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(from.ip()),
            IPTuple::DestinationAddress(to.ip()),
        ]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(protocol),
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}

/// The one address and port that the source is translated to.
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
