//! What the kernel says of a packet that it has made its own (`struct __sk_buff`).

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_redirect, bpf_skb_load_bytes, bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{HELD_LONG, HELD_ONCE, QUEUES};

#[inline(always)]
fn raw(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// Device the program runs on.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context; the verifier rewrites the access.
    unsafe { (*raw(ctx)).ifindex }
}

/// Device the stack received the packet from; 0 when the host itself sent it.
#[inline(always)]
pub fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).ingress_ifindex }
}

/// Is the frame for this very device (PACKET_HOST)?
#[inline(always)]
pub fn is_for_us(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).pkt_type == 0 }
}

/// Payload bytes per segment of a GSO packet; 0 for others.
#[inline(always)]
pub fn gso_size(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).gso_size }
}

/// Take off a VLAN tag with number 0 (a "priority tag", IEEE 802.1Q 6.9.1), as the stack does
/// between this hook and the IP layer (`__netif_receive_skb_core`), so that what is below it is
/// judged. `false` for a frame with two of them, which the stack would take off as well. Tags
/// with other numbers lead to VLAN devices, which have hooks of their own.
#[inline(always)]
pub fn take_off_priority_tag(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe {
        if (*raw(ctx)).vlan_present == 0 || (*raw(ctx)).vlan_tci & 0x0fff != 0 {
            return true;
        }
        if bpf_skb_vlan_pop(raw(ctx)) != 0 {
            return false;
        }
        // A second tag has moved up into the first one's place.
        (*raw(ctx)).vlan_present == 0
    }
}

/// Is this an untagged packet of an EtherType (as the kernel stores it)?
#[inline(always)]
pub fn has_protocol(ctx: &TcContext, ether_type: u16) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).protocol == u32::from(ether_type) && (*raw(ctx)).vlan_present == 0 }
}

/// By this number a later hook knows a frame of which there is a copy: "nd". Nothing in the kernel goes
/// by it, but for filters and queues that somebody has made for it.
const COPIED: u32 = 0x6e64;

/// By what a filter before this one, or whoever put the packet into the stack, has marked it.
#[inline(always)]
pub fn tc_index(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).tc_index }
}

/// By this number a later hook knows a frame that has waited for its turn already: "wa". `abi::held` has others.
const WAITED: u32 = 0x7761;

/// Note that the frame goes where it waits, and that it is to come back here. `false` where some hook has had it
/// before, as its number says: it has waited, or was not to.
#[inline(always)]
pub fn mark_waited(ctx: &TcContext) -> bool {
    if NUMBERS.contains(&tc_index(ctx)) {
        return false;
    }
    // SAFETY: as for `ifindex`.
    unsafe {
        (*raw(ctx)).tc_index = WAITED;
        (*raw(ctx)).mark = (*raw(ctx)).ifindex;
    }
    true
}

/// At the bridge a frame that has waited, here or at its port, is like any other.
#[inline(always)]
pub fn take_off_waited(ctx: &TcContext) {
    if tc_index(ctx) != WAITED {
        return;
    }
    // SAFETY: as for `ifindex`.
    unsafe {
        (*raw(ctx)).tc_index = 0;
        if (*raw(ctx)).mark == (*raw(ctx)).ifindex {
            (*raw(ctx)).mark = 0;
        }
    }
}

/// The device that a frame is to come back to which has waited.
#[inline(always)]
pub fn waited_at(ctx: &TcContext) -> Option<u32> {
    // SAFETY: as for `ifindex`.
    unsafe { (tc_index(ctx) == WAITED).then_some((*raw(ctx)).mark) }
}

/// Netd's queue at the device that the frame goes to is to let it pass at once (`htb_classify`).
#[inline(always)]
pub fn pass_queue(ctx: &TcContext) {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).priority = QUEUES << 16 };
}

/// By this number later hooks know a guest's packet that was for the host when it came in, and was left to it: "ho".
const LEFT_TO_HOST: u32 = 0x686f;

/// By this one a packet that is for somebody else, looked at where it came in, of which the host's rules are to
/// judge: "ru".
const LEFT_TO_RULES: u32 = 0x7275;

/// The host's stack is to have a guest's packet to the host as it is.
#[inline(always)]
pub fn leave_to_host(ctx: &TcContext) {
    mark(ctx, LEFT_TO_HOST);
}

/// The host's rules are to judge a guest's packet to somebody else. Its source is its network's.
#[inline(always)]
pub fn leave_to_rules(ctx: &TcContext) {
    mark(ctx, LEFT_TO_RULES);
}

/// Mark a packet of which nothing has to be known but that it has waited, if it has: what has a mark has.
#[inline(always)]
fn mark(ctx: &TcContext, mark: u32) {
    // SAFETY: as for `ifindex`.
    unsafe {
        if matches!((*raw(ctx)).tc_index, 0 | WAITED) {
            (*raw(ctx)).tc_index = mark;
        }
    }
}

/// Was the packet left to the host, or to its rules? They may have led it elsewhere than it went when it came in, and
/// what was left to the host and is not addressed to it any more they have.
#[inline(always)]
pub fn is_left_to_host(ctx: &TcContext) -> bool {
    matches!(tc_index(ctx), LEFT_TO_HOST | LEFT_TO_RULES)
}

/// Was it for the host when it came in? Then nobody has judged its source.
#[inline(always)]
pub fn was_for_host(ctx: &TcContext) -> bool {
    tc_index(ctx) == LEFT_TO_HOST
}

/// By this number a device's hook knows a packet that it has translated: "tr".
const TRANSLATED: u32 = 0x7472;

/// Have the packet come in by its device once more. The kernel forgets of which connection it took it to be.
#[inline(always)]
pub fn come_in_again(ctx: &TcContext) -> i32 {
    // SAFETY: as for `ifindex`; the helper takes no pointers.
    unsafe {
        (*raw(ctx)).tc_index = TRANSLATED;
        bpf_redirect((*raw(ctx)).ifindex, u64::from(BPF_F_INGRESS)) as i32
    }
}

/// Has it come in again?
#[inline(always)]
pub fn is_translated(ctx: &TcContext) -> bool {
    tc_index(ctx) == TRANSLATED
}

/// Send a copy of the frame by a device, unless an earlier hook has done so. What has no room is lost,
/// as on any wire.
#[inline(always)]
pub fn copy_to(ctx: &TcContext, ifindex: u32) {
    // SAFETY: as for `ifindex`; a valid context and no other pointer.
    unsafe {
        if (*raw(ctx)).tc_index == COPIED {
            return;
        }
        let _ = bpf_clone_redirect(raw(ctx), ifindex, 0);
        (*raw(ctx)).tc_index = COPIED;
    }
}

/// The numbers by which netd's hooks know what others of them have done with a frame.
const NUMBERS: [u32; 7] = [
    COPIED,
    WAITED,
    LEFT_TO_HOST,
    LEFT_TO_RULES,
    TRANSLATED,
    HELD_ONCE,
    HELD_LONG,
];

/// At a guest's port: take off what a frame says of itself before anybody here has looked at it. A guest in a
/// network namespace (a container) may have filters of its own, and the number is not reset on its way. The
/// packet's mark is (`skb_scrub_packet`), so that has the port's number in it where the frame has been here before:
/// where it waited for its turn, or was held. A filter before this one may have put another in its place.
#[inline(always)]
pub fn take_off_claims(ctx: &TcContext) {
    if tc_index(ctx) == 0 || !NUMBERS.contains(&tc_index(ctx)) {
        return;
    }
    // SAFETY: as for `ifindex`.
    unsafe {
        match (*raw(ctx)).mark {
            0 => (*raw(ctx)).tc_index = 0,
            here if here == (*raw(ctx)).ifindex => (*raw(ctx)).mark = 0,
            _ => {}
        }
    }
}

/// The frame is like any other from here on.
#[inline(always)]
pub fn take_off_number(ctx: &TcContext) {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).tc_index = 0 };
}

/// Bring the packet's first `want` bytes, or all there are, into the linear part.
#[inline(always)]
pub fn pull(ctx: &TcContext, want: usize) {
    let (all, want) = (ctx.len(), want as u32);
    // What cannot be pulled is found missing by whoever reads it.
    let _ = ctx.skb.pull_data(if all < want { all } else { want });
}

/// Read bytes of the packet into a value of a map; `None` when the packet ends before.
#[inline(always)]
pub fn load_into<T>(ctx: &TcContext, offset: usize, to: &mut T) -> Option<()> {
    // SAFETY: `to` has the length said, and every pattern of bytes is a value of the integers and
    // byte arrays this is used with.
    let result = unsafe {
        bpf_skb_load_bytes(
            raw(ctx).cast(),
            offset as u32,
            core::ptr::from_mut(to).cast(),
            size_of::<T>() as u32,
        )
    };
    if result == 0 { Some(()) } else { None }
}
