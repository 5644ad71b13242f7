//! Flows that are let in: their destination is translated to a guest.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_NAT, FLOW_REPLY, Port};
use netd_common::checksum::difference;
use netd_common::proto;

use crate::clock::now;
use crate::context::{Ingress, Packet};
use crate::family::Family;
use crate::nat::entries::{clear, first_segment, to_sender};
use crate::records;
use crate::route::next_hop;

/// Where a packet is let in that is addressed to the host, or to an address that guests hide behind.
pub struct Inbound<A> {
    /// Bridge of the guest's network.
    pub bridge: u32,
    /// The guest.
    pub guest: A,
    /// Its port.
    pub port: Port,
    /// The only device that may bring such packets from outside; 0 for any.
    pub device: u32,
    /// `FLOW_*` bits of both directions, beside those of every translated flow.
    pub flags: u8,
}

/// Prepare, in the scratch map, the flow of a packet that is let in: its destination is translated.
/// `confirm` receives whom the kernel is to ask for, if the guest has not been seen. `false` when the
/// guest's network is gone.
#[inline(always)]
pub fn open_inbound<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    ingress: &Ingress,
    inbound: &Inbound<F::Addr>,
    confirm: &mut F::Addr,
) -> bool {
    let (Some(scratch), Some(network)) = (F::scratch(), records::network(inbound.bridge)) else {
        return false;
    };
    let key = &packet.key;
    let now = now();
    let epoch = records::epoch();
    let (flow, back) = (&mut scratch.flow, &mut scratch.back);
    clear(flow);
    clear(back);

    flow.new_src = key.src;
    flow.new_dst = inbound.guest;
    flow.new_sport = key.sport;
    flow.new_dport = inbound.port;
    flow.flags = FLOW_NAT | inbound.flags;
    flow.addr_diff = difference(F::sum(&key.dst), F::sum(&inbound.guest));
    flow.in_bridge = ingress.bridge;
    flow.in_ifindex = inbound.device;
    flow.in_dmac = ingress.dmac;
    (flow.last_seen, flow.validated_at) = (now, now as u8);
    flow.counted_for = inbound.bridge;
    if ingress.bridge != 0 {
        flow.in_ifindex = ingress.ifindex;
        flow.counted_for = ingress.bridge;
    }
    if !next_hop::set_guest::<F>(ctx, flow, inbound.bridge, ingress.ifindex) {
        return false;
    }
    next_hop::ask_for_guest::<F>(flow, confirm);
    flow.epoch = next_hop::epoch_after_validation(flow, key.proto, epoch);

    back.new_src = key.dst;
    back.new_dst = key.src;
    back.new_sport = key.dport;
    back.new_dport = key.sport;
    back.flags = FLOW_REPLY | FLOW_NAT | inbound.flags;
    back.addr_diff = difference(F::sum(&inbound.guest), F::sum(&key.dst));
    // Until a packet of it was seen, the guest answers by its bridge.
    back.in_bridge = inbound.bridge;
    back.in_ifindex = inbound.bridge;
    back.in_dmac = network.mac;
    (back.last_seen, back.validated_at) = (now, now as u8);
    back.epoch = epoch.wrapping_sub(1);
    if ingress.bridge == 0 {
        next_hop::note_way_back(back, ingress);
    }
    to_sender(back, ingress, epoch);
    if key.proto == proto::TCP {
        first_segment(ctx, packet, flow, back);
    }
    scratch.request.key = *key;
    scratch.request.translate = 0;
    scratch.request.avoid = 0;
    true
}
