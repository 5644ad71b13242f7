//! Which ports and addresses of the host's are published.
//!
//! A port may be published at one address, at the addresses of one device, or at all of the host's;
//! the first of these goes before the others. Ranges share entries of a trie, so a look costs the
//! same for one port and for ten thousand, and packets to ports that nobody has published take
//! none.

use aya_ebpf::btf_maps::lpm_trie;
use netd_common::abi::{CONTROL_WHOLE_ADDRESSES, FlowKey, Forward, ForwardKey};
use netd_common::port::GATEWAY_SERVICES;

use crate::family::Family;
use crate::parse::transport::has_ports;
use crate::prefixes;
use crate::records;
use crate::verified::verified;

/// What [`find`] says: nothing.
pub const NONE: u32 = 0;
/// Published at this very address.
const AT_ADDRESS: u32 = 1;
/// Published at the addresses of the device that has the one asked for.
pub const OF_DEVICE: u32 = 2;
/// Published at all of the host's addresses.
pub const EVERYWHERE: u32 = 3;
/// An address that a guest has outside, by its network's prefix.
const BY_PREFIX: u32 = 4;

verified! {
    /// [`find`], where there is anything to be found.
    fn forward_find(key: Key, by: u32, found: Forward) -> u32
        = look_up, else NONE, as forward_find4, forward_find6;
}

/// Is something published where packets of this key go? Then `found` receives it. What is
/// published at a device is found by those who come by it (`by`, an ifindex; 0: not by a wire).
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F::Addr>, by: u32, found: &mut Forward<F::Addr>) -> u32 {
    if !records::has_forwards() {
        return NONE;
    }
    match forward_find::<F>(key, by, found) {
        NONE if prefixes::find::<F>(&key.dst, found) => BY_PREFIX,
        published => published,
    }
}

/// [`find`] without the addresses that guests have outside (`nat::prefix::admit`).
#[inline(always)]
pub fn find_published<F: Family>(
    key: &FlowKey<F::Addr>,
    by: u32,
    found: &mut Forward<F::Addr>,
) -> u32 {
    forward_find::<F>(key, by, found)
}

#[inline(always)]
fn look_up<F: Family>(key: &FlowKey<F::Addr>, by: u32, found: &mut Forward<F::Addr>) -> u32 {
    let port = u16::from_be_bytes(key.dport);
    let published = has_ports(key.proto) && records::is_dnat_port(port);
    let whole = records::control_flags() & CONTROL_WHOLE_ADDRESSES != 0;
    if !published && !whole {
        return NONE;
    }
    // One key that changes, for the stack's sake.
    let mut query = lpm_trie::Key::new(
        ForwardKey::<F::Addr>::BITS,
        ForwardKey {
            dev: 0,
            address: key.dst,
            proto: key.proto,
            pad: 0,
            port: key.dport,
        },
    );
    if published && take::<F>(&query, found) {
        return AT_ADDRESS;
    }
    if whole {
        query.data.proto = 0;
        if take::<F>(&query, found) {
            return AT_ADDRESS;
        }
        query.data.proto = key.proto;
    }
    // A copy: see `conntrack/life.rs`.
    let owner = records::owner_of::<F>(&{ key.dst });
    if !published || owner == 0 {
        return NONE;
    }
    query.data.address = F::ZERO;
    query.data.dev = owner;
    if (by == 0 || by == owner) && take::<F>(&query, found) {
        return OF_DEVICE;
    }
    if records::network(owner).is_some() && GATEWAY_SERVICES.contains(&port) {
        return NONE;
    }
    query.data.dev = 0;
    if take::<F>(&query, found) {
        EVERYWHERE
    } else {
        NONE
    }
}

#[inline(always)]
fn take<F: Family>(
    query: &lpm_trie::Key<ForwardKey<F::Addr>>,
    found: &mut Forward<F::Addr>,
) -> bool {
    let Some(forward) = F::forwards().get(query) else {
        return false;
    };
    *found = *forward;
    true
}

/// Is a port of the host's published, so that nobody else may have answers there?
#[inline(always)]
pub fn is_published<F: Family>(back_key: &FlowKey<F::Addr>) -> bool {
    records::is_dnat_port(u16::from_be_bytes(back_key.dport))
        && find::<F>(back_key, 0, &mut Forward::default()) != NONE
}
