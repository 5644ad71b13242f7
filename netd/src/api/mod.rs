//! What the agent does for its clients: one method for each call, in plain types.
//!
//! The command line and libvirt's clients reach it by [`crate::rpc`]; nothing here knows of sockets
//! and messages.

mod ban;
mod doctor;
mod error;
mod event;
mod flow;
mod handover;
mod network;
mod port;
mod status;

use std::future::Future;

use uuid::Uuid;

use crate::model::{Bandwidth, Update};
pub use ban::{Ban, BanChange, BanId};
pub use doctor::Problem;
pub use error::{ApiError, ErrorCode, ErrorDomain};
pub use event::{EventKind, Events, Lagged, Lifecycle, NetworkEvent, Subscription};
pub use flow::*;
pub use handover::{Handover, StockService};
pub use network::*;
pub use port::*;
pub use status::*;

/// What becomes of elements and attributes of a definition that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are left out, as libvirt does it, and the log names them.
    Ignore,
    /// The definition is refused (`--validate`).
    Refuse,
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, ApiError>;

/// The agent as its clients see it. Networks are named by UUID as in libvirt's protocol; an
/// unknown one is [`ErrorCode::NoNetwork`].
pub trait Driver: Send + Sync + 'static {
    /// Hear of what happens to networks from now on.
    fn subscribe(&self) -> Subscription;
    /// Every network, active or defined; the server filters and sorts.
    fn list(&self) -> impl Future<Output = Result<Vec<NetworkInfo>>> + Send;
    /// One network by name.
    fn by_name(&self, name: &str) -> impl Future<Output = Result<NetworkInfo>> + Send;
    /// One network by UUID.
    fn by_uuid(&self, uuid: Uuid) -> impl Future<Output = Result<NetworkInfo>> + Send;
    /// Store a definition (`net-define`). What it holds that nobody knows is an error where
    /// `unknown` says so, else the log tells it.
    fn define(
        &self,
        xml: &str,
        unknown: Unknown,
    ) -> impl Future<Output = Result<NetworkInfo>> + Send;
    /// Start a transient network (`net-create`); `unknown` as with `define`.
    fn create(
        &self,
        xml: &str,
        unknown: Unknown,
    ) -> impl Future<Output = Result<NetworkInfo>> + Send;
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
    /// [`ErrorCode::NoNetworkMetadata`].
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
    /// The ports of an active network, by UUID.
    fn ports(&self, network: Uuid) -> impl Future<Output = Result<Vec<Uuid>>> + Send;
    /// Is there this port? An unknown one is [`ErrorCode::NoNetworkPort`], here and in the calls
    /// below.
    fn find_port(&self, port: PortId) -> impl Future<Output = Result<()>> + Send;
    /// Make a port of an active network; returns its UUID, which the XML says. `unknown` as with
    /// `define`.
    fn create_port(
        &self,
        network: Uuid,
        xml: &str,
        purpose: PortPurpose,
        unknown: Unknown,
    ) -> impl Future<Output = Result<Uuid>> + Send;
    /// Canonical XML of a port, with what the network gave it.
    fn port_xml(&self, port: PortId) -> impl Future<Output = Result<String>> + Send;
    /// The limits of a port.
    fn port_bandwidth(
        &self,
        port: PortId,
    ) -> impl Future<Output = Result<Option<Bandwidth>>> + Send;
    /// Change the limits of a port; a direction without a rate has none.
    fn set_port_bandwidth(
        &self,
        port: PortId,
        bandwidth: &Bandwidth,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Delete a port. Its guest may go on by another one.
    fn delete_port(&self, port: PortId) -> impl Future<Output = Result<()>> + Send;
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
    /// Let an active network run with its definition, which may differ from what it runs with; all of
    /// it is done, or nothing. With `dry_run` it is only told what would be done.
    fn apply(&self, uuid: Uuid, dry_run: bool) -> impl Future<Output = Result<Applied>> + Send;
    /// Take a network from libvirt's own driver, or give one back to it.
    fn hand_over(&self, handover: &Handover) -> impl Future<Output = Result<()>> + Send;
    /// Who is banned.
    fn bans(&self) -> impl Future<Output = Result<Vec<Ban>>> + Send;
    /// Ban somebody, or end bans; all of it is done, or nothing.
    fn change_bans(&self, change: &BanChange) -> impl Future<Output = Result<()>> + Send;
    /// Why packets were dropped: counters, and the records behind number `since`.
    fn drops(&self, since: u64) -> impl Future<Output = Result<Drops>> + Send;
    /// Some entries of the connections that are meant, and where to go on: `from` is 0, or what the last piece
    /// says is next.
    fn flows(
        &self,
        filter: &FlowFilter,
        from: u64,
    ) -> impl Future<Output = Result<FlowPiece>> + Send;
    /// Names for what is a number in those.
    fn flow_names(&self) -> impl Future<Output = Result<FlowNames>> + Send;
    /// The ports of the bridge of the network named, or of all active ones, and who is behind them.
    fn guest_ports(
        &self,
        network: Option<&str>,
    ) -> impl Future<Output = Result<Vec<GuestPort>>> + Send;
    /// End connections; returns how many.
    fn kill_flows(&self, which: &FlowKill) -> impl Future<Output = Result<u64>> + Send;
    /// What of the host is not as its administrator may believe.
    fn doctor(&self) -> impl Future<Output = Result<Vec<Problem>>> + Send;
    /// What is attached where.
    fn status(&self) -> impl Future<Output = Result<Status>> + Send;
}
