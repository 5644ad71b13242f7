//! netd's eBPF programs: one thin entry point per hook.
//!
//! | program | hook | what arrives there |
//! |---|---|---|
//! | `port_ingress` | TC ingress of a bridge port | every frame of one guest |
//! | `bridge_ingress` | TC ingress of a managed bridge | what the bridge hands up to the host |
//! | `bridge_egress` | TC egress of a managed bridge | what the host sends or routes to guests |
//! | `uplink_ingress` | TC ingress of any other device | what comes from outside |
//! | `uplink_egress` | TC egress of any other device | what the host sends or routes outside |
//! | `port_xdp` | XDP of a bridge port that has the express lane | the same frames, before `port_ingress` |
//! | `uplink_xdp` | XDP of any other device that has it | the same packets, before `uplink_ingress` |
//! | `connect4`, `sendmsg6`, … | calls of the host's own sockets | what the host sends to a published port |
//!
//! The `tunnel_*` pair is the uplink pair for devices whose frames have no Ethernet header. The
//! agent runs `sweep_start` and `sweep` itself; no packet comes by them.
//!
//! A program either redirects a packet, drops it by name, or returns `TC_ACT_UNSPEC`, which lets
//! the next program of the hook and then the stack have it (`TC_ACT_OK` would end the chain).

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "BPF has atomic operations, but core offers them for it as intrinsics only"
)]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a map value handed over by value is copied to the stack, which has 512 bytes"
)]

mod allowance;
mod arp;
mod claim;
mod dhcp;
mod drops;
mod event;
mod express;
mod family;
mod flow;
mod forward;
mod fragment;
mod guest;
mod host;
mod icmp;
mod ipv4;
mod ipv6;
mod leaving;
mod mapping;
mod maps;
mod nd;
mod open;
mod outside;
mod packet;
mod path;
mod reject;
mod rewrite;
mod socket;
mod spoof;
mod stage;
mod table;
mod window;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use network_types::eth::EthHdr;

/// Let the next program of the hook, then the stack, have the packet.
const PASS: i32 = TC_ACT_UNSPEC;

/// Between the stages of a program: see whether a flow is known.
const LOOK: i32 = 1 << 11;
/// Between the stages of a program: no flow is known, judge the packet as a first one.
const FIRST: i32 = 1 << 12;
/// Between the stages of a program: it is an ICMP error, see what it is about.
const ERROR: i32 = 1 << 13;
/// Between the stages of a program: insert the flow in the scratch map, then go on.
const OPEN: i32 = 1 << 14;
/// Between the stages of a program: the flow is there, send the packet.
const SEND: i32 = 1 << 15;
/// Between the stages of a program: drop, for the `Reason` above this number.
const DROP: i32 = 1 << 16;
/// Between the stages of a program: refuse with an answer, for the `Reason` above this number.
const REJECT: i32 = 1 << 17;

/// Frames of one guest, before its bridge sees them.
#[classifier]
pub fn port_ingress(ctx: TcContext) -> i32 {
    guest::ingress(&ctx, guest::Hook::Port)
}

/// Frames that a managed bridge hands up to the host.
#[classifier]
pub fn bridge_ingress(ctx: TcContext) -> i32 {
    guest::ingress(&ctx, guest::Hook::Bridge)
}

/// Frames that the host sends to the guests of a managed bridge.
#[classifier]
pub fn bridge_egress(ctx: TcContext) -> i32 {
    dhcp::complete_checksum(&ctx);
    leaving::egress(&ctx, EthHdr::LEN)
}

/// Packets from outside.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    outside::ingress(&ctx, EthHdr::LEN)
}

/// Packets to outside.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    leaving::egress(&ctx, EthHdr::LEN)
}

/// Packets from outside, of a device without link-layer header.
#[classifier]
pub fn tunnel_ingress(ctx: TcContext) -> i32 {
    outside::ingress(&ctx, 0)
}

/// Packets to outside, of a device without link-layer header.
#[classifier]
pub fn tunnel_egress(ctx: TcContext) -> i32 {
    leaving::egress(&ctx, 0)
}

/// Frames of one guest, from its driver.
#[xdp(frags)]
pub fn port_xdp(ctx: XdpContext) -> u32 {
    express::ingress(&ctx, true)
}

/// Packets from outside, from the driver.
#[xdp(frags)]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    express::ingress(&ctx, false)
}

/// Set the sweep of dead flows going. Returns 0, or the kernel's error.
#[classifier]
pub fn sweep_start(_: TcContext) -> i32 {
    table::start_timer()
}

/// Sweep part of the table at once. Returns the number of flows removed.
#[classifier]
pub fn sweep(_: TcContext) -> i32 {
    table::run()
}

/// Arguments of a global function. The verifier checks each such function once, for any arguments
/// of their types, instead of once for every state it can be called in; so pointers may be null
/// for all it knows.
macro_rules! arguments {
    ($ctx:ident $(, $arg:ident)*; else $otherwise:expr) => {
        let $ctx = &TcContext::new($ctx);
        $(
            // SAFETY: callers pass references; null is checked.
            let Some($arg) = (unsafe { $arg.as_ref() }) else { return $otherwise };
        )*
    };
}
pub(crate) use arguments;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could come here.
    loop {}
}

/// The kernel lends its GPL-only helpers (fib_lookup) to programs of a compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
