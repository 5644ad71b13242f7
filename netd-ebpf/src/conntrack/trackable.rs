//! Which packets may open a flow.

use netd_common::Reason;
use netd_common::proto;
use netd_common::tcp::may_open;

use crate::context::{Kind, Packet};

/// Why the packet cannot open a flow; `None` when it can.
#[inline(always)]
pub fn why_no_flow<A: PartialEq>(packet: &Packet<A>) -> Option<Reason> {
    // Both directions would be one.
    if packet.key.src == packet.key.dst {
        return Some(Reason::Malformed);
    }
    match packet.kind {
        Kind::Fragment => return Some(Reason::FragWithoutFirst),
        Kind::Broken => return Some(Reason::Malformed),
        Kind::Icmp => return Some(Reason::IcmpType),
        Kind::IcmpError => return Some(Reason::IcmpUnknown),
        // The first one of the packet was no part of any flow.
        Kind::Flow if packet.no_l4 => return Some(Reason::FragWithoutFirst),
        Kind::Flow => {}
    }
    let opens = match packet.key.proto {
        proto::TCP => may_open(packet.control),
        // Nobody asked for this answer.
        proto::ICMP | proto::ICMPV6 => !packet.is_reply,
        _ => true,
    };
    if opens { None } else { Some(Reason::NoFlow) }
}
