//! The maps, by the names they are pinned under. Layouts are in `netd_common::abi`.

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use netd_common::abi::{
    Addr4, BridgePort, Control, Device, DropCount, Endpoint, Flow4, FlowKey4, Network, Subnet,
};
use netd_common::reason::DROP_ENTRIES;

/// Settings that change while packets flow.
#[btf_map(name = "control")]
pub static CONTROL: Array<Control, 1> = Array::new();

/// Managed networks by the ifindex of their bridge.
#[btf_map(name = "networks")]
pub static NETWORKS: HashMap<u32, Network, 4096> = HashMap::new();

/// Which bridge a guest subnet is behind.
#[btf_map(name = "subnets")]
pub static SUBNETS: LpmTrie<Addr4, Subnet, 16384> = LpmTrie::new();

/// Ports of managed bridges by ifindex.
#[btf_map(name = "ports")]
pub static PORTS: HashMap<u32, BridgePort, 65536> = HashMap::new();

/// Where guests were last seen. A cache: an entry that is lost costs a broadcast.
#[btf_map(name = "endpoints")]
pub static ENDPOINTS: LruHashMap<Addr4, Endpoint, 65536> = LruHashMap::new();

/// Devices that guests' traffic may leave by.
#[btf_map(name = "devices")]
pub static DEVICES: HashMap<u32, Device, 4096> = HashMap::new();

/// The host's own addresses, with the device that has them.
#[btf_map(name = "addresses")]
pub static ADDRESSES: HashMap<Addr4, u32, 16384> = HashMap::new();

/// Both directions of every flow.
#[btf_map(name = "flows4")]
pub static FLOWS4: HashMap<FlowKey4, Flow4, 262_144> = HashMap::new();

/// Dropped packets by reason.
#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<DropCount, DROP_ENTRIES> = PerCpuArray::new();

/// Room for the two entries of a flow that is being opened: the stack of a program is small.
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<[Flow4; 2], 1> = PerCpuArray::new();

/// This CPU's room for two entries.
#[inline(always)]
pub fn scratch() -> Option<&'static mut [Flow4; 2]> {
    // SAFETY: the slot is this CPU's alone, TC programs do not interrupt each other, and each
    // program takes it once.
    SCRATCH.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// The epoch that flows must carry to be trusted without a second look.
#[inline(always)]
pub fn epoch() -> u32 {
    CONTROL.get(0).map_or(0, |c| c.epoch)
}

/// The bridge a guest subnet with this address is behind; 0 for none.
#[inline(always)]
pub fn bridge_of(address: Addr4) -> u32 {
    let key = aya_ebpf::btf_maps::lpm_trie::Key::new(32, address);
    SUBNETS.get(&key).map_or(0, |s| s.bridge)
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
pub fn is_own(address: Addr4) -> bool {
    // SAFETY: as for `network`.
    unsafe { ADDRESSES.get(address) }.is_some()
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
    // SAFETY: as for `network`.
    unsafe { PORTS.get(ifindex) }.map_or(0, |p| p.bridge)
}
