//! Packets of guests, of no flow that is known.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{
    BridgePort, Endpoint, EndpointKey, Forward, Mode, NETWORK_PORTS_ISOLATED, PORT_ISOLATED,
};
use netd_common::clock::ticks;
use netd_common::policy::Verdict;

use crate::action::{FIRST, LOOKUP, PASS, drop, reject};
use crate::clock::now;
use crate::conntrack::trackable::why_no_flow;
use crate::context::{Decision, Hook, Ingress, Kind, Packet, PacketCtx};
use crate::family::Family;
use crate::filter::host_access;
use crate::filter::policy::decide;
use crate::nat::{forwards, open};
use crate::records;
use crate::skb::is_for_us;

/// A guest whose packets went past the bridge for this long (30 s) sends one through it, so that
/// the bridge goes on to know its port: entries of its table live 300 s.
const BRIDGED: u32 = ticks(30);

/// Stage: is the packet for the gateway to route?
#[inline(always)]
pub fn entry<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let l3 = packet_ctx.l3();
    let PacketCtx {
        packet, ingress, ..
    } = packet_ctx;

    let hook = ingress.hook();
    let Some(network) = records::network(ingress.bridge) else {
        return PASS;
    };
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
    if !for_host {
        return PASS;
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
        && forwards::find::<F>(&packet.key, 0, &mut Forward::default()) == forwards::NONE
    {
        return PASS;
    }
    let inside = records::bridge_of::<F>(packet.key.src) == ingress.bridge;
    if inside && learn::<F>(&packet.key.src, ingress, hook) {
        return PASS;
    }
    // An error whose sender claims a foreign address is judged like any other packet.
    if packet.kind == Kind::IcmpError && !inside && mode != Mode::Open {
        return FIRST;
    }
    LOOKUP
}

#[inline(always)]
fn is_isolated<F: Family>(bridge: u32) -> bool {
    records::network(bridge).is_some_and(|n| Mode::from_u8(F::config(n).mode) == Mode::Isolated)
}

/// Stage: a packet of no known flow.
#[inline(always)]
pub fn first<F: Family>(ctx: &TcContext, packet_ctx: &mut PacketCtx<F::Addr>) -> i32 {
    let PacketCtx {
        packet, ingress, ..
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
            _ => PASS,
        };
    }
    if is_kept_apart::<F>(packet, ingress) {
        return reject(Reason::PortIsolated);
    }
    let mut decision = Decision::none();
    decide::<F>(ctx, packet, ingress, &mut decision);
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
    match why_no_flow(packet) {
        None => open::prepare::<F>(ctx, packet, ingress, &decision),
        Some(reason) if masquerade => drop(reason),
        // Routing needs no ports and no memory.
        Some(_) => PASS,
    }
}

/// Is the packet for a guest of the same network, by way of the gateway, that its sender is isolated
/// from? The kernel's bridge sees to frames that go straight.
#[inline(always)]
fn is_kept_apart<F: Family>(packet: &Packet<F::Addr>, ingress: &Ingress) -> bool {
    if records::bridge_of::<F>(packet.key.dst) != ingress.bridge {
        return false;
    }
    let everybody = records::network(ingress.bridge)
        .is_some_and(|network| network.flags & NETWORK_PORTS_ISOLATED != 0);
    let is_isolated = |ifindex| {
        records::port(ifindex).is_some_and(|port: &BridgePort| port.flags & PORT_ISOLATED != 0)
    };
    if everybody || !is_isolated(ingress.ifindex) {
        return everybody;
    }
    // Where nobody was seen yet, the guest may be at an isolated port.
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    unsafe { F::endpoints().get(&EndpointKey::new(packet.key.dst)) }
        .is_none_or(|endpoint| is_isolated(endpoint.ifindex))
}

/// Remember where a guest is. The bridge's own hook sees again what a port's program let pass, so
/// it only speaks up when no port has done so lately. `true` when the bridge should see this
/// packet, too.
#[inline(always)]
fn learn<F: Family>(address: &F::Addr, ingress: &Ingress, hook: Hook) -> bool {
    let now = now();
    let key = EndpointKey::new(*address);
    if let Some(endpoint) = F::endpoints().get_ptr_mut(&key) {
        // SAFETY: as for flows: fields are written one at a time, and a torn read sends one
        // packet to a place that the next packet corrects.
        let endpoint = unsafe { &mut *endpoint };
        if hook != Hook::Port && now.wrapping_sub(endpoint.last_seen) <= 1 {
            return false;
        }
        if endpoint.ifindex != ingress.ifindex || endpoint.mac != ingress.smac {
            records::guest_moved(now);
        }
        endpoint.ifindex = ingress.ifindex;
        endpoint.mac = ingress.smac;
        endpoint.last_seen = now;
        if hook != Hook::Port {
            return false;
        }
        if now.wrapping_sub(endpoint.bridged_at) > BRIDGED {
            endpoint.bridged_at = now;
            return true;
        }
        return false;
    }
    let endpoint = Endpoint {
        ifindex: ingress.ifindex,
        last_seen: now,
        bridged_at: now,
        mac: ingress.smac,
        pad: [0; 2],
    };
    // A full cache or a race loses nothing but a shortcut.
    let _ = F::endpoints().insert(&key, &endpoint, 0);
    // Somebody else may have had the address before.
    records::guest_moved(now);
    false
}
