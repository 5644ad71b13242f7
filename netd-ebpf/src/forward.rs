//! Published ports: what is sent to an address and port of the host's goes to a guest.
//!
//! A port may be published at one address, at the addresses of one device, or at all of the host's;
//! the first of these goes before the others. Ranges share entries of a trie, so a look costs the
//! same for one port and for ten thousand, and packets to ports that nobody has published take
//! none. Whoever may reach the host may reach what is published there: it is a service of the
//! host's. The client keeps its address, unless it lives beside the guest, which would answer it
//! without the host: such a client is seen with the gateway's (RFC 4787, REQ-9, asks for as much).

use aya_ebpf::btf_maps::lpm_trie;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{
    CONTROL_FORWARDS, CONTROL_WHOLE_ADDRESSES, FLOW_FORWARD, FLOW_MASQUERADE, FLOW_REPLY, FlowKey,
    Forward, ForwardKey,
};
use netd_common::checksum::difference;
use netd_common::port::Range;

use crate::claim::{SPARE_RESERVED, SPARE_SOCKETS};
use crate::family::{Family, V4, V6};
use crate::guest::why_no_flow;
use crate::maps::Seen;
use crate::open::{Inbound, let_in};
use crate::packet::has_ports;
use crate::reject::Rejects;
use crate::stage::Stages;
use crate::{FIRST, LOOK, OPEN, REJECT, flow, host, maps};

/// Services of a network's own at its gateway: DNS, DHCP, TFTP, DHCPv6. A forward of all the host's
/// addresses does not take them away from its guests.
pub const GATEWAY_SERVICES: [u16; 4] = [53, 67, 69, 547];

/// What [`Finds::find`] says: nothing.
pub const NONE: u32 = 0;
/// Published at this very address.
const AT_ADDRESS: u32 = 1;
/// Published at the addresses of the device that has the one asked for.
const OF_DEVICE: u32 = 2;
/// Published at all of the host's addresses.
pub const EVERYWHERE: u32 = 3;

/// A device that has none of the host's addresses: the kernel's indices are positive `int`s.
const OTHER_DEVICE: u32 = u32::MAX;

/// Families whose published ports can be found.
pub trait Finds: Family {
    /// Is something published where packets of this key go? Then `found` receives it. What is
    /// published at a device is found by those who come by it (`by`, an ifindex; 0: not by a wire).
    fn find(key: &FlowKey<Self::Addr>, by: u32, found: &mut Forward<Self::Addr>) -> u32;
}

macro_rules! finds {
    ($family:ident: $find:ident) => {
        /// Verified once, instead of wherever it is called.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $find(
            key: *const FlowKey<<$family as Family>::Addr>,
            by: u32,
            found: *mut Forward<<$family as Family>::Addr>,
        ) -> u32 {
            // SAFETY: callers pass references; null is checked.
            let (Some(key), Some(found)) = (unsafe { (key.as_ref(), found.as_mut()) }) else {
                return NONE;
            };
            look_up::<$family>(key, by, found)
        }

        impl Finds for $family {
            #[inline(always)]
            fn find(key: &FlowKey<Self::Addr>, by: u32, found: &mut Forward<Self::Addr>) -> u32 {
                if !has_forwards() {
                    return NONE;
                }
                $find(key, by, found)
            }
        }
    };
}

finds!(V4: forward_find4);
finds!(V6: forward_find6);

#[inline(always)]
fn look_up<F: Family>(key: &FlowKey<F::Addr>, by: u32, found: &mut Forward<F::Addr>) -> u32 {
    let port = u16::from_be_bytes(key.dport);
    let published = has_ports(key.proto) && maps::is_published(port);
    let whole = maps::control_flags() & CONTROL_WHOLE_ADDRESSES != 0;
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
            zero: 0,
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
    let owner = maps::owner_of::<F>(&key.dst);
    if !published || owner == 0 {
        return NONE;
    }
    query.data.address = F::ZERO;
    query.data.dev = owner;
    if (by == 0 || by == owner) && take::<F>(&query, found) {
        return OF_DEVICE;
    }
    if maps::network(owner).is_some() && GATEWAY_SERVICES.contains(&port) {
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
pub fn is_taken<F: Finds>(back_key: &FlowKey<F::Addr>) -> bool {
    maps::is_published(u16::from_be_bytes(back_key.dport))
        && F::find(back_key, 0, &mut Forward::default()) != NONE
}

/// What becomes of a packet of no known flow: it is for something published, or `first` says.
#[inline(always)]
pub fn or_else<F: Stages>(ctx: &TcContext, first: impl Fn(&TcContext) -> i32) -> i32 {
    if has_forwards() {
        match F::published(ctx) {
            FIRST => {}
            action => return action,
        }
    }
    first(ctx)
}

/// Stage: a packet of no known flow. Where it is for something published, prepare its flow;
/// [`FIRST`] when it is not.
#[inline(always)]
pub fn admit<F: Rejects>(ctx: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let Seen {
        packet,
        source,
        confirm,
        ..
    } = seen;
    if F::never_forwarded(packet.key.dst) || why_no_flow(packet).is_some() {
        return FIRST;
    }
    let mut forward = Forward::default();
    // Guests come by no wire: to them, a device's addresses are the host's.
    let by = if source.bridge == 0 {
        source.ifindex
    } else {
        0
    };
    let found = F::find(&packet.key, by, &mut forward);
    if found == NONE {
        return FIRST;
    }
    let bridge = forward.bridge;
    let Some(network) = maps::network(bridge) else {
        return FIRST;
    };
    let mut inbound = Inbound {
        bridge,
        guest: forward.guest,
        port: forward.guest_port(packet.key.dport),
        device: 0,
        flags: FLOW_FORWARD,
    };
    if source.bridge == 0 {
        // Bound to a device, by its own definition or its network's (`<forward dev>`).
        inbound.device = network.uplink;
        if found == OF_DEVICE {
            inbound.device = by;
        }
        if inbound.device != 0 && inbound.device != source.ifindex {
            return FIRST;
        }
    } else if maps::bridge_of::<F>(packet.key.src) != source.bridge {
        return REJECT + Reason::ForeignSource as i32;
    } else if maps::network(source.bridge).is_some_and(host::is_closed) {
        return REJECT + Reason::HostClosed as i32;
    }
    if !let_in::<F>(ctx, packet, source, &inbound, confirm) {
        return FIRST;
    }
    let Some(scratch) = F::scratch() else {
        return FIRST;
    };
    // Two clients' flows may be one behind the forward: then another port tells them apart.
    scratch.claim.translate = u32::from(has_ports(packet.key.proto) || packet.key.proto == F::ICMP);
    scratch.claim.first = Range::ALL.first;
    scratch.claim.last = Range::ALL.last;
    if has_ports(packet.key.proto) {
        scratch.claim.first = 1;
    }
    if source.bridge == bridge {
        let range = Range::new(0, 0);
        scratch.claim.first = range.first;
        scratch.claim.last = range.last;
        scratch.claim.spare = SPARE_RESERVED | SPARE_SOCKETS;
        scratch.flow.flags |= FLOW_MASQUERADE;
        scratch.flow.new_src = F::side(network).gateway;
        let outside = F::sum(&packet.key.src) + F::sum(&packet.key.dst);
        let inside = F::sum(&scratch.flow.new_src) + F::sum(&scratch.flow.new_dst);
        scratch.flow.addr_diff = difference(outside, inside);
        scratch.back.addr_diff = difference(inside, outside);
    }
    OPEN
}

/// Stage: before a known flow is looked at again. One that goes by a forward ends when its port is
/// not published any more, or for another guest or port: the packet is judged anew.
#[inline(always)]
pub fn withdraw<F: Rejects>(_: &TcContext, seen: &mut Seen<F::Addr>) -> i32 {
    let key = &seen.packet.key;
    let Some(flow) = flow::find::<F>(key) else {
        return LOOK;
    };
    if flow.flags & FLOW_FORWARD == 0 {
        return LOOK;
    }
    let mut published = *key;
    let (mut guest, mut port) = (flow.new_dst, flow.new_dport);
    if flow.flags & FLOW_REPLY != 0 {
        published = flow.partner(key.proto);
        (guest, port) = (key.src, key.sport);
    }
    // Which device it came by is not kept: one that would lead there is enough.
    for by in [0, OTHER_DEVICE] {
        let mut forward = Forward::default();
        if F::find(&published, by, &mut forward) != NONE
            && forward.guest == guest
            && forward.guest_port(published.dport) == port
        {
            return LOOK;
        }
    }
    F::remove(key);
    LOOK
}

/// Is the packet of a flow that exists, and that may?
#[inline(always)]
pub fn known<F: Stages>(ctx: &TcContext) -> i32 {
    if has_forwards() {
        let _ = F::withdraw(ctx);
    }
    F::known(ctx)
}

#[inline(always)]
fn has_forwards() -> bool {
    maps::control_flags() & (CONTROL_FORWARDS | CONTROL_WHOLE_ADDRESSES) != 0
}
