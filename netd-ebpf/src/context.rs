//! The records that programs and their stages work on.

use netd_common::abi::{Flow, FlowKey, MacAddr};
use netd_common::policy::Verdict;

/// An IPv6 address, four bytes at a time.
pub type Words = [u32; 4];

/// What can be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It belongs to a flow, and `key` is complete.
    Flow,
    /// An ICMP error, which belongs to the flow it quotes.
    IcmpError,
    /// Part of a packet, but not the first: ports are not known.
    Fragment,
    /// ICMP that is neither query nor error.
    Icmp,
    /// Its transport header is cut short, or hidden behind too many extension headers. The stack
    /// forwards it all the same.
    Broken,
}

/// A packet's headers, read once.
pub struct Packet<A> {
    /// Addresses and, for `Kind::Flow`, ports.
    pub key: FlowKey<A>,
    /// Offset of the transport header from the start of the frame.
    pub l4_offset: u32,
    /// Length of the IP packet in bytes.
    pub ip_len: u32,
    /// Where the IP packet ends, from the start of the frame: padding may follow.
    pub end: u32,
    /// Length of the largest packet the kernel will make of it: less than `ip_len` for GSO.
    pub wire_len: u32,
    /// TCP: sequence number, host order.
    pub seq: u32,
    /// TCP: acknowledgement number, host order.
    pub ack: u32,
    /// IPv4: TOS; IPv6: the header's first word as it stands, without the version.
    pub tos: u32,
    /// Identification of a fragmented packet.
    pub id: [u8; 4],
    /// The one its fragments go on with; zero for the same.
    pub new_id: [u8; 2],
    /// TCP: window, host order, not scaled.
    pub window: u16,
    /// What it is.
    pub kind: Kind,
    /// TCP control bits, or SCTP's first chunk type.
    pub control: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Does the IP header carry what every hop has to look at?
    pub options: bool,
    /// More fragments follow this one, the first.
    pub first_fragment: bool,
    /// A later fragment whose flow is known from the first: it has no transport header.
    pub no_l4: bool,
    /// It may change the flow's state, whatever that is.
    pub changes_state: bool,
    /// An ICMP query's answer: the identifier is the destination's.
    pub is_reply: bool,
}

impl<A> Packet<A> {
    /// A packet of these addresses and this length, whose IP header starts at `l3` and transport
    /// header at `l4_offset`; nothing is known of the latter.
    #[inline(always)]
    pub fn new(src: A, dst: A, proto: u8, l3: u32, l4_offset: u32, ip_len: u32) -> Self {
        Self {
            key: FlowKey {
                src,
                dst,
                sport: [0; 2],
                dport: [0; 2],
                proto,
                pad: 0,
                zone: 0,
            },
            l4_offset,
            ip_len,
            end: l3 + ip_len,
            wire_len: ip_len,
            seq: 0,
            ack: 0,
            tos: 0,
            id: [0; 4],
            new_id: [0; 2],
            window: 0,
            kind: Kind::Broken,
            control: 0,
            ttl: 0,
            options: false,
            first_fragment: false,
            no_l4: false,
            changes_state: false,
            is_reply: false,
        }
    }

    /// Offset of the transport header. The mask tells the verifier that it is small, where a
    /// function gets the packet as an argument.
    #[inline(always)]
    pub fn l4(&self) -> usize {
        (self.l4_offset & 255) as usize
    }
}

/// Why there is no [`Packet`].
pub enum Unread {
    /// Not a packet of this family (other protocol, VLAN tag).
    Foreign,
    /// The IP header contradicts the length; the stack drops such a packet.
    Malformed,
}

/// Where a packet comes from.
#[derive(Clone, Copy)]
pub struct Ingress {
    /// Bridge of the network whose guest sent it; 0 for outside.
    pub bridge: u32,
    /// Device it came in by; 0 for the host itself.
    pub ifindex: u32,
    /// `PORT_*` bits of the guest's port, where it was seen there.
    pub port_flags: u32,
    /// Destination MAC of its frame (guests).
    pub dmac: MacAddr,
    /// Source MAC of its frame (guests).
    pub smac: MacAddr,
}

impl Ingress {
    /// The hook it was seen at.
    #[inline(always)]
    pub fn hook(&self) -> Hook {
        if self.bridge == 0 {
            Hook::Uplink
        } else if self.bridge == self.ifindex {
            Hook::Bridge
        } else {
            Hook::Port
        }
    }
}

/// Where a program runs, as far as handing a packet to the stack differs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of a bridge port; `bridge_ingress` will see the packet again.
    Port,
    /// Ingress of a managed bridge.
    Bridge,
    /// Ingress of any other device.
    Uplink,
}

/// What the kernel's routing says (policy rules included). All zero until asked.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Route<A> {
    /// Device to leave by.
    pub ifindex: u32,
    /// Largest IP packet on that path.
    pub mtu: u16,
    /// Is the next hop's MAC address known?
    pub resolved: bool,
    /// The destination is the host itself.
    pub local: bool,
    /// Address of the host's towards that next hop; zero where the kernel does not tell.
    pub own: A,
    /// Next hop; zero when it is not of this family.
    pub gateway: A,
    /// The next hop's MAC address.
    pub dmac: MacAddr,
    /// The device's own.
    pub smac: MacAddr,
}

/// What policy and routing say of a packet.
pub struct Decision<A> {
    /// May it pass, and how?
    pub verdict: Verdict,
    /// Way out.
    pub route: Route<A>,
    /// Bridge it leaves by; 0 for outside.
    pub to: u32,
    /// It is not for the host itself.
    pub leaves: bool,
}

impl<A: Default> Decision<A> {
    /// Nothing decided yet.
    #[inline(always)]
    pub fn none() -> Self {
        Self {
            verdict: Verdict::Stack,
            route: Route::default(),
            to: 0,
            leaves: false,
        }
    }
}

/// Room for a flow that is being opened: the stack of a program is small.
#[repr(C)]
pub struct Scratch<A> {
    /// The opener's entry.
    pub flow: Flow<A>,
    /// The answering direction's.
    pub back: Flow<A>,
    /// What is to be found for them.
    pub request: NatRequest<A>,
}

/// A packet on the slow path, for its stages.
#[repr(C)]
pub struct PacketCtx<A> {
    /// Its headers.
    pub packet: Packet<A>,
    /// Where it comes from.
    pub ingress: Ingress,
    /// Next hop that is to be reminded that it is in use; zero for none.
    pub confirm: A,
    /// The host's own rules are to see it (`conntrack::proof`).
    pub by_stack: bool,
    /// They have let one of its flow through.
    pub proven: bool,
    /// The path's MTU, when it is refused for that; where in the header the address is, when it is refused for one.
    pub mtu: u16,
    /// With [`HOLD`](crate::action::HOLD): what becomes of it where it cannot be held.
    pub unheld: i32,
    /// With [`HOLD`](crate::action::HOLD): it goes on, and a copy is held.
    pub goes_on: bool,
    /// What is decided of its flow anew: the stack of a program has no room for it there.
    pub decision: Decision<A>,
    /// What it quotes, when it is an ICMP error.
    pub quote: Quote<A>,
    /// Length of the link-layer header.
    l3: u32,
}

impl<A: Default> PacketCtx<A> {
    /// Keep where the packet comes from and the offset of its IP header.
    #[inline(always)]
    pub fn keep(&mut self, ingress: Ingress, l3: usize) {
        self.confirm = A::default();
        self.by_stack = false;
        self.proven = false;
        self.ingress = ingress;
        self.l3 = l3 as u32;
    }

    /// Offset of the IP header: 14 or 0. The mask tells the verifier that it is small.
    #[inline(always)]
    pub fn l3(&self) -> usize {
        (self.l3 & 15) as usize
    }
}

/// A question to the kernel's routing, and its answer.
#[repr(C)]
pub struct Routing<A> {
    /// Whose way.
    pub key: FlowKey<A>,
    /// Device it came in by; where `output` is not 0, the one it is to leave by.
    pub in_ifindex: u32,
    /// 1: only ways by that device count, as for a packet of the host's own that is bound to it.
    pub output: u32,
    /// As [`Packet::tos`].
    pub tos: u32,
    /// The answer.
    pub route: Route<A>,
}

/// A question to the host's IPsec policies, and its answer (`filter::ipsec`).
#[repr(C)]
pub struct PolicyWalk<A> {
    /// Of which packets.
    pub key: FlowKey<A>,
    /// Device they leave by.
    pub out: u32,
    /// Where the list begins.
    pub first: u32,
    /// Directions of which no policy has matched yet.
    pub open: u32,
    /// The strictest that those which have matched say.
    pub says: u32,
}

/// A bucket of tokens.
#[repr(C)]
pub struct TokenBucket {
    /// When it was last filled, in ns.
    pub filled: u64,
    /// Tokens in it.
    pub tokens: u64,
}

/// Ports that the administrator has reserved are not to be had.
pub const AVOID_RESERVED: u32 = 1;
/// Nor are those of the host's sockets, of mappings and of forwards.
pub const AVOID_SOCKETS: u32 = 2;

/// What is wanted of a flow that is being opened; its entries lie beside it in the scratch map.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NatRequest<A> {
    /// Key of the opener's entry.
    pub key: FlowKey<A>,
    /// Ports to choose from; not used when `translate` is 0.
    pub first: u16,
    /// The last of them.
    pub last: u16,
    /// 1: the source port may be changed.
    pub translate: u32,
    /// `AVOID_*` bits.
    pub avoid: u32,
    /// Tick of the last search in order through a large range on this CPU.
    pub searched: u32,
    /// Tries that such searches have cost in that tick.
    pub spent: u32,
}

/// What an ICMP error quotes: the packet as its sender's side saw it.
#[repr(C)]
pub struct Quote<A> {
    /// Addresses and ports of the quoted packet, turned round: the key of the direction in which
    /// the error travels.
    pub key: FlowKey<A>,
    /// Offset of the quoted IP header from the start of the frame.
    pub l3: u32,
    /// Offset of the quoted transport header.
    pub l4: u32,
    /// The quoted packet answers an ICMP query.
    pub is_reply: bool,
}

impl<A> Quote<A> {
    /// Offset of the quoted IP header. The masks tell the verifier that offsets are small.
    #[inline(always)]
    pub fn l3_offset(&self) -> usize {
        (self.l3 & 255) as usize
    }

    /// Offset of the quoted transport header.
    #[inline(always)]
    pub fn l4_offset(&self) -> usize {
        (self.l4 & 255) as usize
    }
}
