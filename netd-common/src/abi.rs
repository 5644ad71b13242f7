//! Layout of every map: what the agent writes and the programs read, and the other way round.
//!
//! A change here needs a new [`VERSION`], since maps outlive the binary that made them.

/// Version of the layouts below; part of the path the maps are pinned under.
pub const VERSION: u32 = 4;

/// IPv4 address, network order.
pub type Addr4 = [u8; 4];
/// IPv6 address, network order.
pub type Addr6 = [u8; 16];
/// MAC address, transmission order.
pub type MacAddr = [u8; 6];
/// TCP, UDP or SCTP port, or ICMP identifier, network order.
pub type Port = [u8; 2];

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
    pub zero: [u8; 3],
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
            zero: [0; 3],
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
    /// The same for the port change.
    pub port_diff: u16,
    /// Device the packets come in by when they come from a guest: its port, or the bridge while
    /// the port is not known. For packets from outside: the only device that may bring them, or 0
    /// for any.
    pub in_ifindex: u32,
    /// Destination MAC that frames carry. A guest's must carry this (the bridge's own); from
    /// outside it is the one that was there when path and policy were last checked.
    pub in_mac: MacAddr,
    /// Largest IP packet that may leave by `out_ifindex` without the stack's help, in bytes.
    pub out_mtu: u16,
    /// Device the packets leave by; 0 means the host's stack routes them.
    pub out_ifindex: u32,
    /// Destination MAC of frames that leave; all zero asks the kernel's neighbour table.
    pub out_dmac: MacAddr,
    /// Source MAC of frames that leave.
    pub out_smac: MacAddr,
    /// [`Control::epoch`] plus [`Moved::epoch`] when policy and path were last checked.
    pub epoch: u32,
    /// [`tick`] of the last packet of this direction.
    pub last_seen: u32,
    /// [`crate::flow::State`].
    pub state: u8,
    /// `FLOW_*` bits.
    pub flags: u8,
    /// Shift count of the sender's windows (RFC 7323, section 2); 0 unless it is TCP.
    pub wscale: u8,
    /// Low bits of the [`tick`] when policy and path were last checked.
    pub looked: u8,
    /// Managed bridge (ifindex) whose guest sends this direction; 0 for outside.
    pub in_network: u32,
    /// Managed bridge (ifindex) whose guest receives this direction; 0 for outside.
    pub out_network: u32,
    /// TCP: the last acknowledgement number sent in this direction (host order): what the other
    /// direction may send next.
    pub ack: u32,
    /// TCP: end of the window offered with it (host order).
    pub edge: u32,
    /// The opener's entry: number of the flow's entry in `slots4` or `slots6`.
    pub slot: u32,
    /// The opener's entry: bridge (ifindex) in whose `usage` the flow is counted; 0 for none.
    pub counted: u32,
    /// Packets of this direction.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
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
pub const FLOW_FORWARD: u8 = 32;
/// The source address of this direction is netd's choice (masquerade, not a forward): it has to
/// be one of the host's for as long as the flow lives.
pub const FLOW_MASQUERADE: u8 = 16;

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
            zero: [0; 3],
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
    pub zero: u32,
}

/// `struct bpf_timer` of the kernel, which finds it in the map's BTF by this name.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the kernel's name")]
pub struct bpf_timer {
    /// The kernel's own; reads as zero.
    pub opaque: [u64; 2],
}

/// The one entry of `sweeper`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweeper {
    /// Wakes the sweep.
    pub timer: bpf_timer,
    /// The slots (IPv4, IPv6) that the next opened flow tries first, modulo their number.
    pub open: [u32; 2],
    /// The slots that the sweep visits next, modulo their number.
    pub sweep: [u32; 2],
}

/// Value of `usage`, whose key is the bridge's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Flows that guests of this network or others' packets into it have opened (IPv4, IPv6).
    pub flows: [u32; 2],
}

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
    pub zero: [u8; 3],
}

/// Value of `fragments4` and `fragments6`: what the first fragment says of the others.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Source port as it arrives.
    pub sport: Port,
    /// Destination port as it arrives.
    pub dport: Port,
    /// [`tick`] of the first fragment.
    pub seen: u32,
    /// Fragments that went to the host's stack before the first one came; while there are any,
    /// the first one has not come.
    pub orphans: u16,
    /// Protocol of the packet.
    pub proto: u8,
    /// Zero.
    pub zero: u8,
    /// IPv4: identification under which the fragments of a masqueraded packet go on, since two
    /// guests may use one at a time. Zero: they keep their own.
    pub id: [u8; 2],
    /// Zero.
    pub zeros: [u8; 2],
}

/// Forward mode of a network, as `networks` holds it for each family.
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

/// A network's settings for one family.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side<A> {
    /// The bridge's own address, the guests' gateway; zero without one.
    pub gateway: A,
    /// First address to masquerade with (`<nat><address>`); zero: the host's own.
    pub first: A,
    /// Last one.
    pub last: A,
    /// [`Mode`].
    pub mode: u8,
    /// Zero.
    pub zero: [u8; 3],
}

/// Value of `networks`, whose key is the bridge's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// IPv4.
    pub v4: Side<Addr4>,
    /// IPv6.
    pub v6: Side<Addr6>,
    /// Only device (ifindex) its traffic may be forwarded by; 0 for any.
    pub uplink: u32,
    /// MAC address of the bridge.
    pub mac: MacAddr,
    /// MTU of the bridge in bytes.
    pub mtu: u16,
    /// First port to masquerade TCP, UDP and SCTP with (`<nat><port>`, host order); 0: 1024.
    pub first_port: u16,
    /// Last one; 0: 65535.
    pub last_port: u16,
    /// `NETWORK_*` bits.
    pub flags: u32,
}

/// One outside port for all of a guest port's peers (RFC 4787, REQ-1).
pub const NETWORK_ENDPOINT_INDEPENDENT: u32 = 1;
/// Any peer may send to a mapping (RFC 4787, REQ-8 a).
pub const NETWORK_FILTER_NONE: u32 = 2;
/// Any port of a peer that the guest has sent to may (REQ-8 b).
pub const NETWORK_FILTER_ADDRESS: u32 = 4;
/// Of the host itself its guests reach DHCP, DNS, TFTP and ICMP alone.
pub const NETWORK_HOST_SERVICES: u32 = 8;
/// Of the host itself its guests reach nothing.
pub const NETWORK_HOST_NONE: u32 = 16;
/// Its ports are isolated from each other (`<port isolated>`).
pub const NETWORK_PORTS_ISOLATED: u32 = 32;
/// Its ports are guarded: leases are to be remembered.
pub const NETWORK_GUARDED: u32 = 64;

/// Value of `ports`, whose key is the port's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// ifindex of the bridge it belongs to.
    pub bridge: u32,
    /// `PORT_*` bits.
    pub flags: u32,
    /// The guest's MAC address, where it is known; else zero.
    pub mac: MacAddr,
    /// Zero.
    pub zero: [u8; 2],
}

/// It is isolated: guests at other isolated ports of its bridge are out of its reach.
pub const PORT_ISOLATED: u32 = 1;
/// Frames carry the port's own MAC address.
pub const PORT_GUARD_MAC: u32 = 2;
/// Packets carry an address of the guest's own, and nothing else comes than IP and ARP.
pub const PORT_GUARD_IP: u32 = 4;
/// ARP speaks of the guest alone.
pub const PORT_GUARD_ARP: u32 = 8;
/// Neighbour advertisements speak of the guest alone.
pub const PORT_GUARD_ND: u32 = 16;
/// The guest is no DHCP server and no router.
pub const PORT_GUARD_DHCP: u32 = 32;
/// Any of them.
pub const PORT_GUARD: u32 =
    PORT_GUARD_MAC | PORT_GUARD_IP | PORT_GUARD_ARP | PORT_GUARD_ND | PORT_GUARD_DHCP;

/// Value of `identities`, whose key is a guarded port's ifindex (u32): who was first seen there.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its MAC address.
    pub mac: MacAddr,
    /// IPv6 addresses that it has claimed.
    pub claims: u16,
}

/// IPv6 addresses that the guest at one port may claim.
pub const MAX_CLAIMS: u16 = 64;

/// Key of `bindings4` and `bindings6`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindingKey<A> {
    /// Bridge (ifindex) of the network.
    pub bridge: u32,
    /// The address.
    pub address: A,
}

/// Value of `bindings4` and `bindings6`: whose an address is.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// MAC address of the guest.
    pub mac: MacAddr,
    /// `BINDING_*`.
    pub kind: u8,
    /// Zero.
    pub zero: u8,
}

/// By the definition, or by a lease that the agent knows.
pub const BINDING_KNOWN: u8 = 0;
/// By a lease that the programs saw.
pub const BINDING_LEASED: u8 = 1;
/// By use.
pub const BINDING_CLAIMED: u8 = 2;

/// Value of `subnets4`, `subnets6` (guests' prefixes) and `pools4`, `pools6` (prefixes of address
/// ranges to masquerade with), which are LPM tries on the address.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// ifindex of the bridge of the network it belongs to.
    pub bridge: u32,
}

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
    pub zero: u8,
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
    pub bridge: u32,
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
    pub zero: [u8; 6],
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
    pub zero: [u8; 2],
}

/// Value of `endpoints4` and `endpoints6`, whose key is a guest's address: where its frames were
/// last seen.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Port, or bridge while the port is not known.
    pub ifindex: u32,
    /// [`tick`] of the last time.
    pub last_seen: u32,
    /// [`tick`] when a frame of the guest last went through the bridge, which so learns its port.
    pub bridged: u32,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// Zero.
    pub zero: [u8; 2],
}

/// Value of `devices`, whose key is an ifindex (u32): every device guests' traffic may leave by.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// IPv4 address to masquerade with; zero when the device has none.
    pub address: Addr4,
    /// The same for IPv6.
    pub address6: Addr6,
    /// `DEVICE_*` bits.
    pub flags: u32,
    /// Its MAC address; zero when it has none.
    pub mac: MacAddr,
    /// Zero.
    pub zero: [u8; 2],
}

/// Frames of this device have an Ethernet header.
pub const DEVICE_ETHERNET: u32 = 1;

/// The one entry of `control`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Raised when a definition, route, neighbour, port or address changes: flows check policy
    /// and path again at their next packet.
    pub epoch: u32,
    /// `CONTROL_*` bits.
    pub flags: u32,
    /// Flows of one family that one network may have; 0 for no limit but the table's.
    pub max_per_network: u32,
    /// Number of entries of `slots4`, and of `slots6`.
    pub slots: u32,
    /// Cookie of the agent's network namespace (SO_NETNS_COOKIE): the programs at sockets see those
    /// of other namespaces, too.
    pub netns: u64,
    /// How long flows may be silent, in [`tick`]s, by [`crate::flow::Timeout`].
    pub timeouts: [u32; crate::flow::TIMEOUTS],
    /// For so many [`tick`]s after a look at policy and path a flow that is not silent for as long
    /// needs none: not more than [`crate::flow::surely_alive`], and below 128.
    pub settled: u32,
    /// Zero.
    pub zero: u32,
}

/// The one entry of `moved`, which the programs keep.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Added to [`Control::epoch`]: raised when a guest is seen at another port or with another
    /// MAC address, so that no packet of its flows takes the old way.
    pub epoch: u32,
    /// [`tick`] when it was last raised: once a tick is enough, since flows look again then.
    pub raised: u32,
}

/// Some network has endpoint-independent mappings, whose ports are nobody else's.
pub const CONTROL_MAPPINGS: u32 = 1;

/// Some port is published.
pub const CONTROL_FORWARDS: u32 = 2;
/// Some address is published with all that reaches it.
pub const CONTROL_WHOLE_ADDRESSES: u32 = 4;

/// Value of `reserved` and `published` (arrays of 1024), the bits of 64 ports each: those that are
/// not to be handed out (`net.ipv4.ip_local_reserved_ports`), and those that some forward is about,
/// whatever its protocol and address. Port p is bit p % 64 of word p / 64.
pub type PortsWord = u64;
/// Entries of `reserved` and `published`.
pub const PORTS_WORDS: usize = 65536 / 64;

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
    pub zero: u8,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// Source address; IPv4's (and ARP's sender) in the first four bytes.
    pub src: Addr6,
    /// Destination address; IPv4's (and ARP's target) likewise.
    pub dst: Addr6,
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
    assert!(size_of::<FlowKey6>() == 40);
    assert!(size_of::<Flow4>() == 96);
    assert!(size_of::<Flow6>() == 120);
    assert!(size_of::<Slot<Addr4>>() == 24);
    assert!(size_of::<Slot<Addr6>>() == 48);
    assert!(size_of::<ForwardKey<Addr4>>() == 12);
    assert!(size_of::<ForwardKey<Addr6>>() == 24);
    assert!(size_of::<Forward<Addr4>>() == 12);
    assert!(size_of::<Forward<Addr6>>() == 24);
    assert!(size_of::<FragmentKey<Addr4>>() == 16);
    assert!(size_of::<FragmentKey<Addr6>>() == 40);
    assert!(size_of::<Fragment>() == 16);
    assert!(size_of::<Network>() == 88);
    assert!(size_of::<BridgePort>() == 16);
    assert!(size_of::<Identity>() == 8);
    assert!(size_of::<BindingKey<Addr4>>() == 8);
    assert!(size_of::<BindingKey<Addr6>>() == 20);
    assert!(size_of::<Binding>() == 8);
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Device>() == 32);
    assert!(size_of::<DropEvent>() == 64);
    assert!(size_of::<Control>() == 104);
    assert!(size_of::<PeerKey<Addr6>>() == 32);
    assert!(size_of::<Peer<Addr6>>() == 20);
};

#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($t:ty),*) => {$(
            // SAFETY: a repr(C) struct of integers and byte arrays with no padding (its size is
            // the sum of its fields'), for which every bit pattern is a value.
            unsafe impl aya::Pod for $t {}
        )*};
    }
    pod!(
        FlowKey4,
        FlowKey6,
        Flow4,
        Flow6,
        Slot<Addr4>,
        Slot<Addr6>,
        Sweeper,
        Usage,
        FragmentKey<Addr4>,
        FragmentKey<Addr6>,
        Fragment,
        ForwardKey<Addr4>,
        ForwardKey<Addr6>,
        Forward<Addr4>,
        Forward<Addr6>,
        Network,
        BridgePort,
        Identity,
        BindingKey<Addr4>,
        BindingKey<Addr6>,
        Binding,
        Subnet,
        Endpoint,
        Device,
        Control,
        Moved,
        DropCount,
        DropEvent
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
