//! Where a packet goes next, and sending it there.

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_neigh,
};
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{
    DEVICE_ETHERNET, Endpoint, FLOW_FORWARD, FLOW_NAT, FLOW_REPLY, Flow, FlowKey, MacAddr, ticks,
};
use netd_common::flow::{State, proto};

use crate::family::{Family, V4, V6};
use crate::maps::Routing;
use crate::packet::{ETH, Packet};
use crate::{PASS, arguments, drops, flow, maps, rewrite, window};

/// `BPF_FIB_LKUP_RET_NOT_FWDED`: the destination is the host itself, or a broadcast.
const NOT_FORWARDED: i64 = 4;
/// `BPF_FIB_LOOKUP_SRC` (Linux 6.7): answer with the source address the host itself would use.
const LOOKUP_SRC: u32 = 1 << 4;
const EINVAL: i64 = -22;
/// Endpoints that were not heard of for this long (60 s) may be elsewhere.
const ENDPOINT_AGE: u32 = ticks(60);
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: routed, but the next hop's MAC address is not known.
const NO_NEIGH: i64 = 7;

/// What the kernel's routing says (policy rules included). All zero until asked.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Route<A> {
    /// Device to leave by.
    pub ifindex: u32,
    /// Largest IP packet on that path; 0 while `resolved` is false.
    pub mtu: u16,
    /// Is the next hop's MAC address known?
    pub resolved: bool,
    /// The destination is the host itself.
    pub local: bool,
    /// Address of the host's towards that next hop; zero where the kernel does not tell.
    pub own: A,
    /// Next hop; zero when it is not of this family.
    pub gateway: A,
    /// The next hop's MAC address.
    pub dmac: MacAddr,
    /// The device's own.
    pub smac: MacAddr,
}

/// Ask the kernel where a packet that came in by `in_ifindex` goes. `false` when it is not to be
/// forwarded: for the host itself, unreachable, forwarding off; the stack knows what to answer.
#[inline(always)]
pub fn route<F: Routes>(
    ctx: &TcContext,
    in_ifindex: u32,
    key: &FlowKey<F::Addr>,
    tos: u32,
    route: &mut Route<F::Addr>,
) -> bool {
    let Some(routing) = F::routing() else {
        return false;
    };
    routing.key = *key;
    routing.in_ifindex = in_ifindex;
    routing.tos = tos;
    let forwarded = F::ask_routing(ctx);
    *route = routing.route;
    forwarded
}

/// Families that can ask the kernel's routing.
pub trait Routes: Family {
    /// Answer the question in [`Family::routing`].
    fn ask_routing(ctx: &TcContext) -> bool;
}

impl Routes for V4 {
    #[inline(always)]
    fn ask_routing(ctx: &TcContext) -> bool {
        ask_routing4(ctx.skb.skb) != 0
    }
}

impl Routes for V6 {
    #[inline(always)]
    fn ask_routing(ctx: &TcContext) -> bool {
        ask_routing6(ctx.skb.skb) != 0
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_routing4(ctx: *mut __sk_buff) -> u32 {
    arguments!(ctx; else 0);
    V4::routing().map_or(0, |routing| u32::from(ask::<V4>(ctx, routing)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_routing6(ctx: *mut __sk_buff) -> u32 {
    arguments!(ctx; else 0);
    V6::routing().map_or(0, |routing| u32::from(ask::<V6>(ctx, routing)))
}

#[inline(always)]
fn ask<F: Family>(ctx: &TcContext, routing: &mut Routing<F::Addr>) -> bool {
    let Routing {
        key,
        in_ifindex,
        tos,
        route,
    } = routing;
    *route = Route::default();
    // SAFETY: all of its fields are integers.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.family = F::AF;
    fib.l4_protocol = key.proto;
    fib.sport = u16::from_ne_bytes(key.sport);
    fib.dport = u16::from_ne_bytes(key.dport);
    fib.ifindex = *in_ifindex;
    // A length makes the helper answer with the path's MTU; the comparison is made later, when
    // the packet's own length after segmentation is known.
    fib.__bindgen_anon_1.tot_len = 1;
    F::ask(&mut fib, key.src, key.dst, *tos);
    let look_up = |fib: &mut bpf_fib_lookup, flags: u32| {
        let len = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: `fib` is as large as said and outlives the call.
        unsafe { fib_lookup(ctx.skb.skb.cast(), core::ptr::from_mut(fib), len, flags) }
    };
    let mut answer = look_up(&mut fib, LOOKUP_SRC);
    let tells_own = answer != EINVAL;
    if !tells_own {
        answer = look_up(&mut fib, 0);
    }
    route.resolved = answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS);
    route.local = answer == NOT_FORWARDED;
    if !route.resolved && answer != NO_NEIGH {
        return false;
    }
    route.ifindex = fib.ifindex;
    route.dmac = fib.dmac;
    route.smac = fib.smac;
    if route.resolved {
        // SAFETY: the helper wrote this field of the union.
        route.mtu = unsafe { fib.__bindgen_anon_1.mtu_result };
    }
    if tells_own {
        route.own = F::source(&fib);
    }
    if fib.family == F::AF {
        route.gateway = F::next_hop(&fib);
    }
    true
}

/// Store in `flow` the way out that `route` found. Without a MAC address, and for devices without
/// an Ethernet header, the stack forwards and `uplink_egress` translates.
#[inline(always)]
pub fn set_outside<F: Family>(flow: &mut Flow<F::Addr>, route: &Route<F::Addr>) {
    let ethernet = maps::device(route.ifindex).is_some_and(|d| d.flags & DEVICE_ETHERNET != 0);
    flow.out_network = 0;
    flow.out_ifindex = if route.resolved && ethernet {
        route.ifindex
    } else {
        0
    };
    flow.out_mtu = route.mtu;
    flow.out_dmac = route.dmac;
    flow.out_smac = route.smac;
}

/// Store in `flow` the way to the guest it ends at, behind `bridge`: straight to the port where
/// the guest was last seen; else by way of the bridge, if the host knows its MAC address; else by
/// the stack, which asks for it. `false` when there is no such network any more, or when an
/// answer would reach another guest than the one that asked, which has its address now.
#[inline(always)]
pub fn set_guest<F: Routes>(
    ctx: &TcContext,
    flow: &mut Flow<F::Addr>,
    bridge: u32,
    in_ifindex: u32,
) -> bool {
    let Some(network) = maps::network(bridge) else {
        return false;
    };
    flow.out_network = bridge;
    flow.out_smac = network.mac;
    flow.out_mtu = network.mtu;
    let answer = flow.flags & (FLOW_NAT | FLOW_REPLY) == FLOW_NAT | FLOW_REPLY;
    let asked = |mac: MacAddr| !answer || flow.out_dmac == [0; 6] || flow.out_dmac == mac;
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    let endpoint = unsafe { F::endpoints().get(&flow.new_dst) };
    let endpoint =
        endpoint.filter(|e| e.ifindex == bridge || maps::bridge_of_port(e.ifindex) == bridge);
    let fresh = |e: &Endpoint| flow::now().wrapping_sub(e.last_seen) < ENDPOINT_AGE;
    let mut known = endpoint.filter(|e| fresh(e));
    if known.is_none() {
        let key = FlowKey {
            src: flow.new_src,
            dst: flow.new_dst,
            sport: [0; 2],
            dport: [0; 2],
            proto: 0,
            zero: [0; 3],
        };
        let mut found = Route::default();
        if route::<F>(ctx, in_ifindex, &key, 0, &mut found)
            && found.resolved
            && found.ifindex == bridge
        {
            if !asked(found.dmac) {
                return false;
            }
            flow.out_ifindex = bridge;
            flow.out_dmac = found.dmac;
            return true;
        }
        known = endpoint;
    }
    let Some(endpoint) = known else {
        flow.out_ifindex = 0;
        // The stack would ask for the address, and give the answer to whoever has it now. Until
        // the guest is seen again there is nobody to have it (`open::send`).
        if answer && flow.out_dmac != [0; 6] {
            flow.out_mtu = 0;
        }
        return true;
    };
    if !asked(endpoint.mac) {
        return false;
    }
    flow.out_ifindex = endpoint.ifindex;
    flow.out_dmac = endpoint.mac;
    true
}

/// Nobody knows where the guest of a forward is: let the kernel ask for it with the packet in hand.
/// The stack would do so as well, but would not route what comes from the guest's own network with
/// the gateway's address. `confirm` receives whom to ask for.
#[inline(always)]
pub fn ask_for_guest<F: Family>(flow: &mut Flow<F::Addr>, confirm: &mut F::Addr) {
    if flow.flags & (FLOW_FORWARD | FLOW_REPLY) == FLOW_FORWARD && flow.out_ifindex == 0 {
        flow.out_ifindex = flow.out_network;
        flow.out_dmac = [0; 6];
        *confirm = flow.new_dst;
    }
}

/// The epoch for a flow that was just looked at: not this one where its next packet must not go on
/// without a look, since the way is makeshift or the flow has only seconds to live.
#[inline(always)]
pub fn epoch_after_look<A>(flow: &Flow<A>, protocol: u8, epoch: u32) -> u32 {
    let makeshift = flow.out_ifindex == 0 || (flow.out_network != 0 && flow.out_dmac == [0; 6]);
    if makeshift || State::from_u8(flow.state).is_brief(protocol) {
        epoch.wrapping_sub(1)
    } else {
        epoch
    }
}

/// Where a program runs, as far as handing a packet to the stack differs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of a bridge port; `bridge_ingress` will see the packet again.
    Port,
    /// Ingress of a managed bridge.
    Bridge,
    /// Ingress of any other device.
    Uplink,
}

/// Must the stack have the packet, though its flow has a way?
#[inline(always)]
pub fn needs_stack<A>(l3: usize, packet: &Packet<A>, flow: &Flow<A>) -> bool {
    l3 != ETH
        || flow.out_ifindex == 0
        || packet.ttl <= 1
        || packet.options
        || packet.wire_len > u32::from(flow.out_mtu)
}

/// Send an established packet on its way: past bridge, stack and netfilter when the path allows.
///
/// `confirm` names the next hop (or nobody) when the kernel should be reminded that it is in use:
/// one packet of a flow now and then goes through its neighbour code, so that the entry is
/// confirmed (RFC 4861's reachability states, which Linux keeps for ARP too) and a changed MAC
/// address noticed.
#[inline(always)]
pub fn transmit<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    hook: Hook,
    confirm: F::Addr,
) -> i32 {
    flow.packets += 1;
    flow.bytes += u64::from(ctx.len());
    if packet.key.proto == proto::TCP && !packet.headless {
        window::remember(packet, flow);
    }
    // The stack answers with ICMP where that is due, fragments, resolves neighbours. A packet that
    // answers a translated flow is addressed to the host and must be translated first. Not at a
    // port: the bridge hands the packet up to `bridge_ingress`, which would not know the
    // translated one.
    let stack = needs_stack(l3, packet, flow);
    // An answer, or a packet that a mapping lets in; the host's own flows change their port only.
    let translated_destination = flow.flags & FLOW_NAT != 0
        && (flow.new_dst != packet.key.dst || flow.new_dport != packet.key.dport);
    if stack && (!translated_destination || hook == Hook::Port) {
        return PASS;
    }
    if (!stack && rewrite::set_macs(ctx, flow.out_dmac, flow.out_smac).is_none())
        || rewrite::apply::<F>(ctx, l3, packet, flow, !stack).is_none()
    {
        return drops::drop(Reason::Rewrite);
    }
    if stack {
        PASS
    } else {
        redirect::<F>(flow.out_ifindex, confirm)
    }
}

/// Redirect the frame to `ifindex`, by way of the neighbour `confirm` if there is one.
#[inline(always)]
pub fn redirect<F: Family>(ifindex: u32, confirm: F::Addr) -> i32 {
    if confirm != F::ZERO {
        let mut next = bpf_redir_neigh {
            nh_family: u32::from(F::AF),
            // All 16 bytes: the helper reads the whole union.
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: F::next_hop_words(confirm),
            },
        };
        // SAFETY: `next` is as large as said and outlives the call.
        return unsafe {
            bpf_redirect_neigh(
                ifindex,
                &raw mut next,
                size_of::<bpf_redir_neigh>() as i32,
                0,
            )
        } as i32;
    }
    // SAFETY: takes no pointers.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
