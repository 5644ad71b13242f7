//! Programs that try what the kernel has; the agent runs them when it starts. Each returns 1 where
//! that works.

#![no_std]
#![no_main]

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use netd_common::checksum::BPF_F_IPV6;

/// A checksum somewhere in the packet, of which nothing changes.
#[classifier]
pub fn csum_ipv6(ctx: TcContext) -> i32 {
    let flags = u64::from(BPF_F_PSEUDO_HDR) | BPF_F_IPV6;
    i32::from(ctx.skb.l4_csum_replace(40, 0, 0, flags).is_ok())
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could come here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
