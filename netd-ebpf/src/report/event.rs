//! Records of drops for whoever asks why a packet was lost. A flood of drops makes no flood of
//! records: each CPU may write so many a second, and counts the others.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{DEVICE_ETHERNET, DropEvent};
use network_types::eth::EtherType;

use crate::frame::ETH;
use crate::parse::transport::has_ports;
use crate::report::ratelimit;
use crate::skb::{has_protocol, ifindex};
use crate::{maps, records};

/// Records that a CPU may write in a second.
const PER_SECOND: u64 = 100;

/// Write down what is dropped, if this CPU may. The packet may be anything: what it does not hold
/// stays zero.
#[inline(always)]
pub fn record(ctx: &TcContext, reason: u32) {
    let Some(suppressed) = maps::SUPPRESSED.get_ptr_mut(0) else {
        return;
    };
    if !ratelimit::take(&maps::EVENT_LIMIT, PER_SECOND) {
        // SAFETY: the entry is this CPU's alone.
        unsafe { *suppressed = (*suppressed).wrapping_add(1) };
        return;
    }
    // Where nobody reads them any more there is no room, and the counters have to do.
    let Some(mut entry) = maps::EVENTS.reserve(0) else {
        // SAFETY: as above.
        unsafe { *suppressed = (*suppressed).wrapping_add(1) };
        return;
    };
    let event: *mut DropEvent = entry.as_mut_ptr();
    let here = ifindex(ctx);
    // SAFETY: `event` is the entry's memory, all of whose bytes are written; the helper takes no
    // pointers.
    unsafe {
        event.write(DropEvent {
            time: bpf_ktime_get_coarse_ns(),
            reason,
            ifindex: here,
            suppressed: *suppressed,
            len: ctx.len(),
            ..DropEvent::default()
        });
        *suppressed = 0;
        (*event).ether_type = ((*ctx.skb.skb).protocol as u16).to_ne_bytes();
        let ethernet = records::device(here).is_none_or(|d| d.flags & DEVICE_ETHERNET != 0);
        let l3 = if ethernet { ETH as u32 } else { 0 };
        if has_protocol(ctx, EtherType::Ipv4 as u16) {
            ipv4(ctx, l3, event);
        } else if has_protocol(ctx, EtherType::Ipv6 as u16) {
            load(ctx, l3 + 6, &raw mut (*event).proto, 1);
            load(ctx, l3 + 8, (&raw mut (*event).src).cast(), 16);
            load(ctx, l3 + 24, (&raw mut (*event).dst).cast(), 16);
            ports(ctx, l3 + 40, event);
        } else if has_protocol(ctx, EtherType::Arp as u16) {
            load(ctx, l3 + 14, (&raw mut (*event).src).cast(), 4);
            load(ctx, l3 + 24, (&raw mut (*event).dst).cast(), 4);
        }
    }
    entry.submit(0);
}

/// # Safety
/// `event` is a record that is whole.
#[inline(always)]
unsafe fn ipv4(ctx: &TcContext, l3: u32, event: *mut DropEvent) {
    // SAFETY: as above.
    unsafe {
        load(ctx, l3 + 9, &raw mut (*event).proto, 1);
        load(ctx, l3 + 12, (&raw mut (*event).src).cast(), 4);
        load(ctx, l3 + 16, (&raw mut (*event).dst).cast(), 4);
        let (Ok(first), Ok(fragment)) = (
            ctx.load::<u8>(l3 as usize),
            ctx.load::<u16>(l3 as usize + 6),
        ) else {
            return;
        };
        // A later fragment has no ports.
        if u16::from_be(fragment) & 0x1fff == 0 {
            ports(ctx, l3 + u32::from(first & 0x0f) * 4, event);
        }
    }
}

/// # Safety
/// `event` is a record that is whole.
#[inline(always)]
unsafe fn ports(ctx: &TcContext, l4: u32, event: *mut DropEvent) {
    // SAFETY: as above.
    unsafe {
        if has_ports((*event).proto) {
            load(ctx, l4, (&raw mut (*event).sport).cast(), 2);
            load(ctx, l4 + 2, (&raw mut (*event).dport).cast(), 2);
        }
    }
}

/// Copy bytes of the packet; where it ends before, the helper makes them zero.
///
/// # Safety
/// There is room for `len` bytes at `to`.
#[inline(always)]
unsafe fn load(ctx: &TcContext, offset: u32, to: *mut u8, len: u32) {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: a valid context; the rest is the caller's word.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.cast(), len) };
}
