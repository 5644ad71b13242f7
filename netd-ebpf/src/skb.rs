//! What the kernel says of a packet that it has made its own (`struct __sk_buff`).

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_vlan_pop};
use aya_ebpf::programs::TcContext;

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
