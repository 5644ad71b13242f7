//! Published ports: `forwards4`, `forwards6`, `peers`, `reserved`, `dnat_ports`.

use super::address::Port;

/// Key of `forwards4` and `forwards6`, LPM tries in which ports of a range share entries: what is
/// published, without the last bits of the port that the entry leaves open. Compared bit by bit in
/// the order of the fields.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardKey<A> {
    /// Device (ifindex) whose addresses it is about; 0 where `address` says which, and where it is
    /// about every address of the host's.
    pub dev: u32,
    /// The address; zero for every address of `dev`, or of the host.
    pub address: A,
    /// IP protocol number; 0 for all of them.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// Port as it arrives.
    pub port: Port,
}

impl<A> ForwardKey<A> {
    /// Bits before the port: the prefix length of an entry for every port.
    pub const PORTLESS: u32 = (size_of::<Self>() as u32 - 2) * 8;
    /// Bits of a whole key: the prefix length of an entry for one port.
    pub const BITS: u32 = size_of::<Self>() as u32 * 8;
}

/// Value of `forwards4` and `forwards6`: where a published port is to be found.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forward<A> {
    /// The guest's address.
    pub guest: A,
    /// Bridge (ifindex) of the guest's network.
    pub bridge_ifindex: u32,
    /// A published port of the range (host order) …
    pub first: u16,
    /// … and the guest's port for it (host order); others lie as far from them.
    pub to: u16,
}

impl<A> Forward<A> {
    /// The guest's port for a published one.
    #[inline(always)]
    #[must_use]
    pub fn guest_port(&self, published: Port) -> Port {
        u16::from_be_bytes(published)
            .wrapping_sub(self.first)
            .wrapping_add(self.to)
            .to_be_bytes()
    }
}

/// Key of `peers`: whom a socket of the host's really talks to, where that is a guest. IPv4
/// addresses are mapped (RFC 4291, section 2.5.5.2).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerKey<A> {
    /// The socket's cookie (SO_COOKIE).
    pub socket: u64,
    /// The guest's address.
    pub address: A,
    /// The guest's port.
    pub port: Port,
    /// Zero.
    pub pad: [u8; 6],
}

/// Value of `peers`: whom it believes to talk to.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer<A> {
    /// The published address.
    pub address: A,
    /// The published port.
    pub port: Port,
    /// Zero.
    pub pad: [u8; 2],
}

/// Value of `reserved` and `dnat_ports` (arrays of 1024), the bits of 64 ports each: those that are
/// not to be handed out (`net.ipv4.ip_local_reserved_ports`), and those that some forward is about,
/// whatever its protocol and address. Port p is bit p % 64 of word p / 64.
pub type PortsWord = u64;
/// Entries of `reserved` and `dnat_ports`.
pub const PORTS_WORDS: usize = 65536 / 64;
