//! Packets that leave by the stack: of which flows they are, and what becomes of those of none.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_FORWARD, FLOW_MASQUERADE, FLOW_NAT, Flow, Mode};
use netd_common::policy::{Place, Verdict, judge};
use netd_common::proto;
use netd_common::{Reason, tcp};

use crate::action::{ERROR, FIRST, PASS, SEND, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::trackable::why_no_flow;
use crate::conntrack::validate::{may_hide_behind, step};
use crate::conntrack::{fragment, life};
use crate::context::{Decision, Kind, Packet, Seen, Source};
use crate::family::Family;
use crate::filter::policy::place;
use crate::nat::{open, published};
use crate::records;
use crate::skb::ifindex;

/// Stage: a packet that the stack sends. `source.bridge` is the network whose address it has, or
/// 0; `source.ifindex` where it came in, or 0 when the host itself sends it.
#[inline(always)]
pub fn known<F: Family>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
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
        if packet.kind != Kind::Flow || records::network(ifindex(ctx)).is_some() {
            return PASS;
        }
        let Some(flow) = find::<F>(&packet.key) else {
            return FIRST;
        };
        // An answer to what a guest has opened, or a flow entered here before?
        if flow.flags & FLOW_MASQUERADE == 0 || flow.in_network != 0 {
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
    // What answers by a published address does so whatever its network's mode.
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
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
        && let Some(flow) = find::<F>(&packet.key)
        && flow.in_network == bridge
    {
        if flow.flags & FLOW_NAT == 0 || !may_hide_behind::<F>(&flow.new_src, bridge) {
            life::remove::<F>(&packet.key);
            return FIRST;
        }
        return go_on::<F>(ctx, packet, flow);
    }
    FIRST
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
    if packet.first {
        fragment::note::<F>(ctx, packet, flow.flags & FLOW_MASQUERADE != 0);
    }
    SEND
}

/// Stage: a packet that the stack sends, of no known flow.
#[inline(always)]
pub fn first<F: Family>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen { packet, source, .. } = seen;
    let here = ifindex(ctx);
    let network = records::network(source.bridge);
    if source.bridge == 0 {
        if why_no_flow(packet).is_some() || !concerns_guests::<F>(packet, source) {
            return PASS;
        }
    } else {
        // Somebody outside has addressed the bridge itself, and is answered by that address.
        if source.ifindex == 0 && records::is_own::<F>(&packet.key.src) && !begins::<F>(packet) {
            return PASS;
        }
        // The host itself sends with the bridge's address.
        let from = Place {
            network,
            mode: network.map_or(0, |n| F::side(n).mode),
            ifindex: source.bridge,
            inside: true,
        };
        match judge(from, place::<F>(here, packet.key.dst)) {
            Verdict::Masquerade => {}
            Verdict::Reject(reason) => return drop(reason),
            Verdict::Stack | Verdict::Accept => return PASS,
        }
        if let Some(reason) = why_no_flow(packet) {
            return drop(reason);
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
fn concerns_guests<F: Family>(packet: &Packet<F::Addr>, source: &Source) -> bool {
    let reversed = packet.key.reversed();
    if let Some(other) = find::<F>(&reversed) {
        if !life::is_dead::<F>(&reversed) {
            return other.flags & FLOW_NAT != 0;
        }
        life::remove::<F>(&reversed);
    }
    // Answers to a socket whose port was published since are the socket's.
    source.ifindex == 0
        && !F::never_forwarded(packet.key.dst)
        && (!matches!(packet.key.proto, proto::TCP | proto::UDP)
            || published::is_taken::<F>(&reversed))
        && records::is_own::<F>(&packet.key.src)
}
