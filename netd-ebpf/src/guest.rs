//! Packets that guests send to their gateway.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{
    BridgePort, Endpoint, Forward, Mode, NETWORK_PORTS_ISOLATED, PORT_ISOLATED, ticks,
};
use netd_common::flow::proto;
use netd_common::policy::Verdict;
use netd_common::tcp::may_open;

use crate::family::{Family, V4, V6};
use crate::flow::{self, Decision, Source};
use crate::maps::Seen;
use crate::packet::{self, ETH, Kind, Packet, ifindex};
use crate::path::transmit;
use crate::reject::Rejects;
use crate::stage::{self, Stages};
use crate::{FIRST, LOOK, PASS, REJECT, drops, forward, host, maps, open, reject, spoof};

pub use crate::path::Hook;

/// A guest whose packets went past the bridge for this long (30 s) sends one through it, so that
/// the bridge goes on to know its port: entries of its table live 300 s.
const BRIDGED: u32 = ticks(30);

/// Ingress of a bridge port or of the bridge itself.
#[inline(always)]
pub fn ingress(ctx: &TcContext, hook: Hook) -> i32 {
    // At a port tags are the guests' own business.
    if hook == Hook::Bridge && !packet::take_off_priority_tag(ctx) {
        return drops::finish(ctx, drops::drop(Reason::VlanTag));
    }
    let here = ifindex(ctx);
    let action = if V4::is(ctx) {
        packet_from_guest::<V4>(ctx, hook, here)
    } else if V6::is(ctx) {
        packet_from_guest::<V6>(ctx, hook, here)
    } else if hook == Hook::Port {
        spoof::check_other(ctx, here)
    } else {
        PASS
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_from_guest<F: Stages>(ctx: &TcContext, hook: Hook, here: u32) -> i32 {
    let Some(seen) = F::seen() else {
        return PASS;
    };
    let packet = &mut seen.packet;
    // A malformed packet is the bridge's, then the stack's, to drop.
    if F::parse(ctx, ETH, packet).is_err() {
        return if hook == Hook::Port && maps::port(here).is_some_and(spoof::is_guarded) {
            drops::drop(Reason::Malformed)
        } else {
            PASS
        };
    }
    let Some((dmac, smac)) = packet::macs(ctx) else {
        return PASS;
    };
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find::<F>(&packet.key)
        && flow.in_ifindex == here
        && flow.in_mac == dmac
        && flow::is_fresh(flow, packet)
    {
        return transmit::<F>(ctx, ETH, packet, flow, hook, F::ZERO);
    }
    let (mut bridge, mut guarded) = (here, false);
    if hook == Hook::Port {
        let port = maps::port(here);
        bridge = port.map_or(0, |port| port.bridge);
        guarded = port.is_some_and(spoof::is_guarded);
    }
    let source = Source {
        bridge,
        ifindex: here,
        dmac,
        smac,
    };
    seen.keep(source, ETH);
    let mut action = if guarded { F::guarded(ctx) } else { LOOK };
    if action == LOOK {
        action = F::guest_entry(ctx);
    }
    if action == LOOK {
        action = forward::known::<F>(ctx);
    }
    let first = |ctx: &TcContext| forward::or_else::<F>(ctx, F::guest_first);
    action = stage::run::<F>(ctx, action, F::icmp_error, first, F::send);
    if action < REJECT {
        return action;
    }
    let own = maps::network(bridge).map_or(F::ZERO, |n| F::side(n).gateway);
    reject::reject::<F>(ctx, here, own, (action - REJECT) as u32)
}

/// Stage: is the packet for the gateway to route?
#[inline(always)]
pub fn entry<F: Stages>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let l3 = seen.l3();
    let Seen { packet, source, .. } = seen;

    let hook = source.hook();
    let Some(network) = maps::network(source.bridge) else {
        return PASS;
    };
    // At a port, frames for others are the bridge's. What the bridge hands up is for the host if
    // the bridge says so: it may carry the MAC address of the port's own device, too.
    let for_host = match hook {
        Hook::Port => source.dmac == network.mac,
        Hook::Bridge | Hook::Uplink => packet::is_for_us(ctx),
    };
    // What is for everybody on the link reaches the host as well, where the bridge hands it up.
    let closed = host::is_closed(network) && (for_host || hook == Hook::Bridge);
    if closed && F::never_forwarded(packet.key.dst) && !host::admits::<F>(ctx, packet, network) {
        return REJECT + Reason::HostClosed as i32;
    }
    if !for_host {
        return PASS;
    }
    let mode = Mode::from_u8(F::side(network).mode);
    if packet.options && mode != Mode::Open && F::has_source_route(ctx, l3) {
        return drops::drop(Reason::SourceRoute);
    }
    if F::never_forwarded(packet.key.dst) || F::never_forwarded(packet.key.src) {
        return PASS;
    }
    // What an open network sends is the host's to judge, unless it is for a managed network or for
    // something published.
    if mode == Mode::Open
        && maps::bridge_of::<F>(packet.key.dst) == 0
        && F::find(&packet.key, 0, &mut Forward::default()) == forward::NONE
    {
        return PASS;
    }
    let inside = maps::bridge_of::<F>(packet.key.src) == source.bridge;
    if inside && learn::<F>(&packet.key.src, source, hook) {
        return PASS;
    }
    // An error whose sender claims a foreign address is judged like any other packet.
    if packet.kind == Kind::IcmpError && !inside && mode != Mode::Open {
        return FIRST;
    }
    LOOK
}

#[inline(always)]
fn is_isolated<F: Rejects>(bridge: u32) -> bool {
    maps::network(bridge).is_some_and(|n| Mode::from_u8(F::side(n).mode) == Mode::Isolated)
}

/// Stage: a packet of no known flow.
#[inline(always)]
pub fn first<F: Stages>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen { packet, source, .. } = seen;

    // Other packets for the host are the stack's.
    if maps::is_own::<F>(&packet.key.dst) {
        return match maps::network(source.bridge) {
            Some(network)
                if host::is_closed(network) && !host::admits::<F>(ctx, packet, network) =>
            {
                REJECT + Reason::HostClosed as i32
            }
            _ => PASS,
        };
    }
    if is_kept_apart::<F>(packet, source) {
        return REJECT + Reason::PortIsolated as i32;
    }
    let mut decision = Decision::none();
    flow::decide::<F>(ctx, packet, source, &mut decision);
    let masquerade = match decision.verdict {
        // Whatever else routing says of it (forwarding is off, an odd kind of route): a packet
        // that is not for the host itself does not leave an isolated network.
        Verdict::Stack if decision.leaves && is_isolated::<F>(source.bridge) => {
            return REJECT + Reason::Isolated as i32;
        }
        Verdict::Stack => return PASS,
        Verdict::Reject(reason) => return REJECT + reason as i32,
        Verdict::Accept => false,
        Verdict::Masquerade => true,
    };
    match why_no_flow(packet) {
        None => open::prepare::<F>(ctx, packet, source, &decision),
        Some(reason) if masquerade => drops::drop(reason),
        // Routing needs no ports and no memory.
        Some(_) => PASS,
    }
}

/// Is the packet for a guest of the same network, by way of the gateway, that its sender is isolated
/// from? The kernel's bridge sees to frames that go straight.
#[inline(always)]
fn is_kept_apart<F: Rejects>(packet: &Packet<F::Addr>, source: &Source) -> bool {
    if maps::bridge_of::<F>(packet.key.dst) != source.bridge {
        return false;
    }
    let everybody = maps::network(source.bridge)
        .is_some_and(|network| network.flags & NETWORK_PORTS_ISOLATED != 0);
    let is_isolated = |ifindex| {
        maps::port(ifindex).is_some_and(|port: &BridgePort| port.flags & PORT_ISOLATED != 0)
    };
    if everybody || !is_isolated(source.ifindex) {
        return everybody;
    }
    // Where nobody was seen yet, the guest may be at an isolated port.
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    unsafe { F::endpoints().get(&packet.key.dst) }
        .is_none_or(|endpoint| is_isolated(endpoint.ifindex))
}

/// Why the packet cannot open a flow; `None` when it can.
#[inline(always)]
pub fn why_no_flow<A: PartialEq>(packet: &Packet<A>) -> Option<Reason> {
    // Both directions would be one.
    if packet.key.src == packet.key.dst {
        return Some(Reason::Malformed);
    }
    match packet.kind {
        Kind::Fragment => return Some(Reason::FragNoHead),
        Kind::Broken => return Some(Reason::Malformed),
        Kind::Icmp => return Some(Reason::IcmpType),
        Kind::IcmpError => return Some(Reason::IcmpUnknown),
        // The first one of the packet was no part of any flow.
        Kind::Flow if packet.headless => return Some(Reason::FragNoHead),
        Kind::Flow => {}
    }
    let opens = match packet.key.proto {
        proto::TCP => may_open(packet.control),
        // Nobody asked for this answer.
        proto::ICMP | proto::ICMPV6 => !packet.answer,
        _ => true,
    };
    if opens { None } else { Some(Reason::NoFlow) }
}

/// Remember where a guest is. The bridge's own hook sees again what a port's program let pass, so
/// it only speaks up when no port has done so lately. `true` when the bridge should see this
/// packet, too.
#[inline(always)]
fn learn<F: Rejects>(address: &F::Addr, source: &Source, hook: Hook) -> bool {
    let now = flow::now();
    if let Some(endpoint) = F::endpoints().get_ptr_mut(address) {
        // SAFETY: as for flows: fields are written one at a time, and a torn read sends one
        // packet to a place that the next packet corrects.
        let endpoint = unsafe { &mut *endpoint };
        if hook != Hook::Port && now.wrapping_sub(endpoint.last_seen) <= 1 {
            return false;
        }
        if endpoint.ifindex != source.ifindex || endpoint.mac != source.smac {
            maps::guest_moved(now);
        }
        endpoint.ifindex = source.ifindex;
        endpoint.mac = source.smac;
        endpoint.last_seen = now;
        if hook != Hook::Port {
            return false;
        }
        if now.wrapping_sub(endpoint.bridged) > BRIDGED {
            endpoint.bridged = now;
            return true;
        }
        return false;
    }
    let endpoint = Endpoint {
        ifindex: source.ifindex,
        last_seen: now,
        bridged: now,
        mac: source.smac,
        zero: [0; 2],
    };
    // A full cache or a race loses nothing but a shortcut.
    let _ = F::endpoints().insert(address, &endpoint, 0);
    // Somebody else may have had the address before.
    maps::guest_moved(now);
    false
}
