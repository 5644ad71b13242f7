//! Packets that leave by the stack: of which flows they are, and what becomes of those of none.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_DNAT, FLOW_NAT, FLOW_SNAT, Flow, Mode};
use netd_common::policy::{PolicyEnd, Verdict, evaluate};
use netd_common::proto;
use netd_common::{Reason, tcp};

use crate::action::{ERROR, FIRST, PASS, SEND, drop};
use crate::conntrack::lookup::find;
use crate::conntrack::trackable::why_no_flow;
use crate::conntrack::validate::{snat_addr_valid, step};
use crate::conntrack::{fragment, life};
use crate::context::{Decision, Ingress, Kind, Packet, PacketCtx};
use crate::family::Family;
use crate::filter::policy::policy_end;
use crate::nat::{forwards, open};
use crate::records;
use crate::skb::ifindex;

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
    // What answers by a published address does so whatever its network's mode.
    if packet.kind == Kind::Flow
        && let Some(flow) = find::<F>(&packet.key)
        && flow.in_bridge == bridge
        && flow.flags & FLOW_DNAT != 0
    {
        return go_on::<F>(ctx, packet, flow);
    }
    match Mode::from_u8(F::config(network).mode) {
        Mode::Nat => {}
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
        if flow.flags & FLOW_NAT == 0 || !snat_addr_valid::<F>(&flow.new_src, bridge) {
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
    if packet.first_fragment {
        fragment::note::<F>(ctx, packet, flow.flags & FLOW_SNAT != 0);
    }
    SEND
}

/// Stage: a packet that the stack sends, of no known flow.
#[inline(always)]
pub fn first<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;
    let here = ifindex(ctx);
    let network = records::network(ingress.bridge);
    if ingress.bridge == 0 {
        if why_no_flow(packet).is_some() || !concerns_guests::<F>(packet, ingress) {
            return PASS;
        }
    } else {
        // Somebody outside has addressed the bridge itself, and is answered by that address.
        if ingress.ifindex == 0 && records::is_own::<F>(&packet.key.src) && !begins::<F>(packet) {
            return PASS;
        }
        // The host itself sends with the bridge's address.
        let from = PolicyEnd {
            network,
            mode: network.map_or(0, |n| F::config(n).mode),
            ifindex: ingress.bridge,
            in_subnet: true,
        };
        match evaluate(from, policy_end::<F>(here, packet.key.dst)) {
            Verdict::Masquerade => {}
            Verdict::Reject(reason) => return drop(reason),
            Verdict::Stack | Verdict::Accept => return PASS,
        }
        if let Some(reason) = why_no_flow(packet) {
            return drop(reason);
        }
    }
    // By the bridge's own hook, so that answers go up the stack to whoever sent this.
    let ingress = Ingress {
        bridge: ingress.bridge,
        ifindex: 0,
        dmac: network.map_or([0; 6], |n| n.mac),
        smac: [0; 6],
    };
    let mut decision = Decision::none();
    decision.verdict = Verdict::Masquerade;
    decision.route.ifindex = here;
    open::prepare::<F>(ctx, packet, &ingress, &decision)
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
