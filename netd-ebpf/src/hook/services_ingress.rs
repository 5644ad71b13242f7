//! Frames of a network's services, at the host's end of the link to the namespace that they are in.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;

use crate::action::drop;
use crate::family::{Family, V4};
use crate::records;
use crate::report::drops;
use crate::route::redirect::redirect;
use crate::skb::ifindex;
use crate::stage::services::is_arp_reply;

/// They go to the guests by the bridge, as if the host itself had sent them: the bridge's own hook
/// sees them, and no rule of the host's does.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    let here = ifindex(ctx);
    let bridge = records::bridge_of_port(here);
    if bridge == 0 {
        return drops::finish(ctx, drop(Reason::NetworkGone));
    }
    // Both have the gateway's addresses, and were asked; the host has answered.
    if is_arp_reply(ctx) {
        return TC_ACT_SHOT;
    }
    redirect::<V4>(bridge, V4::ZERO)
}
