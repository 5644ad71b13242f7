//! What the server asks of the agent: one method per libvirt call, in plain types.

use std::future::Future;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::ApiError;
use crate::model::{ForwardAction, PortForward, Update};

/// What clients are told about one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Current name.
    pub name: String,
    /// UUID, which identifies the network in every call.
    pub uuid: Uuid,
    /// Is it running?
    pub active: bool,
    /// Does a definition on disk exist?
    pub persistent: bool,
    /// Does it start with the agent?
    pub autostart: bool,
    /// Name of its bridge, when it has one.
    pub bridge: Option<String>,
}

/// One DHCP lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The bridge.
    pub interface: String,
    /// End of the lease in seconds since the epoch; 0 never ends.
    pub expiry: i64,
    /// MAC address as dnsmasq wrote it.
    pub mac: Option<String>,
    /// IAID (DHCPv6).
    pub iaid: Option<String>,
    /// Leased address.
    pub ip: IpAddr,
    /// Prefix length of the network's subnet of that family; 0 when unknown.
    pub prefix: u32,
    /// Host name, when the guest sent or was given one.
    pub hostname: Option<String>,
    /// Client identifier (IPv4) or DUID (IPv6).
    pub client_id: Option<String>,
}

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
    /// Connections of each address family that there is room for.
    pub max_flows: u32,
    /// Active networks.
    pub networks: Vec<NetworkStatus>,
    /// Every hook of every device, with all its programs.
    pub hooks: Vec<HookStatus>,
    /// Pinned maps.
    pub maps: Vec<MapStatus>,
    /// Drops since the datapath was loaded, reasons that never occurred left out.
    pub drops: Vec<DropStatus>,
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

/// Which definitions of a network a call is about. Neither means the live one where there is one,
/// else the stored one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affect {
    /// What runs.
    pub live: bool,
    /// The definition of the next start.
    pub config: bool,
}

/// A piece of a definition that `net-desc` and `net-metadata` are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// `<description>`.
    Description,
    /// `<title>`.
    Title,
    /// The element of this namespace under `<metadata>`.
    Element(String),
}

/// What a piece of metadata is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMetadata {
    /// The new text, or the element as XML; nothing removes it.
    pub text: Option<String>,
    /// Prefix for the namespace of an element.
    pub key: Option<String>,
}

/// The port forwards of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkForwards {
    /// Name of the network.
    pub network: String,
    /// Those that are in force, when it is active.
    pub live: Option<Vec<PortForward>>,
    /// Those of the next start, when it is defined.
    pub config: Option<Vec<PortForward>>,
}

/// A change of a network's port forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardChange {
    /// Name of the network.
    pub network: String,
    /// Which definitions change.
    pub affect: Affect,
    /// What to do.
    pub action: ForwardAction,
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The definitions that were changed.
    pub affect: Affect,
    /// What the user should know all the same, a sentence each.
    pub warnings: Vec<String>,
}

/// What came of reading the definitions again, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What is in effect now.
    pub done: Vec<String>,
    /// What stayed as it was, and why.
    pub failed: Vec<String>,
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

/// Result of a call.
pub type Result<T> = std::result::Result<T, ApiError>;

/// The agent as its clients see it. Networks are named by UUID as in libvirt's protocol; an
/// unknown one is [`crate::error::ErrorCode::NoNetwork`].
pub trait Driver: Send + Sync + 'static {
    /// Every network, active or defined; the server filters and sorts.
    fn list(&self) -> impl Future<Output = Result<Vec<NetworkInfo>>> + Send;
    /// One network by name.
    fn by_name(&self, name: &str) -> impl Future<Output = Result<NetworkInfo>> + Send;
    /// One network by UUID.
    fn by_uuid(&self, uuid: Uuid) -> impl Future<Output = Result<NetworkInfo>> + Send;
    /// Store a definition (`net-define`).
    fn define(&self, xml: &str) -> impl Future<Output = Result<NetworkInfo>> + Send;
    /// Start a transient network (`net-create`).
    fn create(&self, xml: &str) -> impl Future<Output = Result<NetworkInfo>> + Send;
    /// Start a defined network (`net-start`).
    fn start(&self, uuid: Uuid) -> impl Future<Output = Result<()>> + Send;
    /// Stop a network (`net-destroy`).
    fn destroy(&self, uuid: Uuid) -> impl Future<Output = Result<()>> + Send;
    /// Remove a definition (`net-undefine`).
    fn undefine(&self, uuid: Uuid) -> impl Future<Output = Result<()>> + Send;
    /// `net-autostart`.
    fn set_autostart(&self, uuid: Uuid, on: bool) -> impl Future<Output = Result<()>> + Send;
    /// Canonical XML: the live definition, or the one of the next start.
    fn xml(&self, uuid: Uuid, inactive: bool) -> impl Future<Output = Result<String>> + Send;
    /// Current leases, of one MAC address or of all.
    fn leases(
        &self,
        uuid: Uuid,
        mac: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Lease>>> + Send;
    /// The steps that would make the kernel what the definitions ask for, one per line: of the
    /// network named (as if it were started now when it is not active), or of all active ones.
    fn plan(&self, name: Option<&str>) -> impl Future<Output = Result<Vec<String>>> + Send;
    /// A piece of metadata; an absent one is
    /// [`crate::error::ErrorCode::NoNetworkMetadata`].
    fn metadata(
        &self,
        uuid: Uuid,
        what: &Metadata,
        affect: Affect,
    ) -> impl Future<Output = Result<String>> + Send;
    /// Change a piece of metadata. What it says to netd takes effect at once where the network is
    /// active; all of it is done, or nothing.
    fn set_metadata(
        &self,
        uuid: Uuid,
        what: &Metadata,
        new: &NewMetadata,
        affect: Affect,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Change one entry of a definition (`net-update`), in effect at once where the network is
    /// active; all of it is done, or nothing.
    fn update(
        &self,
        uuid: Uuid,
        update: &Update,
        affect: Affect,
    ) -> impl Future<Output = Result<()>> + Send;
    /// The port forwards of the network named, or of all networks, by name.
    fn forwards(
        &self,
        name: Option<&str>,
    ) -> impl Future<Output = Result<Vec<NetworkForwards>>> + Send;
    /// Add or delete a port forward; all of it is done, or nothing.
    fn change_forward(
        &self,
        change: &ForwardChange,
    ) -> impl Future<Output = Result<Changed>> + Send;
    /// Read the definitions on disk again and give active networks their port forwards.
    fn reload(&self) -> impl Future<Output = Result<Reloaded>> + Send;
    /// Why packets were dropped: counters, and the records behind number `since`.
    fn drops(&self, since: u64) -> impl Future<Output = Result<Drops>> + Send;
    /// What is attached where.
    fn status(&self) -> impl Future<Output = Result<Status>> + Send;
}
