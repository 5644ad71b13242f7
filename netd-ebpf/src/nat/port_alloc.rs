//! Making a flow's entries: a slot, a port that nobody has, both directions or none.

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::{CONTROL_MAPPINGS, FLOW_REPLY, FlowKey};
use netd_common::port::{QUICK_TRIES, Range};
use netd_common::proto;

use crate::clock::now;
use crate::conntrack::lookup::find;
use crate::conntrack::{life, slots};
use crate::context::{AVOID_RESERVED, AVOID_SOCKETS};
use crate::family::Family;
use crate::nat::forwards;
use crate::records;
use crate::sockets;
use crate::verified::verified;

const EEXIST: i32 = -17;
const E2BIG: i32 = -7;

/// Ranges of up to so many ports are always searched through.
const SMALL_RANGE: u32 = 1024;

/// Tries in order through large ranges that a CPU may make in a tick: enough for the largest.
const BUDGET: u32 = 1 << 16;

/// The search for a free key of the answering direction.
struct Search {
    ctx: *mut __sk_buff,
    random: u32,
    /// 1: the range may always be searched through.
    small: u32,
    /// 0 once a key was claimed, else the last error.
    result: i32,
}

/// What [`insert_entries`] returns, besides [`FAILED`] with a `Reason`.
const INSERTED: u32 = 0;
/// There is an entry by now where the opener's is to be.
const MET: u32 = 1;
/// Nothing was inserted, for the `Reason` above this number.
const FAILED: u32 = 1 << 8;

verified! {
    /// Insert both entries of the flow of the scratch map, or none.
    fn insert_entries(ctx: Ctx) -> u32 = put_entries, else INSERTED, as insert_entries4, insert_entries6;
}

/// Insert the flow of the scratch map, unless another CPU is faster, whose flow serves as well: the
/// answering direction's entry first, with NOEXIST, which is the reservation of its port; then the
/// opener's. Nothing stays behind on failure.
#[inline(always)]
pub fn insert<F: Family>(ctx: &TcContext) -> Result<(), Reason> {
    if let Some(found) = meet::<F>() {
        return found;
    }
    let Some(scratch) = F::scratch() else {
        return Err(Reason::NoMemory);
    };
    let slot = slots::take_slot::<F>(scratch.flow.counted_for)?;
    scratch.flow.slot = slot;
    let result = insert_entries::<F>(ctx);
    if result == INSERTED
        && let Some(scratch) = F::scratch()
    {
        slots::occupy::<F>(slot, &scratch.request.key);
        life::count::<F>(scratch.flow.counted_for, true);
        return Ok(());
    }
    slots::release::<F>(slot);
    match result {
        INSERTED | MET => Ok(()),
        _ if result == FAILED + Reason::ProtocolTaken as u32 => Err(Reason::ProtocolTaken),
        _ if result == FAILED + Reason::PortsExhausted as u32 => Err(Reason::PortsExhausted),
        _ if result == FAILED + Reason::TableFull as u32 => Err(Reason::TableFull),
        _ => Err(Reason::NoMemory),
    }
}

/// Is there a living entry where the opener's is to be? One that another CPU has just made for a
/// packet of the same flow serves as well. Any other is of somebody else's flow, whose addresses
/// this packet has no right to.
#[inline(always)]
fn meet<F: Family>() -> Option<Result<(), Reason>> {
    let scratch = F::scratch()?;
    let key = &scratch.request.key;
    let found = find::<F>(key)?;
    // Of a network that is no more.
    if life::is_dead::<F>(key) && found.last_seen != now() {
        life::remove::<F>(key);
        return None;
    }
    if found.last_seen == now()
        && found.flags & FLOW_REPLY == 0
        && found.in_bridge == scratch.flow.in_bridge
        && found.in_ifindex == scratch.flow.in_ifindex
    {
        return Some(Ok(()));
    }
    Some(Err(Reason::ProtocolTaken))
}

#[inline(always)]
fn put_entries<F: Family>(ctx: &TcContext) -> u32 {
    match try_entries::<F>(ctx) {
        Ok(result) => result,
        Err(reason) => FAILED + reason as u32,
    }
}

#[inline(always)]
fn try_entries<F: Family>(ctx: &TcContext) -> Result<u32, Reason> {
    let Some(scratch) = F::scratch() else {
        return Err(Reason::NoMemory);
    };
    let request = &scratch.request;
    let range = Range {
        first: request.first,
        last: request.last,
    };
    // Without a choice: once more after a dead flow was cleared away.
    let tries = if request.translate != 0 {
        range.tries()
    } else {
        2
    };
    let mut search = Search {
        ctx: ctx.skb.skb,
        // SAFETY: takes no pointers.
        random: unsafe { bpf_get_prandom_u32() },
        small: u32::from(range.len() <= SMALL_RANGE),
        result: EEXIST,
    };
    // A loop by the helper is verified once, not once per round.
    // SAFETY: `search` outlives the call, and `try_port` has the signature the helper calls.
    unsafe {
        bpf_loop(
            tries,
            try_port::<F> as *mut c_void,
            (&raw mut search).cast(),
            0,
        );
    }
    let translated = scratch.request.translate != 0;
    match search.result {
        0 => {}
        EEXIST if !translated => return Err(Reason::ProtocolTaken),
        EEXIST => return Err(Reason::PortsExhausted),
        E2BIG => return Err(Reason::TableFull),
        _ => return Err(Reason::NoMemory),
    }
    let key = &scratch.request.key;
    if let Err(error) = F::flows().insert(key, &scratch.flow, u64::from(BPF_NOEXIST)) {
        let _ = F::flows().remove(&scratch.flow.partner(key.proto));
        return match error {
            EEXIST => Ok(MET),
            E2BIG => Err(Reason::TableFull),
            _ => Err(Reason::NoMemory),
        };
    }
    Ok(INSERTED)
}

/// One round of [`insert_entries`]; 1 ends it.
extern "C" fn try_port<F: Family>(attempt: u32, search: *mut Search) -> i64 {
    // SAFETY: the `Search` that `insert_entries` handed to bpf_loop.
    let search = unsafe { &mut *search };
    let Some(scratch) = F::scratch() else {
        return 1;
    };
    let request = &mut scratch.request;
    if attempt >= QUICK_TRIES && search.small == 0 {
        // Somebody who uses up all ports to a peer shall not use up the processor as well. Where
        // many are free, a search ends soon, and leaves the others of this tick theirs.
        let now = now();
        if request.searched != now {
            request.searched = now;
            request.spent = 0;
        }
        if request.spent >= BUDGET {
            return 1;
        }
        request.spent += 1;
    }
    let key = &request.key;
    if request.translate != 0 {
        let range = Range {
            first: request.first,
            last: request.last,
        };
        let port = range.candidate(u16::from_be_bytes(key.sport), attempt, search.random);
        if request.avoid & AVOID_RESERVED != 0
            && key.proto != F::ICMP
            && records::is_reserved(port)
            && range.len() > 1
        {
            return 0;
        }
        scratch.flow.new_sport = port.to_be_bytes();
    }
    let back_key = scratch.flow.partner(key.proto);
    if request.avoid & AVOID_SOCKETS != 0 {
        if is_mapped::<F>(&back_key) || forwards::is_published::<F>(&back_key) {
            return 0;
        }
        // Most tries meet an entry: see that before asking for sockets.
        if find::<F>(&back_key).is_none() && has_socket::<F>(search.ctx, &back_key) {
            return 0;
        }
    }
    search.result = match F::flows().insert(&back_key, &scratch.back, u64::from(BPF_NOEXIST)) {
        Ok(()) => 0,
        Err(error) => error,
    };
    if search.result != EEXIST {
        return 1;
    }
    // A dead flow is in the way, and of no use. But what has no other half yet may be about to get
    // it, from another CPU.
    if let Some(other) = find::<F>(&back_key)
        && other.last_seen != now()
        && life::is_dead::<F>(&back_key)
    {
        life::remove::<F>(&back_key);
    }
    0
}

/// Is the port one of an endpoint-independent mapping's?
#[inline(always)]
fn is_mapped<F: Family>(back_key: &FlowKey<F::Addr>) -> bool {
    if records::control_flags() & CONTROL_MAPPINGS == 0 || back_key.src == F::ZERO {
        return false;
    }
    let mut mapping = *back_key;
    mapping.src = F::ZERO;
    mapping.sport = [0; 2];
    find::<F>(&mapping).is_some()
}

/// Would a packet with this key be for a socket of the host's, connected or listening?
#[inline(always)]
fn has_socket<F: Family>(ctx: *mut __sk_buff, key: &FlowKey<F::Addr>) -> bool {
    match key.proto {
        // SAFETY: the context is a packet's.
        proto::TCP => unsafe { sockets::has_any_tcp::<F>(ctx.cast(), key) },
        // SAFETY: as above.
        proto::UDP => unsafe { sockets::has_udp::<F>(ctx.cast(), key) },
        _ => false,
    }
}
