//! Reading a packet's headers.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_csum_update, bpf_skb_vlan_pop};
use aya_ebpf::programs::{TcContext, XdpContext};
use netd_common::abi::{FlowKey, MacAddr, Port};
use netd_common::flow::{proto, sctp};
use netd_common::tcp;
use network_types::eth::EthHdr;

use crate::icmp;

/// What can be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It belongs to a flow, and `key` is complete.
    Flow,
    /// An ICMP error, which belongs to the flow it quotes.
    IcmpError,
    /// Part of a packet, but not the first: ports are not known.
    Fragment,
    /// ICMP that is neither query nor error.
    Icmp,
    /// Its transport header is cut short, or hidden behind too many extension headers. The stack
    /// forwards it all the same.
    Broken,
}

/// A packet's headers, read once.
pub struct Packet<A> {
    /// Addresses and, for `Kind::Flow`, ports.
    pub key: FlowKey<A>,
    /// Offset of the transport header from the start of the frame.
    pub at: u32,
    /// Length of the IP packet in bytes.
    pub ip_len: u32,
    /// Where the IP packet ends, from the start of the frame: padding may follow.
    pub end: u32,
    /// Length of the largest packet the kernel will make of it: less than `ip_len` for GSO.
    pub wire_len: u32,
    /// TCP: sequence number, host order.
    pub seq: u32,
    /// TCP: acknowledgement number, host order.
    pub ack: u32,
    /// IPv4: TOS; IPv6: the header's first word as it stands, without the version.
    pub tos: u32,
    /// Identification of a fragmented packet.
    pub id: [u8; 4],
    /// The one its fragments go on with; zero for the same.
    pub new_id: [u8; 2],
    /// TCP: window, host order, not scaled.
    pub window: u16,
    /// What it is.
    pub kind: Kind,
    /// TCP control bits, or SCTP's first chunk type.
    pub control: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Does the IP header carry what every hop has to look at?
    pub options: bool,
    /// More fragments follow this one, the first.
    pub first: bool,
    /// A later fragment whose flow is known from the first: it has no transport header.
    pub headless: bool,
    /// It may change the flow's state, whatever that is.
    pub notable: bool,
    /// An ICMP query's answer: the identifier is the destination's.
    pub answer: bool,
}

impl<A> Packet<A> {
    /// Offset of the transport header. The mask tells the verifier that it is small, where a
    /// function gets the packet as an argument.
    #[inline(always)]
    pub fn l4(&self) -> usize {
        (self.at & 255) as usize
    }
}

/// Why there is no [`Packet`].
pub enum Unread {
    /// Not a packet of this family (other protocol, VLAN tag).
    Foreign,
    /// The IP header contradicts the length; the stack drops such a packet.
    Malformed,
}

#[inline(always)]
fn raw(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// Device the program runs on.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context; the verifier rewrites the access.
    unsafe { (*raw(ctx)).ifindex }
}

/// Device the stack received the packet from; 0 when the host itself sent it.
#[inline(always)]
pub fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).ingress_ifindex }
}

/// Is the frame for this very device (PACKET_HOST)?
#[inline(always)]
pub fn is_for_us(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).pkt_type == 0 }
}

/// Payload bytes per segment of a GSO packet; 0 for others.
#[inline(always)]
pub fn gso_size(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).gso_size }
}

/// Take off a VLAN tag with number 0 (a "priority tag", IEEE 802.1Q 6.9.1), as the stack does
/// between this hook and the IP layer (`__netif_receive_skb_core`), so that what is below it is
/// judged. `false` for a frame with two of them, which the stack would take off as well. Tags
/// with other numbers lead to VLAN devices, which have hooks of their own.
#[inline(always)]
pub fn take_off_priority_tag(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe {
        if (*raw(ctx)).vlan_present == 0 || (*raw(ctx)).vlan_tci & 0x0fff != 0 {
            return true;
        }
        if bpf_skb_vlan_pop(raw(ctx)) != 0 {
            return false;
        }
        // A second tag has moved up into the first one's place.
        (*raw(ctx)).vlan_present == 0
    }
}

/// Is this an untagged packet of an EtherType (as the kernel stores it)?
#[inline(always)]
pub fn has_protocol(ctx: &TcContext, ether_type: u16) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe { (*raw(ctx)).protocol == u32::from(ether_type) && (*raw(ctx)).vlan_present == 0 }
}

/// A frame, as a kind of program is shown it.
pub trait Frame {
    /// Where its linear part begins.
    fn start(&self) -> usize;
    /// Where that ends.
    fn end(&self) -> usize;
    /// Bytes have changed by `difference` (see [`netd_common::checksum`]) that no checksum in the
    /// packet makes good.
    fn changed(&self, difference: u16);
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    /// The sum over the packet that a device may have handed up (CHECKSUM_COMPLETE) follows. Of
    /// other packets the helper says that there is none.
    #[inline(always)]
    fn changed(&self, difference: u16) {
        // SAFETY: a valid context and no other pointer.
        let _ = unsafe { bpf_csum_update(raw(self), u32::from(difference)) };
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    /// A frame has no such sum.
    #[inline(always)]
    fn changed(&self, _: u16) {}
}

/// Pointer to `T` at `offset` when all of it lies in the linear part of the packet.
#[inline(always)]
pub fn at<T>(ctx: &impl Frame, offset: usize) -> Option<*mut T> {
    let start = ctx.start() + offset;
    if start + size_of::<T>() > ctx.end() {
        None
    } else {
        Some(start as *mut T)
    }
}

/// Read `T` at `offset` of the linear part.
///
/// `T` is an integer or an array of bytes. BPF has no trap on alignment: the verifier allows
/// unaligned packet access where the machine does, and the JIT emits a plain load.
#[inline(always)]
pub fn read<T: Copy>(ctx: &impl Frame, offset: usize) -> Option<T> {
    // SAFETY: `at` proved that the bytes are in the packet.
    at::<T>(ctx, offset).map(|p| unsafe { *p })
}

/// Destination and source MAC of the frame.
#[inline(always)]
pub fn macs(ctx: &impl Frame) -> Option<(MacAddr, MacAddr)> {
    Some((read(ctx, 0)?, read(ctx, 6)?))
}

/// Bring the packet's first `want` bytes, or all there are, into the linear part.
#[inline(always)]
pub fn pull(ctx: &TcContext, want: usize) {
    let (all, want) = (ctx.len(), want as u32);
    // What cannot be pulled is found missing by whoever reads it.
    let _ = ctx.skb.pull_data(if all < want { all } else { want });
}

/// Fill in what the transport header at `packet.at` says. `len` is what the IP packet holds from
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
        packet.notable = packet.control & (tcp::SYN | tcp::FIN | tcp::RST) != 0;
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
        packet.answer = message.answer;
        let (id, query): (Port, Port) = (w2.to_ne_bytes(), [0, message.query]);
        (packet.key.sport, packet.key.dport) = if message.answer {
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
            packet.notable = matches!(
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
        packet.wire_len = packet.at - l3 as u32 + l4_len + gso;
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

/// The Ethernet header's length, for readers of frames.
pub const ETH: usize = EthHdr::LEN;
