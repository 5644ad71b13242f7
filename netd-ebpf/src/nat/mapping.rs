//! Flows under endpoint-independent mappings (`conntrack/mapping.rs`): a guest's go by its mapping,
//! and a mapping lets in whom its network's filter allows (RFC 4787, sections 4.1 and 5).

use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    FLOW_DNAT, FLOW_MAPPED, FLOW_SNAT, Flow, FlowKey, NETWORK_ENDPOINT_INDEPENDENT,
    NETWORK_FILTER_ADDRESS, NETWORK_FILTER_NONE,
};
use netd_common::checksum::difference;

use crate::action::{OPEN, PASS};
use crate::clock::now;
use crate::conntrack::life;
use crate::conntrack::mapping::{alive, filter_entry, mapping, outside_half};
use crate::conntrack::trackable::why_no_flow;
use crate::context::{PacketCtx, Scratch};
use crate::family::Family;
use crate::nat::inbound::{Inbound, open_inbound};
use crate::parse::transport::has_ports;
use crate::records;

/// Stage: a flow was prepared. If it is to be masqueraded in a network that has mappings, put it
/// under its own; what goes by a forward is hidden behind the gateway for its way back alone. Where the mapping or the filter entry is missing, turn what was prepared into that;
/// the packet is judged again once it is there.
#[inline(always)]
pub fn put_under<F: Family>(_: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let protocol = packet_ctx.packet.key.proto;
    let Some(network) = records::network(packet_ctx.ingress.bridge) else {
        return OPEN;
    };
    let Some(scratch) = F::scratch() else {
        return OPEN;
    };
    if network.flags & NETWORK_ENDPOINT_INDEPENDENT == 0
        || !(has_ports(protocol) || protocol == F::ICMP)
        || scratch.flow.flags & (FLOW_SNAT | FLOW_DNAT) != FLOW_SNAT
    {
        return OPEN;
    }
    let key = scratch.request.key;
    let address = scratch.flow.new_src;
    let Some(mapping) = alive_behind::<F>(&mapping::<F>(&key), &address) else {
        scratch.request.key = mapping::<F>(&key);
        scratch.flow.new_dst = F::ZERO;
        scratch.flow.new_dport = [0; 2];
        scratch.back.new_src = F::ZERO;
        scratch.back.new_sport = [0; 2];
        return OPEN;
    };
    mapping.last_seen = now();
    scratch.request.avoid = 0;
    fix_port(scratch, mapping.new_sport);
    scratch.flow.addr_diff = mapping.addr_diff;
    scratch.back.addr_diff = difference(F::sum(&mapping.new_src), F::sum(&key.src));
    scratch.flow.new_src = mapping.new_src;
    scratch.flow.flags |= FLOW_MAPPED;
    scratch.back.flags |= FLOW_MAPPED;
    if network.flags & NETWORK_FILTER_ADDRESS != 0 {
        let filter_entry = filter_entry::<F>(&key);
        if let Some(filter_entry) = alive_behind::<F>(&filter_entry, &mapping.new_src) {
            filter_entry.last_seen = now();
        } else {
            scratch.request.key = filter_entry;
            scratch.flow.new_dport = [0; 2];
            scratch.back.new_sport = [0; 2];
        }
    }
    OPEN
}

/// A living entry of this key, if what goes by it is to be behind `address`. A mapping with another
/// one ends: its guest's way out is another one now. An IPv6 address serves as long as the device has
/// it (`route::source::keeps`).
#[inline(always)]
fn alive_behind<F: Family>(
    key: &FlowKey<F::Addr>,
    address: &F::Addr,
) -> Option<&'static mut Flow<F::Addr>> {
    let entry = alive::<F>(key)?;
    let device = records::owner_of::<F>(&entry.new_src);
    if entry.new_src == *address
        || (F::IS_IPV6 && device != 0 && device == records::owner_of::<F>(address))
    {
        return Some(entry);
    }
    life::remove::<F>(key);
    None
}

/// No other port will do.
#[inline(always)]
fn fix_port<A>(scratch: &mut Scratch<A>, port: [u8; 2]) {
    scratch.request.translate = 0;
    scratch.flow.new_sport = port;
}

/// A packet from outside of no known flow, for an address that guests hide behind: prepare a flow
/// when there is a mapping and its network's filter lets the sender in.
#[inline(always)]
pub fn admit<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
        ..
    } = packet_ctx;
    if packet.key.proto == F::ICMP || why_no_flow(packet).is_some() {
        return PASS;
    }
    let Some(mapping) = alive::<F>(&outside_half::<F>(&packet.key)) else {
        return PASS;
    };
    let bridge = mapping.out_bridge;
    let Some(network) = records::network(bridge) else {
        return PASS;
    };
    if network.uplink_ifindex != 0 && network.uplink_ifindex != ingress.ifindex {
        return PASS;
    }
    let mut peer = filter_entry::<F>(&packet.key);
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
        device: network.uplink_ifindex,
        flags: FLOW_MAPPED,
    };
    if !open_inbound::<F>(ctx, packet, ingress, &inbound, confirm) {
        return PASS;
    }
    OPEN
}
