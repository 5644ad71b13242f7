//! What the relay of a network's services and its program agree upon.

/// The address that stands for the namespace of the services where they ask the host's name servers:
/// one of loopback's that nobody has a server at.
pub const OWN4: [u8; 4] = [127, 110, 101, 116];
/// The same for IPv6: a unique local address (RFC 4193) that no other device has.
pub const OWN6: [u8; 16] = [
    0xfd, 0x6e, 0x65, 0x74, 0x64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];

/// Number of the relay's sockets in the map `relay_sockets`.
pub const SOCKETS: usize = 4;
/// The one that gets datagrams to IPv4 addresses.
pub const UDP4: u32 = 0;
/// The one that gets connections to IPv4 addresses.
pub const TCP4: u32 = 1;
/// The one that gets datagrams to IPv6 addresses.
pub const UDP6: u32 = 2;
/// The one that gets connections to IPv6 addresses.
pub const TCP6: u32 = 3;
