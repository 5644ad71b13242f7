//! Packets that guests send to their gateway.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{Addr4, Endpoint, Mode};
use netd_common::flow::{may_open, proto};
use netd_common::policy::Verdict;

use crate::flow::{self, Decision, Source};
use crate::packet::{self, ETH, Kind, Packet, ifindex};
use crate::path::{NOBODY, transmit};
use crate::{FIRST, PASS, REJECT, arguments, drops, icmp, maps, reject};

pub use crate::path::Hook;

/// Ingress of a bridge port or of the bridge itself.
#[inline(always)]
pub fn ingress(ctx: &TcContext, hook: Hook) -> i32 {
    // At a port tags are the guests' own business.
    if hook == Hook::Bridge && !packet::take_off_priority_tag(ctx) {
        return drops::finish(ctx, drops::drop(Reason::VlanTag));
    }
    // A malformed packet is the bridge's, then the stack's, to drop.
    let Ok(packet) = packet::parse(ctx, ETH) else {
        return PASS;
    };
    let Some((dmac, smac)) = packet::macs(ctx) else {
        return PASS;
    };
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find(&packet.key)
        && flow.in_ifindex == ifindex(ctx)
        && flow.in_mac == dmac
        && flow::is_fresh(flow, &packet)
    {
        return drops::finish(ctx, transmit(ctx, ETH, &packet, flow, hook, NOBODY));
    }
    let ifindex = ifindex(ctx);
    let bridge = if hook == Hook::Port {
        maps::bridge_of_port(ifindex)
    } else {
        ifindex
    };
    let source = Source {
        bridge,
        ifindex,
        dmac,
        smac,
    };
    // One after the other, not one inside the other: a program's stack is 512 bytes deep.
    let mut action = guest_known(ctx.skb.skb, &packet, &source);
    if action == FIRST {
        action = guest_first(ctx.skb.skb, &packet, &source);
    }
    if action >= REJECT {
        let own = maps::network(bridge).map_or([0; 4], |n| n.gateway);
        drops::count(ctx, (action - REJECT) as u32);
        action = reject::reject_answer(ctx.skb.skb, &packet, u32::from_ne_bytes(own));
    }
    drops::finish(ctx, action)
}

/// Is the packet for the gateway to route, and of a flow that exists?
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn guest_known(
    ctx: *mut __sk_buff,
    packet: *const Packet,
    source: *const Source,
) -> i32 {
    arguments!(ctx, packet, source; else PASS);
    let hook = hook(source);
    let Some(network) = maps::network(source.bridge) else {
        return PASS;
    };
    let key = &packet.key;
    // At a port, frames for others are the bridge's. What the bridge hands up is for the host if
    // the bridge says so: it may carry the MAC address of the port's own device, too.
    let for_host = match hook {
        Hook::Port => source.dmac == network.mac,
        Hook::Bridge | Hook::Uplink => packet::is_for_us(ctx),
    };
    if !for_host {
        return PASS;
    }
    let mode = Mode::from_u8(network.mode);
    if packet.options && mode != Mode::Open && packet::has_source_route(ctx, ETH) {
        return drops::drop(Reason::SourceRoute);
    }
    if packet::never_forwarded(key.dst) || packet::never_forwarded(key.src) {
        return PASS;
    }
    // What an open network sends is the host's to judge, unless it is for a managed network.
    if mode == Mode::Open && maps::bridge_of(key.dst) == 0 {
        return PASS;
    }
    let inside = maps::bridge_of(key.src) == source.bridge;
    if inside {
        learn(key.src, source, hook);
    }
    // Packets for the host are the stack's, unless they answer a flow that hides behind it.
    let unknown = if maps::is_own(key.dst) { PASS } else { FIRST };
    // An error that belongs to no flow, or whose sender claims a foreign address, is judged like
    // any other packet.
    if packet.kind == Kind::IcmpError && (inside || mode == Mode::Open) {
        return match icmp::forward(ctx, ETH, packet, source.bridge) {
            FIRST => unknown,
            action => action,
        };
    }
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find(key)
    {
        let mut confirm = NOBODY;
        if flow::refresh(ctx, packet, flow, source, &mut confirm) {
            return transmit(ctx, ETH, packet, flow, hook, confirm);
        }
    }
    unknown
}

#[inline(always)]
fn is_isolated(bridge: u32) -> bool {
    maps::network(bridge).is_some_and(|n| Mode::from_u8(n.mode) == Mode::Isolated)
}

#[inline(always)]
fn hook(source: &Source) -> Hook {
    if source.ifindex == source.bridge {
        Hook::Bridge
    } else {
        Hook::Port
    }
}

/// A packet of no known flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn guest_first(
    ctx: *mut __sk_buff,
    packet: *const Packet,
    source: *const Source,
) -> i32 {
    arguments!(ctx, packet, source; else PASS);
    let mut decision = Decision::none();
    flow::decide(ctx, packet, source, &mut decision);
    match decision.verdict {
        // Whatever else routing says of it (forwarding is off, an odd kind of route): a packet
        // that is not for the host itself does not leave an isolated network.
        Verdict::Stack if decision.leaves && is_isolated(source.bridge) => {
            REJECT + Reason::Isolated as i32
        }
        Verdict::Stack => PASS,
        Verdict::Reject(reason) => REJECT + reason as i32,
        Verdict::Accept | Verdict::Masquerade => open(ctx, packet, source, &decision),
    }
}

#[inline(always)]
fn open(ctx: &TcContext, packet: &Packet, source: &Source, decision: &Decision) -> i32 {
    let masquerade = decision.verdict == Verdict::Masquerade;
    match packet.kind {
        // Routing needs no ports and no memory.
        Kind::Fragment | Kind::Other | Kind::IcmpError if !masquerade => return PASS,
        Kind::Fragment => return drops::drop(Reason::Fragment),
        Kind::Other => return drops::drop(Reason::Protocol),
        Kind::IcmpError => return drops::drop(Reason::IcmpUnknown),
        Kind::Flow => {}
    }
    if !opens(packet) {
        return if masquerade {
            drops::drop(Reason::NoFlow)
        } else {
            PASS
        };
    }
    match flow::open(ctx, packet, source, decision) {
        Ok(flow) => transmit(ctx, ETH, packet, flow, hook(source), NOBODY),
        // Routed without a shortcut is still routed.
        Err(_) if !masquerade => PASS,
        Err(reason) => REJECT + reason as i32,
    }
}

/// May a packet of this kind open a flow?
#[inline(always)]
pub fn opens(packet: &Packet) -> bool {
    match packet.key.proto {
        proto::TCP => may_open(packet.control),
        // An echo reply that nobody asked for has no source port.
        proto::ICMP => packet.key.dport == [0; 2],
        _ => true,
    }
}

/// Remember where a guest is. The bridge's own hook sees again what a port's program let pass, so
/// it only speaks up when no port has done so lately.
#[inline(always)]
fn learn(address: Addr4, source: &Source, hook: Hook) {
    let now = flow::now();
    if let Some(endpoint) = maps::ENDPOINTS.get_ptr_mut(address) {
        // SAFETY: as for flows: fields are written one at a time, and a torn read sends one
        // packet to a place that the next packet corrects.
        let endpoint = unsafe { &mut *endpoint };
        if hook == Hook::Port || now.wrapping_sub(endpoint.last_seen) > 1 {
            endpoint.ifindex = source.ifindex;
            endpoint.mac = source.smac;
            endpoint.last_seen = now;
        }
        return;
    }
    let endpoint = Endpoint {
        ifindex: source.ifindex,
        last_seen: now,
        mac: source.smac,
        zero: [0; 2],
    };
    // A full cache or a race loses nothing but a shortcut.
    let _ = maps::ENDPOINTS.insert(address, &endpoint, 0);
}
