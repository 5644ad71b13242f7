//! The maps, by the names they are pinned under. Layouts are in `netd_common::abi`.
//!
//! Addresses are bytes here, which is what `bpftool map dump` goes by; the programs read the same
//! memory as words (`family_maps!`).

use core::mem::offset_of;

use aya_ebpf::btf_maps::{
    Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf,
};
use aya_ebpf::macros::btf_map;
use netd_common::abi::{
    Addr4, Addr6, BANS, Ban, BanKey, Binding, BindingKey, BridgePort, Control, DEFAULT_FLOWS,
    Device, DropCount, DropEvent, Endpoint, EndpointKey, Flow, FlowKey, Forward, ForwardKey,
    Fragment, FragmentKey, GuestMoves, HELD_ROOM, HeldFrame, IPSEC_POLICIES, IpsecPolicy,
    MAX_NETWORKS, Network, PORTS_WORDS, Peer, PeerKey, PortMac, PortsWord, PrefixPair, RouteKey,
    Slot, SlowPath, Subnet, Sweeper, Tracked, Usage,
};
use netd_common::reason::DROP_ENTRIES;

use crate::context::{PacketCtx, PolicyWalk, Routing, Scratch, TokenBucket, Words};

/// Flows of one family there is room for, unless the agent says otherwise when it loads this.
const FLOWS: usize = DEFAULT_FLOWS as usize;

/// A flow table: both directions of every flow.
pub type Flows<K, V> = HashMap<K, V, { 2 * FLOWS }>;
/// One entry per flow.
pub type Slots<S> = Array<S, FLOWS>;
/// First fragments of packets under way. A cache: what is lost costs a packet.
pub type Fragments<K, V> = LruHashMap<K, V, 16384>;
/// Where guests were last seen. A cache: an entry that is lost costs a detour.
pub type Endpoints<K, V> = LruHashMap<K, V, 65536>;
/// Whose addresses are, in networks whose ports are guarded.
pub type Bindings<K> = HashMap<K, Binding, 65536>;
/// The host's own addresses, with the device that has them.
pub type Addresses<A> = HashMap<A, u32, 16384>;
/// Prefixes and whose they are.
pub type Prefixes<A> = LpmTrie<A, Subnet, 16384>;
/// Prefixes that are translated, and by what.
pub type Translations<A> = LpmTrie<A, PrefixPair<A>, { 2 * MAX_NETWORKS }>;
/// Whom sockets of the host's believe to talk to.
pub type Peers<K, V> = LruHashMap<K, V, 65536>;
/// Published ports. A forward of a range is a few entries.
pub type Forwards<A> = LpmTrie<ForwardKey<A>, Forward<A>, 262_144>;

/// Who is banned.
pub type Bans<K> = LpmTrie<K, Ban, BANS>;

/// The host's IPsec policies: two lists.
pub type Policies<P> = Array<P, { 2 * IPSEC_POLICIES as usize }>;

/// Settings that change while packets flow.
#[btf_map(name = "control")]
pub static CONTROL: Array<Control, 1> = Array::new();

/// The programs of the slow path. Each load of the programs has its own.
#[btf_map(name = "slow_paths")]
pub static SLOW_PATHS: ProgramArray<{ SlowPath::ALL.len() }> = ProgramArray::new();

/// Managed networks by the ifindex of their bridge.
#[btf_map(name = "networks")]
pub static NETWORKS: HashMap<u32, Network, MAX_NETWORKS> = HashMap::new();

/// How many flows each of them has.
#[btf_map(name = "usage")]
pub static USAGE: HashMap<u32, Usage, MAX_NETWORKS> = HashMap::new();

/// Ports of managed bridges by ifindex.
#[btf_map(name = "ports")]
pub static PORTS: HashMap<u32, BridgePort, 65536> = HashMap::new();

/// Who was first seen at ports that are guarded.
#[btf_map(name = "port_macs")]
pub static PORT_MACS: HashMap<u32, PortMac, 65536> = HashMap::new();

/// Devices that guests' traffic may leave by.
#[btf_map(name = "devices")]
pub static DEVICES: HashMap<u32, Device, MAX_NETWORKS> = HashMap::new();

/// IPv4 routes with an MTU of their own.
#[btf_map(name = "route_mtus")]
pub static ROUTE_MTUS: LpmTrie<RouteKey, u32, 16384> = LpmTrie::new();

/// Devices whose drivers send what another driver received, by ifindex.
#[btf_map(name = "xdp_targets")]
pub static XDP_TARGETS: DevMapHash<MAX_NETWORKS> = DevMapHash::new();

/// Ports that are not to be handed out.
#[btf_map(name = "reserved")]
pub static RESERVED: Array<PortsWord, PORTS_WORDS> = Array::new();

/// Ports that some forward is about: a packet to any other needs no look at them.
#[btf_map(name = "dnat_ports")]
pub static DNAT_PORTS: Array<PortsWord, PORTS_WORDS> = Array::new();

/// Whom sockets of the host's believe to talk to, where that is a guest. A cache: an entry that is
/// lost shows the guest's own address.
#[btf_map(name = "peers")]
pub static PEERS: Peers<PeerKey<Addr6>, Peer<Addr6>> = LruHashMap::new();

/// Counts the guests' moves.
#[btf_map(name = "guest_moves")]
pub static GUEST_MOVES: Array<GuestMoves, 1> = Array::new();

/// The sweep's clock and place.
#[btf_map(name = "sweeper")]
pub static SWEEPER: Array<Sweeper, 1> = Array::new();

/// Dropped packets by reason.
#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<DropCount, DROP_ENTRIES> = PerCpuArray::new();

/// Records of drops, for the agent to read.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<DropEvent, { 1 << 20 }> = RingBuf::new();

/// How many of them each CPU may still write.
#[btf_map(name = "event_limit")]
pub static EVENT_LIMIT: PerCpuArray<TokenBucket, 1> = PerCpuArray::new();

/// How many it did not write since its last one.
#[btf_map(name = "suppressed")]
pub static SUPPRESSED: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Frames that wait for the first fragment of their packet, for the agent to take.
#[btf_map(name = "held")]
pub static HELD: RingBuf<HeldFrame, HELD_ROOM> = RingBuf::new();

/// How many of them may still come by a device.
#[btf_map(name = "held_limit")]
pub static HELD_LIMIT: LruHashMap<u32, TokenBucket, 1024> = LruHashMap::new();

/// How many answers of its own each CPU may still send.
#[btf_map(name = "reply_limit")]
pub static REPLY_LIMIT: PerCpuArray<TokenBucket, 1> = PerCpuArray::new();

#[btf_map(name = "flows4")]
pub static FLOWS4: Flows<FlowKey<Addr4>, Flow<Addr4>> = HashMap::new();
#[btf_map(name = "flows6")]
pub static FLOWS6: Flows<FlowKey<Addr6>, Flow<Addr6>> = HashMap::new();
#[btf_map(name = "slots4")]
pub static SLOTS4: Slots<Slot<Addr4>> = Array::new();
#[btf_map(name = "slots6")]
pub static SLOTS6: Slots<Slot<Addr6>> = Array::new();
#[btf_map(name = "fragments4")]
pub static FRAGMENTS4: Fragments<FragmentKey<Addr4>, Fragment> = LruHashMap::new();
#[btf_map(name = "fragments6")]
pub static FRAGMENTS6: Fragments<FragmentKey<Addr6>, Fragment> = LruHashMap::new();
#[btf_map(name = "endpoints4")]
pub static ENDPOINTS4: Endpoints<EndpointKey<Addr4>, Endpoint> = LruHashMap::new();
#[btf_map(name = "endpoints6")]
pub static ENDPOINTS6: Endpoints<EndpointKey<Addr6>, Endpoint> = LruHashMap::new();
#[btf_map(name = "addresses4")]
pub static ADDRESSES4: Addresses<Addr4> = HashMap::new();
#[btf_map(name = "addresses6")]
pub static ADDRESSES6: Addresses<Addr6> = HashMap::new();
#[btf_map(name = "subnets4")]
pub static SUBNETS4: Prefixes<Addr4> = LpmTrie::new();
#[btf_map(name = "subnets6")]
pub static SUBNETS6: Prefixes<Addr6> = LpmTrie::new();
#[btf_map(name = "pools4")]
pub static POOLS4: Prefixes<Addr4> = LpmTrie::new();
#[btf_map(name = "pools6")]
pub static POOLS6: Prefixes<Addr6> = LpmTrie::new();
#[btf_map(name = "prefixes6")]
pub static PREFIXES6: Translations<Addr6> = LpmTrie::new();
#[btf_map(name = "forwards4")]
pub static FORWARDS4: Forwards<Addr4> = LpmTrie::new();
#[btf_map(name = "forwards6")]
pub static FORWARDS6: Forwards<Addr6> = LpmTrie::new();
#[btf_map(name = "bans4")]
pub static BANS4: Bans<BanKey<Addr4>> = LpmTrie::new();
#[btf_map(name = "bans6")]
pub static BANS6: Bans<BanKey<Addr6>> = LpmTrie::new();
#[btf_map(name = "policies4")]
pub static POLICIES4: Policies<IpsecPolicy<Addr4>> = Array::new();
#[btf_map(name = "policies6")]
pub static POLICIES6: Policies<IpsecPolicy<Addr6>> = Array::new();
#[btf_map(name = "packet_ctx4")]
pub static PACKET_CTX4: PerCpuArray<PacketCtx<u32>, 1> = PerCpuArray::new();
#[btf_map(name = "packet_ctx6")]
pub static PACKET_CTX6: PerCpuArray<PacketCtx<Words>, 1> = PerCpuArray::new();
#[btf_map(name = "routing4")]
pub static ROUTING4: PerCpuArray<Routing<u32>, 1> = PerCpuArray::new();
#[btf_map(name = "routing6")]
pub static ROUTING6: PerCpuArray<Routing<Words>, 1> = PerCpuArray::new();
#[btf_map(name = "policy_walk4")]
pub static POLICY_WALK4: PerCpuArray<PolicyWalk<u32>, 1> = PerCpuArray::new();
#[btf_map(name = "policy_walk6")]
pub static POLICY_WALK6: PerCpuArray<PolicyWalk<Words>, 1> = PerCpuArray::new();
#[btf_map(name = "scratch4")]
pub static SCRATCH4: PerCpuArray<Scratch<u32>, 1> = PerCpuArray::new();
#[btf_map(name = "scratch6")]
pub static SCRATCH6: PerCpuArray<Scratch<Words>, 1> = PerCpuArray::new();
#[btf_map(name = "bindings4")]
pub static BINDINGS4: Bindings<BindingKey<Addr4>> = HashMap::new();
#[btf_map(name = "bindings6")]
pub static BINDINGS6: Bindings<BindingKey<Addr6>> = HashMap::new();

/// Do the layouts with addresses as bytes agree with those of words?
macro_rules! agree {
    ($($type:ident { $last:ident };)*) => {
        const _: () = {$(
            assert!(size_of::<$type<Addr4>>() == size_of::<$type<u32>>());
            assert!(size_of::<$type<Addr6>>() == size_of::<$type<Words>>());
            assert!(offset_of!($type<Addr4>, $last) == offset_of!($type<u32>, $last));
            assert!(offset_of!($type<Addr6>, $last) == offset_of!($type<Words>, $last));
        )*};
    };
}

agree! {
    FlowKey { zone };
    Flow { bytes };
    Slot { used };
    FragmentKey { proto };
    EndpointKey { zone };
    ForwardKey { port };
    Forward { bridge_ifindex };
    BindingKey { address };
    BanKey { address };
    IpsecPolicy { says };
    PeerKey { port };
    Peer { port };
    PrefixPair { adjustment };
    Tracked { remaining };
}
