//! Guests that are kept from each other (`<port isolated>`).

use netd_common::abi::{BridgePort, EndpointKey, NETWORK_PORTS_ISOLATED, PORT_ISOLATED};

use crate::context::Ingress;
use crate::family::Family;
use crate::records;

/// Is the address one of a guest of the same network, by way of the gateway, that the sender is isolated
/// from? The kernel's bridge sees to frames that go straight.
#[inline(always)]
pub fn keeps_apart<F: Family>(dst: &F::Addr, ingress: &Ingress) -> bool {
    if records::bridge_of::<F>(*dst) != ingress.bridge {
        return false;
    }
    let everybody = records::network(ingress.bridge)
        .is_some_and(|network| network.flags & NETWORK_PORTS_ISOLATED != 0);
    let is_isolated = |ifindex| {
        records::port(ifindex).is_some_and(|port: &BridgePort| port.flags & PORT_ISOLATED != 0)
    };
    if everybody || !is_isolated(ingress.ifindex) {
        return everybody;
    }
    // Where nobody was seen yet, or at the bridge alone, the guest may be at an isolated port.
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    unsafe { F::endpoints().get(&EndpointKey::new(*dst)) }
        .is_none_or(|endpoint| endpoint.ifindex == ingress.bridge || is_isolated(endpoint.ifindex))
}
