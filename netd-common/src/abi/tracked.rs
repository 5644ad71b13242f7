//! A connection that the kernel's connection tracking has, for the program `enter`.

use super::address::Port;

/// What follows the Ethernet header of the frame that `enter` is run on. The header's type says of which
/// family the addresses are.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked<A> {
    /// The guest that opened it.
    pub src: A,
    /// Its peer.
    pub dst: A,
    /// Whom the peer takes the guest for: another address where the kernel translates.
    pub new_src: A,
    /// The guest's port, or the identifier of an ICMP query.
    pub sport: Port,
    /// The peer's port; 0 for ICMP.
    pub dport: Port,
    /// The port (or identifier) that belongs to `new_src`.
    pub new_sport: Port,
    /// IP protocol number.
    pub proto: u8,
    /// [`crate::state::State`].
    pub state: u8,
    /// TCP, who has sent a FIN: bit 0 the guest, bit 1 its peer.
    pub fins: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Bridge (ifindex) of the guest's network.
    pub bridge: u32,
    /// For how many [`crate::clock::tick`]s the kernel would still remember it.
    pub remaining: u32,
}

/// `enter`: there is a flow now, or was one.
pub const ENTERED: u32 = 0;
/// `enter`: netd would not treat it so, or its place is another flow's.
pub const NOT_ENTERED: u32 = 1;
