//! DHCP replies with a checksum that everybody accepts.
//!
//! The host sends them with a *partial* checksum, which a virtio guest gets unfinished. Old DHCP
//! clients read raw frames, check the sum and drop the reply. A program cannot complete a partial
//! checksum: the packet stays marked, and whoever completes it later would count it twice. But it
//! can choose the packet's last bytes.
//!
//! Let P be the sum of the pseudo-header, which a partial checksum field holds, and D the sum of
//! UDP header (field zero) and data. The complete checksum is ~(P + D). When D = ~(P + P) that is
//! P itself: the field is right as it stands, and right again when a device fills it in. Bytes
//! after the end option of a DHCP message have no meaning (RFC 2131, section 3: the options end
//! there), so two of them, appended, bring D to that value.

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_skb_change_tail};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{BINDING_SNOOPED, Binding, BindingKey, MacAddr, NETWORK_GUARDED};
use netd_common::checksum::{difference, fold, sum2, update};
use netd_common::proto;
use network_types::udp::UdpHdr;

use crate::context::Kind;
use crate::family::{Family, V4};
use crate::frame::{ETH, at};
use crate::records;
use crate::skb::{ifindex, ingress_ifindex};
use crate::verified::verified;

const SERVER: [u8; 2] = 67u16.to_be_bytes();
const CLIENT: [u8; 2] = 68u16.to_be_bytes();
/// Bytes summed at once; a power of two that the stack has room for.
const CHUNK: usize = 64;
/// 64 * 32 = 2048 bytes: more than an Ethernet frame holds.
const CHUNKS: usize = 32;
/// No sum of so few bytes.
const NO_SUM: u64 = u64::MAX;

/// Complete the checksum of a DHCP reply; leave every other packet alone, and this one too when
/// it cannot be done (then it is as the stack made it).
#[inline(always)]
pub fn complete_checksum(ctx: &TcContext) {
    if !V4::is(ctx) {
        return;
    }
    // Every packet to a guest comes by: look at as little as possible.
    let Some(header) = at::<[u16; 12]>(ctx, ETH) else {
        return;
    };
    // SAFETY: `at` proved that the header is in the packet.
    let (time_and_protocol, sport) = unsafe { ((*header)[4], (*header)[10]) };
    if time_and_protocol.to_ne_bytes()[1] == proto::UDP && sport.to_ne_bytes() == SERVER {
        let _ = dhcp_complete(ctx);
    }
}

verified! {
    /// 1 where it was done.
    fn dhcp_complete(ctx: Ctx) -> i32 = complete_reply, else 0, as dhcp_complete;
}

verified! {
    /// Sum of the packet's bytes from `start` to `end`, [`NO_SUM`] where they cannot be read. On its own, so that
    /// the verifier follows the loops once.
    fn dhcp_sum(ctx: Ctx, start: u32, end: u32) -> u64 = sum_of, else NO_SUM, as dhcp_sum;
}

#[inline(always)]
fn complete_reply(ctx: &TcContext) -> i32 {
    if complete(ctx).is_some() { 1 } else { 0 }
}

#[inline(always)]
fn complete(ctx: &TcContext) -> Option<()> {
    let packet = &mut V4::packet_ctx()?.packet;
    V4::parse(ctx, ETH, packet).ok()?;
    if packet.kind != Kind::Flow
        || packet.options
        || packet.first_fragment
        || packet.key.sport != SERVER
        || packet.key.dport != CLIENT
        || packet.ip_len as usize + ETH != ctx.len() as usize
    {
        return None;
    }
    let udp = packet.l4();
    remember_lease(ctx, udp + UdpHdr::LEN);
    let udp_len = packet.ip_len - 20;
    // Keep the appended word on an even offset.
    let pad = udp_len & 1;
    let added = 2 + pad;
    let (old_ip, new_ip) = (
        (packet.ip_len as u16).to_be_bytes(),
        ((packet.ip_len + added) as u16).to_be_bytes(),
    );
    let new_udp = ((udp_len + added) as u16).to_be_bytes();
    // SAFETY: a valid context and no other pointer. The new bytes are zero.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, ctx.len() + added, 0) } != 0 {
        return None;
    }
    let checksum: [u8; 2] = ctx.load(ETH + 10).ok()?;
    let checksum = update(checksum, difference(sum2(old_ip), sum2(new_ip)));
    ctx.skb.store(ETH + 10, &checksum, 0).ok()?;
    ctx.skb.store(ETH + 2, &new_ip, 0).ok()?;
    ctx.skb.store(udp + 4, &new_udp, 0).ok()?;
    ctx.skb.store(udp + 6, &[0u8; 2], 0).ok()?;

    let pseudo = fold(
        u64::from(packet.key.src)
            + u64::from(packet.key.dst)
            + sum2([0, proto::UDP])
            + sum2(new_udp),
    );
    let sum = dhcp_sum(ctx, (udp + UdpHdr::LEN) as u32, ctx.len());
    if sum == NO_SUM {
        return None;
    }
    let data = sum + sum2(SERVER) + sum2(CLIENT) + sum2(new_udp);
    let wanted = !fold(2 * u64::from(pseudo));
    let last = difference(data, u64::from(wanted)).to_ne_bytes();
    ctx.skb.store(ctx.len() as usize - 2, &last, 0).ok()?;
    ctx.skb.store(udp + 6, &pseudo.to_ne_bytes(), 0).ok()
}

/// Note whose the offered or leased address is, where ports are guarded: the guest may use it as soon
/// as it has the answer. Offsets are RFC 2131's (section 2).
#[inline(always)]
fn remember_lease(ctx: &TcContext, message: usize) {
    let bridge = ifindex(ctx);
    let guarded =
        records::network(bridge).is_some_and(|network| network.flags & NETWORK_GUARDED != 0);
    // What the network's services send, or the host itself, not what it forwards.
    let from = ingress_ifindex(ctx);
    if !guarded || (from != 0 && !records::is_services_port(from)) {
        return;
    }
    let (Ok(address), Ok(mac)) = (
        ctx.load::<u32>(message + 16),
        ctx.load::<MacAddr>(message + 28),
    ) else {
        return;
    };
    if address == 0 {
        return;
    }
    let binding = Binding {
        mac,
        kind: BINDING_SNOOPED,
        pad: 0,
    };
    // Without room the agent's knowledge of the lease has to do.
    let _ = V4::bindings().insert(
        &BindingKey {
            bridge_ifindex: bridge,
            address,
        },
        &binding,
        0,
    );
}

#[inline(always)]
fn sum_of(ctx: &TcContext, start: u32, end: u32) -> u64 {
    let mut sum: u64 = 0;
    let mut offset = start as usize;
    let end = end as usize;
    let mut chunk = 0;
    while chunk < CHUNKS {
        if offset + CHUNK > end {
            break;
        }
        let Ok(bytes) = ctx.load::<[u32; CHUNK / 4]>(offset) else {
            return NO_SUM;
        };
        sum += sum_words(&bytes);
        offset += CHUNK;
        chunk += 1;
    }
    // The tail, two bytes at a time: the caller made the length even.
    let mut word = 0;
    while word < CHUNK / 2 {
        if offset + 2 > end {
            break;
        }
        let Ok(bytes) = ctx.load::<[u8; 2]>(offset) else {
            return NO_SUM;
        };
        sum += sum2(bytes);
        offset += 2;
        word += 1;
    }
    if offset == end { sum } else { NO_SUM }
}

#[inline(always)]
fn sum_words(words: &[u32; CHUNK / 4]) -> u64 {
    // SAFETY: `words` is CHUNK bytes that the helper reads; the first pair is empty.
    let sum = unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            words.as_ptr().cast_mut(),
            CHUNK as u32,
            0,
        )
    };
    u64::from(sum as u32)
}
