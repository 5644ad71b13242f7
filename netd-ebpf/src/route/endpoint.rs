//! Where guests are: what their frames show.

use netd_common::abi::{Endpoint, EndpointKey, MacAddr};
use netd_common::clock::ticks;

use crate::clock::now;
use crate::context::{Hook, Ingress};
use crate::family::Family;
use crate::records;

/// A guest whose packets went past the bridge for this long (30 s) sends one through it, so that
/// the bridge goes on to know its port: entries of its table live 300 s.
const BRIDGED: u32 = ticks(30);

/// Remember where a guest is. The bridge's own hook sees again what a port's program let pass, so
/// it only speaks up when no port has done so lately. `true` when the bridge should see this
/// packet, too.
#[inline(always)]
pub fn learn<F: Family>(address: &F::Addr, ingress: &Ingress, hook: Hook) -> bool {
    let now = now();
    let key = EndpointKey::new(*address);
    if let Some(endpoint) = F::endpoints().get_ptr_mut(&key) {
        // SAFETY: as for flows: fields are written one at a time, and a torn read sends one
        // packet to a place that the next packet corrects.
        let endpoint = unsafe { &mut *endpoint };
        if hook != Hook::Port && now.wrapping_sub(endpoint.last_seen) <= 1 {
            return false;
        }
        move_to(endpoint, ingress.ifindex, ingress.smac, now);
        if hook != Hook::Port {
            return false;
        }
        if now.wrapping_sub(endpoint.bridged_at) > BRIDGED {
            endpoint.bridged_at = now;
            return true;
        }
        return false;
    }
    let endpoint = Endpoint {
        ifindex: ingress.ifindex,
        last_seen: now,
        bridged_at: now,
        mac: ingress.smac,
        pad: [0; 2],
    };
    // A full cache or a race loses nothing but a shortcut.
    let _ = F::endpoints().insert(&key, &endpoint, 0);
    // Somebody else may have had the address before.
    records::guest_moved(now);
    false
}

/// The guest of `says.smac` announces that it has an address: what is known of the address follows, as
/// the kernel's neighbour table does. Nothing is learned of one that nobody used. At the bridge's own
/// hook a guest that is known has been heard at its port.
#[inline(always)]
pub fn announced<F: Family>(address: &F::Addr, says: &Ingress) {
    let key = EndpointKey::new(*address);
    if let Some(endpoint) = F::endpoints().get_ptr_mut(&key) {
        // SAFETY: as for `learn`.
        let endpoint = unsafe { &mut *endpoint };
        if says.hook() == Hook::Port || endpoint.mac != says.smac {
            move_to(endpoint, says.ifindex, says.smac, now());
        }
    }
}

#[inline(always)]
fn move_to(endpoint: &mut Endpoint, ifindex: u32, mac: MacAddr, now: u32) {
    let moved = endpoint.ifindex != ifindex || endpoint.mac != mac;
    endpoint.ifindex = ifindex;
    endpoint.mac = mac;
    endpoint.last_seen = now;
    if moved {
        records::guest_moved(now);
    }
}
