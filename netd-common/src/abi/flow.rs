//! The flow table: `flows4`, `flows6`, `slots4`, `slots6`.

use super::address::{Addr4, Addr6, MacAddr, Port};

/// Key of `flows4` and `flows6`: the addresses and ports of packets of one direction as they
/// arrive.
///
/// For ICMP echo the identifier takes the place of a port: a request has it as `sport` with
/// `dport` 0, a reply the other way round, so that turning the key round works as for TCP.
/// Protocols without ports have zeros.
///
/// A mapping of an endpoint-independent network (RFC 4787, section 4.1) is a flow to everybody:
/// its peer's address and port are zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Zero, always: keys are compared byte by byte.
    pub pad: u8,
    /// Zone in which the addresses mean what they say; 0 for the host's own, which is the only one
    /// so far.
    pub zone: u16,
}

/// Key of `flows4`.
pub type FlowKey4 = FlowKey<Addr4>;
/// Key of `flows6`.
pub type FlowKey6 = FlowKey<Addr6>;

impl<A: Copy> FlowKey<A> {
    /// The key of the packets that answer packets of this key.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            pad: 0,
            zone: self.zone,
        }
    }
}

/// Value of `flows4` and `flows6`: what becomes of the packets of one direction of a flow.
///
/// A flow is two entries. The partner's key is the translated tuple turned round
/// ([`Flow::partner`]), so neither needs to store it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    /// Source address after translation.
    pub new_src: A,
    /// Destination address after translation.
    pub new_dst: A,
    /// Source port after translation.
    pub new_sport: Port,
    /// Destination port after translation.
    pub new_dport: Port,
    /// Folded one's complement difference that the address change makes (native order).
    pub addr_diff: u16,
    /// Shift count of the sender's windows (RFC 7323, section 2); 0 unless it is TCP.
    pub wscale: u8,
    /// Low bits of the [`crate::clock::tick`] when policy and path were last checked.
    pub validated_at: u8,
    /// Device the packets come in by when they come from a guest: its port, or the bridge while
    /// the port is not known. For packets from outside: the only device that may bring them, or 0
    /// for any.
    pub in_ifindex: u32,
    /// Destination MAC that frames carry. A guest's must carry this (the bridge's own); from
    /// outside it is the one that was there when path and policy were last checked.
    pub in_dmac: MacAddr,
    /// [`crate::state::State`].
    pub state: u8,
    /// `FLOW_*` bits.
    pub flags: u8,
    /// The way out.
    pub next_hop: NextHop,
    /// [`super::Control::epoch`] plus [`super::GuestMoves::epoch`] when policy and path were last checked.
    pub epoch: u32,
    /// [`crate::clock::tick`] of the last packet of this direction.
    pub last_seen: u32,
    /// Managed bridge (ifindex) whose guest sends this direction; 0 for outside.
    pub in_bridge: u32,
    /// Managed bridge (ifindex) whose guest receives this direction; 0 for outside.
    pub out_bridge: u32,
    /// TCP: the last acknowledgement number sent in this direction (host order): what the other
    /// direction may send next.
    pub ack: u32,
    /// TCP: end of the window offered with it (host order).
    pub window_end: u32,
    /// The opener's entry: number of the flow's entry in `slots4` or `slots6`.
    pub slot: u32,
    /// The opener's entry: bridge (ifindex) in whose `usage` the flow is counted; 0 for none.
    pub counted_for: u32,
    /// Packets of this direction.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
}

/// Where packets of a flow go.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Device they leave by; 0 means the host's stack routes them. The kernel's indices are positive
    /// `int`s, so what is above them is free, for tunnels say.
    pub ifindex: u32,
    /// Destination MAC of frames that leave; all zero asks the kernel's neighbour table.
    pub dmac: MacAddr,
    /// Source MAC of frames that leave.
    pub smac: MacAddr,
    /// Largest IP packet that may leave by it without the stack's help, in bytes.
    pub mtu: u16,
    /// Zone that they come to, and answers from: that of the other direction's key.
    pub zone: u16,
}

/// Value of `flows4`.
pub type Flow4 = Flow<Addr4>;
/// Value of `flows6`.
pub type Flow6 = Flow<Addr6>;

/// This entry is the answering direction of its flow.
pub const FLOW_REPLY: u8 = 1;
/// Addresses or ports are translated.
pub const FLOW_NAT: u8 = 2;
/// A FIN of this direction was seen.
pub const FLOW_FIN: u8 = 4;
/// The flow is under an endpoint-independent mapping, which lives as long as it does.
pub const FLOW_MAPPED: u8 = 8;
/// The flow goes by a forward: its destination (or, in the answering direction, its source) is a
/// published address and port of the host's.
pub const FLOW_DNAT: u8 = 32;
/// The source address of this direction is netd's choice (masquerade, not a forward): it has to
/// be one of the host's for as long as the flow lives.
pub const FLOW_SNAT: u8 = 16;
/// The host's stack was given a packet of this direction, which has not come out yet.
pub const FLOW_IN_STACK: u8 = 128;
/// In a network that respects the host's rules: they have let a packet of this direction through.
/// That counts as long as the entry's epoch is not older than [`super::Control::rules_epoch`].
pub const FLOW_PROVEN: u8 = 64;

impl<A: Copy> Flow<A> {
    /// Key of the other direction's entry; `proto` is this entry's own.
    #[inline(always)]
    #[must_use]
    pub fn partner(&self, proto: u8) -> FlowKey<A> {
        FlowKey {
            src: self.new_dst,
            dst: self.new_src,
            sport: self.new_dport,
            dport: self.new_sport,
            proto,
            pad: 0,
            zone: self.next_hop.zone,
        }
    }
}

/// Value of `slots4` and `slots6`, arrays with one entry per flow that there is room for: the key
/// of the opener's entry. Whoever opens a flow takes the next slot that is free, whose flow is
/// dead or may go; the sweep visits them in turn.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot<A> {
    /// The flow's key.
    pub key: FlowKey<A>,
    /// 1 when the slot is taken.
    pub used: u32,
    /// Zero.
    pub pad: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partner_of_partner_is_the_flow_itself() {
        let key = FlowKey4 {
            src: [192, 168, 122, 11],
            dst: [198, 51, 100, 1],
            sport: 1000u16.to_be_bytes(),
            dport: 80u16.to_be_bytes(),
            proto: 6,
            ..FlowKey4::default()
        };
        let there = Flow4 {
            new_src: [198, 51, 100, 2],
            new_dst: key.dst,
            new_sport: 2000u16.to_be_bytes(),
            new_dport: key.dport,
            ..Flow4::default()
        };
        let back_key = there.partner(6);
        assert_eq!(back_key.src, key.dst);
        assert_eq!(back_key.dst, [198, 51, 100, 2]);
        assert_eq!(back_key.dport, 2000u16.to_be_bytes());
        let back = Flow4 {
            new_src: key.dst,
            new_dst: key.src,
            new_sport: key.dport,
            new_dport: key.sport,
            ..Flow4::default()
        };
        assert_eq!(back.partner(6), key);
    }
}
