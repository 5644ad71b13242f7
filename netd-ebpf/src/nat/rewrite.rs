//! Writing a translated packet's headers.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_NAT, Flow, Port};
use netd_common::checksum::{BPF_F_IPV6, difference, sum2, update};
use netd_common::crc32c;
use netd_common::proto;

use crate::context::Packet;
use crate::family::Family;
use crate::frame::{at, read};
use crate::parse::transport::has_ports;

/// Has the kernel `BPF_F_IPV6`? The agent finds that out before it loads the programs, and the
/// verifier takes what follows from it.
#[unsafe(no_mangle)]
static HAS_CSUM_IPV6_FLAG: u8 = 1;

/// Give the packet the addresses and ports of `flow`, and one hop less to live when `forward`.
///
/// The checksum of TCP and UDP goes through the kernel's helper, which knows whether it is
/// complete, partial (the device will finish it) or verified by hardware; a program cannot see
/// that. Difference of addresses belongs to the pseudo-header, which a partial checksum covers;
/// that of ports does not.
///
/// `None` when the kernel refuses (no memory to make the header writable).
#[inline(always)]
pub fn apply<F: Family>(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet<F::Addr>,
    flow: &Flow<F::Addr>,
    forward: bool,
) -> Option<()> {
    let nat = flow.flags & FLOW_NAT != 0;
    F::write_header(
        ctx,
        l3,
        &flow.new_src,
        &flow.new_dst,
        flow.addr_diff,
        nat,
        forward,
    )?;
    if !nat {
        return Some(());
    }
    if !F::IS_IPV6 && packet.new_id != [0; 2] {
        renumber(ctx, l3, packet.id, packet.new_id)?;
    }
    if packet.no_l4 {
        return Some(());
    }
    let protocol = packet.key.proto;
    let moved = flow.new_sport != packet.key.sport || flow.new_dport != packet.key.dport;
    let l4 = packet.l4();
    if protocol == F::ICMP {
        return icmp_query::<F>(ctx, l4, packet, flow, moved);
    }
    if !has_ports(protocol) {
        return Some(());
    }
    if moved {
        if protocol == proto::SCTP {
            // Its checksum covers the other fragments, too.
            if packet.first_fragment {
                return None;
            }
            sctp_checksum::<F>(ctx, l4, packet, flow)?;
        }
        let head = at::<[u16; 2]>(ctx, l4)?;
        // SAFETY: `at` proved that the ports are in the packet.
        unsafe {
            *head = [
                u16::from_ne_bytes(flow.new_sport),
                u16::from_ne_bytes(flow.new_dport),
            ];
        }
    }
    let (field, flags) = match protocol {
        proto::TCP => (l4 + 16, 0),
        // RFC 768: no checksum stays none, and one that comes out as zero is sent as all ones.
        proto::UDP => (l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
        // No pseudo-header.
        proto::SCTP => return Some(()),
        _ => (l4 + 6, 0),
    };
    addresses_changed::<F>(ctx, field, flow, flags)?;
    if moved {
        ports_changed(ctx, field, packet, flow, flags)?;
    }
    Some(())
}

/// Adjust a checksum that covers the ports.
#[inline(always)]
fn ports_changed<A>(
    ctx: &TcContext,
    field: usize,
    packet: &Packet<A>,
    flow: &Flow<A>,
    flags: u64,
) -> Option<()> {
    let word = |[a, b]: Port, [c, d]: Port| u64::from(u32::from_ne_bytes([a, b, c, d]));
    let old = word(packet.key.sport, packet.key.dport);
    let new = word(flow.new_sport, flow.new_dport);
    ctx.skb.l4_csum_replace(field, old, new, flags | 4).ok()
}

/// Adjust a checksum that covers the pseudo-header.
#[inline(always)]
fn addresses_changed<F: Family>(
    ctx: &TcContext,
    field: usize,
    flow: &Flow<F::Addr>,
    flags: u64,
) -> Option<()> {
    let diff = u64::from(flow.addr_diff);
    let pseudo = flags | u64::from(BPF_F_PSEUDO_HDR);
    if !F::IS_IPV6 {
        return ctx.skb.l4_csum_replace(field, 0, diff, pseudo).ok();
    }
    // SAFETY: a constant of the object, which the agent may have changed before it was loaded.
    let has_flag = unsafe { (&raw const HAS_CSUM_IPV6_FLAG).read_volatile() } != 0;
    let flag = if has_flag { BPF_F_IPV6 } else { 0 };
    ctx.skb.l4_csum_replace(field, 0, diff, pseudo | flag).ok()
}

/// The identifier of an ICMP query or its answer.
#[inline(always)]
fn icmp_query<F: Family>(
    ctx: &TcContext,
    l4: usize,
    packet: &Packet<F::Addr>,
    flow: &Flow<F::Addr>,
    moved: bool,
) -> Option<()> {
    let id = if packet.is_reply {
        flow.new_dport
    } else {
        flow.new_sport
    };
    if moved {
        let head = at::<[u16; 4]>(ctx, l4)?;
        // SAFETY: `at` proved that the header is in the packet.
        unsafe {
            (*head)[2] = u16::from_ne_bytes(id);
        }
    }
    // ICMPv6 alone has a pseudo-header (RFC 4443, section 2.3).
    if F::IS_IPV6 {
        addresses_changed::<F>(ctx, l4 + 2, flow, 0)?;
        if moved {
            ports_changed(ctx, l4 + 2, packet, flow, 0)?;
        }
    } else if moved {
        let head = at::<[u16; 4]>(ctx, l4)?;
        // The query's kind, in the other port's place, stays.
        let change = difference(
            sum2(packet.key.sport) + sum2(packet.key.dport),
            sum2(flow.new_sport) + sum2(flow.new_dport),
        );
        // SAFETY: as above.
        unsafe {
            let checksum = (*head)[1].to_ne_bytes();
            (*head)[1] = u16::from_ne_bytes(update(checksum, change));
        }
    }
    Some(())
}

/// SCTP's checksum covers its ports, but no addresses. Where a device is still to compute it, what
/// this leaves is overwritten.
#[inline(always)]
fn sctp_checksum<F: Family>(
    ctx: &TcContext,
    l4: usize,
    packet: &Packet<F::Addr>,
    flow: &Flow<F::Addr>,
) -> Option<()> {
    let [a, b] = packet.key.sport;
    let [c, d] = packet.key.dport;
    let [e, f] = flow.new_sport;
    let [g, h] = flow.new_dport;
    let mut crc = crc32c::begin([a, b, c, d], [e, f, g, h]);
    let len = packet.end.wrapping_sub(packet.l4_offset);
    // SAFETY: `crc` outlives the call, and `zero_byte` has the signature the helper calls.
    unsafe {
        bpf_loop(len, zero_byte as *mut c_void, (&raw mut crc).cast(), 0);
    }
    let old: u32 = read(ctx, l4 + 8)?;
    let field = at::<u32>(ctx, l4 + 8)?;
    // SAFETY: `at` proved that the field is in the packet.
    unsafe {
        *field = (u32::from_le(old) ^ crc).to_le();
    }
    Some(())
}

extern "C" fn zero_byte(_: u32, crc: *mut u32) -> i64 {
    // SAFETY: the register that `sctp_checksum` handed to bpf_loop.
    unsafe { *crc = crc32c::step(*crc) };
    0
}

/// Write the new identification of a fragment.
#[inline(always)]
fn renumber(ctx: &TcContext, l3: usize, old: [u8; 4], new: [u8; 2]) -> Option<()> {
    let ip = at::<[u16; 10]>(ctx, l3)?;
    let change = difference(sum2([old[0], old[1]]), sum2(new));
    // SAFETY: `at` proved that the header is in the packet.
    unsafe {
        (*ip)[2] = u16::from_ne_bytes(new);
        (*ip)[5] = u16::from_ne_bytes(update((*ip)[5].to_ne_bytes(), change));
    }
    Some(())
}
