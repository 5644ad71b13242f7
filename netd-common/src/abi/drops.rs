//! Dropped packets: `drops`, `events`.

use super::address::{Addr6, Port};

/// Value of `drops` (per CPU), whose key is a [`crate::Reason`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, link-layer header included.
    pub bytes: u64,
}

/// A record of `events`, a ring buffer: a packet that was dropped. What the packet does not say is
/// zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropEvent {
    /// CLOCK_MONOTONIC_COARSE in nanoseconds.
    pub time: u64,
    /// [`crate::Reason`].
    pub reason: u32,
    /// Device whose program dropped it.
    pub ifindex: u32,
    /// Drops that this CPU wrote no record of since its last one.
    pub suppressed: u32,
    /// Length of the packet in bytes, link-layer header included.
    pub len: u32,
    /// EtherType, network order.
    pub ether_type: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// Source address; IPv4's (and ARP's sender) in the first four bytes.
    pub src: Addr6,
    /// Destination address; IPv4's (and ARP's target) likewise.
    pub dst: Addr6,
}
