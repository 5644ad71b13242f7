//! Packets of guests, of no flow that is known.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{Forward, Mode, PORT_ISOLATED, PORT_SIBLINGS};
use netd_common::policy::Verdict;

use crate::action::{FIRST, LOOKUP, PASS, drop, reject};
use crate::conntrack::held;
use crate::conntrack::trackable::why_no_flow;
use crate::context::{Hook, Ingress, Kind, Packet, PacketCtx};
use crate::family::Family;
use crate::filter::policy::decide;
use crate::filter::source_guard::Guards;
use crate::filter::{host_access, isolation};
use crate::nat::{forwards, open};
use crate::records;
use crate::route::endpoint;
use crate::route::redirect::redirect;
use crate::skb::{is_for_us, leave_to_host, leave_to_rules, pass_queue};
use crate::stage::announced;

/// ICMPv6 (RFC 4861, section 4.3).
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// Stage: is the packet for the gateway to route?
#[inline(always)]
pub fn entry<F: Guards>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;

    let hook = ingress.hook();
    let Some(network) = records::network(ingress.bridge) else {
        return PASS;
    };
    if hook == Hook::Port && records::is_by_bridge(ingress.ifindex) {
        // The bridge's own hook sees what it lets through, but not whose port it came in by, nor what the
        // host's rules have made of it on the way (br_netfilter).
        if ingress.dmac != network.mac {
            return PASS;
        }
        if records::is_own::<F>(&packet.key.dst) {
            if packet.kind == Kind::Flow && !host_access::is_closed(network) {
                leave_to_host(ctx);
            }
            return PASS;
        }
        return if isolation::keeps_apart::<F>(&packet.key.dst, ingress) {
            drop(Reason::PortIsolated)
        } else {
            PASS
        };
    }
    // At a port, frames for others are the bridge's. What the bridge hands up is for the host if
    // the bridge says so: it may carry the MAC address of the port's own device, too.
    let for_host = match hook {
        Hook::Port => ingress.dmac == network.mac,
        Hook::Bridge | Hook::Uplink => is_for_us(ctx),
    };
    // What is for everybody on the link reaches the host as well, where the bridge hands it up.
    let closed = host_access::is_closed(network) && (for_host || hook == Hook::Bridge);
    if closed
        && F::never_forwarded(packet.key.dst)
        && !host_access::admits::<F>(ctx, packet, network)
    {
        return reject(Reason::HostAccessDenied);
    }
    if F::IS_IPV6 && packet.kind == Kind::Icmp {
        announced::by_advertisement::<F>(ctx, packet, ingress);
    }
    if !for_host {
        return to_sibling::<F>(ctx, packet, ingress, hook);
    }
    let mode = Mode::from_u8(F::config(network).mode);
    if packet.options && mode != Mode::Open && F::has_source_route(ctx, l3) {
        return drop(Reason::SourceRoute);
    }
    if F::never_forwarded(packet.key.dst) || F::never_forwarded(packet.key.src) {
        return PASS;
    }
    // What an open network sends is the host's to judge, unless it is for a managed network or for
    // something published.
    if mode == Mode::Open
        && records::bridge_of::<F>(packet.key.dst) == 0
        && !records::has_routes_behind()
        && forwards::find::<F>(&packet.key, 0, &mut Forward::default()) == forwards::NONE
    {
        return PASS;
    }
    let inside = records::bridge_of::<F>(packet.key.src) == ingress.bridge;
    // A fragment that was held may come from where the guest was before.
    let is_timely = packet.kind != Kind::Fragment;
    if inside && is_timely && endpoint::learn::<F>(&packet.key.src, ingress, hook) {
        return PASS;
    }
    // An error whose sender claims a foreign address is judged like any other packet.
    if packet.kind == Kind::IcmpError && !inside && mode != Mode::Open {
        return FIRST;
    }
    LOOKUP
}

/// A frame for somebody else on the link. It is the bridge's, which hands it to the host's rules where
/// br_netfilter does that. Frames that the host itself sends on the bridge pass no FORWARD, so it goes there
/// as one of those: to the one port where its addressee is known, or to all ports. Broadcasts would come
/// back to their sender, and stay with the bridge; but for IPv6's question for a neighbour, without which
/// nobody would find anybody. The sender's own question whether an address is free must not come back.
#[inline(always)]
fn to_sibling<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    ingress: &Ingress,
    hook: Hook,
) -> i32 {
    let among_siblings = ingress.port_flags & (PORT_SIBLINGS | PORT_ISOLATED) == PORT_SIBLINGS;
    // The port's own device: the bridge hands that up to the host.
    if hook != Hook::Port || !among_siblings || is_for_us(ctx) {
        return PASS;
    }
    let to_many = ingress.dmac[0] & 1 != 0;
    if to_many && !asks_for_sibling::<F>(ctx, packet) {
        return PASS;
    }
    // Guests of one network are held to no rate among themselves.
    pass_queue(ctx);
    redirect::<F>(ingress.bridge, F::ZERO)
}

#[inline(always)]
fn asks_for_sibling<F: Family>(ctx: &TcContext, packet: &Packet<F::Addr>) -> bool {
    let l4 = packet.l4();
    F::IS_IPV6
        && packet.kind == Kind::Icmp
        && packet.key.src != F::ZERO
        && ctx.load::<u8>(l4).is_ok_and(|kind| kind == NEIGHBOUR_SOLICITATION)
        // The host's addresses are the host's to answer for.
        && ctx
            .load::<F::Addr>(l4 + 8)
            .is_ok_and(|target| !records::is_own::<F>(&target))
}

#[inline(always)]
fn is_isolated<F: Family>(bridge: u32) -> bool {
    records::network(bridge).is_some_and(|n| Mode::from_u8(F::config(n).mode) == Mode::Isolated)
}

/// Stage: a packet of no known flow.
#[inline(always)]
pub fn first<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet,
        ingress,
        confirm,
        by_stack,
        ..
    } = packet_ctx;

    // Other packets for the host are the stack's.
    if records::is_own::<F>(&packet.key.dst) {
        return match records::network(ingress.bridge) {
            Some(network)
                if host_access::is_closed(network)
                    && !host_access::admits::<F>(ctx, packet, network) =>
            {
                reject(Reason::HostAccessDenied)
            }
            _ => {
                if packet.kind == Kind::Flow {
                    leave_to_host(ctx);
                }
                held::for_host::<F>(packet_ctx)
            }
        };
    }
    if isolation::keeps_apart::<F>(&packet.key.dst, ingress) {
        return reject(Reason::PortIsolated);
    }
    let Some(decision) = decide::<F>(ctx) else {
        return PASS;
    };
    let masquerade = match decision.verdict {
        // Whatever else routing says of it (forwarding is off, an odd kind of route): a packet
        // that is not for the host itself does not leave an isolated network.
        Verdict::Stack if decision.leaves && is_isolated::<F>(ingress.bridge) => {
            return reject(Reason::Isolated);
        }
        Verdict::Stack => return PASS,
        Verdict::Reject(reason) => return reject(reason),
        Verdict::Accept => false,
        Verdict::Masquerade => true,
    };
    let by_rules = !*by_stack && records::respects_rules(ingress.bridge, decision.to);
    if packet.kind == Kind::Fragment {
        // The stack can carry it where nothing is to be translated, and where the host's rules are asked.
        let unheld = match masquerade && !by_rules {
            true => drop(Reason::FragWithoutFirst),
            false => PASS,
        };
        return held::for_guest(packet_ctx, unheld);
    }
    // Opened where it leaves, if the host's rules let it (`stage::to_outside::judged_first`). One that runs
    // already is entered (`hook::enter`).
    if by_rules {
        if ingress.hook() == Hook::Port {
            leave_to_rules(ctx);
        }
        return PASS;
    }
    match why_no_flow(packet) {
        None => open::prepare::<F>(ctx, packet, ingress, decision, confirm),
        Some(reason) if masquerade => drop(reason),
        // Routing needs no ports and no memory.
        Some(_) => PASS,
    }
}
