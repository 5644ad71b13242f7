//! What guests send to their network's services: DHCP, DNS and TFTP.
//!
//! The services are in a network namespace of their own, with a link whose inner end has the MAC and
//! IP addresses of the bridge. What is for them goes there from the guest's port, past bridge, IP
//! stack and netfilter of the host, so that no firewall of the host's has a say in it. What others
//! may want to see as well is copied: broadcasts, which may be for a server among the guests, and
//! what either stack needs to know of its neighbours.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{NETWORK_DHCP, NETWORK_DNS, NETWORK_HOST_NONE, NETWORK_TFTP, Network};
use netd_common::proto;
use network_types::eth::EtherType;

use crate::action::{LOOKUP, PASS};
use crate::context::{Hook, Ingress, Kind, Packet, PacketCtx, Words};
use crate::family::{Family, V4, V6};
use crate::frame::{ETH, macs};
use crate::route::redirect::redirect;
use crate::skb::{copy_to, has_protocol};
use crate::{records, sockets};

const DNS: u16 = 53;
const DHCP: u16 = 67;
const TFTP: u16 = 69;
const DHCPV6: u16 = 547;

/// Types of ICMPv6 messages (RFC 4861).
mod nd {
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// What an ARP message does (RFC 826).
const REPLY: [u8; 2] = [0, 2];

/// Whose a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Not the services'.
    Others,
    /// Theirs and others'.
    Both,
    /// Theirs alone.
    Services,
}

/// Stage: is the packet for the network's services? [`LOOKUP`] where others are to have it.
#[inline(always)]
pub fn deliver<F: Services>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;
    let Some(network) = served(ingress) else {
        return LOOKUP;
    };
    let whose = if ingress.dmac == network.mac {
        for_gateway::<F>(ctx, packet, ingress, network)
    } else if ingress.dmac[0] & 1 != 0 {
        for_all::<F>(ctx, packet, ingress)
    } else {
        Whose::Others
    };
    match whose {
        Whose::Others => LOOKUP,
        Whose::Both => {
            copy_to(ctx, network.services_ifindex);
            LOOKUP
        }
        Whose::Services => redirect::<F>(network.services_ifindex, F::ZERO),
    }
}

/// The network, if it has services that its guests may reach. A port that has no program (yet), since
/// no agent runs, or that the bridge holds to more, leaves its frames to the bridge's.
#[inline(always)]
fn served(ingress: &Ingress) -> Option<&'static Network> {
    let network = records::network(ingress.bridge)?;
    let served = network.services_ifindex != 0 && network.flags & NETWORK_HOST_NONE == 0;
    let here = match ingress.hook() {
        Hook::Port => !records::is_by_bridge(ingress.ifindex),
        Hook::Bridge => true,
        Hook::Uplink => false,
    };
    (served && here).then_some(network)
}

/// Of a packet that carries the bridge's MAC address.
#[inline(always)]
fn for_gateway<F: Services>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    ingress: &Ingress,
    network: &Network,
) -> Whose {
    let key = &packet.key;
    if records::owner_of::<F>(&key.dst) != ingress.bridge && !F::is_link_local(key.dst) {
        return if is_for_server::<F>(packet) {
            Whose::Both
        } else {
            Whose::Others
        };
    }
    match packet.kind {
        // Who has the first one has ports to go by.
        Kind::Fragment if key.proto == proto::UDP => Whose::Both,
        Kind::IcmpError => Whose::Both,
        Kind::Icmp if F::concerns_neighbours(ctx, packet, ingress) => Whose::Both,
        Kind::Flow if key.proto == F::ICMP => {
            if packet.is_reply {
                Whose::Both
            } else {
                Whose::Others
            }
        }
        Kind::Flow
            if matches!(key.proto, proto::UDP | proto::TCP)
                && may_be_answered::<F>(packet, ingress)
                && is_served::<F>(ctx, packet, network) =>
        {
            Whose::Services
        }
        _ => Whose::Others,
    }
}

/// Of a packet with a MAC address of many.
#[inline(always)]
fn for_all<F: Services>(ctx: &TcContext, packet: &Packet<F::Addr>, ingress: &Ingress) -> Whose {
    let is_neighbours = packet.kind == Kind::Icmp && F::concerns_neighbours(ctx, packet, ingress);
    if is_neighbours || is_for_server::<F>(packet) {
        Whose::Both
    } else {
        Whose::Others
    }
}

/// Is it for any DHCP server?
#[inline(always)]
fn is_for_server<F: Services>(packet: &Packet<F::Addr>) -> bool {
    packet.kind == Kind::Flow
        && packet.key.proto == proto::UDP
        && packet.key.dport == F::DHCP_SERVER.to_be_bytes()
}

/// Would an answer go to a guest? To any other address the namespace has a way to the host's name
/// servers alone.
#[inline(always)]
fn may_be_answered<F: Family>(packet: &Packet<F::Addr>, ingress: &Ingress) -> bool {
    F::never_forwarded(packet.key.src) || records::bridge_of::<F>(packet.key.src) == ingress.bridge
}

/// Do the services answer at that port? They do at those of what the definition has them do, and at
/// those of their sockets: transfers of files, and questions that they have for a guest, have one of
/// their own each.
#[inline(always)]
fn is_served<F: Services>(ctx: &TcContext, packet: &Packet<F::Addr>, network: &Network) -> bool {
    let port = u16::from_be_bytes(packet.key.dport);
    let udp = packet.key.proto == proto::UDP;
    let flag = match port {
        DNS => NETWORK_DNS,
        TFTP if udp => NETWORK_TFTP,
        _ if udp && port == F::DHCP_SERVER => NETWORK_DHCP,
        _ => 0,
    };
    // SAFETY: the context is a packet's.
    network.flags & flag != 0
        || unsafe {
            sockets::has_in_netns::<F>(ctx.skb.skb.cast(), &packet.key, network.services_netns)
        }
}

/// What differs between the families.
pub trait Services: Family {
    /// The port of its DHCP servers.
    const DHCP_SERVER: u16;
    /// Is it an address of the link's, which no table has?
    fn is_link_local(address: Self::Addr) -> bool;
    /// Is it a message about neighbours, or routers, that the services' stack is to see?
    fn concerns_neighbours(ctx: &TcContext, packet: &Packet<Self::Addr>, ingress: &Ingress)
    -> bool;
}

impl Services for V4 {
    const DHCP_SERVER: u16 = DHCP;

    #[inline(always)]
    fn is_link_local(_: u32) -> bool {
        false
    }

    #[inline(always)]
    fn concerns_neighbours(_: &TcContext, _: &Packet<u32>, _: &Ingress) -> bool {
        false
    }
}

impl Services for V6 {
    const DHCP_SERVER: u16 = DHCPV6;

    #[inline(always)]
    fn is_link_local(address: Words) -> bool {
        u32::from_be(address[0]) & 0xffc0_0000 == 0xfe80_0000
    }

    /// Solicitations for the gateway, answers to its own ones, and those for routers.
    #[inline(always)]
    fn concerns_neighbours(ctx: &TcContext, packet: &Packet<Words>, ingress: &Ingress) -> bool {
        if packet.key.proto != proto::ICMPV6 {
            return false;
        }
        match ctx.load::<u8>(packet.l4()) {
            Ok(nd::ROUTER_SOLICITATION | nd::NEIGHBOUR_ADVERTISEMENT) => true,
            Ok(nd::NEIGHBOUR_SOLICITATION) => ctx
                .load::<Words>(packet.l4() + 8)
                .is_ok_and(|target| records::owner_of::<Self>(&target) == ingress.bridge),
            _ => false,
        }
    }
}

/// A frame without an IP packet: the services' stack is to see ARP (RFC 826) that is about
/// the gateway or an answer to it, and what guests tell everybody of themselves.
#[inline(always)]
pub fn show_arp(ctx: &TcContext, hook: Hook, here: u32) -> i32 {
    if has_protocol(ctx, EtherType::Arp as u16)
        && let Some(to) = who_sees_arp(ctx, hook, here)
    {
        copy_to(ctx, to);
    }
    PASS
}

#[inline(always)]
fn who_sees_arp(ctx: &TcContext, hook: Hook, here: u32) -> Option<u32> {
    let (dmac, smac) = macs(ctx)?;
    let bridge = match hook {
        Hook::Port => records::bridge_of_port(here),
        _ => here,
    };
    let ingress = Ingress {
        bridge,
        ifindex: here,
        port_flags: 0,
        dmac,
        smac,
    };
    let network = served(&ingress)?;
    let sender: u32 = ctx.load(ETH + 14).ok()?;
    let target: u32 = ctx.load(ETH + 24).ok()?;
    let told = sender == target || records::owner_of::<V4>(&target) == ingress.bridge;
    let concerned = told || (is_arp_reply(ctx) && dmac == network.mac);
    concerned.then_some(network.services_ifindex)
}

/// Is the frame an answer of ARP's?
#[inline(always)]
pub fn is_arp_reply(ctx: &TcContext) -> bool {
    has_protocol(ctx, EtherType::Arp as u16)
        && ctx.load::<[u8; 2]>(ETH + 6).is_ok_and(|does| does == REPLY)
}
