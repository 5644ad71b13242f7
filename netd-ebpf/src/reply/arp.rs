//! Answering ARP (RFC 826) for addresses that no device of the host's has: those of ranges that
//! networks masquerade with.

use aya_ebpf::programs::TcContext;
use netd_common::abi::MacAddr;
use network_types::eth::{EthHdr, EtherType};

use crate::action::PASS;
use crate::family::{Family, V4};
use crate::records;
use crate::route::redirect::redirect;
use crate::skb::{has_protocol, ifindex};

/// Ethernet and IPv4, a request.
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];

/// Answer a request for an address of a range.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> i32 {
    if !has_protocol(ctx, EtherType::Arp as u16) {
        return PASS;
    }
    reply(ctx).unwrap_or(PASS)
}

#[inline(always)]
fn reply(ctx: &TcContext) -> Option<i32> {
    const ARP: usize = EthHdr::LEN;
    let head: [u8; 8] = ctx.load(ARP).ok()?;
    if head != REQUEST {
        return None;
    }
    let sender: MacAddr = ctx.load(ARP + 8).ok()?;
    let asker: u32 = ctx.load(ARP + 14).ok()?;
    let target: u32 = ctx.load(ARP + 24).ok()?;
    let bridge = records::pool_of::<V4>(target);
    let here = ifindex(ctx);
    let network = records::network(bridge)?;
    // What the host has itself the stack answers for; who asks for its own address looks for
    // others that have it, and an address of a range is not free.
    if records::is_own::<V4>(&target)
        || (network.uplink_ifindex != 0 && network.uplink_ifindex != here)
    {
        return None;
    }
    let own = records::device(here)?.mac;
    if own == [0; 6] {
        return None;
    }
    ctx.skb.store(0, &sender, 0).ok()?;
    ctx.skb.store(6, &own, 0).ok()?;
    ctx.skb.store(ARP, &REPLY, 0).ok()?;
    ctx.skb.store(ARP + 8, &own, 0).ok()?;
    ctx.skb.store(ARP + 14, &target, 0).ok()?;
    ctx.skb.store(ARP + 18, &sender, 0).ok()?;
    ctx.skb.store(ARP + 24, &asker, 0).ok()?;
    Some(redirect::<V4>(here, V4::ZERO))
}
