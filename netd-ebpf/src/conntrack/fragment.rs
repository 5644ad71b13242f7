//! Fragments: only the first one of a packet says which flow it belongs to, so it is remembered
//! for the others (RFC 4787, section 11; RFC 5508 says nothing else).
//!
//! What comes before the first one waits for it (`held`). Where it does not come in time, a guest's
//! fragment is dropped by name if it would have to be masqueraded. One from outside may be for the host
//! itself, whose stack has it already; when the first one shows that it was a guest's, it is counted.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{
    FRAGMENT_OF_FLOW, FRAGMENT_OF_HOST, FRAGMENT_ORPHAN, Fragment, FragmentKey,
};
use netd_common::timeout::{Timeout, idle};

use crate::clock::now;
use crate::context::{Kind, Packet};
use crate::family::Family;
use crate::records;
use crate::report::drops;

#[inline(always)]
fn key<F: Family>(packet: &Packet<F::Addr>) -> FragmentKey<F::Addr> {
    FragmentKey {
        src: packet.key.src,
        dst: packet.key.dst,
        id: packet.id,
        proto: if !F::IS_IPV6 { packet.key.proto } else { 0 },
        pad: [0; 3],
    }
}

/// Remember the first fragment of a packet that belongs to a flow. Behind a shared address it goes
/// on under another identification (`nat::rewrite`), and the others with it.
#[inline(always)]
pub fn note<F: Family>(ctx: &TcContext, packet: &mut Packet<F::Addr>, renumber: bool) {
    let key = key::<F>(packet);
    let mut id = [0; 2];
    if !F::IS_IPV6 && renumber {
        // SAFETY: takes no pointers.
        let random = unsafe { bpf_get_prandom_u32() } as u16;
        id = (random | 1).to_ne_bytes();
    }
    if let Some(before) = F::fragments().get_ptr_mut(&key) {
        // SAFETY: entries are shared by all CPUs; a lost update loses a count.
        let before = unsafe { &*before };
        if idle(before.seen_at, now()) <= records::timeout(Timeout::Fragment) {
            if before.whose == FRAGMENT_ORPHAN {
                drops::count(ctx, Reason::FragWithoutFirst as u32);
            } else if renumber {
                // The same one again.
                id = before.id;
            }
        }
    }
    let fragment = Fragment {
        sport: packet.key.sport,
        dport: packet.key.dport,
        seen_at: now(),
        whose: FRAGMENT_OF_FLOW,
        proto: packet.key.proto,
        pad: 0,
        id,
        pad_end: [0; 2],
    };
    packet.new_id = id;
    // A full cache loses a packet, as a full reassembly queue does.
    let _ = F::fragments().insert(&key, &fragment, 0);
}

/// Give a later fragment the ports of the first one; `false` when that did not come.
#[inline(always)]
pub fn resolve<F: Family>(packet: &mut Packet<F::Addr>) -> bool {
    let key = key::<F>(packet);
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    let Some(first) = (unsafe { F::fragments().get(&key) }) else {
        return false;
    };
    if first.whose != FRAGMENT_OF_FLOW
        || idle(first.seen_at, now()) > records::timeout(Timeout::Fragment)
    {
        return false;
    }
    packet.key.sport = first.sport;
    packet.key.dport = first.dport;
    packet.key.proto = first.proto;
    packet.new_id = first.id;
    packet.kind = Kind::Flow;
    packet.no_l4 = true;
    true
}

/// Remember that the host's stack has a fragment of the packet: since the first one, which this is, is
/// the host's ([`FRAGMENT_OF_HOST`]), or has not come ([`FRAGMENT_ORPHAN`]).
#[inline(always)]
pub fn note_in_stack<F: Family>(packet: &Packet<F::Addr>, whose: u16) {
    let fragment = Fragment {
        seen_at: now(),
        whose,
        ..Fragment::default()
    };
    let _ = F::fragments().insert(&key::<F>(packet), &fragment, 0);
}

/// Has the first fragment of the packet come, and is it the host's?
#[inline(always)]
pub fn is_hosts<F: Family>(packet: &Packet<F::Addr>) -> bool {
    // SAFETY: as in `resolve`.
    unsafe { F::fragments().get(&key::<F>(packet)) }.is_some_and(|first| {
        first.whose == FRAGMENT_OF_HOST
            && idle(first.seen_at, now()) <= records::timeout(Timeout::Fragment)
    })
}
