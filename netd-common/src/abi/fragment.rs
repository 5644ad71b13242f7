//! `fragments4`, `fragments6`.

use super::address::Port;

/// Key of `fragments4` and `fragments6`: what the fragments of one packet share (RFC 791, section
/// 3.2; RFC 8200, section 4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification; IPv4's in the first two bytes.
    pub id: [u8; 4],
    /// IP protocol number (IPv4 only: in IPv6 headers of another type may come between).
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// [`Fragment::whose`]: the first fragment has come, and is of a flow.
pub const FRAGMENT_OF_FLOW: u16 = 0;
/// Others came alone, and are the host's stack's now.
pub const FRAGMENT_ORPHAN: u16 = 1;
/// The first fragment has come, and is the host's.
pub const FRAGMENT_OF_HOST: u16 = 2;

/// Value of `fragments4` and `fragments6`: what the first fragment says of the others.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Source port as it arrives.
    pub sport: Port,
    /// Destination port as it arrives.
    pub dport: Port,
    /// [`crate::clock::tick`] of the first fragment.
    pub seen_at: u32,
    /// Whose packet it is: `FRAGMENT_*`.
    pub whose: u16,
    /// Protocol of the packet.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// IPv4: identification under which the fragments of a masqueraded packet go on, since two
    /// guests may use one at a time. Zero: they keep their own.
    pub id: [u8; 2],
    /// Zero.
    pub pad_end: [u8; 2],
}
