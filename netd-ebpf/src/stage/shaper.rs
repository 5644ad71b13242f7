//! What guests send beyond their bridge, in a network that is held to a rate: it waits in the queue of a
//! device that leads to nowhere but back to where it came in.
//!
//! It waits at its port, before anybody has looked at it. Once the bridge has handed it to the host's rules
//! (br_netfilter) it has a connection of the kernel's, which the way through another device would take from it.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::TcContext;
use netd_common::abi::{CONTROL_SHAPERS, PORT_SHAPER};

use crate::context::Hook;
use crate::family::{Family, V4};
use crate::frame::macs;
use crate::records;
use crate::route::redirect::redirect;
use crate::skb::{ifindex, is_for_us, mark_waited, waited_at};

/// Where does the frame wait, if it has to? What is not for the host to route does not: the host's neighbours
/// are to be found, and its services asked, whatever else guests send. At the bridge it is what no port's
/// program has seen: since it has none yet, or has nobody's MAC address but the bridge does not mind.
#[inline(always)]
pub fn wait(ctx: &TcContext, hook: Hook) -> Option<i32> {
    if records::control_flags() & CONTROL_SHAPERS == 0 {
        return None;
    }
    let here = ifindex(ctx);
    let bridge = match hook {
        Hook::Port => records::bridge_of_port(here),
        Hook::Bridge | Hook::Uplink => here,
    };
    let network = records::network(bridge)?;
    if network.shaper_ifindex == 0 {
        return None;
    }
    let for_host = match hook {
        Hook::Port => macs(ctx).is_some_and(|(to, _)| to == network.mac),
        Hook::Bridge | Hook::Uplink => is_for_us(ctx),
    };
    (for_host && mark_waited(ctx)).then(|| redirect::<V4>(network.shaper_ifindex, V4::ZERO))
}

/// At the other end of that device: the frame comes in where it came in before. Nothing else has any business
/// there.
#[inline(always)]
pub fn come_back(ctx: &TcContext) -> i32 {
    match (records::port(ifindex(ctx)), waited_at(ctx)) {
        (Some(port), Some(to))
            if port.flags & PORT_SHAPER != 0
                && (to == port.bridge_ifindex
                    || records::bridge_of_port(to) == port.bridge_ifindex) =>
        {
            // SAFETY: takes no pointers.
            unsafe { bpf_redirect(to, u64::from(BPF_F_INGRESS)) as i32 }
        }
        _ => TC_ACT_SHOT,
    }
}
