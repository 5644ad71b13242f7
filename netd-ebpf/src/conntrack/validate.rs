//! Is a known flow's packet to go on as the ones before it?
//!
//! Nearly every packet is let through on what was found out lately; now and then, and at every
//! change of the host or of the connection, policy and path are looked at again.

use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_DNAT, FLOW_NAT, FLOW_REPLY, FLOW_SNAT, Flow};
use netd_common::policy::Verdict;
use netd_common::proto;
use netd_common::state::State;
use netd_common::tcp;
use netd_common::timeout::expired;

use crate::action::{ERROR, FIRST, SEND};
use crate::clock::now;
use crate::conntrack::lookup::find;
use crate::conntrack::state::advance;
use crate::conntrack::{fragment, life, mapping, window};
use crate::context::{Decision, Ingress, Kind, Packet, PacketCtx};
use crate::family::Family;
use crate::filter::policy::decide;
use crate::records;
use crate::route::next_hop;

/// May the packet go on without a second look? Every few seconds, at every change of definitions
/// and paths, and when a packet may change the state, [`revalidate`] looks.
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

/// May a flow of the network behind `bridge` go on with this source address? As long as the host
/// has it, or it is in the network's range.
#[inline(always)]
pub fn snat_addr_valid<F: Family>(address: &F::Addr, bridge: u32) -> bool {
    if records::is_own::<F>(address) {
        return true;
    }
    records::network(bridge).is_some_and(|network| {
        let config = F::config(network);
        config.first != F::ZERO && F::within(*address, config.first, config.last)
    })
}

/// Stage: is the packet of a flow that exists?
#[inline(always)]
pub fn known<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
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
    if !revalidate::<F>(ctx, packet, flow, ingress, confirm) {
        return FIRST;
    }
    if packet.first_fragment {
        fragment::note::<F>(ctx, packet, flow.flags & FLOW_SNAT != 0);
    }
    SEND
}

/// Look again at a known flow: is it alive, still allowed, and is its path still right? `false`
/// when there is no flow (any more): then the packet is judged as a first one. `confirm` receives
/// the next hop when it should be confirmed.
#[inline(always)]
pub fn revalidate<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    ingress: &Ingress,
    confirm: &mut F::Addr,
) -> bool {
    let now = now();
    let theirs = flow.in_bridge != ingress.bridge
        || !may_come_by(flow, ingress.ifindex)
        || !goes_this_way(flow, packet);
    let Some(partner) = living_partner::<F>(packet, flow, theirs, now) else {
        return false;
    };
    if theirs {
        // Somebody else's addresses: the policy will say so.
        return false;
    }
    let reply = flow.flags & FLOW_REPLY != 0;
    let epoch = records::epoch();
    if flow.in_bridge == 0 && flow.out_bridge == 0 {
        // Answers to the host itself: there is no path to look after.
        flow.epoch = epoch;
        flow.validated_at = now as u8;
        flow.last_seen = now;
    } else if flow.validated_at != now as u8 || flow.last_seen != now || flow.epoch != epoch {
        if !check_path::<F>(ctx, packet, flow, ingress, reply, confirm) {
            life::remove::<F>(&packet.key);
            return false;
        }
        if ingress.bridge != 0 {
            if ingress.ifindex != ingress.bridge {
                flow.in_ifindex = ingress.ifindex;
                flow.in_dmac = ingress.dmac;
            }
            // The guest itself goes on with another MAC address (a bond of its own).
            if partner.out_bridge == ingress.bridge && partner.next_hop.dmac != [0; 6] {
                partner.next_hop.dmac = ingress.smac;
            }
        } else {
            flow.in_dmac = ingress.dmac;
        }
        flow.epoch = next_hop::epoch_after_validation(flow, packet.key.proto, epoch);
        flow.validated_at = now as u8;
        flow.last_seen = now;
    }
    advance(ctx, packet, flow, partner);
    mapping::touch::<F>(packet, flow);
    true
}

/// The stack sends a packet of the flow: is it alive? Then its state follows.
#[inline(always)]
pub fn step<F: Family>(
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

/// Renew the path. `false` when the flow must end: refused now, translated to an address that
/// is no longer the one to use, or for a guest that is no longer there.
#[inline(always)]
fn check_path<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    ingress: &Ingress,
    reply: bool,
    confirm: &mut F::Addr,
) -> bool {
    let mut to = flow.out_bridge;
    // Let in by a mapping or a forward (`nat::dnat::expire_stale_dnat`): what it is judged by is that.
    let admitted =
        !reply && (flow.flags & FLOW_DNAT != 0 || flow.flags & (FLOW_NAT | FLOW_SNAT) == FLOW_NAT);
    if !admitted && (!reply || to == 0) {
        let mut decision = Decision::none();
        decide::<F>(ctx, packet, ingress, &mut decision);
        // An answer needs no leave of its own, only a way.
        if !reply {
            let nat = flow.flags & FLOW_NAT != 0;
            match decision.verdict {
                Verdict::Accept if !nat => {}
                Verdict::Masquerade if nat => {
                    // Running flows keep their address as long as the host has it.
                    if flow.flags & FLOW_SNAT != 0
                        && (records::device(decision.route.ifindex).is_none()
                            || !snat_addr_valid::<F>(&flow.new_src, flow.in_bridge))
                    {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        to = decision.to;
        if to == 0 {
            next_hop::set_outside::<F>(flow, &decision.route);
            if flow.next_hop.ifindex != 0 {
                *confirm = decision.route.gateway;
            }
            return true;
        }
    }
    if !next_hop::set_guest::<F>(ctx, flow, to, ingress.ifindex) {
        return false;
    }
    next_hop::ask_for_guest::<F>(flow, confirm);
    true
}
