//! Questions to the maps that the agent fills.

use core::hint::black_box;

use aya_ebpf::btf_maps::{Array, lpm_trie};
use netd_common::abi::{
    BridgePort, CONTROL_FORWARDS, CONTROL_PREFIXES, CONTROL_ROUTES_BEHIND, CONTROL_WHOLE_ADDRESSES,
    Control, DEVICE_BRIDGED_RULES, DEVICE_FILTERED, Device, GuestMoves, NETWORK_RESPECT, Network,
    PORT_BY_BRIDGE, PORT_GETS_BY_BRIDGE, PORT_SERVICES, PORTS_WORDS, PortsWord,
};
use netd_common::state::State;
use netd_common::timeout::Timeout;

use crate::family::Family;
use crate::maps::{CONTROL, DEVICES, DNAT_PORTS, GUEST_MOVES, NETWORKS, PORTS, RESERVED};
use crate::verified::verified;

#[inline(always)]
fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// The epoch that flows must carry to be trusted without a second look.
#[inline(always)]
pub fn epoch() -> u32 {
    let moves = GUEST_MOVES.get(0).map_or(0, |m| m.epoch);
    control().map_or(0, |c| c.epoch).wrapping_add(moves)
}

/// [`epoch`], and for how many ticks a look at a flow holds good ([`Control::validity`]).
#[inline(always)]
pub fn epoch_and_validity() -> (u32, u32) {
    let moves = GUEST_MOVES.get(0).map_or(0, |m| m.epoch);
    control().map_or((moves, 0), |c| (c.epoch.wrapping_add(moves), c.validity))
}

/// The epoch since which the host's own rules are what they are.
#[inline(always)]
pub fn rules_epoch() -> u32 {
    control().map_or(0, |c| c.rules_epoch)
}

/// A guest is not where it was, or not who it was: let flows look again. So many guests may move in a
/// tick (`now`), each with flows that may have looked since the one before; one that goes to and fro
/// all the time does not cost all the others' flows a look each time.
#[inline(always)]
pub fn guest_moved(now: u32) {
    const IN_A_TICK: u32 = GuestMoves::IN_A_TICK;
    if let Some(moved) = GUEST_MOVES.get_ptr_mut(0) {
        let first = now.wrapping_mul(IN_A_TICK);
        // SAFETY: a map value; two CPUs that raise it at once raise it once, when both guests have
        // moved already.
        unsafe {
            let raised = (*moved).raised.wrapping_sub(first);
            if raised >= IN_A_TICK {
                (*moved).raised = first.wrapping_add(1);
            } else if raised < IN_A_TICK - 1 {
                (*moved).raised = first.wrapping_add(raised + 1);
            } else {
                return;
            }
            (*moved).epoch = (*moved).epoch.wrapping_add(1);
        }
    }
}

/// `CONTROL_*` bits.
#[inline(always)]
pub fn control_flags() -> u32 {
    control().map_or(0, |c| c.flags)
}

/// Is anything published, be it by a prefix?
#[inline(always)]
pub fn has_forwards() -> bool {
    control_flags() & (CONTROL_FORWARDS | CONTROL_WHOLE_ADDRESSES | CONTROL_PREFIXES) != 0
}

/// May what is of no guest's subnet go to guests all the same, as the host routes it?
#[inline(always)]
pub fn has_routes_behind() -> bool {
    control_flags() & CONTROL_ROUTES_BEHIND != 0
}

/// Flows of one family that a network may have; 0 for no limit.
#[inline(always)]
pub fn max_per_network() -> u32 {
    control().map_or(0, |c| c.max_per_network)
}

/// Number of slots of each family; at least one.
#[inline(always)]
pub fn slot_count() -> u32 {
    control().map_or(1, |c| if c.slots == 0 { 1 } else { c.slots })
}

/// How long a flow may be silent, in ticks.
#[inline(always)]
pub fn timeout(timeout: Timeout) -> u32 {
    // The compiler knows that the number is small enough, and must not tell, for the verifier does
    // not.
    let index = black_box(timeout as usize);
    control().map_or(0, |c| c.timeouts.get(index).copied().unwrap_or_default())
}

verified! {
    /// The same for a flow of a protocol in a state ([`State`] as a number).
    pub fn timeout_of(protocol: u32, state: u32) -> u32 = find_timeout, else 0, as timeout_of;
}

#[inline(always)]
fn find_timeout(protocol: u32, state: u32) -> u32 {
    timeout(Timeout::of(protocol as u8, State::from_u8(state as u8)))
}

/// The bridge a guest subnet with this address is behind; 0 for none.
#[inline(always)]
pub fn bridge_of<F: Family>(address: F::Addr) -> u32 {
    let key = lpm_trie::Key::new(size_of::<F::Addr>() as u32 * 8, address);
    F::subnets().get(&key).map_or(0, |s| s.bridge_ifindex)
}

/// The bridge of the network that masquerades with this address of a range; 0 for none.
#[inline(always)]
pub fn pool_of<F: Family>(address: F::Addr) -> u32 {
    let key = lpm_trie::Key::new(size_of::<F::Addr>() as u32 * 8, address);
    F::pools().get(&key).map_or(0, |s| s.bridge_ifindex)
}

/// The network of a bridge.
#[inline(always)]
pub fn network(bridge: u32) -> Option<&'static Network> {
    // SAFETY: the agent replaces whole values; a reader may see a value freed by a concurrent
    // replacement, which the kernel keeps readable until the program ends (RCU).
    unsafe { NETWORKS.get(bridge) }
}

/// Do the host's own rules have a say in what passes between these bridges (0: outside)? Within one
/// network they do not: the bridge carries that.
#[inline(always)]
pub fn respects_rules(from: u32, to: u32) -> bool {
    let respects = |bridge| network(bridge).is_some_and(|n| n.flags & NETWORK_RESPECT != 0);
    from != to && (respects(from) || respects(to))
}

/// Is this one of the host's own addresses?
#[inline(always)]
pub fn is_own<F: Family>(address: &F::Addr) -> bool {
    owner_of::<F>(address) != 0
}

/// The device that has this address of the host's; 0 for any other address.
#[inline(always)]
pub fn owner_of<F: Family>(address: &F::Addr) -> u32 {
    // SAFETY: as for `network`.
    unsafe { F::addresses().get(address) }.map_or(0, |owner| *owner)
}

/// The record of a device.
#[inline(always)]
pub fn device(ifindex: u32) -> Option<&'static Device> {
    // SAFETY: as for `network`.
    unsafe { DEVICES.get(ifindex) }
}

/// Has somebody filters of his own at the device's ingress?
#[inline(always)]
pub fn is_filtered(ifindex: u32) -> bool {
    device(ifindex).is_some_and(|d| d.flags & DEVICE_FILTERED != 0)
}

/// Has connection tracking a packet of this device's already, as it came?
#[inline(always)]
pub fn has_bridged_rules(ifindex: u32) -> bool {
    device(ifindex).is_some_and(|d| d.flags & DEVICE_BRIDGED_RULES != 0)
}

/// The bridge that a port belongs to; 0 for a device that is no port of a managed bridge.
#[inline(always)]
pub fn bridge_of_port(ifindex: u32) -> u32 {
    port(ifindex).map_or(0, |p| p.bridge_ifindex)
}

/// Does all that a port's guest sends and gets go by the bridge?
#[inline(always)]
pub fn is_by_bridge(ifindex: u32) -> bool {
    port(ifindex).is_some_and(|p| p.flags & PORT_BY_BRIDGE != 0)
}

/// Does what goes to a port's guest go by the bridge, which has a look at it, or at which it waits for its turn?
#[inline(always)]
pub fn gets_by_bridge(ifindex: u32) -> bool {
    port(ifindex).is_some_and(|p| p.flags & PORT_GETS_BY_BRIDGE != 0)
}

/// The record of a port of a managed bridge.
#[inline(always)]
pub fn port(ifindex: u32) -> Option<&'static BridgePort> {
    // SAFETY: as for `network`.
    unsafe { PORTS.get(ifindex) }
}

/// Does this device lead to the namespace of a network's services?
#[inline(always)]
pub fn is_services_port(ifindex: u32) -> bool {
    port(ifindex).is_some_and(|port| port.flags & PORT_SERVICES != 0)
}

/// Is the port (host order) one that is not to be handed out?
#[inline(always)]
pub fn is_reserved(port: u16) -> bool {
    holds(&RESERVED, port)
}

/// Is some forward about the port (host order)?
#[inline(always)]
pub fn is_dnat_port(port: u16) -> bool {
    holds(&DNAT_PORTS, port)
}

#[inline(always)]
fn holds(ports: &Array<PortsWord, PORTS_WORDS>, port: u16) -> bool {
    ports
        .get(u32::from(port) / 64)
        .is_some_and(|word| (*word >> (port & 63)) & 1 != 0)
}

/// Cookie of the agent's network namespace.
#[inline(always)]
pub fn netns() -> u64 {
    control().map_or(0, |c| c.netns)
}
