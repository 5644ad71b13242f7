//! What an agent tells of itself and of what it dropped.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Version of the JSON that `netd status --json` and `netd drops --json` print. It is raised when a
/// field is renamed, removed or changes its meaning, and not when one is added.
pub const SCHEMA: u32 = 1;

/// Answer of `netd status`. Its fields are documented in docs/reference/json.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the running agent.
    pub version: String,
    /// The kernel that it runs on; older agents do not tell.
    #[serde(default)]
    pub kernel: Option<KernelStatus>,
    /// Connections of each address family that there is room for.
    pub max_flows: u32,
    /// Active networks.
    pub networks: Vec<NetworkStatus>,
    /// Networks that were to start with the agent and could not.
    #[serde(default)]
    pub waiting: Vec<WaitingNetwork>,
    /// Every hook of every device, with all its programs.
    pub hooks: Vec<HookStatus>,
    /// Pinned maps.
    pub maps: Vec<MapStatus>,
    /// Drops since the datapath was loaded, reasons that never occurred left out.
    pub drops: Vec<DropStatus>,
}

/// The running kernel in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// Its version.
    pub release: String,
    /// How programs of traffic control are attached: "tcx" or "clsact".
    pub attach: String,
    /// What it lacks of what netd uses where it can.
    pub lacks: Vec<LackStatus>,
}

/// One thing that the kernel lacks, in [`KernelStatus`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackStatus {
    /// What it is.
    pub feature: String,
    /// What it costs to be without, in a sentence.
    pub cost: String,
}

/// One active network in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// Forward mode as written in XML; "isolated" without `<forward>`.
    pub mode: String,
    /// Its bridge.
    pub bridge: String,
    /// Ports of the bridge by name.
    pub ports: Vec<String>,
    /// Process number of its dnsmasq, when one runs.
    pub dnsmasq: Option<u32>,
    /// Tracked IPv4 connections.
    pub flows_ipv4: u32,
    /// Tracked IPv6 connections.
    pub flows_ipv6: u32,
}

/// One network in [`Status`] that waits until it can start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingNetwork {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What keeps it from starting, in a sentence.
    pub reason: String,
}

/// Programs at one hook of one device in [`Status`], in the order they run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Device name.
    pub device: String,
    /// Device index.
    pub ifindex: u32,
    /// "tcx ingress", "tcx egress", …
    pub hook: String,
    /// Programs in the order they run.
    pub programs: Vec<ProgramStatus>,
}

/// One attached program in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Kernel's program id, for bpftool.
    pub id: u32,
    /// Program name.
    pub name: String,
    /// Is it netd's?
    pub ours: bool,
}

/// One pinned map in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    /// Map name.
    pub name: String,
    /// Where it is pinned.
    pub path: String,
    /// Its capacity.
    pub max_entries: u32,
}

/// Count of one drop reason in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropStatus {
    /// Short name of the reason.
    pub reason: String,
    /// What it means, in a sentence.
    pub explanation: String,
    /// Packets dropped.
    pub packets: u64,
    /// Bytes dropped.
    pub bytes: u64,
}

/// Answer of `netd drops`. Its fields are documented in docs/reference/json.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Active networks with `<port isolated="yes"/>`: the kernel's bridge drops what their guests
    /// send each other, and nobody counts it.
    pub isolated_networks: Vec<String>,
    /// Drops on the whole host since the datapath was loaded, reasons that never occurred left out.
    pub counters: Vec<DropStatus>,
    /// The latest ones, in their order.
    pub records: Vec<DropRecord>,
}

/// One drop in [`Drops`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRecord {
    /// Its number, counted from the agent's start on.
    pub number: u64,
    /// When, in microseconds since the epoch.
    pub time: i64,
    /// The network of the device.
    pub network: Option<String>,
    /// The device whose program dropped it.
    pub device: String,
    /// Short name of the reason.
    pub reason: String,
    /// What it means, in a sentence.
    pub explanation: String,
    /// "tcp", "arp", "0x88cc", …
    pub protocol: String,
    /// Source address, and port where there is one; empty for frames without.
    pub source: String,
    /// Destination likewise.
    pub destination: String,
    /// Bytes, link-layer header included.
    pub length: u32,
    /// Drops before it that were counted and not written down.
    pub suppressed: u32,
}
