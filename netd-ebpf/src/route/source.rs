//! Which address guests' flows are masqueraded with.

use crate::context::Route;
use crate::family::Family;
use crate::{prefixes, records};

/// The address for packets of a guest (`src`) of the network behind `bridge` that leave by `route`;
/// zero when there is none.
#[inline(always)]
pub fn choose<F: Family>(src: F::Addr, bridge: u32, route: &Route<F::Addr>) -> F::Addr {
    let outside = prefixes::source_outside::<F>(bridge, src);
    if outside != F::ZERO {
        return outside;
    }
    // A device that the agent does not know yet has no program at its egress.
    let Some(device) = records::device(route.ifindex) else {
        return F::ZERO;
    };
    if let Some(network) = records::network(bridge) {
        let config = F::config(network);
        if config.first != F::ZERO {
            // The same address for all of a guest's flows (RFC 4787, REQ-2).
            return F::pick(config.first, config.last, F::hash(src));
        }
    }
    // Towards a destination of the link alone routing names an address of the link.
    if route.own == F::ZERO || F::never_forwarded(route.own) {
        return F::address(device);
    }
    route.own
}

/// May a running flow of `src` go on behind `address`, now that it leaves by `route`? With an address
/// of its network's range, as long as it is one; else as long as a new flow would get it: behind
/// another router nobody knows the old one.
///
/// A device has several IPv6 addresses, and a new temporary one goes before those that running
/// connections have (RFC 8981, section 3.4). They serve as long as the device has them.
#[inline(always)]
pub fn keeps<F: Family>(
    address: &F::Addr,
    src: F::Addr,
    bridge: u32,
    route: &Route<F::Addr>,
) -> bool {
    let chosen = choose::<F>(src, bridge, route);
    chosen != F::ZERO
        && (chosen == *address
            || is_of_range::<F>(address, bridge)
            || (F::IS_IPV6 && records::owner_of::<F>(address) == route.ifindex))
}

/// Has the host this address, or the range of the network behind `bridge`?
#[inline(always)]
pub fn is_usable<F: Family>(address: &F::Addr, bridge: u32) -> bool {
    records::is_own::<F>(address) || is_of_range::<F>(address, bridge)
}

#[inline(always)]
fn is_of_range<F: Family>(address: &F::Addr, bridge: u32) -> bool {
    records::network(bridge).is_some_and(|network| {
        let config = F::config(network);
        config.first != F::ZERO && F::within(*address, config.first, config.last)
    })
}
