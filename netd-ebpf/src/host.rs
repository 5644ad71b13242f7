//! What a network's guests may reach of the host itself (`<netd:host access>`).
//!
//! Answers to what the host asks always pass, or it could not talk to its guests: of TCP all but
//! the segment that opens a connection, of UDP what a connected socket waits for, of ICMP answers
//! and errors. Neighbour discovery and multicast listener reports are the link's, not the host's.

use core::mem::zeroed;

use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{NETWORK_HOST_NONE, NETWORK_HOST_SERVICES, Network};
use netd_common::flow::proto;
use netd_common::tcp;

use crate::family::Family;
use crate::forward::GATEWAY_SERVICES;
use crate::packet::{Kind, Packet};

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
            Kind::Flow => packet.answer || services,
            Kind::Icmp => F::INDEX == 1 && is_of_the_link(ctx, packet),
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
    // SAFETY: integers only.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let len = F::socket_tuple(&packet.key, &mut tuple);
    let netns = i64::from(BPF_F_CURRENT_NETNS) as u64;
    // SAFETY: a valid context, and a tuple at least as long as said. A socket found is read while
    // it is held, and given back.
    unsafe {
        let socket = bpf_sk_lookup_udp(ctx.skb.skb.cast(), &raw mut tuple, len, netns, 0);
        if socket.is_null() {
            return false;
        }
        let connected = (*socket).dst_port != 0;
        bpf_sk_release(socket.cast());
        connected
    }
}
