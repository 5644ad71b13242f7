//! What guests send beyond their bridge, in a network that is held to a rate: it waits in the queue of a
//! device that leads to nowhere but back to the bridge.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::TcContext;
use netd_common::abi::{CONTROL_SHAPERS, PORT_SHAPER};

use crate::family::{Family, V4};
use crate::records;
use crate::route::redirect::redirect;
use crate::skb::{has_waited, ifindex, is_for_us, mark_waited, take_off_waited};

/// At the bridge: where does the frame wait, if it has to? What is not for the host to route does not: the
/// host's neighbours are to be found, and its services asked, whatever else guests send.
#[inline(always)]
pub fn wait(ctx: &TcContext) -> Option<i32> {
    if records::control_flags() & CONTROL_SHAPERS == 0 || take_off_waited(ctx) || !is_for_us(ctx) {
        return None;
    }
    match records::network(ifindex(ctx)) {
        Some(network) if network.shaper_ifindex != 0 && mark_waited(ctx) => {
            Some(redirect::<V4>(network.shaper_ifindex, V4::ZERO))
        }
        _ => None,
    }
}

/// At the other end of that device: the frame is the bridge's again, as if it came in now. Nothing else has
/// any business there.
#[inline(always)]
pub fn come_back(ctx: &TcContext) -> i32 {
    match records::port(ifindex(ctx)) {
        Some(port) if port.flags & PORT_SHAPER != 0 && has_waited(ctx) => {
            // SAFETY: takes no pointers.
            unsafe { bpf_redirect(port.bridge_ifindex, u64::from(BPF_F_INGRESS)) as i32 }
        }
        _ => TC_ACT_SHOT,
    }
}
