//! Writing a translated packet's headers.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{FLOW_NAT, Flow4, MacAddr};
use netd_common::checksum;
use netd_common::flow::proto;

use crate::packet::{Packet, at};

/// Give the packet the addresses and ports of `flow`, and one hop less to live when `forward`.
///
/// The checksum of TCP and UDP goes through the kernel's helper, which knows whether it is
/// complete, partial (the device will finish it) or verified by hardware; a program cannot see
/// that. Difference of addresses belongs to the pseudo-header, which a partial checksum covers;
/// that of ports does not.
///
/// `None` when the kernel refuses (no memory to make the header writable).
#[inline(always)]
pub fn apply(
    ctx: &TcContext,
    l3: usize,
    packet: &Packet,
    flow: &Flow4,
    forward: bool,
) -> Option<()> {
    let nat = flow.flags & FLOW_NAT != 0;
    let l4 = packet.l4();
    let ip = at::<[u16; 10]>(ctx, l3)?;
    // SAFETY: `at` proved that the header is in the packet; both views end within it.
    unsafe {
        let mut diff: u64 = 0;
        if forward {
            let ttl = (*ip)[4].to_ne_bytes();
            let lower = u16::from_ne_bytes([ttl[0].wrapping_sub(1), ttl[1]]);
            diff += u64::from(!(*ip)[4]) + u64::from(lower);
            (*ip)[4] = lower;
        }
        if nat {
            diff += u64::from(flow.addr_diff);
            let addresses = ip.cast::<u32>();
            *addresses.add(3) = u32::from_ne_bytes(flow.new_src);
            *addresses.add(4) = u32::from_ne_bytes(flow.new_dst);
        }
        (*ip)[5] = !checksum::fold(u64::from(!(*ip)[5]) + diff);
    }
    if !nat {
        return Some(());
    }
    let head = at::<[u16; 4]>(ctx, l4)?;
    let addr_diff = u64::from(flow.addr_diff);
    let port_diff = u64::from(flow.port_diff);
    let moved = flow.new_sport != packet.key.sport || flow.new_dport != packet.key.dport;
    if packet.key.proto == proto::ICMP {
        if moved {
            // The identifier; ICMP has no pseudo-header.
            let id = if flow.new_sport == [0; 2] {
                flow.new_dport
            } else {
                flow.new_sport
            };
            // SAFETY: as above.
            unsafe {
                (*head)[2] = u16::from_ne_bytes(id);
                (*head)[1] =
                    u16::from_ne_bytes(checksum::update((*head)[1].to_ne_bytes(), flow.port_diff));
            }
        }
        return Some(());
    }
    if moved {
        // SAFETY: as above.
        unsafe {
            (*head)[0] = u16::from_ne_bytes(flow.new_sport);
            (*head)[1] = u16::from_ne_bytes(flow.new_dport);
        }
    }
    let (field, flags) = if packet.key.proto == proto::UDP {
        // RFC 768: no checksum stays none, and one that comes out as zero is sent as all ones.
        (l4 + 6, u64::from(BPF_F_MARK_MANGLED_0))
    } else {
        (l4 + 16, 0)
    };
    let pseudo = flags | u64::from(BPF_F_PSEUDO_HDR);
    ctx.skb.l4_csum_replace(field, 0, addr_diff, pseudo).ok()?;
    if moved {
        ctx.skb.l4_csum_replace(field, 0, port_diff, flags).ok()?;
    }
    Some(())
}

/// Write the MAC addresses of the frame.
#[inline(always)]
pub fn set_macs(ctx: &TcContext, to: MacAddr, from: MacAddr) -> Option<()> {
    let frame = at::<[u16; 6]>(ctx, 0)?;
    let word = |mac: MacAddr, i: usize| u16::from_ne_bytes([mac[2 * i], mac[2 * i + 1]]);
    // SAFETY: `at` proved that the header is in the packet.
    unsafe {
        *frame = [
            word(to, 0),
            word(to, 1),
            word(to, 2),
            word(from, 0),
            word(from, 1),
            word(from, 2),
        ];
    }
    Some(())
}
