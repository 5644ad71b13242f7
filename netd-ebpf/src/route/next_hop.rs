//! A flow's way out.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    DEVICE_ETHERNET, Endpoint, EndpointKey, FLOW_DNAT, FLOW_NAT, FLOW_REPLY, Flow, FlowKey, MacAddr,
};
use netd_common::clock::ticks;
use netd_common::state::State;

use crate::clock::now;
use crate::context::{Packet, Route};
use crate::family::Family;
use crate::frame::ETH;
use crate::records;
use crate::route::lookup::route;

/// Endpoints that were not heard of for this long (60 s) may be elsewhere.
const ENDPOINT_AGE: u32 = ticks(60);

/// Store in `flow` the way out that `route` found. Without a MAC address, and for devices without
/// an Ethernet header, the stack forwards and `uplink_egress` translates.
#[inline(always)]
pub fn set_outside<F: Family>(flow: &mut Flow<F::Addr>, route: &Route<F::Addr>) {
    let ethernet = records::device(route.ifindex).is_some_and(|d| d.flags & DEVICE_ETHERNET != 0);
    flow.out_bridge = 0;
    flow.next_hop.ifindex = if route.resolved && ethernet {
        route.ifindex
    } else {
        0
    };
    flow.next_hop.mtu = route.mtu;
    flow.next_hop.dmac = route.dmac;
    flow.next_hop.smac = route.smac;
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
    flow.next_hop.ifindex = endpoint.ifindex;
    flow.next_hop.dmac = endpoint.mac;
    true
}

/// Nobody knows where the guest of a forward is: let the kernel ask for it with the packet in hand.
/// The stack would do so as well, but would not route what comes from the guest's own network with
/// the gateway's address. `confirm` receives whom to ask for.
#[inline(always)]
pub fn ask_for_guest<F: Family>(flow: &mut Flow<F::Addr>, confirm: &mut F::Addr) {
    if flow.flags & (FLOW_DNAT | FLOW_REPLY) == FLOW_DNAT && flow.next_hop.ifindex == 0 {
        flow.next_hop.ifindex = flow.out_bridge;
        flow.next_hop.dmac = [0; 6];
        *confirm = flow.new_dst;
    }
}

/// The epoch for a flow that was just looked at: not this one where its next packet must not go on
/// without a look, since the way is makeshift or the flow has only seconds to live.
#[inline(always)]
pub fn epoch_after_validation<A>(flow: &Flow<A>, protocol: u8, epoch: u32) -> u32 {
    let makeshift =
        flow.next_hop.ifindex == 0 || (flow.out_bridge != 0 && flow.next_hop.dmac == [0; 6]);
    if makeshift || State::from_u8(flow.state).is_short_lived(protocol) {
        epoch.wrapping_sub(1)
    } else {
        epoch
    }
}

/// Must the stack have the packet, though its flow has a way?
#[inline(always)]
pub fn needs_stack<A>(l3: usize, packet: &Packet<A>, flow: &Flow<A>) -> bool {
    l3 != ETH
        || flow.next_hop.ifindex == 0
        || packet.ttl <= 1
        || packet.options
        || packet.wire_len > u32::from(flow.next_hop.mtu)
}
