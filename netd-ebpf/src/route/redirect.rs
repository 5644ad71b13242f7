//! Handing a frame to another device.

use aya_ebpf::bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh};

use crate::family::Family;

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
