//! Layout of every map: what the agent writes and the programs read, and the other way round.
//!
//! A change here needs a new [`VERSION`], since maps outlive the binary that made them.

/// Version of the layouts below; part of the path the maps are pinned under.
pub const VERSION: u32 = 1;

/// IPv4 address, network order.
pub type Addr4 = [u8; 4];
/// MAC address, transmission order.
pub type MacAddr = [u8; 6];
/// TCP or UDP port, or ICMP identifier, network order.
pub type Port = [u8; 2];

/// Key of `flows4`: the addresses and ports of packets of one direction as they arrive.
///
/// For ICMP echo the identifier takes the place of a port: a request has it as `sport` with
/// `dport` 0, a reply the other way round, so that turning the key round works as for TCP.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey4 {
    /// Source address.
    pub src: Addr4,
    /// Destination address.
    pub dst: Addr4,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Zero, always: keys are compared byte by byte.
    pub zero: [u8; 3],
}

impl FlowKey4 {
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
            zero: [0; 3],
        }
    }
}

/// Value of `flows4`: what becomes of the packets of one direction of a flow.
///
/// A flow is two entries. The partner's key is the translated tuple turned round
/// ([`Flow4::partner`]), so neither needs to store it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow4 {
    /// Source address after translation.
    pub new_src: Addr4,
    /// Destination address after translation.
    pub new_dst: Addr4,
    /// Source port after translation.
    pub new_sport: Port,
    /// Destination port after translation.
    pub new_dport: Port,
    /// Folded one's complement difference that the address change makes (native order).
    pub addr_diff: u16,
    /// The same for the port change.
    pub port_diff: u16,
    /// Device the packets come in by when they come from a guest: its port, or the bridge while
    /// the port is not known. 0 for packets from outside, which any uplink may bring.
    pub in_ifindex: u32,
    /// Destination MAC a guest's frame must carry (the bridge's own); unused from outside.
    pub in_mac: MacAddr,
    /// Largest IP packet that may leave by `out_ifindex` without the stack's help, in bytes.
    pub out_mtu: u16,
    /// Device the packets leave by; 0 means the host's stack routes them.
    pub out_ifindex: u32,
    /// Destination MAC of frames that leave; all zero asks the kernel's neighbour table.
    pub out_dmac: MacAddr,
    /// Source MAC of frames that leave.
    pub out_smac: MacAddr,
    /// [`Control::epoch`] when policy and path were last checked.
    pub epoch: u32,
    /// [`tick`] of the last packet of this direction.
    pub last_seen: u32,
    /// [`crate::flow::State`].
    pub state: u8,
    /// `FLOW_*` bits.
    pub flags: u8,
    /// Zero.
    pub zero: [u8; 2],
    /// Managed bridge (ifindex) whose guest sends this direction; 0 for outside.
    pub in_network: u32,
    /// Managed bridge (ifindex) whose guest receives this direction; 0 for outside.
    pub out_network: u32,
    /// Packets of this direction.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
}

/// This entry is the answering direction of its flow.
pub const FLOW_REPLY: u8 = 1;
/// Addresses or ports are translated.
pub const FLOW_NAT: u8 = 2;

impl Flow4 {
    /// Key of the other direction's entry; `proto` is this entry's own.
    #[inline(always)]
    #[must_use]
    pub fn partner(&self, proto: u8) -> FlowKey4 {
        FlowKey4 {
            src: self.new_dst,
            dst: self.new_src,
            sport: self.new_dport,
            dport: self.new_sport,
            proto,
            zero: [0; 3],
        }
    }
}

/// Forward mode of a network, as `networks` holds it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No `<forward>`: guests reach each other and the host.
    Isolated = 0,
    /// Behind the host's address.
    Nat = 1,
    /// With their own addresses.
    Route = 2,
    /// netd has no say.
    Open = 3,
}

impl Mode {
    /// The mode a map's byte stands for; an unknown byte is the strictest mode.
    #[inline(always)]
    #[must_use]
    pub fn from_u8(byte: u8) -> Self {
        match byte {
            1 => Self::Nat,
            2 => Self::Route,
            3 => Self::Open,
            _ => Self::Isolated,
        }
    }
}

/// Value of `networks`, whose key is the bridge's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The bridge's own IPv4 address, the guests' gateway; zero without one.
    pub gateway: Addr4,
    /// Only device (ifindex) its traffic may be forwarded by; 0 for any.
    pub uplink: u32,
    /// MAC address of the bridge.
    pub mac: MacAddr,
    /// MTU of the bridge in bytes.
    pub mtu: u16,
    /// [`Mode`].
    pub mode: u8,
    /// Zero.
    pub zero: [u8; 3],
}

/// Value of `ports`, whose key is the port's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// ifindex of the bridge it belongs to.
    pub bridge: u32,
}

/// Value of `subnets` (LPM on the IPv4 address).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// ifindex of the bridge the subnet is behind.
    pub bridge: u32,
}

/// Value of `endpoints`, whose key is a guest's IPv4 address: where its frames were last seen.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Port, or bridge while the port is not known.
    pub ifindex: u32,
    /// [`tick`] of the last time.
    pub last_seen: u32,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// Zero.
    pub zero: [u8; 2],
}

/// Value of `devices`, whose key is an ifindex (u32): every device guests' traffic may leave by.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Address to masquerade with; zero when the device has none.
    pub address: Addr4,
    /// `DEVICE_*` bits.
    pub flags: u32,
}

/// Frames of this device have an Ethernet header.
pub const DEVICE_ETHERNET: u32 = 1;

/// The one entry of `control`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Raised when a definition, route, neighbour, port or address changes: flows check policy
    /// and path again at their next packet.
    pub epoch: u32,
}

/// Value of `drops` (per CPU), whose key is a [`crate::Reason`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, link-layer header included.
    pub bytes: u64,
}

/// The datapath's clock: 2^30 nanoseconds (about 1.07 s) of CLOCK_MONOTONIC since boot.
#[inline(always)]
#[must_use]
pub fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 30) as u32
}

/// `seconds` in [`tick`]s, rounded up.
#[must_use]
pub const fn ticks(seconds: u64) -> u32 {
    (seconds * 1_000_000_000).div_ceil(1 << 30) as u32
}

const _: () = {
    assert!(size_of::<FlowKey4>() == 16);
    assert!(size_of::<Flow4>() == 80);
    assert!(size_of::<Network>() == 20);
    assert!(size_of::<Endpoint>() == 16);
    assert!(size_of::<Device>() == 8);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        BridgePort, Control, Device, DropCount, Endpoint, Flow4, FlowKey4, Network, Subnet,
    };

    macro_rules! pod {
        ($($t:ty),*) => {$(
            // SAFETY: a repr(C) struct of integers and byte arrays with no padding (its size is
            // the sum of its fields'), for which every bit pattern is a value.
            unsafe impl aya::Pod for $t {}
        )*};
    }
    pod!(
        FlowKey4, Flow4, Network, BridgePort, Subnet, Endpoint, Device, Control, DropCount
    );
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
            zero: [0; 3],
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

    #[test]
    fn ticks_round_up() {
        assert_eq!(ticks(0), 0);
        assert_eq!(ticks(1), 1);
        assert_eq!(ticks(30), 28);
        assert_eq!(tick(30_000_000_000), 27);
    }
}
