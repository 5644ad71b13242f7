//! netd's eBPF programs: one thin entry point per hook.
//!
//! | program | hook | what arrives there |
//! |---|---|---|
//! | `port_ingress` | TC ingress of a bridge port | every frame of one guest |
//! | `services_ingress` | TC ingress of the host's end of a link | what a network's services send |
//! | `shaper_ingress` | TC ingress of the end of a network's shaper | what waited for its turn there |
//! | `bridge_ingress` | TC ingress of a managed bridge | what the bridge hands up to the host |
//! | `bridge_egress` | TC egress of a managed bridge | what the host sends or routes to guests |
//! | `uplink_ingress` | TC ingress of any other device | what comes from outside |
//! | `uplink_egress` | TC egress of any other device | what the host sends or routes outside |
//! | `port_xdp` | XDP of a bridge port that has the XDP fast path | the same frames, before `port_ingress` |
//! | `uplink_xdp` | XDP of any other device that has it | the same packets, before `uplink_ingress` |
//! | `from_guest` | tail call | frames of guests that the first look does not send |
//! | `from_outside` | tail call | the same from outside |
//! | `to_outside` | tail call | the same by the stack |
//! | `connect4`, `sendmsg6`, … | calls of the host's own sockets | what the host sends to a published port |
//!
//! The `tunnel_*` pair is the uplink pair for devices whose frames have no Ethernet header. The
//! agent runs `sweep_start`, `sweep` and `enter` itself; no packet comes by them.
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

// The ground floor: what everything else is made of.
mod action;
mod clock;
mod context;
mod family;
mod frame;
mod maps;
mod prefixes;
mod records;
mod skb;
mod sockets;
mod verified;

// Above it, each on those before it.
mod conntrack;
mod filter;
mod hook;
mod nat;
mod parse;
mod reply;
mod report;
mod route;
mod stage;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::conntrack::sweep;
use crate::context::Hook;
use crate::frame::ETH;
use crate::hook::{egress, enter, port_ingress, services_ingress, slow_path, uplink_ingress, xdp};
use crate::reply::dhcp;
use crate::stage::shaper;

/// Frames of one guest, before its bridge sees them.
#[classifier]
pub fn port_ingress(ctx: TcContext) -> i32 {
    port_ingress::ingress(&ctx, Hook::Port)
}

/// Frames that a network's services send, from the namespace that they are in.
#[classifier]
pub fn services_ingress(ctx: TcContext) -> i32 {
    services_ingress::ingress(&ctx)
}

/// Frames of guests that have waited for their turn.
#[classifier]
pub fn shaper_ingress(ctx: TcContext) -> i32 {
    shaper::come_back(&ctx)
}

/// Frames that a managed bridge hands up to the host.
#[classifier]
pub fn bridge_ingress(ctx: TcContext) -> i32 {
    port_ingress::ingress(&ctx, Hook::Bridge)
}

/// Frames that the host sends to the guests of a managed bridge.
#[classifier]
pub fn bridge_egress(ctx: TcContext) -> i32 {
    dhcp::complete_checksum(&ctx);
    egress::egress(&ctx, ETH)
}

/// Packets from outside.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    uplink_ingress::ingress(&ctx, ETH)
}

/// Packets to outside.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    egress::egress(&ctx, ETH)
}

/// Packets from outside, of a device without link-layer header.
#[classifier]
pub fn tunnel_ingress(ctx: TcContext) -> i32 {
    uplink_ingress::ingress(&ctx, 0)
}

/// Packets to outside, of a device without link-layer header.
#[classifier]
pub fn tunnel_egress(ctx: TcContext) -> i32 {
    egress::egress(&ctx, 0)
}

/// Frames of one guest, from its driver.
#[xdp(frags)]
pub fn port_xdp(ctx: XdpContext) -> u32 {
    xdp::ingress(&ctx, true)
}

/// Packets from outside, from the driver.
#[xdp(frags)]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    xdp::ingress(&ctx, false)
}

/// What guests send and the first look does not: the slow path of `port_ingress` and
/// `bridge_ingress`.
#[classifier]
pub fn from_guest(ctx: TcContext) -> i32 {
    slow_path::from_guest(&ctx)
}

/// The slow path of `uplink_ingress` and `tunnel_ingress`.
#[classifier]
pub fn from_outside(ctx: TcContext) -> i32 {
    slow_path::from_outside(&ctx)
}

/// The slow path of `bridge_egress`, `uplink_egress` and `tunnel_egress`.
#[classifier]
pub fn to_outside(ctx: TcContext) -> i32 {
    slow_path::to_outside(&ctx)
}

/// Set the sweep of dead flows going. Returns 0, or the kernel's error.
#[classifier]
pub fn sweep_start(_: TcContext) -> i32 {
    sweep::start_timer()
}

/// Sweep part of the table at once. Returns the number of flows removed.
#[classifier]
pub fn sweep(_: TcContext) -> i32 {
    sweep::run()
}

/// Enter a connection of the kernel's into the flow table. Returns `ENTERED` or `NOT_ENTERED`.
#[classifier]
pub fn enter(ctx: TcContext) -> i32 {
    enter::enter(&ctx)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could come here.
    loop {}
}

/// The kernel lends its GPL-only helpers (fib_lookup) to programs of a compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
