//! Transport headers.

use aya_ebpf::programs::TcContext;
use netd_common::abi::Port;
use netd_common::proto;
use netd_common::proto::sctp;
use netd_common::tcp;

use crate::context::{Kind, Packet};
use crate::frame::{at, read};
use crate::parse::icmp;
use crate::skb::gso_size;

/// Fill in what the transport header at `packet.l4_offset` says. `len` is what the IP packet holds from
/// there on.
#[inline(always)]
pub fn read_transport<A>(ctx: &TcContext, packet: &mut Packet<A>, icmp: u8, l3: usize, len: u32) {
    let l4 = packet.l4();
    let gso = gso_size(ctx);
    let mut l4_len = 8;
    let protocol = packet.key.proto;
    if protocol == proto::TCP {
        let Some(header) = at::<[u8; 20]>(ctx, l4) else {
            return;
        };
        // SAFETY: `at` proved that the header is in the packet.
        unsafe {
            let words = header.cast::<u32>();
            packet.seq = u32::from_be(*words.add(1));
            packet.ack = u32::from_be(*words.add(2));
            packet.window = u16::from_be(*header.cast::<u16>().add(7));
            packet.control = (*header)[13];
            l4_len = u32::from((*header)[12] >> 4) * 4;
        }
        packet.changes_state = packet.control & (tcp::SYN | tcp::FIN | tcp::RST) != 0;
        if l4_len < 20 {
            return;
        }
    } else if !has_ports(protocol) && protocol != icmp {
        // By its addresses alone. An ICMP of the other family means nothing to anybody.
        if protocol != proto::ICMP && protocol != proto::ICMPV6 {
            packet.kind = Kind::Flow;
        }
        return;
    }
    if protocol == proto::SCTP {
        l4_len = 12;
    }
    let Some(head) = at::<[u16; 4]>(ctx, l4) else {
        return;
    };
    if len < l4_len {
        return;
    }
    // SAFETY: `at` proved that eight bytes are in the packet.
    let [w0, w1, w2, _] = unsafe { *head };
    packet.kind = Kind::Flow;
    if protocol == icmp {
        let message = icmp::read(icmp, w0.to_ne_bytes()[0]);
        packet.kind = message.kind;
        packet.is_reply = message.is_reply;
        let (id, query): (Port, Port) = (w2.to_ne_bytes(), [0, message.query]);
        (packet.key.sport, packet.key.dport) = if message.is_reply {
            (query, id)
        } else {
            (id, query)
        };
    } else {
        packet.key.sport = w0.to_ne_bytes();
        packet.key.dport = w1.to_ne_bytes();
        if protocol == proto::SCTP {
            // A packet that is not the only chunk's may hold more; those that end an association
            // stand first (RFC 9260, section 3: ABORT and SHUTDOWN COMPLETE are never bundled
            // behind others).
            packet.control = read::<u8>(ctx, l4 + 12).unwrap_or_default();
            packet.changes_state = matches!(
                packet.control,
                sctp::INIT
                    | sctp::ABORT
                    | sctp::SHUTDOWN
                    | sctp::SHUTDOWN_ACK
                    | sctp::COOKIE_ACK
                    | sctp::SHUTDOWN_COMPLETE
            );
        }
    }
    if gso != 0 {
        packet.wire_len = packet.l4_offset - l3 as u32 + l4_len + gso;
    }
}

/// Does the protocol have its ports in its first four bytes?
#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        proto::TCP | proto::UDP | proto::SCTP | proto::UDP_LITE | proto::DCCP
    )
}
