//! Published ports: what is sent to an address and port of the host's goes to a guest.
//!
//! Whoever may reach the host may reach what is published there: it is a service of the
//! host's. The client keeps its address, unless it lives beside the guest, which would answer it
//! without the host: such a client is seen with the gateway's (RFC 4787, REQ-9, asks for as much).

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_FORWARD, FLOW_MASQUERADE, FLOW_REPLY, Forward};
use netd_common::checksum::difference;
use netd_common::port::Range;

use crate::action::{FIRST, LOOK, OPEN, reject};
use crate::conntrack::life;
use crate::conntrack::lookup::find;
use crate::conntrack::trackable::why_no_flow;
use crate::context::{SPARE_RESERVED, SPARE_SOCKETS, Seen};
use crate::family::Family;
use crate::filter::host_access;
use crate::nat::inbound::{Inbound, let_in};
use crate::nat::published::{self, NONE, OF_DEVICE};
use crate::parse::transport::has_ports;
use crate::records;

/// A device that has none of the host's addresses: the kernel's indices are positive `int`s.
const OTHER_DEVICE: u32 = u32::MAX;

/// Stage: a packet of no known flow. Where it is for something published, prepare its flow;
/// [`FIRST`] when it is not.
#[inline(always)]
pub fn admit<F: Family>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen {
        packet,
        source,
        confirm,
        ..
    } = seen;
    if F::never_forwarded(packet.key.dst) || why_no_flow(packet).is_some() {
        return FIRST;
    }
    let mut forward = Forward::default();
    // Guests come by no wire: to them, a device's addresses are the host's.
    let by = if source.bridge == 0 {
        source.ifindex
    } else {
        0
    };
    let found = published::find::<F>(&packet.key, by, &mut forward);
    if found == NONE {
        return FIRST;
    }
    let bridge = forward.bridge;
    let Some(network) = records::network(bridge) else {
        return FIRST;
    };
    let mut inbound = Inbound {
        bridge,
        guest: forward.guest,
        port: forward.guest_port(packet.key.dport),
        device: 0,
        flags: FLOW_FORWARD,
    };
    if source.bridge == 0 {
        // Bound to a device, by its own definition or its network's (`<forward dev>`).
        inbound.device = network.uplink;
        if found == OF_DEVICE {
            inbound.device = by;
        }
        if inbound.device != 0 && inbound.device != source.ifindex {
            return FIRST;
        }
    } else if records::bridge_of::<F>(packet.key.src) != source.bridge {
        return reject(Reason::ForeignSource);
    } else if records::network(source.bridge).is_some_and(host_access::is_closed) {
        return reject(Reason::HostClosed);
    }
    if !let_in::<F>(ctx, packet, source, &inbound, confirm) {
        return FIRST;
    }
    let Some(scratch) = F::scratch() else {
        return FIRST;
    };
    // Two clients' flows may be one behind the forward: then another port tells them apart.
    scratch.claim.translate = u32::from(has_ports(packet.key.proto) || packet.key.proto == F::ICMP);
    scratch.claim.first = Range::ALL.first;
    scratch.claim.last = Range::ALL.last;
    if has_ports(packet.key.proto) {
        scratch.claim.first = 1;
    }
    if source.bridge == bridge {
        let range = Range::new(0, 0);
        scratch.claim.first = range.first;
        scratch.claim.last = range.last;
        scratch.claim.spare = SPARE_RESERVED | SPARE_SOCKETS;
        scratch.flow.flags |= FLOW_MASQUERADE;
        scratch.flow.new_src = F::side(network).gateway;
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
pub fn withdraw<F: Family>(_: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let key = &seen.packet.key;
    let Some(flow) = find::<F>(key) else {
        return LOOK;
    };
    if flow.flags & FLOW_FORWARD == 0 {
        return LOOK;
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
        if published::find::<F>(&published, by, &mut forward) != NONE
            && forward.guest == guest
            && forward.guest_port(published.dport) == port
        {
            return LOOK;
        }
    }
    life::remove::<F>(key);
    LOOK
}
