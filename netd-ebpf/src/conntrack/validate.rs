//! Is a known flow's packet to go on as the ones before it?
//!
//! Nearly every packet is let through on what was found out lately; now and then, and at every
//! change of the host or of the connection, policy and path are looked at again.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{
    FLOW_DNAT, FLOW_NAT, FLOW_REPLY, FLOW_SNAT, Flow, Mode, NETWORK_WAS_ROUTED,
};
use netd_common::policy::Verdict;
use netd_common::proto;
use netd_common::state::State;
use netd_common::tcp;
use netd_common::timeout::expired;

use crate::action::{CHECK, ERROR, FIRST, GO_ON, SEND, reject};
use crate::clock::now;
use crate::conntrack::lookup::find;
use crate::conntrack::state::advance;
use crate::conntrack::{fragment, in_stack, life, mapping, proof, window};
use crate::context::{Ingress, Kind, Packet, PacketCtx, Route};
use crate::family::Family;
use crate::filter::policy::decide;
use crate::records;
use crate::route::{next_hop, source};

/// May the packet go on without a second look? Every few seconds, at every change of definitions
/// and paths, and when a packet may change the state, [`known`] and [`renew_path`] look.
#[inline(always)]
pub fn is_valid_for<A>(flow: &mut Flow<A>, packet: &Packet<A>) -> bool {
    !packet.changes_state && !packet.first_fragment && goes_this_way(flow, packet) && is_valid(flow)
}

/// Was the flow looked at lately, and is there nothing that any packet would change? Then this one
/// keeps it alive.
#[inline(always)]
pub fn is_valid<A>(flow: &mut Flow<A>) -> bool {
    let now = now();
    let (epoch, valid) = records::epoch_and_validity();
    // Who is silent for that long is alive yet, since no timeout is shorter.
    let valid = flow.epoch == epoch
        && now.wrapping_sub(flow.last_seen) <= valid
        && u32::from((now as u8).wrapping_sub(flow.validated_at)) <= valid
        && !State::from_u8(flow.state).needs_tracking(flow.flags & FLOW_REPLY != 0);
    // A cache line is made dirty only when the clock has moved.
    if valid && flow.last_seen != now {
        flow.last_seen = now;
    }
    valid
}

/// Is the packet what goes in the entry's direction? Identifiers of ICMP are any numbers, those too
/// that stand for a kind of query: then a query has the key of another one's answers.
#[inline(always)]
fn goes_this_way<A>(flow: &Flow<A>, packet: &Packet<A>) -> bool {
    !matches!(packet.key.proto, proto::ICMP | proto::ICMPV6)
        || packet.no_l4
        || packet.is_reply == (flow.flags & FLOW_REPLY != 0)
}

/// Packets from outside may come by any device, unless their network is bound to one
/// (`<forward dev>`).
#[inline(always)]
pub fn may_come_by<A>(flow: &Flow<A>, ifindex: u32) -> bool {
    flow.in_bridge != 0 || flow.in_ifindex == 0 || flow.in_ifindex == ifindex
}

/// Stage: is the packet of a flow that exists? [`CHECK`] where its path is to be looked at, [`GO_ON`]
/// where it is not; [`FIRST`] where there is no flow (any more), so that the packet is judged as a first
/// one.
#[inline(always)]
pub fn known<F: Family>(_: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        by_stack,
        ..
    } = packet_ctx;
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
    // Where nothing is published any more, nobody has asked whether that still is.
    if flow.flags & FLOW_DNAT != 0 && !records::has_forwards() {
        life::remove::<F>(&packet.key);
        *by_stack = false;
        return FIRST;
    }
    let now = now();
    let theirs = flow.in_bridge != ingress.bridge
        || !may_come_by(flow, ingress.ifindex)
        || !goes_this_way(flow, packet);
    // Somebody else's addresses: the policy will say so.
    if living_partner::<F>(packet, flow, theirs, now).is_none() || theirs {
        *by_stack = false;
        return FIRST;
    }
    let epoch = records::epoch();
    if flow.out_bridge == 0 && (flow.in_bridge == 0 || is_hosts_to_lead_back::<F>(flow)) {
        // Answers to the host itself: there is no path to look after.
        flow.epoch = epoch;
        flow.validated_at = now as u8;
        flow.last_seen = now;
    } else if flow.validated_at != now as u8 || flow.last_seen != now || flow.epoch != epoch {
        return CHECK;
    }
    GO_ON
}

/// Stage: look again at a known flow: is it still allowed, and is its path still right? [`GO_ON`] when
/// it is, or what becomes of the packet. `confirm` receives the next hop when it should be confirmed.
#[inline(always)]
pub fn renew_path<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
        by_stack,
        ..
    } = packet_ctx;
    let (now, epoch) = (now(), records::epoch());
    let Some((flow, partner)) = both::<F>(packet) else {
        *by_stack = false;
        return FIRST;
    };
    match check_path::<F>(ctx, packet, flow, ingress, confirm, *by_stack) {
        Path::Right => {}
        Path::Readdressed if is_connected(packet) => {
            // What the guest goes on to send finds the flow closed, as after a RST.
            close(flow, partner, now, epoch);
            *by_stack = false;
            return reject(Reason::SourceMoved);
        }
        Path::Readdressed | Path::Gone => {
            life::remove::<F>(&packet.key);
            *by_stack = false;
            return FIRST;
        }
    }
    if packet.no_l4 {
        // A fragment that was held says nothing of where its sender is now (`conntrack::held`).
    } else if ingress.bridge != 0 {
        if ingress.ifindex != ingress.bridge || records::is_by_bridge(flow.in_ifindex) {
            flow.in_ifindex = ingress.ifindex;
            flow.in_dmac = ingress.dmac;
        }
        // The guest itself goes on with another MAC address (a bond of its own).
        if partner.out_bridge == ingress.bridge && partner.next_hop.dmac != [0; 6] {
            partner.next_hop.dmac = ingress.smac;
        }
    } else {
        flow.in_dmac = ingress.dmac;
        // The client has come by another line.
        if flow.flags & (FLOW_DNAT | FLOW_REPLY) == FLOW_DNAT
            && partner.next_hop.ifindex != ingress.ifindex
        {
            next_hop::note_way_back(partner, ingress);
            partner.epoch = epoch.wrapping_sub(1);
        }
    }
    flow.epoch = next_hop::epoch_after_validation(flow, packet.key.proto, epoch);
    // A makeshift way is as old as it was (`stage::transmit::send`).
    if !next_hop::is_makeshift(flow) {
        flow.validated_at = now as u8;
    }
    flow.last_seen = now;
    GO_ON
}

/// Stage: the packet of a known flow goes on: the flow's state follows it.
#[inline(always)]
pub fn go_on<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        by_stack,
        proven,
        ..
    } = packet_ctx;
    let Some((flow, partner)) = both::<F>(packet) else {
        *by_stack = false;
        return FIRST;
    };
    advance(ctx, packet, flow, partner);
    mapping::touch::<F>(packet, flow);
    // The way out may be another one now, of which the host's rules say something else.
    if *by_stack || (*proven && !proof::is_given(flow)) {
        *by_stack = true;
        // Until it is proven each packet is looked at.
        flow.epoch = records::epoch().wrapping_sub(1);
    }
    if packet.first_fragment {
        fragment::note::<F>(ctx, packet, flow.flags & FLOW_SNAT != 0);
    }
    SEND
}

/// Does the flow answer a guest whose question the host's own rules have led here, untranslated by netd? Of what
/// answers a guest's question to netd the entry names his network.
#[inline(always)]
fn is_hosts_to_lead_back<F: Family>(flow: &Flow<F::Addr>) -> bool {
    flow.flags & (FLOW_REPLY | FLOW_NAT) == FLOW_REPLY && records::bridge_of::<F>(flow.new_dst) != 0
}

/// An entry of the flow table.
type Entry<F> = &'static mut Flow<<F as Family>::Addr>;

/// Both entries of the packet's flow.
#[inline(always)]
fn both<F: Family>(packet: &Packet<F::Addr>) -> Option<(Entry<F>, Entry<F>)> {
    let flow = find::<F>(&packet.key)?;
    let partner = find::<F>(&flow.partner(packet.key.proto))?;
    Some((flow, partner))
}

/// Is the packet of a TCP connection, not one that asks for a connection? From another address its
/// peer does not know it, and may not even answer.
#[inline(always)]
fn is_connected<A>(packet: &Packet<A>) -> bool {
    packet.key.proto == proto::TCP
        && (packet.no_l4 || packet.control & (tcp::SYN | tcp::ACK) != tcp::SYN)
}

/// The connection is over for the guest.
#[inline(always)]
fn close<A>(flow: &mut Flow<A>, partner: &mut Flow<A>, now: u32, epoch: u32) {
    if flow.state != State::Close as u8 {
        (flow.state, partner.state) = (State::Close as u8, State::Close as u8);
        (flow.last_seen, partner.last_seen) = (now, now);
    }
    flow.epoch = epoch.wrapping_sub(1);
}

/// The stack sends a packet of the flow: is it alive? Then its state follows.
#[inline(always)]
pub fn step<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
) -> bool {
    if !goes_this_way(flow, packet) {
        return false;
    }
    let now = now();
    let Some(partner) = living_partner::<F>(packet, flow, false, now) else {
        return false;
    };
    flow.last_seen = now;
    in_stack::take_back(flow);
    advance(ctx, packet, flow, partner);
    if packet.key.proto == proto::TCP && !packet.no_l4 {
        window::remember(packet, flow);
    }
    true
}

/// The other direction's entry, if the flow is alive and the packet does not begin a new one;
/// else the flow is removed. A packet that is not the flow's (`theirs`) begins nothing.
#[inline(always)]
fn living_partner<F: Family>(
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
        let timeout = records::timeout_of(u32::from(protocol), state as u32);
        let reopens = !theirs
            && protocol == proto::TCP
            && flow.flags & FLOW_REPLY == 0
            && tcp::reopens(state, packet.control);
        if !reopens && !expired(timeout, flow.last_seen, partner.last_seen, now) {
            return Some(partner);
        }
    }
    life::remove::<F>(&packet.key);
    None
}

/// What was found of a flow's path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// The flow has it.
    Right,
    /// The flow must end: refused now, or for a guest that is no longer there.
    Gone,
    /// The flow is translated to an address that is not the one of its path any more.
    Readdressed,
}

/// Renew the path.
#[inline(always)]
fn check_path<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    ingress: &Ingress,
    confirm: &mut F::Addr,
    by_stack: bool,
) -> Path {
    let reply = flow.flags & FLOW_REPLY != 0;
    let mut to = flow.out_bridge;
    // Let in by a mapping or a forward (`nat::dnat::expire_stale_dnat`): what it is judged by is that.
    let admitted =
        !reply && (flow.flags & FLOW_DNAT != 0 || flow.flags & (FLOW_NAT | FLOW_SNAT) == FLOW_NAT);
    if !admitted && (!reply || to == 0) {
        if reply && flow.flags & FLOW_DNAT != 0 {
            let mut route = Route::default();
            if next_hop::set_way_back::<F>(ctx, packet, flow, &mut route) {
                *confirm = route.gateway;
                return Path::Right;
            }
        }
        let Some(decision) = decide::<F>(ctx) else {
            return Path::Gone;
        };
        // An answer needs no leave of its own, only a way.
        if !reply {
            let nat = flow.flags & FLOW_NAT != 0;
            let network = records::network(flow.in_bridge);
            let is_routed =
                network.is_some_and(|n| Mode::from_u8(F::config(n).mode) == Mode::Route);
            match decision.verdict {
                Verdict::Accept if !nat => {}
                // It began when its network was routed, and goes on as its peer knows it, by the way
                // that it has.
                Verdict::Masquerade
                    if !nat
                        && network.is_some_and(|n| n.flags & NETWORK_WAS_ROUTED != 0)
                        && flow.out_bridge == 0
                        && flow.next_hop.ifindex == decision.route.ifindex => {}
                // The other way round.
                Verdict::Masquerade | Verdict::Accept
                    if nat && (is_routed || decision.verdict == Verdict::Masquerade) =>
                {
                    if flow.flags & FLOW_SNAT != 0
                        && !(by_stack && is_by_marks::<F>(flow, &decision.route))
                        && !source::keeps::<F>(
                            &flow.new_src,
                            packet.key.src,
                            flow.in_bridge,
                            &decision.route,
                        )
                    {
                        return Path::Readdressed;
                    }
                }
                _ => return Path::Gone,
            }
        }
        to = decision.to;
        if to == 0 {
            next_hop::set_outside::<F>(flow, &decision.route);
            if flow.next_hop.ifindex != 0 && next_hop::has_header(flow) {
                *confirm = decision.route.gateway;
            }
            return Path::Right;
        }
    }
    if !next_hop::set_guest::<F>(ctx, flow, to, ingress.ifindex) {
        return Path::Gone;
    }
    next_hop::ask_for_guest::<F>(flow, confirm);
    Path::Right
}

/// May the stack, which carries the flow, know another way than routing without marks does? The address is
/// one that the host has, and not of a way that the flow has left, be it that its device was made anew.
#[inline(always)]
fn is_by_marks<F: Family>(flow: &Flow<F::Addr>, route: &Route<F::Addr>) -> bool {
    let (out, owner) = (flow.next_hop.ifindex, records::owner_of::<F>(&flow.new_src));
    let is_elsewhere = owner != out && (out == 0 || records::device(out).is_some());
    owner != 0 && (is_elsewhere || out == route.ifindex)
}
