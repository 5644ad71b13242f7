//! Endpoint-independent mappings (RFC 4787, section 4.1): one outside port for all peers of a
//! guest's port.
//!
//! A mapping is a flow to everybody: its peer's address and port are zero. So it is made, kept and
//! swept like any flow, and the insertion of its answering half reserves the port. Flows under it
//! have entries of their own, by which packets find their way; the mapping is asked when one is
//! opened. A *contact* is a flow to one peer's every port; it is kept where the filter is by
//! address (RFC 4787, section 5).

use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    FLOW_MAPPED, FLOW_MASQUERADE, Flow, FlowKey, NETWORK_ENDPOINT_INDEPENDENT,
    NETWORK_FILTER_ADDRESS, NETWORK_FILTER_NONE,
};
use netd_common::checksum::{difference, sum2};
use netd_common::flow::State;

use crate::flow::{find, now};
use crate::guest::why_no_flow;
use crate::maps::{Scratch, Seen};
use crate::open::{Inbound, let_in};
use crate::packet::{Packet, has_ports};
use crate::reject::Rejects;
use crate::{OPEN, PASS, maps};

/// The mapping's key: a guest's address and port.
#[inline(always)]
fn mapping<F: Rejects>(key: &FlowKey<F::Addr>) -> FlowKey<F::Addr> {
    FlowKey {
        src: key.src,
        dst: F::ZERO,
        sport: key.sport,
        dport: [0; 2],
        proto: key.proto,
        zero: [0; 3],
    }
}

/// The contact's key: the mapping's with a peer's address.
#[inline(always)]
fn contact<F: Rejects>(key: &FlowKey<F::Addr>) -> FlowKey<F::Addr> {
    FlowKey {
        dport: [0; 2],
        ..*key
    }
}

/// A living entry of this key.
#[inline(always)]
fn alive<F: Rejects>(key: &FlowKey<F::Addr>) -> Option<&'static mut Flow<F::Addr>> {
    let flow = find::<F>(key)?;
    if F::is_dead(key) {
        F::remove(key);
        return None;
    }
    Some(flow)
}

/// Stage: a flow was prepared. If it is to be masqueraded in a network that has mappings, put it
/// under its own. Where the mapping or the contact is missing, turn what was prepared into that;
/// the packet is judged again once it is there.
#[inline(always)]
pub fn put_under<F: Rejects>(_: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let protocol = seen.packet.key.proto;
    let Some(network) = maps::network(seen.source.bridge) else {
        return OPEN;
    };
    let Some(scratch) = F::scratch() else {
        return OPEN;
    };
    if network.flags & NETWORK_ENDPOINT_INDEPENDENT == 0
        || !(has_ports(protocol) || protocol == F::ICMP)
        || scratch.flow.flags & FLOW_MASQUERADE == 0
    {
        return OPEN;
    }
    let key = scratch.claim.key;
    let Some(mapping) = alive::<F>(&mapping::<F>(&key)) else {
        scratch.claim.key = mapping::<F>(&key);
        scratch.flow.new_dst = F::ZERO;
        scratch.flow.new_dport = [0; 2];
        scratch.back.new_src = F::ZERO;
        scratch.back.new_sport = [0; 2];
        return OPEN;
    };
    mapping.last_seen = now();
    scratch.claim.spare = 0;
    fix_port(scratch, mapping.new_sport);
    scratch.flow.addr_diff = mapping.addr_diff;
    scratch.back.addr_diff = difference(F::sum(&mapping.new_src), F::sum(&key.src));
    scratch.flow.new_src = mapping.new_src;
    scratch.flow.flags |= FLOW_MAPPED;
    scratch.back.flags |= FLOW_MAPPED;
    if network.flags & NETWORK_FILTER_ADDRESS != 0 {
        let contact = contact::<F>(&key);
        if let Some(contact) = alive::<F>(&contact) {
            contact.last_seen = now();
        } else {
            scratch.claim.key = contact;
            scratch.flow.new_dport = [0; 2];
            scratch.back.new_sport = [0; 2];
        }
    }
    OPEN
}

/// No other port will do.
#[inline(always)]
fn fix_port<A>(scratch: &mut Scratch<A>, port: [u8; 2]) {
    let own = sum2(scratch.claim.key.sport);
    scratch.claim.translate = 0;
    scratch.flow.new_sport = port;
    scratch.flow.port_diff = difference(own, sum2(port));
    scratch.back.port_diff = difference(sum2(port), own);
}

/// A packet of a mapped flow passes: so long the mapping lives, and as long as its flow would.
#[inline(always)]
pub fn touch<F: Rejects>(packet: &Packet<F::Addr>, flow: &Flow<F::Addr>) {
    if flow.flags & FLOW_MAPPED == 0 {
        return;
    }
    // Sent by the guest, or to its outside address and port: the opener may be either side.
    let key = if flow.in_network != 0 {
        mapping::<F>(&packet.key)
    } else {
        outside_half::<F>(&packet.key)
    };
    if let Some(mapping) = find::<F>(&key) {
        mapping.last_seen = flow.last_seen;
        // One more peer that has not answered does not make a mapping with others forgettable.
        if matches!(State::from_u8(flow.state), State::New | State::Answered) {
            return;
        }
        mapping.state = flow.state;
        if let Some(partner) = find::<F>(&mapping.partner(key.proto)) {
            partner.state = flow.state;
        }
    }
}

/// The mapping's key for packets from outside.
#[inline(always)]
fn outside_half<F: Rejects>(key: &FlowKey<F::Addr>) -> FlowKey<F::Addr> {
    FlowKey {
        src: F::ZERO,
        dst: key.dst,
        sport: [0; 2],
        dport: key.dport,
        proto: key.proto,
        zero: [0; 3],
    }
}

/// A packet from outside of no known flow, for an address that guests hide behind: prepare a flow
/// when there is a mapping and its network's filter lets the sender in.
#[inline(always)]
pub fn admit<F: Rejects>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen {
        packet,
        source,
        confirm,
        ..
    } = seen;
    if packet.key.proto == F::ICMP || why_no_flow(packet).is_some() {
        return PASS;
    }
    let Some(mapping) = alive::<F>(&outside_half::<F>(&packet.key)) else {
        return PASS;
    };
    let bridge = mapping.out_network;
    let Some(network) = maps::network(bridge) else {
        return PASS;
    };
    if network.uplink != 0 && network.uplink != source.ifindex {
        return PASS;
    }
    let mut peer = contact::<F>(&packet.key);
    peer.sport = [0; 2];
    peer.dport = packet.key.dport;
    let admitted = network.flags & NETWORK_FILTER_NONE != 0
        || (network.flags & NETWORK_FILTER_ADDRESS != 0 && alive::<F>(&peer).is_some());
    if !admitted {
        return PASS;
    }
    let inbound = Inbound {
        bridge,
        guest: mapping.new_dst,
        port: mapping.new_dport,
        device: network.uplink,
        flags: FLOW_MAPPED,
    };
    if !let_in::<F>(ctx, packet, source, &inbound, confirm) {
        return PASS;
    }
    OPEN
}
