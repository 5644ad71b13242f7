//! The XDP fast path: UDP datagrams of flows that need no second look go from driver to driver,
//! before there is an skb, and what comes from outside and is banned is dropped. All other frames are
//! passed on to the TC programs untouched.
//!
//! TCP is left to them because there, segments have been put together (GRO, or by a guest that
//! segments nothing): one of 64 kB goes faster than its 45 parts. Two things a program cannot see
//! here, and passes on what they could be true of: whether a checksum is still to be completed by
//! a device, and whether a frame was sent to this host.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::programs::XdpContext;
use netd_common::Reason;
use netd_common::abi::{FLOW_NAT, Flow, FlowKey};
use netd_common::checksum::{fold, sum2};
use netd_common::proto;
use network_types::eth::EtherType;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::conntrack::lookup::find;
use crate::conntrack::validate::{is_valid, may_come_by};
use crate::context::Words;
use crate::family::{Family, V4, V6};
use crate::filter::bans;
use crate::frame::{ETH, Frame as _, at, macs, read, set_macs};
use crate::report::drops;
use crate::{maps, records};

/// Length of the UDP header (RFC 768).
const UDP: usize = 8;

/// A frame that a driver has received, from a guest or from outside.
#[inline(always)]
pub fn ingress(ctx: &XdpContext, from_guest: bool) -> u32 {
    let Some(ether_type) = read::<u16>(ctx, 12) else {
        return XDP_PASS;
    };
    let sent = if ether_type == EtherType::Ipv4 as u16 {
        datagram::<V4>(ctx, from_guest)
    } else if ether_type == EtherType::Ipv6 as u16 {
        datagram::<V6>(ctx, from_guest)
    } else {
        None
    };
    if sent.is_some() {
        return XDP_REDIRECT;
    }
    if !from_guest && bans::any() && is_banned(ctx, ether_type) {
        drops::count_frame(Reason::Banned, ctx.end() - ctx.start());
        return XDP_DROP;
    }
    XDP_PASS
}

/// Is the frame from one who is banned from the whole host? What is not surely so is the TC programs'
/// to judge: frames for others' MAC addresses, and neighbour discovery.
#[inline(always)]
fn is_banned(ctx: &XdpContext, ether_type: u16) -> bool {
    let Some(device) = records::device(ctx.ingress_ifindex() as u32) else {
        return false;
    };
    let Some((to, _)) = macs(ctx) else {
        return false;
    };
    if to != device.mac {
        return false;
    }
    if ether_type == EtherType::Ipv4 as u16 {
        let Some(src) = read::<u32>(ctx, ETH + V4::SRC) else {
            return false;
        };
        return bans::holds::<V4>(0, &src) != 0;
    }
    if ether_type == EtherType::Ipv6 as u16 {
        let Some(next) = read::<u8>(ctx, ETH + 6) else {
            return false;
        };
        if next == proto::ICMPV6 {
            return false;
        }
        let Some(src) = read::<Words>(ctx, ETH + V6::SRC) else {
            return false;
        };
        return bans::holds::<V6>(0, &src) != 0;
    }
    false
}

/// Families as they are read here: whole UDP datagrams with nothing between the headers.
trait Express: Family {
    /// Fill in addresses and protocol; returns the packet's length in bytes. `None` for what the
    /// TC programs or the stack have to look at.
    fn plain(ctx: &XdpContext, key: &mut FlowKey<Self::Addr>) -> Option<u32>;
}

impl Express for V4 {
    #[inline(always)]
    fn plain(ctx: &XdpContext, key: &mut FlowKey<u32>) -> Option<u32> {
        let [w0, w1, w2, src, dst] = read::<[u32; 5]>(ctx, ETH)?;
        let [version, _, high, low] = w0.to_ne_bytes();
        let [_, _, fragment_high, fragment_low] = w1.to_ne_bytes();
        let [ttl, protocol, _, _] = w2.to_ne_bytes();
        let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
        let sum = u64::from(w0) + u64::from(w1) + u64::from(w2) + u64::from(src) + u64::from(dst);
        // No options, not a fragment (MF or offset), whole (RFC 1812, 5.2.2), not the last hop.
        if version != 0x45
            || fragment & 0x3fff != 0
            || protocol != proto::UDP
            || fold(sum) != 0xffff
            || ttl <= 1
        {
            return None;
        }
        (key.src, key.dst) = (src, dst);
        Some(u32::from(u16::from_be_bytes([high, low])))
    }
}

impl Express for V6 {
    #[inline(always)]
    fn plain(ctx: &XdpContext, key: &mut FlowKey<Words>) -> Option<u32> {
        let [w0, w1, s0, s1, s2, s3, d0, d1, d2, d3] = read::<[u32; 10]>(ctx, ETH)?;
        let [version, ..] = w0.to_ne_bytes();
        let [high, low, next, hops] = w1.to_ne_bytes();
        if version >> 4 != 6 || next != proto::UDP || hops <= 1 {
            return None;
        }
        (key.src, key.dst) = ([s0, s1, s2, s3], [d0, d1, d2, d3]);
        Some(u32::from(u16::from_be_bytes([high, low])) + Ipv6Hdr::LEN as u32)
    }
}

const _: () = assert!(Ipv4Hdr::LEN == 20 && Ipv6Hdr::LEN == 40);

/// Send the datagram, if it is one of a settled flow; `None` leaves the frame as it was.
#[inline(always)]
fn datagram<F: Express>(ctx: &XdpContext, from_guest: bool) -> Option<()> {
    let mut key = FlowKey {
        src: F::ZERO,
        dst: F::ZERO,
        sport: [0; 2],
        dport: [0; 2],
        proto: proto::UDP,
        pad: 0,
        zone: 0,
    };
    let len = F::plain(ctx, &mut key)?;
    let carried = (ctx.end() - ctx.start() - ETH) as u32;
    // What is longer lies in further buffers, or is damaged.
    if len > carried || len < (F::HEADER + UDP) as u32 {
        return None;
    }
    let header = read::<[u16; 4]>(ctx, ETH + F::HEADER)?;
    let [sport, dport, length, _] = header;
    (key.sport, key.dport) = (sport.to_ne_bytes(), dport.to_ne_bytes());

    let flow = find::<F>(&key)?;
    let here = ctx.ingress_ifindex() as u32;
    let (to, _) = macs(ctx)?;
    let is_its = if from_guest {
        flow.in_ifindex == here
    } else {
        flow.in_bridge == 0 && may_come_by(flow, here)
    };
    if !is_its
        || flow.in_dmac != to
        || !is_valid(flow)
        || flow.next_hop.ifindex == 0
        || len > u32::from(flow.next_hop.mtu)
    {
        return None;
    }
    let pseudo = F::sum(&key.src) + F::sum(&key.dst) + sum2([0, proto::UDP]) + u64::from(length);
    let checksum = translated(header, fold(pseudo), flow, !F::IS_IPV6)?;

    // A device that is not in the map leaves the frame to the TC programs.
    maps::XDP_TARGETS
        .redirect(flow.next_hop.ifindex, u64::from(XDP_PASS))
        .ok()?;
    flow.packets += 1;
    flow.bytes += (ctx.end() - ctx.start()) as u64;
    set_macs(ctx, flow.next_hop.dmac, flow.next_hop.smac)?;
    let nat = flow.flags & FLOW_NAT != 0;
    F::write_header(
        ctx,
        ETH,
        &flow.new_src,
        &flow.new_dst,
        flow.addr_diff,
        nat,
        true,
    )?;
    if nat {
        let header = at::<[u16; 4]>(ctx, ETH + F::HEADER)?;
        // SAFETY: `at` proved that the header is in the packet.
        unsafe {
            (*header)[0] = u16::from_ne_bytes(flow.new_sport);
            (*header)[1] = u16::from_ne_bytes(flow.new_dport);
            (*header)[3] = checksum;
        }
    }
    Some(())
}

/// The UDP checksum of a header after translation by `flow`; `None` for one that nobody has computed yet.
///
/// Where a device is to do that (CHECKSUM_PARTIAL), the field holds the sum of the pseudo-header,
/// not inverted, and this is all there is to tell it by. One complete checksum in 65,535 looks the
/// same, and is passed on for nothing.
#[inline(always)]
fn translated<A>(
    [sport, dport, _, checksum]: [u16; 4],
    pseudo: u16,
    flow: &Flow<A>,
    may_be_none: bool,
) -> Option<u16> {
    if checksum == pseudo {
        return None;
    }
    if checksum == 0 {
        // RFC 768; RFC 8200, section 8.1.
        return may_be_none.then_some(0);
    }
    let ports = sum2(flow.new_sport) + sum2(flow.new_dport) + u64::from(!sport) + u64::from(!dport);
    let change = u64::from(flow.addr_diff) + ports;
    Some(match !fold(u64::from(!checksum) + change) {
        0 => 0xffff,
        other => other,
    })
}
