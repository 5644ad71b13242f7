//! Entries of endpoint-independent mappings (RFC 4787, section 4.1): one outside port for all peers
//! of a guest's port.
//!
//! A mapping is a flow to everybody: its peer's address and port are zero. So it is made, kept and
//! swept like any flow, and the insertion of its answering half reserves the port. Flows under it
//! have entries of their own, by which packets find their way; the mapping is asked when one is
//! opened (`nat/mapping.rs`). A *filter entry* is a flow to one peer's every port; it is kept where the
//! filter is by address (RFC 4787, section 5).

use netd_common::abi::{FLOW_MAPPED, Flow, FlowKey};
use netd_common::state::State;

use crate::conntrack::life;
use crate::conntrack::lookup::find;
use crate::context::Packet;
use crate::family::Family;

/// The mapping's key: a guest's address and port.
#[inline(always)]
pub fn mapping<F: Family>(key: &FlowKey<F::Addr>) -> FlowKey<F::Addr> {
    FlowKey {
        src: key.src,
        dst: F::ZERO,
        sport: key.sport,
        dport: [0; 2],
        proto: key.proto,
        pad: 0,
        zone: 0,
    }
}

/// The filter entry's key: the mapping's with a peer's address.
#[inline(always)]
pub fn filter_entry<F: Family>(key: &FlowKey<F::Addr>) -> FlowKey<F::Addr> {
    FlowKey {
        dport: [0; 2],
        ..*key
    }
}

/// A living entry of this key.
#[inline(always)]
pub fn alive<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut Flow<F::Addr>> {
    let flow = find::<F>(key)?;
    if life::is_dead::<F>(key) {
        life::remove::<F>(key);
        return None;
    }
    Some(flow)
}

/// The mapping's key for packets from outside.
#[inline(always)]
pub fn outside_half<F: Family>(key: &FlowKey<F::Addr>) -> FlowKey<F::Addr> {
    FlowKey {
        src: F::ZERO,
        dst: key.dst,
        sport: [0; 2],
        dport: key.dport,
        proto: key.proto,
        pad: 0,
        zone: 0,
    }
}

/// A packet of a mapped flow passes: so long the mapping lives, and as long as its flow would.
#[inline(always)]
pub fn touch<F: Family>(packet: &Packet<F::Addr>, flow: &Flow<F::Addr>) {
    if flow.flags & FLOW_MAPPED == 0 {
        return;
    }
    // Sent by the guest, or to its outside address and port: the opener may be either side.
    let key = if flow.in_bridge != 0 {
        mapping::<F>(&packet.key)
    } else {
        outside_half::<F>(&packet.key)
    };
    if let Some(mapping) = find::<F>(&key) {
        mapping.last_seen = flow.last_seen;
        // One more peer that has not answered does not make a mapping with others forgettable.
        if matches!(State::from_u8(flow.state), State::New | State::Answered) {
            return;
        }
        mapping.state = flow.state;
        if let Some(partner) = find::<F>(&mapping.partner(key.proto)) {
            partner.state = flow.state;
        }
    }
}
