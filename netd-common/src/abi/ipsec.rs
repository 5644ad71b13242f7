//! `policies4`, `policies6`: the host's IPsec policies (xfrm), as far as they are about forwarded packets.

use super::address::Port;

/// Policies of one family that the programs look at. Each map has two lists of them, one after the other,
/// so that one can be written while the other counts ([`super::CONTROL_SECOND_POLICIES`]).
pub const IPSEC_POLICIES: u32 = 1024;

/// An entry of `policies4` or `policies6`. They stand in the kernel's order: the first one of a direction
/// that a packet matches counts. All zero ends the list.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpsecPolicy<A> {
    /// Bits of the source address that `src_mask` has set.
    pub src: A,
    /// Which bits matter.
    pub src_mask: A,
    /// The same of the destination.
    pub dst: A,
    /// Which bits matter.
    pub dst_mask: A,
    /// Bits of the source port that `sport_mask` has set.
    pub sport: Port,
    /// Which bits matter.
    pub sport_mask: Port,
    /// The same of the destination port.
    pub dport: Port,
    /// Which bits matter.
    pub dport_mask: Port,
    /// Device that packets leave by; 0 for any.
    pub ifindex: u32,
    /// IP protocol number; 0 for any.
    pub proto: u8,
    /// `IPSEC_OUT` or `IPSEC_FORWARD`.
    pub direction: u8,
    /// `IPSEC_*`: what it says of such packets; 0 ends the list.
    pub says: u8,
    /// Zero.
    pub pad: u8,
}

/// It is asked about what leaves, with the addresses that it leaves with.
pub const IPSEC_OUT: u8 = 1;
/// It is asked about what is forwarded.
pub const IPSEC_FORWARD: u8 = 2;

/// They may pass in clear.
pub const IPSEC_CLEAR: u8 = 1;
/// They may pass protected.
pub const IPSEC_PROTECT: u8 = 2;
/// They may not pass.
pub const IPSEC_BLOCK: u8 = 3;
