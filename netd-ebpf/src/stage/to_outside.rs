//! Packets that leave by the stack: of which flows they are, and what becomes of those of none.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    EndpointKey, FLOW_DNAT, FLOW_NAT, FLOW_PROVEN, FLOW_SNAT, Flow, Mode, Network,
};
use netd_common::policy::{PolicyEnd, Verdict, evaluate};
use netd_common::proto;
use netd_common::{Reason, tcp};

use crate::action::{ERROR, FIRST, LEAVES, LOOKUP, OPEN, PASS, SEND, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::trackable::why_no_flow;
use crate::conntrack::validate::step;
use crate::conntrack::{fragment, life, proof};
use crate::context::{Decision, Ingress, Kind, Packet, PacketCtx, Route};
use crate::family::Family;
use crate::filter::policy::policy_end;
use crate::nat::{forwards, open};
use crate::prefixes;
use crate::records;
use crate::route::lookup::route;
use crate::route::source;
use crate::skb::{ifindex, is_left_to_host};

/// Stage: a packet that the stack sends. `ingress.bridge` is the network whose address it has, or
/// 0; `ingress.ifindex` where it came in, or 0 when the host itself sends it.
#[inline(always)]
pub fn known<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;

    if packet.kind == Kind::IcmpError {
        // A program's own refusal goes back by the device its packet came in by, and quotes what
        // nobody has translated.
        return if ingress.bridge == 0 && ingress.ifindex == ifindex(ctx) {
            PASS
        } else {
            ERROR
        };
    }
    if packet.kind == Kind::Fragment {
        fragment::resolve::<F>(packet);
    }
    let bridge = ingress.bridge;
    if bridge == 0 {
        if packet.kind != Kind::Flow || records::network(ifindex(ctx)).is_some() {
            return PASS;
        }
        let Some(flow) = find::<F>(&packet.key) else {
            return FIRST;
        };
        // An answer to what a guest has opened, or a flow entered here before?
        if flow.flags & FLOW_SNAT == 0 || flow.in_bridge != 0 {
            return PASS;
        }
        if step::<F>(ctx, packet, flow) {
            return SEND;
        }
        return FIRST;
    }
    let Some(network) = records::network(bridge) else {
        return drop(Reason::NetworkGone);
    };
    match of_published::<F>(ctx, packet, bridge, network) {
        LOOKUP => {}
        action => return action,
    }
    match Mode::from_u8(F::config(network).mode) {
        Mode::Nat => {}
        // Opened here, where the host's rules have let it pass, or have led it.
        Mode::Route | Mode::Open if is_judged(ctx, ingress) || is_led(ctx, ingress) => {
            if packet.kind == Kind::Flow
                && let Some(flow) = find::<F>(&packet.key)
                && flow.in_bridge == bridge
            {
                return go_on::<F>(ctx, packet, flow);
            }
            return FIRST;
        }
        // It was for the host when it came in, whose rules have translated it.
        Mode::Isolated if ingress.ifindex == bridge => return drop(Reason::Isolated),
        // Judged where it came in; what the host itself sends is the host's business.
        Mode::Isolated | Mode::Route | Mode::Open => return PASS,
    }
    // What the host itself sends to its neighbours (multicast DNS, say) is theirs to see.
    if ingress.ifindex == 0 && F::never_forwarded(packet.key.dst) {
        return PASS;
    }
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
        && flow.in_bridge == bridge
    {
        if flow.flags & FLOW_NAT == 0 || !source::is_usable::<F>(&flow.new_src, bridge) {
            life::remove::<F>(&packet.key);
            return FIRST;
        }
        return go_on::<F>(ctx, packet, flow);
    }
    FIRST
}

/// What answers by a published address does so whatever its network's mode, and what has another address outside
/// does not depend on a flow. [`LOOKUP`] for anything else.
#[inline(always)]
fn of_published<F: Family>(
    ctx: &TcContext,
    packet: &mut Packet<F::Addr>,
    bridge: u32,
    network: &Network,
) -> i32 {
    let by_prefix = is_by_prefix::<F>(ctx, network);
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
        && flow.in_bridge == bridge
        && (flow.flags & FLOW_DNAT != 0 || by_prefix)
    {
        return go_on::<F>(ctx, packet, flow);
    }
    if by_prefix { FIRST } else { LOOKUP }
}

/// The packet is of a guest's translated flow: [`SEND`], if that is alive.
#[inline(always)]
fn go_on<F: Family>(
    ctx: &TcContext,
    packet: &mut Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
) -> i32 {
    if !step::<F>(ctx, packet, flow) {
        return FIRST;
    }
    if packet.first_fragment {
        fragment::note::<F>(ctx, packet, flow.flags & FLOW_SNAT != 0);
    }
    SEND
}

/// Do the network's guests have other addresses where packets leave by this device?
#[inline(always)]
fn is_by_prefix<F: Family>(ctx: &TcContext, network: &Network) -> bool {
    prefixes::any::<F>()
        && prefixes::is_translated::<F>(network)
        && records::network(ifindex(ctx)).is_none()
}

/// Has the packet of a guest passed the host's own rules, by which its network goes?
#[inline(always)]
pub fn is_judged(ctx: &TcContext, ingress: &Ingress) -> bool {
    ingress.bridge != 0
        && ingress.ifindex != 0
        && records::respects_rules(ingress.bridge, ifindex(ctx))
}

/// Was a guest's packet left to the host, or to its rules, where it came in? One that was for the host itself they
/// have led here (to a port that Docker publishes, say); one that they were to judge since they count where it went
/// they may have led to where they do not.
#[inline(always)]
fn is_led(ctx: &TcContext, ingress: &Ingress) -> bool {
    ingress.ifindex != 0 && is_left_to_host(ctx)
}

/// Stage: they have let a packet of a known flow pass.
#[inline(always)]
pub fn prove<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;

    if let Some(flow) = find::<F>(&packet.key) {
        proof::prove::<F>(ctx, packet, flow, ingress.bridge);
    }
    SEND
}

/// Stage: a packet that the stack hands to guests, in a network that goes by the host's rules: these
/// have let it pass. [`LOOKUP`] when it is of no flow that ends here.
#[inline(always)]
pub fn arrives<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;

    if packet.kind == Kind::Fragment {
        fragment::resolve::<F>(packet);
    }
    if packet.kind != Kind::Flow {
        return LOOKUP;
    }
    // It is translated already: the other direction's entry leads to its own.
    let protocol = packet.key.proto;
    let reversed = packet.key.reversed();
    let here = ifindex(ctx);
    let Some(other) = find::<F>(&reversed) else {
        return LOOKUP;
    };
    if other.in_bridge != here {
        return LOOKUP;
    }
    match find::<F>(&other.partner(protocol)) {
        Some(flow) if flow.out_bridge == here && flow.partner(protocol) == reversed => {
            proof::prove::<F>(ctx, packet, flow, ingress.ifindex);
            PASS
        }
        _ => LOOKUP,
    }
}

/// Stage: a packet that the stack sends, of no known flow.
#[inline(always)]
pub fn first<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
        ..
    } = packet_ctx;
    let here = ifindex(ctx);
    let network = records::network(ingress.bridge);
    let is_led = is_led(ctx, ingress);
    let mut verdict = Verdict::Masquerade;
    // What the host itself sends to others is its own, but for errors, which show what they are about.
    let by_prefix = network.is_some_and(|network| is_by_prefix::<F>(ctx, network))
        && (ingress.ifindex != 0 || packet.kind == Kind::IcmpError);
    if ingress.bridge == 0 {
        if prefixes::any::<F>()
            && packet.kind == Kind::IcmpError
            && records::network(here).is_none()
        {
            return LEAVES;
        }
        if why_no_flow(packet).is_some() || !concerns_guests::<F>(packet, ingress) {
            return PASS;
        }
    } else {
        // Somebody outside has addressed the bridge itself, and is answered by that address.
        if ingress.ifindex == 0 && records::is_own::<F>(&packet.key.src) && !begins::<F>(packet) {
            return PASS;
        }
        // The host itself sends with the bridge's address.
        verdict = judge::<F>(packet, ingress.bridge, here);
        match (verdict, why_no_flow(packet)) {
            (Verdict::Masquerade, Some(reason)) | (Verdict::Reject(reason), _) => {
                return drop(reason);
            }
            (Verdict::Masquerade, None) => {}
            (Verdict::Accept, None) if is_led => {}
            (Verdict::Accept, _) if by_prefix => return LEAVES,
            (Verdict::Stack | Verdict::Accept, _) => return PASS,
        }
    }
    // By the bridge's own hook, so that answers go up the stack to whoever sent this.
    let ingress = Ingress {
        bridge: ingress.bridge,
        ifindex: 0,
        port_flags: 0,
        dmac: network.map_or([0; 6], |n| n.mac),
        smac: [0; 6],
    };
    let mut decision = Decision::none();
    decision.verdict = verdict;
    decision.route.ifindex = here;
    if is_led && records::network(here).is_some() {
        decision.to = here;
    }
    let action = open::prepare::<F>(ctx, packet, &ingress, &decision, confirm);
    // Its answers are the host's to translate back, so they go by the stack for good, like those to the host.
    if is_led
        && action == OPEN
        && let Some(scratch) = F::scratch()
    {
        scratch.back.out_bridge = 0;
        scratch.back.next_hop.ifindex = 0;
    }
    action
}

/// What policy says of a packet with an address of the bridge's network.
#[inline(always)]
fn judge<F: Family>(packet: &Packet<F::Addr>, bridge: u32, here: u32) -> Verdict {
    let network = records::network(bridge);
    let from = PolicyEnd {
        network,
        mode: network.map_or(0, |n| F::config(n).mode),
        ifindex: bridge,
        in_subnet: true,
    };
    evaluate(from, policy_end::<F>(here, packet.key.dst))
}

/// Stage: a guest's packet of no known flow that the host's rules have let pass. Its flow is opened as
/// from the guest's port, by the way it really takes. Where routing would send it elsewhere (it does not
/// know of marks), the stack goes on to carry it.
#[inline(always)]
pub fn judged_first<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
        ..
    } = packet_ctx;
    let (bridge, here) = (ingress.bridge, ifindex(ctx));
    let mut decision = Decision::none();
    decision.verdict = judge::<F>(packet, bridge, here);
    match (decision.verdict, why_no_flow(packet)) {
        (Verdict::Reject(reason), _) | (Verdict::Masquerade, Some(reason)) => return drop(reason),
        (Verdict::Accept, Some(_))
            if records::network(bridge).is_some_and(|network| is_by_prefix::<F>(ctx, network)) =>
        {
            return LEAVES;
        }
        (Verdict::Stack, _) | (Verdict::Accept, Some(_)) => return PASS,
        (Verdict::Accept | Verdict::Masquerade, None) => {}
    }
    let known = route::<F>(ctx, bridge, &packet.key, packet.tos, &mut decision.route)
        && decision.route.ifindex == here;
    if !known {
        decision.route = Route::default();
        decision.route.ifindex = here;
    }
    if records::network(here).is_some() {
        decision.to = here;
    }
    // The guest's port, as it was seen there a moment ago.
    ingress.ifindex = bridge;
    ingress.dmac = records::network(bridge).map_or([0; 6], |n| n.mac);
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    if let Some(guest) = unsafe { F::endpoints().get(&EndpointKey::new(packet.key.src)) } {
        ingress.ifindex = guest.ifindex;
        ingress.smac = guest.mac;
    }
    let action = open::prepare::<F>(ctx, packet, ingress, &decision, confirm);
    if action == OPEN
        && known
        && let Some(scratch) = F::scratch()
    {
        scratch.flow.flags |= FLOW_PROVEN;
    }
    action
}

/// Does a packet of the host's begin something? Of protocols without queries, answers or
/// connections nobody knows.
#[inline(always)]
fn begins<F: Family>(packet: &Packet<F::Addr>) -> bool {
    match packet.key.proto {
        proto::TCP => packet.control & (tcp::SYN | tcp::ACK) == tcp::SYN,
        other if other == F::ICMP => packet.kind == Kind::Flow && !packet.is_reply,
        _ => true,
    }
}

/// Does a packet with an address of the host's own, or of somebody else's, need a flow? There is
/// nothing to judge. But a guest's flow may have its port (then the packet gets another one, as
/// netfilter would do), and where no socket tells which protocol or identifier the host uses, its
/// flows are entered, so that no guest gets them.
#[inline(always)]
fn concerns_guests<F: Family>(packet: &Packet<F::Addr>, ingress: &Ingress) -> bool {
    let reversed = packet.key.reversed();
    if let Some(other) = find::<F>(&reversed) {
        if !life::is_dead::<F>(&reversed) {
            return other.flags & FLOW_NAT != 0;
        }
        life::remove::<F>(&reversed);
    }
    // Answers to a socket whose port was published since are the socket's.
    ingress.ifindex == 0
        && !F::never_forwarded(packet.key.dst)
        && (!matches!(packet.key.proto, proto::TCP | proto::UDP)
            || forwards::is_published::<F>(&reversed))
        && records::is_own::<F>(&packet.key.src)
}
