//! Packets that come from outside the managed networks.

use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::CONTROL_MAPPINGS;
use netd_common::policy::Verdict;

use crate::family::{Family, V4, V6};
use crate::flow::{self, Decision, Source};
use crate::guest::why_no_flow;
use crate::maps::Seen;
use crate::packet::{self, ETH, Kind, ifindex};
use crate::path::{Hook, transmit};
use crate::stage::{self, Stages};
use crate::{PASS, REJECT, arp, drops, forward, fragment, mapping, maps, nd, open, reject};

/// Ingress of a device that is no part of a managed network; `l3` is the length of its
/// link-layer header.
#[inline(always)]
pub fn ingress(ctx: &TcContext, l3: usize) -> i32 {
    if !packet::is_for_us(ctx) {
        // Requests are broadcast, solicitations multicast.
        return match l3 {
            ETH if V6::is(ctx) => nd::answer(ctx),
            ETH => arp::answer(ctx),
            _ => PASS,
        };
    }
    if l3 == ETH && !packet::take_off_priority_tag(ctx) {
        return drops::finish(ctx, drops::drop(Reason::VlanTag));
    }
    let here = ifindex(ctx);
    let action = if V4::is(ctx) {
        packet_from_outside::<V4>(ctx, l3, here)
    } else if V6::is(ctx) {
        packet_from_outside::<V6>(ctx, l3, here)
    } else if l3 == ETH {
        arp::answer(ctx)
    } else {
        PASS
    };
    drops::finish(ctx, action)
}

#[inline(always)]
fn packet_from_outside<F: Stages>(ctx: &TcContext, l3: usize, here: u32) -> i32 {
    let Some(seen) = F::seen() else {
        return PASS;
    };
    let packet = &mut seen.packet;
    if F::parse(ctx, l3, packet).is_err() {
        return PASS;
    }
    if packet.kind == Kind::Flow
        && let Some(flow) = flow::find::<F>(&packet.key)
        && flow.in_network == 0
        && flow::may_come_by(flow, here)
        && flow::is_fresh(flow, packet)
    {
        return transmit::<F>(ctx, l3, packet, flow, Hook::Uplink, F::ZERO);
    }
    // Neighbours ask by unicast whether somebody is still there.
    if F::INDEX == V6::INDEX && packet.kind == Kind::Icmp && l3 == ETH {
        match nd::answer(ctx) {
            PASS => {}
            answer => return answer,
        }
    }
    let (dmac, smac) = match packet::macs(ctx) {
        Some(macs) if l3 == ETH => macs,
        _ => ([0; 6], [0; 6]),
    };
    let source = Source {
        bridge: 0,
        ifindex: here,
        dmac,
        smac,
    };
    seen.keep(source, l3);
    let first = |ctx: &TcContext| forward::or_else::<F>(ctx, F::outside_first);
    let action = stage::run::<F>(ctx, forward::known::<F>(ctx), F::icmp_error, first, F::send);
    if action < REJECT {
        return action;
    }
    // Without a frame to turn round there is no answer.
    let own = match maps::device(here) {
        Some(device) if l3 == ETH => F::address(device),
        _ => F::ZERO,
    };
    reject::reject::<F>(ctx, here, own, (action - REJECT) as u32)
}

/// Stage: a packet of no known flow.
#[inline(always)]
pub fn first<F: Stages>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    if maps::control_flags() & CONTROL_MAPPINGS != 0 {
        match mapping::admit::<F>(ctx, seen) {
            PASS => {}
            action => return action,
        }
    }
    let Seen { packet, source, .. } = seen;
    // The host's own traffic ends here.
    if maps::is_own::<F>(&packet.key.dst) {
        if packet.kind == Kind::Fragment {
            fragment::note_orphan::<F>(packet);
        }
        return PASS;
    }
    if maps::bridge_of::<F>(packet.key.dst) == 0 {
        // An address that only guests' flows have; routing would send the packet back.
        if maps::pool_of::<F>(packet.key.dst) != 0 {
            return drops::drop(Reason::NoMapping);
        }
        return PASS;
    }
    let mut decision = Decision::none();
    flow::decide::<F>(ctx, packet, source, &mut decision);
    match decision.verdict {
        Verdict::Stack | Verdict::Masquerade => PASS,
        Verdict::Reject(reason) => REJECT + reason as i32,
        Verdict::Accept if why_no_flow(packet).is_some() => PASS,
        Verdict::Accept => open::prepare::<F>(ctx, packet, source, &decision),
    }
}
