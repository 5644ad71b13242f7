//! Published ports: what is sent to an address and port of the host's goes to a guest.
//!
//! Whoever may reach the host may reach what is published there: it is a service of the
//! host's. The client keeps its address, unless it lives beside the guest, which would answer it
//! without the host: such a client is seen with the gateway's (RFC 4787, REQ-9, asks for as much).

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_DNAT, FLOW_REPLY, FLOW_SNAT, Forward};
use netd_common::checksum::difference;
use netd_common::port::Range;

use crate::action::{FIRST, LOOKUP, OPEN, reject};
use crate::conntrack::life;
use crate::conntrack::lookup::find;
use crate::conntrack::trackable::why_no_flow;
use crate::context::{AVOID_RESERVED, AVOID_SOCKETS, PacketCtx};
use crate::family::Family;
use crate::filter::host_access;
use crate::nat::forwards::{self, NONE, OF_DEVICE};
use crate::nat::inbound::{Inbound, open_inbound};
use crate::parse::transport::has_ports;
use crate::records;

/// A device that has none of the host's addresses: the kernel's indices are positive `int`s.
const OTHER_DEVICE: u32 = u32::MAX;

/// Stage: a packet of no known flow. Where it is for something published, prepare its flow;
/// [`FIRST`] when it is not.
#[inline(always)]
pub fn admit<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
        ..
    } = packet_ctx;
    if F::never_forwarded(packet.key.dst) || why_no_flow(packet).is_some() {
        return FIRST;
    }
    let mut forward = Forward::default();
    // Guests come by no wire: to them, a device's addresses are the host's.
    let by = if ingress.bridge == 0 {
        ingress.ifindex
    } else {
        0
    };
    let found = forwards::find_published::<F>(&packet.key, by, &mut forward);
    if found == NONE {
        return FIRST;
    }
    let bridge = forward.bridge_ifindex;
    let Some(network) = records::network(bridge) else {
        return FIRST;
    };
    let mut inbound = Inbound {
        bridge,
        guest: forward.guest,
        port: forward.guest_port(packet.key.dport),
        device: 0,
        flags: FLOW_DNAT,
    };
    if ingress.bridge == 0 {
        // Bound to a device, by its own definition or its network's (`<forward dev>`).
        inbound.device = network.uplink_ifindex;
        if found == OF_DEVICE {
            inbound.device = by;
        }
        if inbound.device != 0 && inbound.device != ingress.ifindex {
            return FIRST;
        }
    } else if records::bridge_of::<F>(packet.key.src) != ingress.bridge {
        return reject(Reason::ForeignSource);
    } else if records::network(ingress.bridge).is_some_and(host_access::is_closed) {
        return reject(Reason::HostAccessDenied);
    }
    if !open_inbound::<F>(ctx, packet, ingress, &inbound, confirm) {
        return FIRST;
    }
    let Some(scratch) = F::scratch() else {
        return FIRST;
    };
    // Two clients' flows may be one behind the forward: then another port tells them apart.
    scratch.request.translate =
        u32::from(has_ports(packet.key.proto) || packet.key.proto == F::ICMP);
    scratch.request.first = Range::ALL.first;
    scratch.request.last = Range::ALL.last;
    if has_ports(packet.key.proto) {
        scratch.request.first = 1;
    }
    if ingress.bridge == bridge {
        let range = Range::new(0, 0);
        scratch.request.first = range.first;
        scratch.request.last = range.last;
        scratch.request.avoid = AVOID_RESERVED | AVOID_SOCKETS;
        scratch.flow.flags |= FLOW_SNAT;
        scratch.flow.new_src = F::config(network).gateway;
        let outside = F::sum(&packet.key.src) + F::sum(&packet.key.dst);
        let inside = F::sum(&scratch.flow.new_src) + F::sum(&scratch.flow.new_dst);
        scratch.flow.addr_diff = difference(outside, inside);
        scratch.back.addr_diff = difference(inside, outside);
    }
    OPEN
}

/// Stage: before a known flow is looked at again. One that goes by a forward ends when its port is
/// not published any more, or for another guest or port: the packet is judged anew.
#[inline(always)]
pub fn expire_stale_dnat<F: Family>(_: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let key = &packet_ctx.packet.key;
    let Some(flow) = find::<F>(key) else {
        return LOOKUP;
    };
    if flow.flags & FLOW_DNAT == 0 {
        return LOOKUP;
    }
    let mut published = *key;
    let (mut guest, mut port) = (flow.new_dst, flow.new_dport);
    if flow.flags & FLOW_REPLY != 0 {
        published = flow.partner(key.proto);
        (guest, port) = (key.src, key.sport);
    }
    // Which device it came by is not kept: one that would lead there is enough.
    for by in [0, OTHER_DEVICE] {
        let mut forward = Forward::default();
        if forwards::find::<F>(&published, by, &mut forward) != NONE
            && forward.guest == guest
            && forward.guest_port(published.dport) == port
        {
            return LOOKUP;
        }
    }
    life::remove::<F>(key);
    LOOKUP
}
