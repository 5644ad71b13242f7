//! Layouts of the benchmark's maps; the benchmark itself compiles this file, too.

/// Words that the generator writes: Ethernet, IPv4 and UDP headers, and two bytes of payload.
pub const HEADER_WORDS: usize = 11;

/// What the generator sends, and where in its flows it is.
///
/// A flow is a port from 10000 on and, every [`PORTS`] flows, the next address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Generator {
    /// The headers as they lie in the frame, without what changes from flow to flow.
    pub frame: [u32; HEADER_WORDS],
    /// Sum of the IPv4 header's 16-bit words, without the lower half of the address that changes.
    pub sum: u32,
    /// The lower half of the first flow's address, host byte order.
    pub address: u32,
    /// 1 where the source address changes, 0 where the destination does.
    pub source_address: u32,
    /// 1 where the source port changes, 0 where the destination port does.
    pub source_port: u32,
    /// Number of flows, a power of two, less one.
    pub mask: u32,
    /// Added to `next` for every packet; an odd number visits every flow.
    pub step: u32,
    /// The next packet's flow, modulo the number of flows.
    pub next: u32,
}

/// Ports of one address, a power of two.
pub const PORTS: u32 = 1 << 15;

/// Where a device's frames are redirected to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Way {
    /// Destination and source MAC address, as they lie in the frame.
    pub macs: [u32; 3],
    /// Ifindex of the device to send by.
    pub device: u32,
}
