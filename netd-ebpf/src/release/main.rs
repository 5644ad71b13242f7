//! The program by which frames that were held come in again (`netd/src/datapath/held.rs`).
//!
//! No packet comes here: the agent runs the program on each of them, with the device that it came by
//! as the context's `ifindex`, and in `cb[0]` the mark by which netd's programs know it then
//! (`HELD_ONCE`, `HELD_LONG`), or 0 for one that is lost.

#![no_std]
#![no_main]

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_clone_redirect;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{BridgePort, DropCount};
use netd_common::reason::DROP_ENTRIES;

// Maps of netd's programs.
#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<DropCount, DROP_ENTRIES> = PerCpuArray::new();

#[btf_map(name = "ports")]
pub static PORTS: HashMap<u32, BridgePort, 65536> = HashMap::new();

/// Put the frame into the stack, as received by its device. What the stack does not take is counted.
#[classifier]
pub fn release(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands a valid context; the verifier rewrites each access.
    let taken = unsafe {
        let mark = (*skb).cb[0];
        (*skb).tc_index = mark;
        // At a guest's port the mark is believed of such frames alone.
        if PORTS.get((*skb).ifindex).is_some() {
            (*skb).mark = (*skb).ifindex;
        }
        mark != 0 && bpf_clone_redirect(skb, (*skb).ifindex, u64::from(BPF_F_INGRESS)) == 0
    };
    if !taken && let Some(drops) = DROPS.get_ptr_mut(Reason::FragWithoutFirst as u32) {
        // SAFETY: the slot belongs to this CPU; a program of a packet's that interrupts this one may
        // lose a count.
        unsafe {
            (*drops).packets += 1;
            (*drops).bytes += u64::from(ctx.len());
        }
    }
    i32::from(taken)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could come here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
