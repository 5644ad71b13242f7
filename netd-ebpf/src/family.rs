//! What differs between IPv4 and IPv6, as one trait: the rest of the programs is written once.

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_sock_tuple};
use aya_ebpf::programs::TcContext;
use netd_common::abi::{
    BanKey, BindingKey, Device, Endpoint, EndpointKey, FamilyConfig, Flow, FlowKey, Fragment,
    FragmentKey, IpsecPolicy, Network, Slot,
};

use crate::context::{Packet, PacketCtx, PolicyWalk, Routing, Scratch, Unread};
use crate::frame::Frame;
use crate::maps::{
    Addresses, Bans, Bindings, Endpoints, Flows, Forwards, Fragments, Policies, Prefixes, Slots,
};

/// IPv4.
#[derive(Clone, Copy)]
pub struct V4;
/// IPv6.
#[derive(Clone, Copy)]
pub struct V6;

/// A version of the Internet protocol. Offsets are from the start of the IP header.
pub trait Family: Copy + 'static {
    /// An address in network order, as the words it consists of: bytes could lie at any offset, and
    /// would be copied one by one.
    type Addr: Copy + PartialEq + Default + 'static;
    /// Is it IPv6?
    const IS_IPV6: bool;
    /// Index into `usage` and `sweeper`.
    const INDEX: usize = Self::IS_IPV6 as usize;
    /// Address family of the socket interface.
    const AF: u8;
    /// Its EtherType, as it stands in a frame.
    const ETHER_TYPE: [u8; 2];
    /// Length of the header without options or extensions.
    const HEADER: usize;
    /// Offset of the source address.
    const SRC: usize;
    /// Offset of the destination address.
    const DST: usize;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// Type and code of the unreachable that answers a refusal by policy: port unreachable, as
    /// libvirt's rules answer.
    const UNREACHABLE_PORT: [u8; 2];
    /// The same where the host has run out of something: administratively prohibited (RFC 5508,
    /// REQ-8).
    const PROHIBITED: [u8; 2];
    /// ICMP's type and code for a host that its link does not know.
    const UNREACHABLE_HOST: [u8; 2];
    /// The same for a packet whose hops are used up.
    const TIME_EXCEEDED: [u8; 2];
    /// For one that is larger than the path's MTU and may not be fragmented.
    const TOO_LARGE: [u8; 2];
    /// For one whose header says what cannot be.
    const PARAMETER_PROBLEM: [u8; 2];
    /// No address.
    const ZERO: Self::Addr;

    /// Has the address the bits that the mask has set?
    fn has_bits(address: &Self::Addr, bits: &Self::Addr, mask: &Self::Addr) -> bool;
    /// Sum of the address's 16-bit words.
    fn sum(address: &Self::Addr) -> u64;
    /// Is the address one that is not forwarded: multicast, broadcast, loopback, link-local?
    fn never_forwarded(address: Self::Addr) -> bool;
    /// A number that depends on every bit of the address.
    fn hash(address: Self::Addr) -> u32;
    /// The `n`-th address from `first` on, modulo their number up to `last`. In IPv6 both have the
    /// same first 64 bits.
    fn pick(first: Self::Addr, last: Self::Addr, n: u32) -> Self::Addr;
    /// Does the address lie between `first` and `last`?
    fn within(address: Self::Addr, first: Self::Addr, last: Self::Addr) -> bool;
    /// A network's settings for the family.
    fn config(network: &Network) -> FamilyConfig<Self::Addr>;
    /// A device's own address.
    fn address(device: &Device) -> Self::Addr;

    /// Put addresses into a question to the kernel's routing.
    fn ask(fib: &mut bpf_fib_lookup, src: Self::Addr, dst: Self::Addr, tos: u32);
    /// Its answer: the source the host itself would use.
    fn source(fib: &bpf_fib_lookup) -> Self::Addr;
    /// Its answer: the next hop.
    fn next_hop(fib: &bpf_fib_lookup) -> Self::Addr;
    /// The largest packet that a route by this device lets pass, where it says so and the kernel's
    /// answer does not: its forwarding obeys the MTU of an IPv4 route, which the helper only tells
    /// where that is locked (`ip_mtu_from_fib_result`). For IPv6 neither heeds one that is not.
    fn route_mtu(ifindex: u32, dst: Self::Addr) -> u16;
    /// An address as the neighbour helper wants it.
    fn next_hop_words(address: Self::Addr) -> [u32; 4];
    /// The tuple by which to look for a socket of the host's that gets packets of `key`; its
    /// length in bytes.
    fn socket_tuple(key: &FlowKey<Self::Addr>, tuple: &mut bpf_sock_tuple) -> u32;

    /// Is this an untagged packet of the family?
    fn is(ctx: &TcContext) -> bool;
    /// Read the headers of the packet whose IP header starts at `l3` into `packet`.
    fn parse(ctx: &TcContext, l3: usize, packet: &mut Packet<Self::Addr>) -> Result<(), Unread>;
    /// Does the packet name stations to go by (source route, routing header)?
    fn has_source_route(ctx: &TcContext, l3: usize) -> bool;
    /// May a router cut the packet whose IP header starts at `l3`?
    fn may_be_fragmented(ctx: &TcContext, l3: usize) -> bool;
    /// Offset of the transport header, and protocol, of the packet that an ICMP error quotes from
    /// `l3` on; `None` for a later fragment or no packet.
    fn read_quoted(ctx: &TcContext, l3: usize) -> Option<(u32, u8)>;
    /// Write other addresses (when `nat`), which differ by `diff`, and one hop less to live (when
    /// `hop`).
    fn write_header(
        ctx: &impl Frame,
        l3: usize,
        src: &Self::Addr,
        dst: &Self::Addr,
        diff: u16,
        nat: bool,
        hop: bool,
    ) -> Option<()>;

    /// Its flow table.
    fn flows() -> &'static Flows<FlowKey<Self::Addr>, Flow<Self::Addr>>;
    /// Its slots.
    fn slots() -> &'static Slots<Slot<Self::Addr>>;
    /// Its fragments.
    fn fragments() -> &'static Fragments<FragmentKey<Self::Addr>, Fragment>;
    /// Where its guests are.
    fn endpoints() -> &'static Endpoints<EndpointKey<Self::Addr>, Endpoint>;
    /// The host's own addresses.
    fn addresses() -> &'static Addresses<Self::Addr>;
    /// Guests' subnets.
    fn subnets() -> &'static Prefixes<Self::Addr>;
    /// Address ranges to masquerade with.
    fn pools() -> &'static Prefixes<Self::Addr>;
    /// Whose addresses are.
    fn bindings() -> &'static Bindings<BindingKey<Self::Addr>>;
    /// Published ports.
    fn forwards() -> &'static Forwards<Self::Addr>;
    /// Who is banned.
    fn bans() -> &'static Bans<BanKey<Self::Addr>>;
    /// The host's IPsec policies.
    fn policies() -> &'static Policies<IpsecPolicy<Self::Addr>>;
    /// This CPU's room for a flow that is being opened.
    fn scratch() -> Option<&'static mut Scratch<Self::Addr>>;
    /// This CPU's room for a question to routing.
    fn routing() -> Option<&'static mut Routing<Self::Addr>>;
    /// Room for a question to the host's IPsec policies.
    fn policy_walk() -> Option<&'static mut PolicyWalk<Self::Addr>>;
    /// This CPU's room for a packet on the slow path.
    fn packet_ctx() -> Option<&'static mut PacketCtx<Self::Addr>>;
}

/// The methods of [`Family`] that name its maps.
///
/// The maps are declared with addresses as bytes, so that who dumps them can read these, and the
/// programs see them as words: LLVM copies bytes one at a time.
macro_rules! family_maps {
    ($addr:ty: $flows:ident, $slots:ident, $fragments:ident, $endpoints:ident, $addresses:ident,
     $subnets:ident, $pools:ident, $forwards:ident, $bindings:ident, $bans:ident, $policies:ident, $scratch:ident,
     $packet_ctx:ident, $routing:ident, $policy_walk:ident) => {
        $crate::family::family_maps! { @shared $addr:
            flows = $flows: Flows<FlowKey<$addr>, Flow<$addr>>;
            slots = $slots: Slots<Slot<$addr>>;
            fragments = $fragments: Fragments<FragmentKey<$addr>, Fragment>;
            endpoints = $endpoints: Endpoints<EndpointKey<$addr>, Endpoint>;
            addresses = $addresses: Addresses<$addr>;
            subnets = $subnets: Prefixes<$addr>;
            pools = $pools: Prefixes<$addr>;
            forwards = $forwards: Forwards<$addr>;
            bindings = $bindings: Bindings<BindingKey<$addr>>;
            bans = $bans: Bans<BanKey<$addr>>;
            policies = $policies: Policies<IpsecPolicy<$addr>>;
        }
        $crate::family::family_maps! { @own
            scratch = $scratch: Scratch<$addr>;
            packet_ctx = $packet_ctx: PacketCtx<$addr>;
            routing = $routing: Routing<$addr>;
            policy_walk = $policy_walk: PolicyWalk<$addr>;
        }
    };
    (@shared $addr:ty: $($name:ident = $map:ident: $type:ident<$($of:ty),*>;)*) => {$(
        #[inline(always)]
        fn $name() -> &'static $crate::maps::$type<$($of),*> {
            // SAFETY: the kernel knows the map by its address alone, and what lies in it has the
            // same layout whether addresses are bytes or words (`maps`).
            unsafe { &*core::ptr::from_ref(&$crate::maps::$map).cast() }
        }
    )*};
    (@own $($name:ident = $map:ident: $type:ident<$of:ty>;)*) => {$(
        #[inline(always)]
        fn $name() -> Option<&'static mut $crate::context::$type<$of>> {
            // SAFETY: the slot is this CPU's alone, and TC programs do not interrupt each other.
            // Whoever calls this lets go of what an earlier call returned.
            $crate::maps::$map.get_ptr_mut(0).map(|p| unsafe { &mut *p })
        }
    )*};
}
pub(crate) use family_maps;
