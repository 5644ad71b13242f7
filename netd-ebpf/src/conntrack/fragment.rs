//! Fragments: only the first one of a packet says which flow it belongs to, so it is remembered
//! for the others (RFC 4787, section 11; RFC 5508 says nothing else).
//!
//! What comes before the first one is not held back. From a guest it is dropped by name where it
//! would have to be masqueraded. From outside it may be for the host itself, whose stack gets it;
//! when the first one shows that it was a guest's, it is counted.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{Fragment, FragmentKey};
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
            if before.orphans != 0 {
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
        orphans: 0,
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
    if first.orphans != 0 || idle(first.seen_at, now()) > records::timeout(Timeout::Fragment) {
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

/// Remember a fragment that the host's stack gets since its first one has not come.
#[inline(always)]
pub fn note_orphan<F: Family>(packet: &Packet<F::Addr>) {
    let orphan = Fragment {
        seen_at: now(),
        orphans: 1,
        ..Fragment::default()
    };
    let _ = F::fragments().insert(&key::<F>(packet), &orphan, 0);
}
