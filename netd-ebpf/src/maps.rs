//! The maps, by the names they are pinned under. Layouts are in `netd_common::abi`.

use core::hint::black_box;

use aya_ebpf::btf_maps::{
    Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie,
};
use aya_ebpf::macros::btf_map;
use netd_common::abi::{
    Binding, BindingKey, BridgePort, Control, Device, DropCount, DropEvent, Endpoint, Flow,
    FlowKey, Forward, ForwardKey, Fragment, FragmentKey, Identity, Moved, Network, PORTS_WORDS,
    Peer, PeerKey, PortsWord, Slot, Subnet, Sweeper, Usage,
};
use netd_common::flow::{State, Timeout};
use netd_common::reason::DROP_ENTRIES;

use crate::claim::Claim;
use crate::family::Family;
use crate::flow::Source;
use crate::icmp::Quote;
use crate::ipv6::Words;
use crate::packet::Packet;
use crate::path::Route;

/// Flows of one family there is room for, unless the agent says otherwise when it loads this.
const FLOWS: usize = 131_072;

/// A flow table: both directions of every flow.
pub type Flows<K, V> = HashMap<K, V, { 2 * FLOWS }>;
/// One entry per flow.
pub type Slots<S> = Array<S, FLOWS>;
/// First fragments of packets under way. A cache: what is lost costs a packet.
pub type Fragments<K, V> = LruHashMap<K, V, 16384>;
/// Where guests were last seen. A cache: an entry that is lost costs a detour.
pub type Endpoints<A, V> = LruHashMap<A, V, 65536>;
/// The host's own addresses, with the device that has them.
pub type Addresses<A> = HashMap<A, u32, 16384>;
/// Prefixes and whose they are.
pub type Prefixes<A> = LpmTrie<A, Subnet, 16384>;
/// Published ports. A forward of a range is a few entries.
pub type Forwards<A> = LpmTrie<ForwardKey<A>, Forward<A>, 262_144>;

/// Settings that change while packets flow.
#[btf_map(name = "control")]
pub static CONTROL: Array<Control, 1> = Array::new();

/// Managed networks by the ifindex of their bridge.
#[btf_map(name = "networks")]
pub static NETWORKS: HashMap<u32, Network, 4096> = HashMap::new();

/// How many flows each of them has.
#[btf_map(name = "usage")]
pub static USAGE: HashMap<u32, Usage, 4096> = HashMap::new();

/// Ports of managed bridges by ifindex.
#[btf_map(name = "ports")]
pub static PORTS: HashMap<u32, BridgePort, 65536> = HashMap::new();

/// Who was first seen at ports that are guarded.
#[btf_map(name = "identities")]
pub static IDENTITIES: HashMap<u32, Identity, 65536> = HashMap::new();

/// Whose IPv4 addresses are, in networks that are guarded.
#[btf_map(name = "bindings4")]
pub static BINDINGS4: HashMap<BindingKey<u32>, Binding, 65536> = HashMap::new();

/// Whose IPv6 addresses are.
#[btf_map(name = "bindings6")]
pub static BINDINGS6: HashMap<BindingKey<Words>, Binding, 65536> = HashMap::new();

/// Devices that guests' traffic may leave by.
#[btf_map(name = "devices")]
pub static DEVICES: HashMap<u32, Device, 4096> = HashMap::new();

/// Devices whose drivers send what another driver received, by ifindex.
#[btf_map(name = "express")]
pub static EXPRESS: DevMapHash<4096> = DevMapHash::new();

/// Ports that are not to be handed out.
#[btf_map(name = "reserved")]
pub static RESERVED: Array<PortsWord, PORTS_WORDS> = Array::new();

/// Ports that some forward is about: a packet to any other needs no look at them.
#[btf_map(name = "published")]
pub static PUBLISHED: Array<PortsWord, PORTS_WORDS> = Array::new();

/// Whom sockets of the host's believe to talk to, where that is a guest. A cache: an entry that is
/// lost shows the guest's own address.
#[btf_map(name = "peers")]
pub static PEERS: LruHashMap<PeerKey<Words>, Peer<Words>, 65536> = LruHashMap::new();

/// Counts the guests' moves.
#[btf_map(name = "moved")]
pub static MOVED: Array<Moved, 1> = Array::new();

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
#[btf_map(name = "notices")]
pub static NOTICES: PerCpuArray<Allowance, 1> = PerCpuArray::new();

/// How many it did not write since its last one.
#[btf_map(name = "suppressed")]
pub static SUPPRESSED: PerCpuArray<u32, 1> = PerCpuArray::new();

/// How many answers of its own each CPU may still send.
#[btf_map(name = "answers")]
pub static ANSWERS: PerCpuArray<Allowance, 1> = PerCpuArray::new();

#[btf_map(name = "flows4")]
pub(crate) static FLOWS4: Flows<FlowKey<u32>, Flow<u32>> = HashMap::new();
#[btf_map(name = "flows6")]
pub(crate) static FLOWS6: Flows<FlowKey<Words>, Flow<Words>> = HashMap::new();
#[btf_map(name = "slots4")]
pub(crate) static SLOTS4: Slots<Slot<u32>> = Array::new();
#[btf_map(name = "slots6")]
pub(crate) static SLOTS6: Slots<Slot<Words>> = Array::new();
#[btf_map(name = "fragments4")]
pub(crate) static FRAGMENTS4: Fragments<FragmentKey<u32>, Fragment> = LruHashMap::new();
#[btf_map(name = "fragments6")]
pub(crate) static FRAGMENTS6: Fragments<FragmentKey<Words>, Fragment> = LruHashMap::new();
#[btf_map(name = "endpoints4")]
pub(crate) static ENDPOINTS4: Endpoints<u32, Endpoint> = LruHashMap::new();
#[btf_map(name = "endpoints6")]
pub(crate) static ENDPOINTS6: Endpoints<Words, Endpoint> = LruHashMap::new();
#[btf_map(name = "addresses4")]
pub(crate) static ADDRESSES4: Addresses<u32> = HashMap::new();
#[btf_map(name = "addresses6")]
pub(crate) static ADDRESSES6: Addresses<Words> = HashMap::new();
#[btf_map(name = "subnets4")]
pub(crate) static SUBNETS4: Prefixes<u32> = LpmTrie::new();
#[btf_map(name = "subnets6")]
pub(crate) static SUBNETS6: Prefixes<Words> = LpmTrie::new();
#[btf_map(name = "pools4")]
pub(crate) static POOLS4: Prefixes<u32> = LpmTrie::new();
#[btf_map(name = "pools6")]
pub(crate) static POOLS6: Prefixes<Words> = LpmTrie::new();
#[btf_map(name = "forwards4")]
pub(crate) static FORWARDS4: Forwards<u32> = LpmTrie::new();
#[btf_map(name = "forwards6")]
pub(crate) static FORWARDS6: Forwards<Words> = LpmTrie::new();
#[btf_map(name = "seen4")]
pub(crate) static SEEN4: PerCpuArray<Seen<u32>, 1> = PerCpuArray::new();
#[btf_map(name = "seen6")]
pub(crate) static SEEN6: PerCpuArray<Seen<Words>, 1> = PerCpuArray::new();
#[btf_map(name = "routing4")]
pub(crate) static ROUTING4: PerCpuArray<Routing<u32>, 1> = PerCpuArray::new();
#[btf_map(name = "routing6")]
pub(crate) static ROUTING6: PerCpuArray<Routing<Words>, 1> = PerCpuArray::new();
#[btf_map(name = "scratch4")]
pub(crate) static SCRATCH4: PerCpuArray<Scratch<u32>, 1> = PerCpuArray::new();
#[btf_map(name = "scratch6")]
pub(crate) static SCRATCH6: PerCpuArray<Scratch<Words>, 1> = PerCpuArray::new();

/// Room for a flow that is being opened: the stack of a program is small.
#[repr(C)]
pub struct Scratch<A> {
    /// The opener's entry.
    pub flow: Flow<A>,
    /// The answering direction's.
    pub back: Flow<A>,
    /// What is to be found for them.
    pub claim: Claim<A>,
}

/// A packet on the slow path, for its stages.
#[repr(C)]
pub struct Seen<A> {
    /// Its headers.
    pub packet: Packet<A>,
    /// Where it comes from.
    pub source: Source,
    /// Next hop that is to be reminded that it is in use; zero for none.
    pub confirm: A,
    /// What it quotes, when it is an ICMP error.
    pub quote: Quote<A>,
    /// Length of the link-layer header.
    l3: u32,
}

impl<A: Default> Seen<A> {
    /// Keep where the packet comes from and the offset of its IP header.
    #[inline(always)]
    pub fn keep(&mut self, source: Source, l3: usize) {
        self.confirm = A::default();
        self.source = source;
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
    /// Device it came in by.
    pub in_ifindex: u32,
    /// As [`Packet::tos`].
    pub tos: u32,
    /// The answer.
    pub route: Route<A>,
}

/// A bucket of tokens.
#[repr(C)]
pub struct Allowance {
    /// When it was last filled, in ns.
    pub filled: u64,
    /// Tokens in it.
    pub tokens: u64,
}

/// The methods of [`Family`] that name its maps.
macro_rules! family_maps {
    ($addr:ty: $flows:ident, $slots:ident, $fragments:ident, $endpoints:ident, $addresses:ident,
     $subnets:ident, $pools:ident, $forwards:ident, $scratch:ident, $seen:ident,
     $routing:ident) => {
        #[inline(always)]
        fn flows() -> &'static maps::Flows<FlowKey<$addr>, Flow<$addr>> {
            &maps::$flows
        }
        #[inline(always)]
        fn slots() -> &'static maps::Slots<Slot<$addr>> {
            &maps::$slots
        }
        #[inline(always)]
        fn fragments() -> &'static maps::Fragments<FragmentKey<$addr>, Fragment> {
            &maps::$fragments
        }
        #[inline(always)]
        fn endpoints() -> &'static maps::Endpoints<$addr, Endpoint> {
            &maps::$endpoints
        }
        #[inline(always)]
        fn addresses() -> &'static maps::Addresses<$addr> {
            &maps::$addresses
        }
        #[inline(always)]
        fn subnets() -> &'static maps::Prefixes<$addr> {
            &maps::$subnets
        }
        #[inline(always)]
        fn pools() -> &'static maps::Prefixes<$addr> {
            &maps::$pools
        }
        #[inline(always)]
        fn forwards() -> &'static maps::Forwards<$addr> {
            &maps::$forwards
        }
        #[inline(always)]
        fn scratch() -> Option<&'static mut maps::Scratch<$addr>> {
            // SAFETY: the slot is this CPU's alone, and TC programs do not interrupt each other.
            // Whoever calls this lets go of what an earlier call returned.
            maps::$scratch.get_ptr_mut(0).map(|p| unsafe { &mut *p })
        }
        #[inline(always)]
        fn seen() -> Option<&'static mut maps::Seen<$addr>> {
            // SAFETY: as for `scratch`.
            maps::$seen.get_ptr_mut(0).map(|p| unsafe { &mut *p })
        }
        #[inline(always)]
        fn routing() -> Option<&'static mut maps::Routing<$addr>> {
            // SAFETY: as for `scratch`.
            maps::$routing.get_ptr_mut(0).map(|p| unsafe { &mut *p })
        }
    };
}
pub(crate) use family_maps;

#[inline(always)]
fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// The epoch that flows must carry to be trusted without a second look.
#[inline(always)]
pub fn epoch() -> u32 {
    let moves = MOVED.get(0).map_or(0, |m| m.epoch);
    control().map_or(0, |c| c.epoch).wrapping_add(moves)
}

/// [`epoch`], and for how many ticks a look at a flow holds good ([`Control::settled`]).
#[inline(always)]
pub fn epoch_and_settled() -> (u32, u32) {
    let moves = MOVED.get(0).map_or(0, |m| m.epoch);
    control().map_or((moves, 0), |c| (c.epoch.wrapping_add(moves), c.settled))
}

/// A guest is not where it was, or not who it was: let flows look again, once a tick (`now`).
#[inline(always)]
pub fn guest_moved(now: u32) {
    if let Some(moved) = MOVED.get_ptr_mut(0) {
        // SAFETY: a map value; two CPUs that raise it at once raise it once.
        unsafe {
            if (*moved).raised != now {
                (*moved).raised = now;
                (*moved).epoch = (*moved).epoch.wrapping_add(1);
            }
        }
    }
}

/// `CONTROL_*` bits.
#[inline(always)]
pub fn control_flags() -> u32 {
    control().map_or(0, |c| c.flags)
}

/// Flows of one family that a network may have; 0 for no limit.
#[inline(always)]
pub fn max_per_network() -> u32 {
    control().map_or(0, |c| c.max_per_network)
}

/// Number of slots of each family; at least one.
#[inline(always)]
pub fn slot_count() -> u32 {
    control().map_or(1, |c| if c.slots == 0 { 1 } else { c.slots })
}

/// How long a flow may be silent, in ticks.
#[inline(always)]
pub fn timeout(timeout: Timeout) -> u32 {
    // The compiler knows that the number is small enough, and must not tell, for the verifier does
    // not.
    let index = black_box(timeout as usize);
    control().map_or(0, |c| c.timeouts.get(index).copied().unwrap_or_default())
}

/// The same for a flow of a protocol in a state ([`State`] as a number). A function of its own for
/// the verifier's sake.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn timeout_of(protocol: u32, state: u32) -> u32 {
    timeout(Timeout::of(protocol as u8, State::from_u8(state as u8)))
}

/// The bridge a guest subnet with this address is behind; 0 for none.
#[inline(always)]
pub fn bridge_of<F: Family>(address: F::Addr) -> u32 {
    let key = lpm_trie::Key::new(size_of::<F::Addr>() as u32 * 8, address);
    F::subnets().get(&key).map_or(0, |s| s.bridge)
}

/// The bridge of the network that masquerades with this address of a range; 0 for none.
#[inline(always)]
pub fn pool_of<F: Family>(address: F::Addr) -> u32 {
    let key = lpm_trie::Key::new(size_of::<F::Addr>() as u32 * 8, address);
    F::pools().get(&key).map_or(0, |s| s.bridge)
}

/// The network of a bridge.
#[inline(always)]
pub fn network(bridge: u32) -> Option<&'static Network> {
    // SAFETY: the agent replaces whole values; a reader may see a value freed by a concurrent
    // replacement, which the kernel keeps readable until the program ends (RCU).
    unsafe { NETWORKS.get(bridge) }
}

/// Is this one of the host's own addresses?
#[inline(always)]
pub fn is_own<F: Family>(address: &F::Addr) -> bool {
    owner_of::<F>(address) != 0
}

/// The device that has this address of the host's; 0 for any other address.
#[inline(always)]
pub fn owner_of<F: Family>(address: &F::Addr) -> u32 {
    // SAFETY: as for `network`.
    unsafe { F::addresses().get(address) }.map_or(0, |owner| *owner)
}

/// The record of a device.
#[inline(always)]
pub fn device(ifindex: u32) -> Option<&'static Device> {
    // SAFETY: as for `network`.
    unsafe { DEVICES.get(ifindex) }
}

/// The bridge that a port belongs to; 0 for a device that is no port of a managed bridge.
#[inline(always)]
pub fn bridge_of_port(ifindex: u32) -> u32 {
    port(ifindex).map_or(0, |p| p.bridge)
}

/// The record of a port of a managed bridge.
#[inline(always)]
pub fn port(ifindex: u32) -> Option<&'static BridgePort> {
    // SAFETY: as for `network`.
    unsafe { PORTS.get(ifindex) }
}

/// Is the port (host order) one that is not to be handed out?
#[inline(always)]
pub fn is_reserved(port: u16) -> bool {
    holds(&RESERVED, port)
}

/// Is some forward about the port (host order)?
#[inline(always)]
pub fn is_published(port: u16) -> bool {
    holds(&PUBLISHED, port)
}

#[inline(always)]
fn holds(ports: &Array<PortsWord, PORTS_WORDS>, port: u16) -> bool {
    ports
        .get(u32::from(port) / 64)
        .is_some_and(|word| (*word >> (port & 63)) & 1 != 0)
}

/// Cookie of the agent's network namespace.
#[inline(always)]
pub fn netns() -> u64 {
    control().map_or(0, |c| c.netns)
}
