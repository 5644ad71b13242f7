//! Packets that come from outside the managed networks, and packets that leave by the stack.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, Flow4, Mode};
use netd_common::flow::proto;
use netd_common::policy::{Place, Verdict, judge};

use crate::flow::{self, Decision, Source};
use crate::guest::opens;
use crate::maps;
use crate::packet::{self, ETH, Kind, Packet, Unread, ifindex};
use crate::path::{Hook, NOBODY, Route, transmit};
use crate::{FIRST, PASS, REJECT, arguments, drops, icmp, reject, rewrite};

/// Ingress of a device that is no part of a managed network; `l3` is the length of its
/// link-layer header.
#[inline(always)]
pub fn ingress(ctx: &TcContext, l3: usize) -> i32 {
    if !packet::is_for_us(ctx) {
        return PASS;
    }
    if l3 == ETH && !packet::take_off_priority_tag(ctx) {
        return drops::finish(ctx, drops::drop(Reason::VlanTag));
    }
    let Ok(packet) = packet::parse(ctx, l3) else {
        return PASS;
    };
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find(&packet.key)
        && flow.in_network == 0
        && flow::may_come_by(flow, ifindex(ctx))
        && flow::is_fresh(flow, &packet)
    {
        return drops::finish(ctx, transmit(ctx, l3, &packet, flow, Hook::Uplink, NOBODY));
    }
    let source = Source {
        bridge: 0,
        ifindex: ifindex(ctx),
        dmac: [0; 6],
        smac: [0; 6],
    };
    let mut action = outside_known(ctx.skb.skb, &packet, &source, l3 as u32);
    if action == FIRST {
        action = outside_first(ctx.skb.skb, &packet, &source, l3 as u32);
    }
    if action >= REJECT {
        drops::count(ctx, (action - REJECT) as u32);
        // Without a frame to turn round there is no answer.
        let own = match maps::device(source.ifindex) {
            Some(device) if l3 == ETH => device.address,
            _ => [0; 4],
        };
        action = reject::reject_answer(ctx.skb.skb, &packet, u32::from_ne_bytes(own));
    }
    drops::finish(ctx, action)
}

/// Is the packet of a flow that exists?
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn outside_known(
    ctx: *mut __sk_buff,
    packet: *const Packet,
    source: *const Source,
    l3: u32,
) -> i32 {
    arguments!(ctx, packet, source; else PASS);
    // 14 or 0: the mask tells the verifier that it is small.
    let l3 = (l3 & 15) as usize;
    if packet.kind == Kind::IcmpError {
        return icmp::forward(ctx, l3, packet, 0);
    }
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find(&packet.key)
    {
        let mut confirm = NOBODY;
        if flow::refresh(ctx, packet, flow, source, &mut confirm) {
            return transmit(ctx, l3, packet, flow, Hook::Uplink, confirm);
        }
    }
    FIRST
}

/// A packet of no known flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn outside_first(
    ctx: *mut __sk_buff,
    packet: *const Packet,
    source: *const Source,
    l3: u32,
) -> i32 {
    arguments!(ctx, packet, source; else PASS);
    // 14 or 0: the mask tells the verifier that it is small.
    let l3 = (l3 & 15) as usize;
    // The host's own traffic ends here.
    if maps::bridge_of(packet.key.dst) == 0 || maps::is_own(packet.key.dst) {
        return PASS;
    }
    let mut decision = Decision::none();
    flow::decide(ctx, packet, source, &mut decision);
    match decision.verdict {
        Verdict::Stack | Verdict::Masquerade => PASS,
        Verdict::Reject(reason) => REJECT + reason as i32,
        Verdict::Accept => {
            if packet.kind != Kind::Flow || !opens(packet) {
                return PASS;
            }
            match flow::open(ctx, packet, source, &decision) {
                Ok(flow) => transmit(ctx, l3, packet, flow, Hook::Uplink, NOBODY),
                // Routed without a shortcut is still routed.
                Err(_) => PASS,
            }
        }
    }
}

/// Egress of any device: the last place where a packet that the stack routed can be translated.
#[inline(always)]
pub fn egress(ctx: &TcContext, l3: usize) -> i32 {
    let from = packet::ingress_ifindex(ctx);
    // Redirected by `port_ingress`, translated already. The stack never forwards a packet with a
    // bridge port as its input device: it gets such packets from the bridge.
    if from != 0 && maps::bridge_of_port(from) != 0 {
        return PASS;
    }
    if !packet::is_ipv4(ctx) {
        return PASS;
    }
    let Some(src) = packet::read::<u32>(ctx, l3 + 12) else {
        return PASS;
    };
    let bridge = maps::bridge_of(src.to_ne_bytes());
    let here = ifindex(ctx);
    // It was addressed to the host when it came in, and nobody judged it.
    if from != 0
        && maps::network(here).is_some_and(|n| Mode::from_u8(n.mode) != Mode::Open)
        && packet::has_source_route(ctx, l3)
    {
        return drops::finish(ctx, drops::drop(Reason::SourceRoute));
    }
    if bridge == here {
        return PASS;
    }
    // Routed here from a device that has no program (yet).
    if from != 0 && maps::device(from).is_none() && maps::network(here).is_some() {
        let Some(dst) = packet::read::<u32>(ctx, l3 + 16) else {
            return PASS;
        };
        let to = flow::place(here, dst.to_ne_bytes());
        let from = Place {
            network: None,
            ifindex: from,
            inside: false,
        };
        if let Verdict::Reject(reason) = judge(from, to) {
            return drops::finish(ctx, drops::drop(reason));
        }
    }
    let Some(protocol) = packet::read::<u8>(ctx, l3 + 9) else {
        return PASS;
    };
    if bridge == 0 && protocol != proto::ICMP {
        return PASS;
    }
    drops::finish(ctx, outside_egress(ctx.skb.skb, l3 as u32, bridge))
}

/// A packet with a guest subnet's source, or ICMP, which may quote a guest's packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn outside_egress(ctx: *mut __sk_buff, l3: u32, bridge: u32) -> i32 {
    arguments!(ctx; else PASS);
    // 14 or 0: the mask tells the verifier that it is small.
    let l3 = (l3 & 15) as usize;
    let packet = match packet::parse(ctx, l3) {
        Ok(packet) => packet,
        Err(Unread::NotIpv4) => return PASS,
        Err(Unread::Malformed) => return drops::drop(Reason::Malformed),
    };
    if packet.kind == Kind::IcmpError
        && let Some(answer) = icmp::translate_at_egress(ctx, l3, &packet)
    {
        return answer;
    }
    if bridge == 0 {
        return PASS;
    }
    let Some(network) = maps::network(bridge) else {
        return drops::drop(Reason::NetworkGone);
    };
    match Mode::from_u8(network.mode) {
        Mode::Nat => {}
        // Judged where it came in; what the host itself sends is the host's business.
        Mode::Isolated | Mode::Route | Mode::Open => return PASS,
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::Fragment => return drops::drop(Reason::Fragment),
        Kind::Other => return drops::drop(Reason::Protocol),
        Kind::IcmpError => return drops::drop(Reason::IcmpUnknown),
    }
    // What the host itself sends to its neighbours (multicast DNS, say) is theirs to see.
    if packet::ingress_ifindex(ctx) == 0 && packet::never_forwarded(packet.key.dst) {
        return PASS;
    }
    if let Some(flow) = flow::find(&packet.key)
        && flow.flags & FLOW_NAT != 0
        && flow.in_network == bridge
        && maps::is_own(flow.new_src)
        && flow::find(&flow.partner(packet.key.proto)).is_some()
    {
        flow.last_seen = flow::now();
        return translated(ctx, l3, &packet, flow);
    }
    // No flow: the host itself sends with the bridge's address.
    let here = ifindex(ctx);
    let from = Place {
        network: Some(network),
        ifindex: bridge,
        inside: true,
    };
    match judge(from, flow::place(here, packet.key.dst)) {
        Verdict::Masquerade => {}
        Verdict::Reject(reason) => return drops::drop(reason),
        Verdict::Stack | Verdict::Accept => return PASS,
    }
    if !opens(&packet) {
        return drops::drop(Reason::NoFlow);
    }
    let route = Route {
        ifindex: here,
        ..Route::default()
    };
    let decision = Decision {
        verdict: Verdict::Masquerade,
        route,
        to: 0,
        leaves: true,
    };
    // By the bridge's own hook, so that answers go up the stack to whoever sent this.
    let source = Source {
        bridge,
        ifindex: 0,
        dmac: network.mac,
        smac: [0; 6],
    };
    match flow::open(ctx, &packet, &source, &decision) {
        Ok(flow) => translated(ctx, l3, &packet, flow),
        Err(reason) => drops::drop(reason),
    }
}

#[inline(always)]
fn translated(ctx: &TcContext, l3: usize, packet: &Packet, flow: &Flow4) -> i32 {
    match rewrite::apply(ctx, l3, packet, flow, false) {
        Some(()) => PASS,
        None => drops::drop(Reason::Rewrite),
    }
}
