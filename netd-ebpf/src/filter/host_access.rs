//! What a network's guests may reach of the host itself (`<netd:host access>`).
//!
//! Answers to what the host asks always pass, or it could not talk to its guests: of TCP all but
//! the segment that opens a connection, of UDP what a connected socket waits for, of ICMP answers
//! and errors. Neighbour discovery and multicast listener reports are the link's, not the host's.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{NETWORK_HOST_NONE, NETWORK_HOST_SERVICES, Network};
use netd_common::port::GATEWAY_SERVICES;
use netd_common::proto;
use netd_common::tcp;

use crate::context::{Kind, Packet};
use crate::family::Family;
use crate::sockets;

/// Types of ICMPv6 messages that keep the link going: multicast listener reports (RFC 2710,
/// RFC 3810) and neighbour discovery (RFC 4861).
const LISTENER: core::ops::RangeInclusive<u8> = 130..=137;
const LISTENER_2: u8 = 143;

/// Is the host closed, wholly or in part, to the network's guests?
#[inline(always)]
pub fn is_closed(network: &Network) -> bool {
    network.flags & (NETWORK_HOST_SERVICES | NETWORK_HOST_NONE) != 0
}

/// May the packet, which is for the host itself or for everybody on the link, reach the host?
#[inline(always)]
pub fn admits<F: Family>(ctx: &TcContext, packet: &Packet<F::Addr>, network: &Network) -> bool {
    let services = network.flags & NETWORK_HOST_SERVICES != 0;
    let port = u16::from_be_bytes(packet.key.dport);
    match packet.key.proto {
        // An error names what it is about; the stack compares that with its sockets.
        protocol if protocol == F::ICMP => match packet.kind {
            Kind::IcmpError => true,
            Kind::Flow => packet.is_reply || services,
            Kind::Icmp => F::IS_IPV6 && is_of_the_link(ctx, packet),
            Kind::Fragment | Kind::Broken => false,
        },
        _ if packet.kind != Kind::Flow => false,
        proto::TCP => {
            packet.control & (tcp::SYN | tcp::ACK) != tcp::SYN || (services && port == 53)
        }
        proto::UDP => {
            (services && GATEWAY_SERVICES.contains(&port))
                || (!F::never_forwarded(packet.key.dst) && is_awaited::<F>(ctx, packet))
        }
        _ => false,
    }
}

#[inline(always)]
fn is_of_the_link<A>(ctx: &TcContext, packet: &Packet<A>) -> bool {
    ctx.load::<u8>(packet.l4())
        .is_ok_and(|kind| LISTENER.contains(&kind) || kind == LISTENER_2)
}

/// Does a socket of the host's wait for datagrams from this very sender?
#[inline(always)]
fn is_awaited<F: Family>(ctx: &TcContext, packet: &Packet<F::Addr>) -> bool {
    // SAFETY: the context is a packet's.
    unsafe { sockets::has_connected_udp::<F>(ctx.skb.skb.cast(), &packet.key) }
}
