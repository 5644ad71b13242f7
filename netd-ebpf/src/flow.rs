//! Flows: the first packet decides, the others are looked up.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    FLOW_FIN, FLOW_FORWARD, FLOW_MASQUERADE, FLOW_NAT, FLOW_REPLY, Flow, FlowKey, MacAddr, tick,
};
use netd_common::flow::{State, after, expired, proto};
use netd_common::policy::{Place, Verdict, judge};
use netd_common::tcp::{self, Peer};

use crate::family::Family;
use crate::maps::Seen;
use crate::packet::{Kind, Packet};
use crate::path::{self, Hook, Route};
use crate::reject::Rejects;
use crate::{ERROR, FIRST, SEND, fragment, mapping, maps, window};

/// The datapath's clock.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: takes no pointers.
    tick(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Entry of the packet's direction.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut Flow<F::Addr>> {
    // SAFETY: entries are preallocated and shared by all CPUs without a lock. Fields change one
    // at a time, and each write is correct on its own: a lost one is made good by a later packet
    // (counters, last_seen, path) or is the same on every CPU (state).
    F::flows().get_ptr_mut(key).map(|p| unsafe { &mut *p })
}

/// May the packet go on without a second look? Every few seconds, at every change of definitions
/// and paths, and when a packet may change the state, [`refresh`] looks.
#[inline(always)]
pub fn is_fresh<A>(flow: &mut Flow<A>, packet: &Packet<A>) -> bool {
    !packet.notable && !packet.first && goes_this_way(flow, packet) && is_settled(flow)
}

/// Was the flow looked at lately, and is there nothing that any packet would change? Then this one
/// keeps it alive.
#[inline(always)]
pub fn is_settled<A>(flow: &mut Flow<A>) -> bool {
    let now = now();
    let (epoch, settled) = maps::epoch_and_settled();
    // Who is silent for that long is alive yet, since no timeout is shorter.
    let settled = flow.epoch == epoch
        && now.wrapping_sub(flow.last_seen) <= settled
        && u32::from((now as u8).wrapping_sub(flow.looked)) <= settled
        && !State::from_u8(flow.state).is_moving(flow.flags & FLOW_REPLY != 0);
    // A cache line is made dirty only when the clock has moved.
    if settled && flow.last_seen != now {
        flow.last_seen = now;
    }
    settled
}

/// Is the packet what goes in the entry's direction? Identifiers of ICMP are any numbers, those too
/// that stand for a kind of query: then a query has the key of another one's answers.
#[inline(always)]
fn goes_this_way<A>(flow: &Flow<A>, packet: &Packet<A>) -> bool {
    !matches!(packet.key.proto, proto::ICMP | proto::ICMPV6)
        || packet.headless
        || packet.answer == (flow.flags & FLOW_REPLY != 0)
}

/// Packets from outside may come by any device, unless their network is bound to one
/// (`<forward dev>`).
#[inline(always)]
pub fn may_come_by<A>(flow: &Flow<A>, ifindex: u32) -> bool {
    flow.in_network != 0 || flow.in_ifindex == 0 || flow.in_ifindex == ifindex
}

/// Where a packet comes from.
#[derive(Clone, Copy)]
pub struct Source {
    /// Bridge of the network whose guest sent it; 0 for outside.
    pub bridge: u32,
    /// Device it came in by; 0 for the host itself.
    pub ifindex: u32,
    /// Destination MAC of its frame (guests).
    pub dmac: MacAddr,
    /// Source MAC of its frame (guests).
    pub smac: MacAddr,
}

impl Source {
    /// The hook it was seen at.
    #[inline(always)]
    pub fn hook(&self) -> Hook {
        if self.bridge == 0 {
            Hook::Uplink
        } else if self.bridge == self.ifindex {
            Hook::Bridge
        } else {
            Hook::Port
        }
    }
}

/// What policy and routing say of a packet.
pub struct Decision<A> {
    /// May it pass, and how?
    pub verdict: Verdict,
    /// Way out.
    pub route: Route<A>,
    /// Bridge it leaves by; 0 for outside.
    pub to: u32,
    /// It is not for the host itself.
    pub leaves: bool,
}

impl<A: Default> Decision<A> {
    /// Nothing decided yet.
    #[inline(always)]
    pub fn none() -> Self {
        Self {
            verdict: Verdict::Stack,
            route: Route::default(),
            to: 0,
            leaves: false,
        }
    }
}

/// Judge a packet that would open a flow. What the stack does not forward is left to it.
#[inline(always)]
pub fn decide<F: Rejects>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    source: &Source,
    decision: &mut Decision<F::Addr>,
) {
    let in_ifindex = if source.bridge != 0 {
        source.bridge
    } else {
        source.ifindex
    };
    let forwarded = path::route::<F>(
        ctx,
        in_ifindex,
        &packet.key,
        packet.tos,
        &mut decision.route,
    );
    decision.leaves = !decision.route.local && !maps::is_own::<F>(&packet.key.dst);
    if !forwarded {
        return;
    }
    let out = decision.route.ifindex;
    let to = place::<F>(out, packet.key.dst);
    if to.network.is_some() {
        decision.to = out;
    }
    let from = place::<F>(in_ifindex, packet.key.src);
    // The network went while the packet was under way.
    if source.bridge == 0 || from.network.is_some() {
        decision.verdict = judge(from, to);
    }
}

/// A device as policy sees it, for a packet that has `address` on that side.
#[inline(always)]
pub fn place<F: Family>(ifindex: u32, address: F::Addr) -> Place<'static> {
    let network = maps::network(ifindex);
    Place {
        network,
        mode: network.map_or(0, |n| F::side(n).mode),
        ifindex,
        inside: network.is_some() && maps::bridge_of::<F>(address) == ifindex,
    }
}

/// May a flow of the network behind `bridge` go on with this source address? As long as the host
/// has it, or it is in the network's range.
#[inline(always)]
pub fn may_hide_behind<F: Family>(address: &F::Addr, bridge: u32) -> bool {
    if maps::is_own::<F>(address) {
        return true;
    }
    maps::network(bridge).is_some_and(|network| {
        let side = F::side(network);
        side.first != F::ZERO && F::within(*address, side.first, side.last)
    })
}

/// Stage: is the packet of a flow that exists?
#[inline(always)]
pub fn known<F: Rejects>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen {
        packet,
        source,
        confirm,
        ..
    } = seen;
    if packet.kind == Kind::IcmpError {
        return ERROR;
    }
    if packet.kind == Kind::Fragment && !fragment::resolve::<F>(packet) {
        return FIRST;
    }
    if packet.kind != Kind::Flow {
        return FIRST;
    }
    let Some(flow) = find::<F>(&packet.key) else {
        return FIRST;
    };
    if !refresh::<F>(ctx, packet, flow, source, confirm) {
        return FIRST;
    }
    if packet.first {
        fragment::note::<F>(ctx, packet, flow.flags & FLOW_MASQUERADE != 0);
    }
    SEND
}

/// Look again at a known flow: is it alive, still allowed, and is its path still right? `false`
/// when there is no flow (any more): then the packet is judged as a first one. `confirm` receives
/// the next hop when it should be confirmed.
#[inline(always)]
pub fn refresh<F: Rejects>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    source: &Source,
    confirm: &mut F::Addr,
) -> bool {
    let now = now();
    let theirs = flow.in_network != source.bridge
        || !may_come_by(flow, source.ifindex)
        || !goes_this_way(flow, packet);
    let Some(partner) = living_partner::<F>(packet, flow, theirs, now) else {
        return false;
    };
    if theirs {
        // Somebody else's addresses: the policy will say so.
        return false;
    }
    let reply = flow.flags & FLOW_REPLY != 0;
    let epoch = maps::epoch();
    if flow.in_network == 0 && flow.out_network == 0 {
        // Answers to the host itself: there is no path to look after.
        flow.epoch = epoch;
        flow.looked = now as u8;
        flow.last_seen = now;
    } else if flow.looked != now as u8 || flow.last_seen != now || flow.epoch != epoch {
        if !check_path::<F>(ctx, packet, flow, source, reply, confirm) {
            F::remove(&packet.key);
            return false;
        }
        if source.bridge != 0 {
            if source.ifindex != source.bridge {
                flow.in_ifindex = source.ifindex;
                flow.in_mac = source.dmac;
            }
            // The guest itself goes on with another MAC address (a bond of its own).
            if partner.out_network == source.bridge && partner.out_dmac != [0; 6] {
                partner.out_dmac = source.smac;
            }
        } else {
            flow.in_mac = source.dmac;
        }
        flow.epoch = path::epoch_after_look(flow, packet.key.proto, epoch);
        flow.looked = now as u8;
        flow.last_seen = now;
    }
    advance(ctx, packet, flow, partner);
    mapping::touch::<F>(packet, flow);
    true
}

/// The stack sends a packet of the flow: is it alive? Then its state follows.
#[inline(always)]
pub fn step<F: Rejects>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
) -> bool {
    let now = now();
    let Some(partner) = living_partner::<F>(packet, flow, false, now) else {
        return false;
    };
    flow.last_seen = now;
    advance(ctx, packet, flow, partner);
    if packet.key.proto == proto::TCP && !packet.headless {
        window::remember(packet, flow);
    }
    true
}

/// The other direction's entry, if the flow is alive and the packet does not begin a new one;
/// else the flow is removed. A packet that is not the flow's (`theirs`) begins nothing.
#[inline(always)]
fn living_partner<F: Rejects>(
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    theirs: bool,
    now: u32,
) -> Option<&'static mut Flow<F::Addr>> {
    let protocol = packet.key.proto;
    if let Some(partner) = find::<F>(&flow.partner(protocol))
        && partner.partner(protocol) == packet.key
    {
        let state = State::from_u8(flow.state);
        let timeout = maps::timeout_of(u32::from(protocol), state as u32);
        let reopens = !theirs
            && protocol == proto::TCP
            && flow.flags & FLOW_REPLY == 0
            && tcp::reopens(state, packet.control);
        if !reopens && !expired(timeout, flow.last_seen, partner.last_seen, now) {
            return Some(partner);
        }
    }
    F::remove(&packet.key);
    None
}

/// [`after`], verified once for any arguments: inside its callers it would multiply the ways that
/// the verifier follows.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn state_after(state: u32, protocol: u32, reply: u32, control: u32, fins: u32) -> u32 {
    after(
        State::from_u8(state as u8),
        protocol as u8,
        reply != 0,
        control as u8,
        fins as u8,
    ) as u32
}

/// The flow's state after the packet.
#[inline(always)]
fn advance<A>(ctx: &TcContext, packet: &Packet<A>, flow: &mut Flow<A>, partner: &mut Flow<A>) {
    // A later fragment shows no transport header.
    if packet.headless {
        return;
    }
    let state = State::from_u8(flow.state);
    let reply = flow.flags & FLOW_REPLY != 0;
    if packet.key.proto == proto::TCP && packet.control & tcp::SYN != 0 {
        flow.wscale = window::window_scale(ctx.skb.skb, packet.at) as u8;
        // Both sides scale or neither does.
        if packet.control & tcp::ACK != 0 && flow.wscale == 0 {
            partner.wscale = 0;
        }
    }
    let mut fins = 0;
    if packet.key.proto == proto::TCP {
        let peer = Peer {
            ack: partner.ack,
            edge: partner.edge,
        };
        // Who was not heard of yet has no window (one that is closed has an edge); then the answer
        // to a SYN proves itself by acknowledging it (RFC 9293, section 3.10.7.3).
        let genuine = if partner.edge | partner.ack == 0 {
            !reply || state as u8 != State::New as u8 || packet.ack == flow.ack
        } else if packet.control & tcp::RST != 0 {
            peer.may_reset(packet.seq)
        } else {
            // A FIN stands behind the segment's data, some of which may be old.
            peer.may_reset(packet.seq.wrapping_add(window::data_len(ctx, packet)))
        };
        if packet.control & (tcp::RST | tcp::FIN) != 0 && !genuine {
            return;
        }
        if packet.control & tcp::FIN != 0 {
            flow.flags |= FLOW_FIN;
        }
        let seen = |flags: u8| u8::from(flags & FLOW_FIN != 0);
        fins = seen(flow.flags) | (seen(partner.flags) << 1);
    }
    let after = state_after(
        state as u32,
        u32::from(packet.key.proto),
        u32::from(reply),
        u32::from(packet.control),
        u32::from(fins),
    ) as u8;
    if after != state as u8 {
        flow.state = after;
        partner.state = after;
    }
}

/// Renew the path. `false` when the flow must end: refused now, translated to an address that
/// is no longer the one to use, or for a guest that is no longer there.
#[inline(always)]
fn check_path<F: Rejects>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    source: &Source,
    reply: bool,
    confirm: &mut F::Addr,
) -> bool {
    let mut to = flow.out_network;
    // Let in by a mapping or a forward (`forward::withdraw`): what it is judged by is that.
    let admitted = !reply
        && (flow.flags & FLOW_FORWARD != 0
            || flow.flags & (FLOW_NAT | FLOW_MASQUERADE) == FLOW_NAT);
    if !admitted && (!reply || to == 0) {
        let mut decision = Decision::none();
        decide::<F>(ctx, packet, source, &mut decision);
        // An answer needs no leave of its own, only a way.
        if !reply {
            let nat = flow.flags & FLOW_NAT != 0;
            match decision.verdict {
                Verdict::Accept if !nat => {}
                Verdict::Masquerade if nat => {
                    // Running flows keep their address as long as the host has it.
                    if flow.flags & FLOW_MASQUERADE != 0
                        && (maps::device(decision.route.ifindex).is_none()
                            || !may_hide_behind::<F>(&flow.new_src, flow.in_network))
                    {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        to = decision.to;
        if to == 0 {
            path::set_outside::<F>(flow, &decision.route);
            if flow.out_ifindex != 0 {
                *confirm = decision.route.gateway;
            }
            return true;
        }
    }
    if !path::set_guest::<F>(ctx, flow, to, source.ifindex) {
        return false;
    }
    path::ask_for_guest::<F>(flow, confirm);
    true
}
