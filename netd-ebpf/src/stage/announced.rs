//! Guests that say where they are, without an IP packet to anybody: one that takes over another's
//! address does so, and waits to be found (RFC 5227, section 3; RFC 4861, section 7.2.6).
//!
//! The kernel's neighbour table hears the same messages and believes them. What a guarded port says
//! counts for its own addresses alone.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{MacAddr, PORT_BY_BRIDGE};

use crate::context::{Ingress, Packet};
use crate::family::V4;
use crate::filter::source_guard::{ARP_KIND, Guards};
use crate::frame::ETH;
use crate::records;
use crate::route::endpoint;
use crate::skb::{has_protocol, load_into};
use network_types::eth::EtherType;

/// Type of a neighbour advertisement, and its flag "override" (RFC 4861, section 4.4).
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;
/// Type and length of the option that tells a MAC address.
const TARGET_ADDRESS: [u8; 2] = [2, 1];

/// A frame of a guest that holds no IP packet, at its port or at the bridge: where it is ARP, its
/// sender's addresses count, whatever it asks or answers (RFC 826).
#[inline(always)]
pub fn by_arp(ctx: &TcContext, here: u32) {
    if !has_protocol(ctx, EtherType::Arp as u16) {
        return;
    }
    let bridge = match records::port(here) {
        // What the bridge lets through is heard there.
        Some(port) if port.flags & PORT_BY_BRIDGE != 0 => return,
        Some(port) => port.bridge_ifindex,
        None => here,
    };
    let (Ok(kind), Ok(mac), Ok(address)) = (
        ctx.load::<[u8; 6]>(ETH),
        ctx.load::<MacAddr>(ETH + 8),
        ctx.load::<u32>(ETH + 14),
    ) else {
        return;
    };
    if kind != ARP_KIND || !is_unicast(mac) {
        return;
    }
    let ingress = Ingress {
        bridge,
        ifindex: here,
        port_flags: 0,
        dmac: [0; 6],
        smac: mac,
    };
    follow::<V4>(&address, &ingress);
}

/// A message of a guest that is neither query nor error: where it is a neighbour advertisement
/// that overrides what was known.
#[inline(always)]
pub fn by_advertisement<F: Guards>(ctx: &TcContext, packet: &Packet<F::Addr>, ingress: &Ingress) {
    let l4 = packet.l4();
    // From a neighbour (RFC 4861, section 7.1.2), with all that is read.
    if packet.ttl != 255 || l4 as u32 + 32 > packet.end {
        return;
    }
    // One after the other: what is read together lies on the stack as it comes, and the verifier of
    // Linux 6.1 wants it whole.
    let Ok([kind, code, ..]) = ctx.load::<[u8; 4]>(l4) else {
        return;
    };
    if kind != ADVERTISEMENT || code != 0 {
        return;
    }
    let Ok(flags) = ctx.load::<u8>(l4 + 4) else {
        return;
    };
    let Ok(option) = ctx.load::<[u8; 2]>(l4 + 24) else {
        return;
    };
    if flags & OVERRIDE == 0 || option != TARGET_ADDRESS {
        return;
    }
    let Ok(mac) = ctx.load::<MacAddr>(l4 + 26) else {
        return;
    };
    let mut target = F::ZERO;
    if !is_unicast(mac) || load_into(ctx, l4 + 8, &mut target).is_none() {
        return;
    }
    let says = Ingress {
        smac: mac,
        ..*ingress
    };
    follow::<F>(&target, &says);
}

/// The guest of `says.smac` has the address, it says.
#[inline(always)]
fn follow<F: Guards>(address: &F::Addr, says: &Ingress) {
    if records::bridge_of::<F>(*address) == says.bridge && F::may_have(address, says) {
        endpoint::announced::<F>(address, says);
    }
}

#[inline(always)]
fn is_unicast(mac: MacAddr) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}
