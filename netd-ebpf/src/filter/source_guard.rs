//! Anti-spoofing: what leaves a guarded port carries the port's own addresses.
//!
//! A port has one MAC address: the one that its record names, or the first it was seen with. An IPv4
//! address is bound to a MAC address by the definition or by a lease; the program at the bridge's
//! egress sees every lease as it is granted, so a guest need not wait for the agent. An IPv6 address
//! is bound by the definition, or is whose it was first (RFC 6620), since guests make up their own.
//!
//! Frames of established flows are known by port, addresses and ports, and leave with the bridge's
//! MAC address: they were looked at when their flow was opened and need not be again.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{
    BINDING_FCFS, Binding, BindingKey, BridgePort, MAX_FCFS_ADDRESSES, MacAddr, NETWORK_GUARDED,
    PORT_GUARD, PORT_GUARD_ARP, PORT_GUARD_DHCP, PORT_GUARD_IP, PORT_GUARD_MAC, PORT_GUARD_ND,
    PortMac,
};
use netd_common::proto;
use network_types::eth::EtherType;

use crate::action::{LOOKUP, PASS, drop};
use crate::context::{Ingress, Kind, Packet, PacketCtx, Words};
use crate::family::{Family, V4, V6};
use crate::frame::{ETH, macs};
use crate::skb::has_protocol;
use crate::{maps, records};

/// RARP, by which a hypervisor announces a guest that has moved.
const RARP: u16 = 0x8035_u16.to_be();
/// Ethernet and IPv4.
pub const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// First byte of the MAC address that libvirt gives a guest's tap.
const OF_A_TAP: u8 = 0xfe;

/// Types of ICMPv6 messages (RFC 4861).
mod nd {
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
}

/// Is the port guarded in any way?
#[inline(always)]
pub fn is_guarded(port: &BridgePort) -> bool {
    port.flags & PORT_GUARD != 0
}

/// Stage: a frame with an IP packet from a guarded port. [`LOOKUP`] when it may go on.
#[inline(always)]
pub fn check<F: Guards>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;
    let Some(port) = records::port(ingress.ifindex) else {
        return LOOKUP;
    };
    if !has_own_mac(port, ingress.ifindex, ingress.smac) {
        return drop(Reason::SpoofedMac);
    }
    if port.flags & (PORT_GUARD_DHCP | PORT_GUARD_ND) != 0 && F::hides(packet) {
        return drop(Reason::Malformed);
    }
    if port.flags & PORT_GUARD_DHCP != 0 && F::is_server(ctx, packet) {
        return drop(Reason::RogueServer);
    }
    if port.flags & PORT_GUARD_ND != 0 && !F::answers_for_itself(ctx, packet, ingress) {
        return drop(Reason::SpoofedNeighbour);
    }
    if port.flags & PORT_GUARD_IP != 0 && !F::has_own_address(packet, ingress) {
        return drop(Reason::SpoofedAddress);
    }
    LOOKUP
}

/// What differs between the families.
pub trait Guards: Family {
    /// May the packet hide what it is from everybody but the one who puts it together?
    fn hides(packet: &Packet<Self::Addr>) -> bool;
    /// Does the packet do what only a server or router may?
    fn is_server(ctx: &TcContext, packet: &Packet<Self::Addr>) -> bool;
    /// If it answers for an address of the link, is that its sender's own?
    fn answers_for_itself(ctx: &TcContext, packet: &Packet<Self::Addr>, ingress: &Ingress) -> bool;
    /// May the sender have the address? Any, where addresses are not guarded at its port. At the
    /// bridge itself nobody knows the port.
    #[inline(always)]
    fn may_have(address: &Self::Addr, sender: &Ingress) -> bool {
        let is_held = match records::port(sender.ifindex) {
            Some(port) => port.flags & PORT_GUARD_IP != 0,
            None => records::network(sender.bridge)
                .is_none_or(|network| network.flags & NETWORK_GUARDED != 0),
        };
        !is_held || Self::is_its(address, sender)
    }
    /// Is the address the sender's?
    fn is_its(address: &Self::Addr, sender: &Ingress) -> bool;
    /// Is the source address its sender's own, or none where it has none yet?
    fn has_own_address(packet: &Packet<Self::Addr>, ingress: &Ingress) -> bool;
}

impl Guards for V4 {
    /// Eight bytes are what the first fragment has at least, and they show the ports.
    #[inline(always)]
    fn hides(_: &Packet<u32>) -> bool {
        false
    }

    #[inline(always)]
    fn is_server(_: &TcContext, packet: &Packet<u32>) -> bool {
        packet.key.proto == proto::UDP
            && packet.kind == Kind::Flow
            && packet.key.sport == 67u16.to_be_bytes()
            && packet.key.dport == 68u16.to_be_bytes()
    }

    #[inline(always)]
    fn answers_for_itself(_: &TcContext, _: &Packet<u32>, _: &Ingress) -> bool {
        true
    }

    #[inline(always)]
    fn is_its(address: &u32, sender: &Ingress) -> bool {
        is_bound4(sender.bridge, *address, sender.smac)
    }

    #[inline(always)]
    fn has_own_address(packet: &Packet<u32>, ingress: &Ingress) -> bool {
        if packet.key.src == 0 {
            // A guest without an address asks for one (RFC 2131, section 4.1).
            return packet.key.proto == proto::UDP
                && packet.kind == Kind::Flow
                && packet.key.sport == 68u16.to_be_bytes()
                && packet.key.dport == 67u16.to_be_bytes();
        }
        is_bound4(ingress.bridge, packet.key.src, ingress.smac)
    }
}

impl Guards for V6 {
    /// Behind extension headers without end, or that go on in the next fragment, a router
    /// advertisement would pass (RFC 7113, section 2; RFC 7112 forbids such fragments).
    #[inline(always)]
    fn hides(packet: &Packet<Words>) -> bool {
        packet.kind == Kind::Broken
    }

    #[inline(always)]
    fn is_server(ctx: &TcContext, packet: &Packet<Words>) -> bool {
        if packet.key.proto == proto::ICMPV6 && packet.kind == Kind::Icmp {
            let kind = message_type(ctx, packet);
            return kind == nd::ROUTER_ADVERTISEMENT || kind == nd::REDIRECT;
        }
        // DHCPv6 (RFC 8415, section 7.2).
        packet.key.proto == proto::UDP
            && packet.kind == Kind::Flow
            && packet.key.sport == 547u16.to_be_bytes()
    }

    #[inline(always)]
    fn answers_for_itself(ctx: &TcContext, packet: &Packet<Words>, ingress: &Ingress) -> bool {
        if packet.key.proto != proto::ICMPV6
            || packet.kind != Kind::Icmp
            || message_type(ctx, packet) != nd::NEIGHBOUR_ADVERTISEMENT
        {
            return true;
        }
        // Padding behind the packet is no part of the message, which may go on in a fragment.
        match ctx.load::<Words>(packet.l4() + 8) {
            Ok(target) if packet.l4() as u32 + 24 <= packet.end => claims(ingress, &target),
            _ => false,
        }
    }

    #[inline(always)]
    fn is_its(address: &Words, sender: &Ingress) -> bool {
        claims(sender, address)
    }

    #[inline(always)]
    fn has_own_address(packet: &Packet<Words>, ingress: &Ingress) -> bool {
        if packet.key.src == Self::ZERO {
            // Duplicate address detection and multicast listener reports.
            return packet.key.proto == proto::ICMPV6 && packet.kind == Kind::Icmp;
        }
        claims(ingress, &packet.key.src)
    }
}

#[inline(always)]
fn message_type(ctx: &TcContext, packet: &Packet<Words>) -> u8 {
    ctx.load::<u8>(packet.l4()).unwrap_or_default()
}

/// A frame without an IP packet, or with a tag, at a port.
#[inline(always)]
pub fn check_other(ctx: &TcContext, here: u32) -> i32 {
    match records::port(here) {
        Some(port) if is_guarded(port) => match refuse_other(ctx, port, here) {
            Some(reason) => drop(reason),
            None => PASS,
        },
        _ => PASS,
    }
}

#[inline(always)]
fn refuse_other(ctx: &TcContext, port: &BridgePort, here: u32) -> Option<Reason> {
    let Some((_, smac)) = macs(ctx) else {
        return Some(Reason::Malformed);
    };
    if !has_own_mac(port, here, smac) {
        return Some(Reason::SpoofedMac);
    }
    if has_protocol(ctx, EtherType::Arp as u16) {
        let guarded = port.flags & PORT_GUARD_ARP != 0;
        return (guarded && !is_own_arp(ctx, port.bridge_ifindex, smac))
            .then_some(Reason::SpoofedArp);
    }
    // Behind a tag, or in another protocol, anything may hide.
    (port.flags & PORT_GUARD_IP != 0 && !has_protocol(ctx, RARP)).then_some(Reason::OtherProtocol)
}

/// Does an ARP message speak of its sender alone (RFC 826; RFC 5227 for senders without address)?
#[inline(always)]
fn is_own_arp(ctx: &TcContext, bridge: u32, smac: MacAddr) -> bool {
    let Ok(kind) = ctx.load::<[u8; 6]>(ETH) else {
        return false;
    };
    let (Ok(hardware), Ok(address)) = (ctx.load::<MacAddr>(ETH + 8), ctx.load::<u32>(ETH + 14))
    else {
        return false;
    };
    kind == ARP_KIND && hardware == smac && (address == 0 || is_bound4(bridge, address, smac))
}

/// Does the frame carry the port's own MAC address? That is the one of the port's first frame, among
/// those that its record allows: of a tap's address libvirt takes all but the first byte from its
/// guest's.
#[inline(always)]
fn has_own_mac(port: &BridgePort, ifindex: u32, smac: MacAddr) -> bool {
    let [first, rest @ ..] = port.mac;
    if port.mac != [0; 6] && (rest != smac[1..] || (first != smac[0] && first != OF_A_TAP)) {
        return port.flags & PORT_GUARD_MAC == 0;
    }
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    if let Some(port_mac) = unsafe { maps::PORT_MACS.get(ifindex) } {
        return port.flags & PORT_GUARD_MAC == 0 || port_mac.mac == smac;
    }
    let port_mac = PortMac {
        mac: smac,
        fcfs_addresses: 0,
    };
    // Where another CPU was faster, or there is no room, the next frame is judged.
    let _ = maps::PORT_MACS.insert(ifindex, &port_mac, u64::from(BPF_NOEXIST));
    true
}

#[inline(always)]
fn is_bound4(bridge: u32, address: u32, mac: MacAddr) -> bool {
    let key = BindingKey {
        bridge_ifindex: bridge,
        address,
    };
    // SAFETY: as above.
    unsafe { V4::bindings().get(&key) }.is_some_and(|binding| binding.mac == mac)
}

/// Is an IPv6 address the sender's own, or free to become it?
#[inline(always)]
fn claims(ingress: &Ingress, address: &Words) -> bool {
    let key = BindingKey {
        bridge_ifindex: ingress.bridge,
        address: *address,
    };
    // SAFETY: as above.
    if let Some(binding) = unsafe { V6::bindings().get(&key) } {
        return binding.mac == ingress.smac;
    }
    let link_local = u32::from_be(address[0]) & 0xffc0_0000 == 0xfe80_0000;
    if !link_local && records::bridge_of::<V6>(*address) != ingress.bridge {
        return false;
    }
    let Some(port_mac) = maps::PORT_MACS.get_ptr_mut(ingress.ifindex) else {
        return false;
    };
    // SAFETY: a map value; a count that two CPUs raise at once lets one address more pass.
    unsafe {
        if (*port_mac).fcfs_addresses >= MAX_FCFS_ADDRESSES {
            return false;
        }
        (*port_mac).fcfs_addresses += 1;
    }
    let binding = Binding {
        mac: ingress.smac,
        kind: BINDING_FCFS,
        pad: 0,
    };
    V6::bindings()
        .insert(&key, &binding, u64::from(BPF_NOEXIST))
        .is_ok()
}
