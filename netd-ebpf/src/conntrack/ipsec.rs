//! What the host's IPsec policies say of a known flow's packets.

use netd_common::abi::{Flow, FlowKey, IPSEC_FORWARD, IPSEC_OUT};

use crate::conntrack::lookup::find;
use crate::family::Family;
use crate::filter::ipsec::{BLOCK, PROTECT, says};
use crate::records;
use crate::verified::verified;

/// No policy has anything against the short way.
pub const ANY_WAY: u32 = 0;
/// The kernel's IPsec has to see the packet.
pub const BY_STACK: u32 = 1;
/// It would leave in clear, or is blocked.
pub const NO_WAY: u32 = 2;

verified! {
    /// The way of packets of this key by their flow: [`ANY_WAY`], [`BY_STACK`] or [`NO_WAY`]. But for the first,
    /// each packet of the flow is looked at from now on.
    pub fn way(key: Key) -> u32 = find_way, else NO_WAY, as ipsec_way4, ipsec_way6;
}

#[inline(always)]
fn find_way<F: Family>(key: &FlowKey<F::Addr>) -> u32 {
    let Some(walk) = F::policy_walk() else {
        return NO_WAY;
    };
    // A copy: see `conntrack/life.rs`.
    walk.key = *key;
    let Some(flow) = find::<F>(&walk.key) else {
        return ANY_WAY;
    };
    let way = way_of::<F>(flow);
    if way != ANY_WAY {
        flow.epoch = records::epoch().wrapping_sub(1);
    }
    way
}

/// The way of packets of the key in [`Family::policy_walk`].
#[inline(always)]
fn way_of<F: Family>(flow: &Flow<F::Addr>) -> u32 {
    // What the host itself sends and gets has met them.
    if flow.in_bridge == 0 && flow.out_bridge == 0 {
        return ANY_WAY;
    }
    let Some(walk) = F::policy_walk() else {
        return NO_WAY;
    };
    walk.out = match flow.out_bridge {
        0 => flow.next_hop.ifindex,
        bridge => bridge,
    };
    walk.key.dst = flow.new_dst;
    walk.key.dport = flow.new_dport;
    let is_translated = flow.new_src != walk.key.src;
    match says::<F>(u32::from(IPSEC_OUT | IPSEC_FORWARD)) {
        PROTECT if !is_translated => return BY_STACK,
        PROTECT | BLOCK => return NO_WAY,
        _ => {}
    }
    if !is_translated {
        return ANY_WAY;
    }
    let Some(walk) = F::policy_walk() else {
        return NO_WAY;
    };
    walk.key.src = flow.new_src;
    walk.key.sport = flow.new_sport;
    match says::<F>(u32::from(IPSEC_OUT)) {
        PROTECT | BLOCK => NO_WAY,
        _ => ANY_WAY,
    }
}
