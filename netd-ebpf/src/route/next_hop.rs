//! A flow's way out.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    DEVICE_ETHERNET, Endpoint, EndpointKey, FLOW_DNAT, FLOW_NAT, FLOW_PROVEN, FLOW_REPLY, Flow,
    FlowKey, MacAddr,
};
use netd_common::clock::ticks;
use netd_common::state::State;

use crate::clock::now;
use crate::context::{Ingress, Packet, Route};
use crate::family::Family;
use crate::records;
use crate::route::lookup::{route, route_by};

/// Endpoints that were not heard of for this long (60 s) may be elsewhere.
const ENDPOINT_AGE: u32 = ticks(60);

/// In the place of a next hop's MAC address where frames have none, so that it is not looked for.
const NO_HEADER: MacAddr = [2, 0, 0, 0, 0, 0];

/// Store in `flow` the way out that `route` found. Where the next hop's MAC address is not known, the
/// kernel's neighbour code sends and asks (`redirect`); a device without an Ethernet header needs none.
#[inline(always)]
pub fn set_outside<F: Family>(flow: &mut Flow<F::Addr>, route: &Route<F::Addr>) {
    // The host's rules may say something else of another device (`conntrack::proof`).
    if flow.next_hop.ifindex != 0 && flow.next_hop.ifindex != route.ifindex {
        flow.flags &= !FLOW_PROVEN;
    }
    flow.out_bridge = 0;
    flow.next_hop.ifindex = 0;
    // One that the agent does not know has no program at its egress.
    let Some(device) = records::device(route.ifindex) else {
        return;
    };
    let ethernet = device.flags & DEVICE_ETHERNET != 0;
    // A next hop of the other family: the stack knows how.
    if ethernet && !route.resolved && route.gateway == F::ZERO {
        return;
    }
    flow.next_hop.ifindex = route.ifindex;
    // Nobody has asked routing where the stack has chosen the device.
    flow.next_hop.mtu = if route.mtu != 0 {
        route.mtu
    } else {
        device.mtu
    };
    if route.resolved {
        flow.next_hop.dmac = route.dmac;
        flow.next_hop.smac = route.smac;
    } else {
        flow.next_hop.smac = device.mac;
        if flow.next_hop.dmac != [0; 6] {
            flow.validated_at = now() as u8;
        }
        flow.next_hop.dmac = [0; 6];
    }
    if !ethernet {
        flow.next_hop.dmac = NO_HEADER;
    }
}

/// Do frames have an Ethernet header on the flow's way out?
#[inline(always)]
pub fn has_header<A>(flow: &Flow<A>) -> bool {
    flow.next_hop.dmac != NO_HEADER
}

/// Is the way a makeshift one, of which the kernel's neighbour code is asked with each packet? It is so
/// since the flow was validated last.
#[inline(always)]
pub fn is_makeshift<A>(flow: &Flow<A>) -> bool {
    flow.next_hop.ifindex != 0 && flow.next_hop.dmac == [0; 6]
}

/// Store in `flow`, which answers by a published address (`src`), the way out by the device that
/// brought the question: only there the address is known. Where routing has none by it, answers go
/// back to whoever handed the question over. `false` when they cannot go by that device.
#[inline(always)]
pub fn set_way_back<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    route: &mut Route<F::Addr>,
) -> bool {
    let out = flow.next_hop.ifindex;
    let Some(device) = records::device(out) else {
        return false;
    };
    if device.flags & DEVICE_ETHERNET == 0 {
        return false;
    }
    if !route_by::<F>(ctx, out, &packet.key, &flow.new_src, packet.tos, route) {
        return flow.next_hop.dmac != [0; 6];
    }
    flow.next_hop.mtu = route.mtu;
    if route.resolved {
        flow.next_hop.dmac = route.dmac;
        flow.next_hop.smac = route.smac;
    } else {
        // The kernel asks for it with the packet in hand: the stack would take another way.
        flow.next_hop.dmac = [0; 6];
    }
    true
}

/// The question came by this device, from whom answers are to go back to.
#[inline(always)]
pub fn note_way_back<A>(back: &mut Flow<A>, ingress: &Ingress) {
    if let Some(device) = records::device(ingress.ifindex)
        && device.flags & DEVICE_ETHERNET != 0
    {
        back.next_hop.ifindex = ingress.ifindex;
        back.next_hop.dmac = ingress.smac;
        back.next_hop.smac = ingress.dmac;
        back.next_hop.mtu = device.mtu;
    }
}

/// Store in `flow` the way to the guest it ends at, behind `bridge`: straight to the port where
/// the guest was last seen; else by way of the bridge, if the host knows its MAC address; else by
/// the stack, which asks for it. `false` when there is no such network any more, or when an
/// answer would reach another guest than the one that asked, which has its address now.
#[inline(always)]
pub fn set_guest<F: Family>(
    ctx: &TcContext,
    flow: &mut Flow<F::Addr>,
    bridge: u32,
    in_ifindex: u32,
) -> bool {
    let Some(network) = records::network(bridge) else {
        return false;
    };
    flow.out_bridge = bridge;
    flow.next_hop.smac = network.mac;
    flow.next_hop.mtu = network.mtu;
    let answer = flow.flags & (FLOW_NAT | FLOW_REPLY) == FLOW_NAT | FLOW_REPLY;
    let asked = |mac: MacAddr| !answer || flow.next_hop.dmac == [0; 6] || flow.next_hop.dmac == mac;
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    let endpoint = unsafe { F::endpoints().get(&EndpointKey::new(flow.new_dst)) };
    let endpoint =
        endpoint.filter(|e| e.ifindex == bridge || records::bridge_of_port(e.ifindex) == bridge);
    let fresh = |e: &Endpoint| now().wrapping_sub(e.last_seen) < ENDPOINT_AGE;
    let mut known = endpoint.filter(|e| fresh(e));
    if known.is_none() {
        let key = FlowKey {
            src: flow.new_src,
            dst: flow.new_dst,
            sport: [0; 2],
            dport: [0; 2],
            proto: 0,
            pad: 0,
            zone: 0,
        };
        let mut found = Route::default();
        if route::<F>(ctx, in_ifindex, &key, 0, &mut found)
            && found.resolved
            && found.ifindex == bridge
        {
            if !asked(found.dmac) {
                return false;
            }
            flow.next_hop.ifindex = bridge;
            flow.next_hop.dmac = found.dmac;
            return true;
        }
        known = endpoint;
    }
    let Some(endpoint) = known else {
        flow.next_hop.ifindex = 0;
        // The stack would ask for the address, and give the answer to whoever has it now. Until
        // the guest is seen again there is nobody to have it (`stage::transmit::send`).
        if answer && flow.next_hop.dmac != [0; 6] {
            flow.next_hop.mtu = 0;
        }
        return true;
    };
    if !asked(endpoint.mac) {
        return false;
    }
    flow.next_hop.ifindex = if records::gets_by_bridge(endpoint.ifindex) {
        bridge
    } else {
        endpoint.ifindex
    };
    flow.next_hop.dmac = endpoint.mac;
    true
}

/// Nobody knows where the guest is: let the kernel ask for it with the packet in hand. The stack would
/// do so as well, but the host's rules may keep it from that, and it would not route what comes from
/// the guest's own network with the gateway's address. `confirm` receives whom to ask for.
#[inline(always)]
pub fn ask_for_guest<F: Family>(flow: &mut Flow<F::Addr>, confirm: &mut F::Addr) {
    // No MTU: the answer's guest is gone, and who has its address now is somebody else.
    if flow.next_hop.ifindex == 0 && flow.next_hop.mtu != 0 {
        if flow.next_hop.dmac != [0; 6] {
            flow.validated_at = now() as u8;
        }
        flow.next_hop.ifindex = flow.out_bridge;
        flow.next_hop.dmac = [0; 6];
        *confirm = flow.new_dst;
    }
}

/// Look for the way of `flow`, of this key, once more for a packet that says nothing of the flow itself:
/// an ICMP error. Answers by a published address have theirs from the question. `false` when the guest
/// is gone.
#[inline(always)]
pub fn renew<F: Family>(
    ctx: &TcContext,
    key: &FlowKey<F::Addr>,
    flow: &mut Flow<F::Addr>,
    in_ifindex: u32,
    found: &mut Route<F::Addr>,
) -> bool {
    if flow.out_bridge != 0 {
        return set_guest::<F>(ctx, flow, flow.out_bridge, in_ifindex);
    }
    if flow.flags & (FLOW_DNAT | FLOW_REPLY) != FLOW_DNAT | FLOW_REPLY {
        if route::<F>(ctx, in_ifindex, key, 0, found) {
            set_outside::<F>(flow, found);
        } else {
            flow.next_hop.ifindex = 0;
        }
    }
    true
}

/// The epoch for a flow that was just looked at: not this one where its next packet must not go on
/// without a look, since the way is makeshift or the flow has only seconds to live.
#[inline(always)]
pub fn epoch_after_validation<A>(flow: &Flow<A>, protocol: u8, epoch: u32) -> u32 {
    let by_stack = flow.next_hop.ifindex == 0;
    if by_stack || is_makeshift(flow) || State::from_u8(flow.state).is_short_lived(protocol) {
        epoch.wrapping_sub(1)
    } else {
        epoch
    }
}

/// Can the packet not be sent as it is, though its flow has a way?
#[inline(always)]
pub fn needs_stack<A>(packet: &Packet<A>, flow: &Flow<A>) -> bool {
    flow.next_hop.ifindex == 0
        || packet.ttl <= 1
        || packet.options
        || packet.wire_len > u32::from(flow.next_hop.mtu)
}
