//! Flows: the first packet decides, the others are looked up.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_loop};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{Addr4, FLOW_NAT, FLOW_REPLY, Flow4, FlowKey4, MacAddr, tick};
use netd_common::checksum::{difference, sum2, sum4};
use netd_common::flow::{State, expired, proto, tcp};
use netd_common::policy::{Place, Verdict, judge};
use netd_common::{Reason, port};

use crate::maps::{self, FLOWS4};
use crate::packet::Packet;
use crate::path::{self, Route};

const EEXIST: i32 = -17;

/// The datapath's clock.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: takes no pointers.
    tick(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Entry of the packet's direction.
#[inline(always)]
pub fn find(key: &FlowKey4) -> Option<&'static mut Flow4> {
    // SAFETY: entries are preallocated and shared by all CPUs without a lock. Fields change one
    // at a time, and each write is correct on its own: a lost one is made good by a later packet
    // (counters, last_seen, path) or is the same on every CPU (state).
    FLOWS4.get_ptr_mut(key).map(|p| unsafe { &mut *p })
}

/// May the packet go on without a second look? Once a tick, at every change of definitions and
/// paths, and when a packet may change the state, [`refresh`] looks.
#[inline(always)]
pub fn is_fresh(flow: &Flow4, packet: &Packet) -> bool {
    flow.last_seen == now()
        && flow.epoch == maps::epoch()
        && packet.control & (tcp::SYN | tcp::FIN | tcp::RST) == 0
        && flow.state != State::Answered as u8
        && (flow.flags & FLOW_REPLY == 0 || flow.state != State::New as u8)
}

/// Packets from outside may come by any device, unless their network is bound to one
/// (`<forward dev>`).
#[inline(always)]
pub fn may_come_by(flow: &Flow4, ifindex: u32) -> bool {
    flow.in_network != 0 || flow.in_ifindex == 0 || flow.in_ifindex == ifindex
}

/// Where a packet comes from.
#[derive(Clone, Copy)]
pub struct Source {
    /// Bridge of the network whose guest sent it; 0 for outside.
    pub bridge: u32,
    /// Device it came in by.
    pub ifindex: u32,
    /// Destination MAC of its frame (guests).
    pub dmac: MacAddr,
    /// Source MAC of its frame (guests).
    pub smac: MacAddr,
}

/// What policy and routing say of a packet.
pub struct Decision {
    /// May it pass, and how?
    pub verdict: Verdict,
    /// Way out.
    pub route: Route,
    /// Bridge it leaves by; 0 for outside.
    pub to: u32,
    /// It is not for the host itself.
    pub leaves: bool,
}

impl Decision {
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
pub fn decide(ctx: &TcContext, packet: &Packet, source: &Source, decision: &mut Decision) {
    let in_ifindex = if source.bridge != 0 {
        source.bridge
    } else {
        source.ifindex
    };
    let forwarded = path::route(
        ctx,
        in_ifindex,
        &packet.key,
        packet.tos,
        &mut decision.route,
    );
    decision.leaves = !decision.route.local && !maps::is_own(packet.key.dst);
    if !forwarded {
        return;
    }
    let out = decision.route.ifindex;
    let to = place(out, packet.key.dst);
    if to.network.is_some() {
        decision.to = out;
    }
    let from = place(in_ifindex, packet.key.src);
    // The network went while the packet was under way.
    if source.bridge == 0 || from.network.is_some() {
        decision.verdict = judge(from, to);
    }
}

/// A device as policy sees it, for a packet that has `address` on that side.
#[inline(always)]
pub fn place(ifindex: u32, address: Addr4) -> Place<'static> {
    let network = maps::network(ifindex);
    Place {
        network,
        ifindex,
        inside: network.is_some() && maps::bridge_of(address) == ifindex,
    }
}

/// Look again at a known flow: is it alive, still allowed, and is its path still right? `false`
/// when there is no flow (any more): then the packet is judged as a first one. `confirm` receives
/// the next hop when it should be confirmed.
#[inline(always)]
pub fn refresh(
    ctx: &TcContext,
    packet: &Packet,
    flow: &mut Flow4,
    source: &Source,
    confirm: &mut Addr4,
) -> bool {
    if flow.in_network != source.bridge || !may_come_by(flow, source.ifindex) {
        // Somebody else's addresses: the policy will say so.
        return false;
    }
    let partner_key = flow.partner(packet.key.proto);
    let Some(partner) = find(&partner_key).filter(|p| p.partner(packet.key.proto) == packet.key)
    else {
        let _ = FLOWS4.remove(packet.key);
        return false;
    };
    let now = now();
    let state = State::from_u8(flow.state);
    if expired(
        state,
        packet.key.proto,
        flow.last_seen,
        partner.last_seen,
        now,
    ) {
        remove(&packet.key, &partner_key);
        return false;
    }
    let reply = flow.flags & FLOW_REPLY != 0;
    let epoch = maps::epoch();
    if flow.last_seen != now || flow.epoch != epoch {
        if !check_path(ctx, packet, flow, source, reply, confirm) {
            remove(&packet.key, &partner_key);
            return false;
        }
        if source.bridge != 0 && source.ifindex != source.bridge {
            flow.in_ifindex = source.ifindex;
            flow.in_mac = source.dmac;
        }
        // An unresolved path is looked at again by the next packet.
        flow.epoch = if flow.out_ifindex == 0 {
            epoch.wrapping_sub(1)
        } else {
            epoch
        };
        flow.last_seen = now;
    }
    let after = state.after(reply, packet.control);
    if after != state {
        flow.state = after as u8;
        partner.state = after as u8;
    }
    true
}

/// Renew the path. `false` when the flow must end: refused now, or translated to an address that
/// is no longer the one to use.
#[inline(always)]
fn check_path(
    ctx: &TcContext,
    packet: &Packet,
    flow: &mut Flow4,
    source: &Source,
    reply: bool,
    confirm: &mut Addr4,
) -> bool {
    let mut to = flow.out_network;
    if !reply || to == 0 {
        let mut decision = Decision::none();
        decide(ctx, packet, source, &mut decision);
        // An answer needs no leave of its own, only a way.
        if !reply {
            let nat = flow.flags & FLOW_NAT != 0;
            match decision.verdict {
                Verdict::Accept if !nat => {}
                Verdict::Masquerade if nat => {
                    // Running flows keep their address as long as the host has it.
                    if maps::device(decision.route.ifindex).is_none() || !maps::is_own(flow.new_src)
                    {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        to = decision.to;
        if to == 0 {
            path::set_outside(flow, &decision.route);
            if flow.out_ifindex != 0 {
                *confirm = decision.route.gateway;
            }
            return true;
        }
    }
    path::set_guest(ctx, flow, to, source.ifindex)
}

/// Remove both entries of a flow.
#[inline(always)]
pub fn remove(key: &FlowKey4, partner: &FlowKey4) {
    let _ = FLOWS4.remove(key);
    let _ = FLOWS4.remove(partner);
}

/// Open a flow for a packet that [`decide`] lets pass. Returns the entry of the packet's own
/// direction (a copy, valid until the program ends).
#[inline(always)]
pub fn open(
    ctx: &TcContext,
    packet: &Packet,
    source: &Source,
    decision: &Decision,
) -> Result<&'static mut Flow4, Reason> {
    let Some([flow, back]) = maps::scratch() else {
        return Err(Reason::TableFull);
    };
    let key = &packet.key;
    let masquerade = decision.verdict == Verdict::Masquerade;
    let now = now();
    let epoch = maps::epoch();

    *flow = Flow4 {
        new_src: key.src,
        new_dst: key.dst,
        new_sport: key.sport,
        new_dport: key.dport,
        in_ifindex: if source.bridge != 0 {
            source.ifindex
        } else {
            0
        },
        in_mac: source.dmac,
        in_network: source.bridge,
        last_seen: now,
        // This one. The caller counts it in the copy, which nobody sees.
        packets: 1,
        bytes: u64::from(ctx.len()),
        ..Flow4::default()
    };
    if decision.to != 0 {
        if !path::set_guest(ctx, flow, decision.to, source.ifindex) {
            return Err(Reason::ForeignDestination);
        }
    } else {
        path::set_outside(flow, &decision.route);
    }
    flow.epoch = if flow.out_ifindex == 0 {
        epoch.wrapping_sub(1)
    } else {
        epoch
    };

    // The answering direction. Until a packet of it was seen, guests answer by their bridge.
    *back = Flow4 {
        new_src: key.dst,
        new_dst: key.src,
        new_sport: key.dport,
        new_dport: key.sport,
        flags: FLOW_REPLY,
        in_network: decision.to,
        in_ifindex: decision.to,
        last_seen: now,
        epoch: epoch.wrapping_sub(1),
        ..Flow4::default()
    };
    if let Some(network) = maps::network(decision.to) {
        back.in_mac = network.mac;
    }
    if let Some(network) = maps::network(source.bridge) {
        back.out_network = source.bridge;
        back.out_ifindex = source.ifindex;
        back.out_dmac = source.smac;
        back.out_smac = network.mac;
        back.out_mtu = network.mtu;
        back.epoch = epoch;
        if decision.to == 0 {
            back.in_ifindex = network.uplink;
        }
    }

    if masquerade {
        // A device that the agent does not know yet has no program at its egress.
        let Some(device) = maps::device(decision.route.ifindex) else {
            return Err(Reason::NoAddress);
        };
        let mut address = decision.route.own;
        if address == [0; 4] {
            address = device.address;
        }
        if address == [0; 4] {
            return Err(Reason::NoAddress);
        }
        flow.flags |= FLOW_NAT;
        back.flags |= FLOW_NAT;
        flow.new_src = address;
        flow.addr_diff = difference(sum4(key.src), sum4(address));
        back.addr_diff = difference(sum4(address), sum4(key.src));
    }
    claim(key, masquerade)?;
    // BPF_ANY: an entry that stands there is one that `refresh` found dead, or another CPU's for
    // a packet of the same flow; ours has a partner in any case.
    if FLOWS4.insert(key, &*flow, u64::from(BPF_ANY)).is_err() {
        let _ = FLOWS4.remove(flow.partner(key.proto));
        return Err(Reason::TableFull);
    }
    Ok(flow)
}

/// The search for a free key of the answering direction.
struct Claim {
    key: FlowKey4,
    masquerade: bool,
    random: u32,
    /// 0 once a key was claimed, else the last error.
    result: i32,
}

/// Insert the answering direction's entry first, with NOEXIST: that is the reservation of the
/// port. Both entries are in the scratch map.
#[inline(always)]
fn claim(key: &FlowKey4, masquerade: bool) -> Result<(), Reason> {
    let mut claim = Claim {
        key: *key,
        masquerade,
        // SAFETY: takes no pointers.
        random: unsafe { bpf_get_prandom_u32() },
        result: EEXIST,
    };
    // A loop by the helper is verified once, not once per round.
    // SAFETY: `claim` outlives the call, and `try_port` has the signature the helper calls.
    unsafe {
        bpf_loop(
            port::TRIES,
            try_port as *mut c_void,
            (&raw mut claim).cast(),
            0,
        );
    }
    match claim.result {
        0 => Ok(()),
        EEXIST => Err(Reason::PortsExhausted),
        _ => Err(Reason::TableFull),
    }
}

/// One round of [`claim`]; 1 ends it.
extern "C" fn try_port(attempt: u32, claim: *mut Claim) -> i64 {
    // SAFETY: the `Claim` that `claim` handed to bpf_loop.
    let claim = unsafe { &mut *claim };
    let Some([flow, back]) = maps::scratch() else {
        return 1;
    };
    let key = &claim.key;
    if claim.masquerade {
        // An echo request has its identifier as source port; any identifier will do for it.
        let own = u16::from_be_bytes(key.sport);
        let chosen = if key.proto == proto::ICMP && attempt == 0 {
            own
        } else {
            port::candidate(own, attempt, claim.random)
        };
        flow.new_sport = chosen.to_be_bytes();
        back.port_diff = difference(sum2(flow.new_sport), sum2(key.sport));
        flow.port_diff = difference(sum2(key.sport), sum2(flow.new_sport));
    }
    let back_key = flow.partner(key.proto);
    claim.result = match FLOWS4.insert(back_key, &*back, u64::from(BPF_NOEXIST)) {
        Ok(()) => 0,
        Err(error) => error,
    };
    if claim.result != EEXIST {
        return 1;
    }
    if !claim.masquerade {
        // The other half of a flow whose own half is gone: in the way, and of no use.
        let _ = FLOWS4.remove(back_key);
    }
    0
}
