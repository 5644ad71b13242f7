//! Answering neighbour solicitations (RFC 4861) for addresses that no device of the host's has: those
//! that networks publish, and those that guests have outside.

use aya_ebpf::programs::TcContext;
use netd_common::abi::MacAddr;
use netd_common::checksum::{fold, sum2};
use netd_common::proto;
use network_types::ip::Ipv6Hdr;

use crate::action::PASS;
use crate::context::Words;
use crate::family::{Family, V6};
use crate::frame::ETH;
use crate::prefixes;
use crate::records;
use crate::route::redirect::redirect;
use crate::skb::ifindex;
use crate::verified::verified;

const ICMP: usize = ETH + Ipv6Hdr::LEN;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Length of a solicitation with the one option that says who asks: a longer one, or one without
/// it, is nobody's who has to ask by multicast.
const LENGTH: u16 = 32;
/// The option that holds the sender's, or the target's, link-layer address, in units of 8 bytes.
const SOURCE_MAC: [u8; 2] = [1, 1];
const TARGET_MAC: [u8; 2] = [2, 1];
/// Solicited, and to replace what was known.
const FLAGS: [u8; 2] = [0x60, 0];

/// Answer a solicitation for a published address.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> i32 {
    if !V6::is(ctx) {
        return PASS;
    }
    answer_solicitation(ctx)
}

verified! {
    /// [`answer`], for its stack's sake.
    fn answer_solicitation(ctx: Ctx) -> i32 = reply_or_pass, else PASS, as answer_solicitation;
}

#[inline(always)]
fn reply_or_pass(ctx: &TcContext) -> i32 {
    reply(ctx).unwrap_or(PASS)
}

#[inline(always)]
fn reply(ctx: &TcContext) -> Option<i32> {
    let [high, low, next, hops]: [u8; 4] = ctx.load(ETH + 4).ok()?;
    let kind: [u8; 2] = ctx.load(ICMP).ok()?;
    let option: [u8; 2] = ctx.load(ICMP + 24).ok()?;
    // From a neighbour, and no router on the way (RFC 4861, section 7.1.1).
    if u16::from_be_bytes([high, low]) != LENGTH
        || next != proto::ICMPV6
        || hops != 255
        || kind != [SOLICITATION, 0]
        || option != SOURCE_MAC
    {
        return None;
    }
    let asker: Words = ctx.load(ETH + V6::SRC).ok()?;
    let target: Words = ctx.load(ICMP + 8).ok()?;
    let sender: MacAddr = ctx.load(ICMP + 26).ok()?;
    let here = ifindex(ctx);
    let bridge = match records::pool_of::<V6>(target) {
        0 => prefixes::neighbour(&target),
        bridge => bridge,
    };
    let network = records::network(bridge)?;
    // What the host has itself the stack answers for.
    if asker == V6::ZERO
        || records::is_own::<V6>(&target)
        || (network.uplink_ifindex != 0 && network.uplink_ifindex != here)
    {
        return None;
    }
    let own = records::device(here)?.mac;
    if own == [0; 6] {
        return None;
    }
    let [a, b, c, d, e, f] = own;
    // The target stands in the pseudo-header, too.
    let sum = 2 * V6::sum(&target)
        + V6::sum(&asker)
        + sum2(LENGTH.to_be_bytes())
        + sum2([0, proto::ICMPV6])
        + sum2([ADVERTISEMENT, 0])
        + sum2(FLAGS)
        + sum2(TARGET_MAC)
        + sum2([a, b])
        + sum2([c, d])
        + sum2([e, f]);
    let [first, second] = (!fold(sum)).to_ne_bytes();
    let head: [u8; 8] = [ADVERTISEMENT, 0, first, second, FLAGS[0], FLAGS[1], 0, 0];
    ctx.skb.store(0, &sender, 0).ok()?;
    ctx.skb.store(6, &own, 0).ok()?;
    ctx.skb.store(ETH + V6::SRC, &target, 0).ok()?;
    ctx.skb.store(ETH + V6::DST, &asker, 0).ok()?;
    ctx.skb.store(ICMP, &head, 0).ok()?;
    ctx.skb.store(ICMP + 24, &TARGET_MAC, 0).ok()?;
    ctx.skb.store(ICMP + 26, &own, 0).ok()?;
    Some(redirect::<V6>(here, V6::ZERO))
}
