//! Packets that leave by the stack: the last place where they can be translated.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_FORWARD, FLOW_MASQUERADE, FLOW_NAT, Flow, Mode};
use netd_common::flow::proto;
use netd_common::policy::{Place, Verdict, judge};
use netd_common::tcp;

use crate::family::{Family, V4, V6};
use crate::flow::{self, Decision, Source};
use crate::guest::why_no_flow;
use crate::maps::Seen;
use crate::packet::{self, Kind, Packet, Unread, ifindex};
use crate::stage::{self, Stages};
use crate::{
    DROP, ERROR, FIRST, PASS, REJECT, SEND, drops, forward, fragment, maps, open, rewrite,
};

/// Egress of any device.
#[inline(always)]
pub fn egress(ctx: &TcContext, l3: usize) -> i32 {
    let action = if V4::is(ctx) {
        packet_to_outside::<V4>(ctx, l3)
    } else if V6::is(ctx) {
        packet_to_outside::<V6>(ctx, l3)
    } else {
        PASS
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_to_outside<F: Stages>(ctx: &TcContext, l3: usize) -> i32 {
    let from = packet::ingress_ifindex(ctx);
    // Redirected by `port_ingress`, translated already. The stack never forwards a packet with a
    // bridge port as its input device: it gets such packets from the bridge.
    if from != 0 && maps::bridge_of_port(from) != 0 {
        return PASS;
    }
    let Some(src) = packet::read::<F::Addr>(ctx, l3 + F::SRC) else {
        return PASS;
    };
    let here = ifindex(ctx);
    let mut bridge = maps::bridge_of::<F>(src);
    let to_guests = maps::network(here);
    // The host talks to guests, be it by the address of another network's bridge: like any of its
    // own packets.
    if from == 0 && to_guests.is_some() {
        bridge = 0;
    }
    // It was addressed to the host when it came in, and nobody judged it.
    if from != 0
        && to_guests.is_some_and(|n| Mode::from_u8(F::side(n).mode) != Mode::Open)
        && F::has_source_route(ctx, l3)
    {
        return drops::drop(Reason::SourceRoute);
    }
    if bridge == here {
        return PASS;
    }
    // Routed here from a device that has no program (yet).
    if from != 0 && to_guests.is_some() && maps::device(from).is_none() {
        let Some(dst) = packet::read::<F::Addr>(ctx, l3 + F::DST) else {
            return PASS;
        };
        let to = flow::place::<F>(here, dst);
        let from = Place {
            network: None,
            mode: 0,
            ifindex: from,
            inside: false,
        };
        if let Verdict::Reject(reason) = judge(from, to) {
            return drops::drop(reason);
        }
    }
    // Redirected by `bridge_ingress`: no guest is let through with an address that is not its
    // network's, so this is a translated packet, too.
    if from != 0 && bridge == 0 && maps::network(from).is_some() {
        return PASS;
    }
    let Some(seen) = F::seen() else {
        return PASS;
    };
    let packet = &mut seen.packet;
    match F::parse(ctx, l3, packet) {
        Ok(()) => {}
        Err(Unread::Foreign) => return PASS,
        Err(Unread::Malformed) if bridge == 0 => return PASS,
        Err(Unread::Malformed) => return drops::drop(Reason::Malformed),
    }
    // What the host sends to guests takes no port of anybody's.
    if bridge == 0 && to_guests.is_some() && packet.key.proto != F::ICMP {
        return PASS;
    }
    let source = Source {
        bridge,
        ifindex: from,
        dmac: [0; 6],
        smac: [0; 6],
    };
    seen.keep(source, l3);
    let action = stage::run::<F>(
        ctx,
        F::leaving_known(ctx),
        F::icmp_leaves,
        F::leaving_first,
        F::translate,
    );
    // Nobody can be answered from here.
    if action >= REJECT {
        return action - REJECT + DROP;
    }
    action
}

/// Stage: a packet that the stack sends. `source.bridge` is the network whose address it has, or
/// 0; `source.ifindex` where it came in, or 0 when the host itself sends it.
#[inline(always)]
pub fn known<F: Stages>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen { packet, source, .. } = seen;

    if packet.kind == Kind::IcmpError {
        // A program's own refusal goes back by the device its packet came in by, and quotes what
        // nobody has translated.
        return if source.bridge == 0 && source.ifindex == ifindex(ctx) {
            PASS
        } else {
            ERROR
        };
    }
    if packet.kind == Kind::Fragment {
        fragment::resolve::<F>(packet);
    }
    let bridge = source.bridge;
    if bridge == 0 {
        if packet.kind != Kind::Flow || maps::network(ifindex(ctx)).is_some() {
            return PASS;
        }
        let Some(flow) = flow::find::<F>(&packet.key) else {
            return FIRST;
        };
        // An answer to what a guest has opened, or a flow entered here before?
        if flow.flags & FLOW_MASQUERADE == 0 || flow.in_network != 0 {
            return PASS;
        }
        if flow::step::<F>(ctx, packet, flow) {
            return SEND;
        }
        return FIRST;
    }
    let Some(network) = maps::network(bridge) else {
        return drops::drop(Reason::NetworkGone);
    };
    // What answers by a published address does so whatever its network's mode.
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find::<F>(&packet.key)
        && flow.in_network == bridge
        && flow.flags & FLOW_FORWARD != 0
    {
        return go_on::<F>(ctx, packet, flow);
    }
    match Mode::from_u8(F::side(network).mode) {
        Mode::Nat => {}
        // Judged where it came in; what the host itself sends is the host's business.
        Mode::Isolated | Mode::Route | Mode::Open => return PASS,
    }
    // What the host itself sends to its neighbours (multicast DNS, say) is theirs to see.
    if source.ifindex == 0 && F::never_forwarded(packet.key.dst) {
        return PASS;
    }
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find::<F>(&packet.key)
        && flow.in_network == bridge
    {
        if flow.flags & FLOW_NAT == 0 || !flow::may_hide_behind::<F>(&flow.new_src, bridge) {
            F::remove(&packet.key);
            return FIRST;
        }
        return go_on::<F>(ctx, packet, flow);
    }
    FIRST
}

/// The packet is of a guest's translated flow: [`SEND`], if that is alive.
#[inline(always)]
fn go_on<F: Stages>(
    ctx: &TcContext,
    packet: &mut Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
) -> i32 {
    if !flow::step::<F>(ctx, packet, flow) {
        return FIRST;
    }
    if packet.first {
        fragment::note::<F>(ctx, packet, flow.flags & FLOW_MASQUERADE != 0);
    }
    SEND
}

/// Stage: a packet that the stack sends, of no known flow.
#[inline(always)]
pub fn first<F: Stages>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen { packet, source, .. } = seen;
    let here = ifindex(ctx);
    let network = maps::network(source.bridge);
    if source.bridge == 0 {
        if why_no_flow(packet).is_some() || !concerns_guests::<F>(packet, source) {
            return PASS;
        }
    } else {
        // Somebody outside has addressed the bridge itself, and is answered by that address.
        if source.ifindex == 0 && maps::is_own::<F>(&packet.key.src) && !begins::<F>(packet) {
            return PASS;
        }
        // The host itself sends with the bridge's address.
        let from = Place {
            network,
            mode: network.map_or(0, |n| F::side(n).mode),
            ifindex: source.bridge,
            inside: true,
        };
        match judge(from, flow::place::<F>(here, packet.key.dst)) {
            Verdict::Masquerade => {}
            Verdict::Reject(reason) => return drops::drop(reason),
            Verdict::Stack | Verdict::Accept => return PASS,
        }
        if let Some(reason) = why_no_flow(packet) {
            return drops::drop(reason);
        }
    }
    // By the bridge's own hook, so that answers go up the stack to whoever sent this.
    let source = Source {
        bridge: source.bridge,
        ifindex: 0,
        dmac: network.map_or([0; 6], |n| n.mac),
        smac: [0; 6],
    };
    let mut decision = Decision::none();
    decision.verdict = Verdict::Masquerade;
    decision.route.ifindex = here;
    open::prepare::<F>(ctx, packet, &source, &decision)
}

/// Does a packet of the host's begin something? Of protocols without queries, answers or
/// connections nobody knows.
#[inline(always)]
fn begins<F: Family>(packet: &Packet<F::Addr>) -> bool {
    match packet.key.proto {
        proto::TCP => packet.control & (tcp::SYN | tcp::ACK) == tcp::SYN,
        other if other == F::ICMP => packet.kind == Kind::Flow && !packet.answer,
        _ => true,
    }
}

/// Does a packet with an address of the host's own, or of somebody else's, need a flow? There is
/// nothing to judge. But a guest's flow may have its port (then the packet gets another one, as
/// netfilter would do), and where no socket tells which protocol or identifier the host uses, its
/// flows are entered, so that no guest gets them.
#[inline(always)]
fn concerns_guests<F: Stages>(packet: &Packet<F::Addr>, source: &Source) -> bool {
    let reversed = packet.key.reversed();
    if let Some(other) = flow::find::<F>(&reversed) {
        if !F::is_dead(&reversed) {
            return other.flags & FLOW_NAT != 0;
        }
        F::remove(&reversed);
    }
    // Answers to a socket whose port was published since are the socket's.
    source.ifindex == 0
        && !F::never_forwarded(packet.key.dst)
        && (!matches!(packet.key.proto, proto::TCP | proto::UDP)
            || forward::is_taken::<F>(&reversed))
        && maps::is_own::<F>(&packet.key.src)
}

/// Translate a packet that the stack has already forwarded.
#[inline(always)]
pub fn translated<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    flow: &Flow<F::Addr>,
) -> i32 {
    match rewrite::apply::<F>(ctx, l3, packet, flow, false) {
        Some(()) => PASS,
        None => drops::drop(Reason::Rewrite),
    }
}
