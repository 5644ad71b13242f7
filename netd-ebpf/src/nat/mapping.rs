//! Flows under endpoint-independent mappings (`conntrack/mapping.rs`): a guest's go by its mapping,
//! and a mapping lets in whom its network's filter allows (RFC 4787, sections 4.1 and 5).

use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    FLOW_MAPPED, FLOW_MASQUERADE, NETWORK_ENDPOINT_INDEPENDENT, NETWORK_FILTER_ADDRESS,
    NETWORK_FILTER_NONE,
};
use netd_common::checksum::{difference, sum2};

use crate::action::{OPEN, PASS};
use crate::clock::now;
use crate::conntrack::mapping::{alive, contact, mapping, outside_half};
use crate::conntrack::trackable::why_no_flow;
use crate::context::{Scratch, Seen};
use crate::family::Family;
use crate::nat::inbound::{Inbound, let_in};
use crate::parse::transport::has_ports;
use crate::records;

/// Stage: a flow was prepared. If it is to be masqueraded in a network that has mappings, put it
/// under its own. Where the mapping or the contact is missing, turn what was prepared into that;
/// the packet is judged again once it is there.
#[inline(always)]
pub fn put_under<F: Family>(_: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let protocol = seen.packet.key.proto;
    let Some(network) = records::network(seen.source.bridge) else {
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

/// A packet from outside of no known flow, for an address that guests hide behind: prepare a flow
/// when there is a mapping and its network's filter lets the sender in.
#[inline(always)]
pub fn admit<F: Family>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
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
    let Some(network) = records::network(bridge) else {
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
