//! A client of the agent's socket: one call at a time, each awaited.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use netd_common::abi::BANS;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use uuid::Uuid;

use crate::api::{
    Affect, Applied, Ban, BanChange, Changed, Drops, FlowKill, FlowNames, ForwardChange, GuestPort,
    Handover, NetworkEvent, NetworkForwards, Problem, Reloaded, Status,
};
use crate::model::Update;
use crate::rpc::dispatch::PLAN_MAX;
use crate::rpc::events;
use crate::rpc::message::{
    Header, KEEPALIVE_PING, KEEPALIVE_PONG, Message, PROGRAM_KEEPALIVE, PROGRAM_NETD,
    PROGRAM_REMOTE, STATUS_OK, TYPE_CALL, TYPE_MESSAGE, TYPE_REPLY, VERSION,
};
use crate::rpc::procedures::{
    AFFECT_CONFIG, AFFECT_LIVE, AutostartArgs, CreatePortArgs, EventRegisterArgs, FlowNamesReply,
    GUEST_PORTS_MAX, LeaseRecord, LeasesArgs, LeasesReply, ListArgs, ListPortsArgs, ListPortsReply,
    ListReply, LookupPortArgs, NetdProcedure, NetworkRef, OpenArgs, PORT_RECLAIM, PORT_VALIDATE,
    PortArgs, PortRef, Procedure, UpdateArgs, XML_INACTIVE, XML_VALIDATE, XmlArgs, XmlDescArgs,
};
use crate::rpc::reader::Reader;
use crate::rpc::remote_error::RemoteError;
use crate::rpc::session::URI;
use crate::rpc::xdr::{self, Decode, Encode, List, XdrError};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no agent listens at {path}; is `netd run` running?", path = path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is not ours to use.
    #[error("may not connect to {path}; only root may use netd's socket; use sudo", path = path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Connecting failed otherwise.
    #[error("cannot connect to {path}: {source}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent refused the call.
    #[error("{}", .0.text())]
    Remote(RemoteError),
    /// The connection broke.
    #[error("the connection to the agent broke: {0}")]
    Io(#[from] io::Error),
    /// The agent closed the connection instead of answering.
    #[error("the agent closed the connection before it answered; see its log")]
    Closed,
    /// The agent closed the connection while nothing was asked of it.
    #[error(
        "the agent closed the connection: it was stopped, or events were not taken in time; see its log"
    )]
    Ended,
    /// Something that is not this protocol.
    #[error("the agent's reply makes no sense: {0}")]
    Protocol(#[from] XdrError),
    /// netd's own reply is not what this version expects.
    #[error("the agent's answer makes no sense (is it of another version?): {0}")]
    Json(#[from] serde_json::Error),
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, ClientError>;

/// An open connection to an agent.
#[derive(Debug)]
pub struct Client {
    reader: Reader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    serial: u32,
    /// Events that came before a reply.
    events: VecDeque<Message>,
}

impl Client {
    /// Connects to the agent at `path`.
    pub async fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoAgent { path }
                }
                io::ErrorKind::PermissionDenied => ClientError::Denied { path },
                _ => ClientError::Connect { path, source },
            }
        })?;
        let (reader, writer) = stream.into_split();
        let mut client = Self {
            reader: Reader::new(reader),
            writer,
            serial: 0,
            events: VecDeque::new(),
        };
        let _: List<i32, 16> = client.remote(Procedure::AuthList, &()).await?;
        let open = OpenArgs {
            name: Some(URI.to_owned()),
            flags: 0,
        };
        let () = client.remote(Procedure::Open, &open).await?;
        Ok(client)
    }

    /// Takes leave of the agent.
    pub async fn close(mut self) -> Result<()> {
        self.remote(Procedure::Close, &()).await
    }

    /// Networks matching `LIST_` flags of [`crate::rpc::procedures`].
    pub async fn list(&mut self, flags: u32) -> Result<Vec<NetworkRef>> {
        let args = ListArgs {
            need_results: 1,
            flags,
        };
        let reply: ListReply = self.remote(Procedure::ListAllNetworks, &args).await?;
        Ok(reply.networks.0)
    }

    /// The network of this name.
    pub async fn by_name(&mut self, name: &str) -> Result<NetworkRef> {
        self.remote(Procedure::NetworkLookupByName, name).await
    }

    /// The network of this UUID.
    pub async fn by_uuid(&mut self, uuid: Uuid) -> Result<NetworkRef> {
        self.remote(Procedure::NetworkLookupByUuid, &uuid).await
    }

    /// Stores a definition.
    pub async fn define(&mut self, xml: &str, validate: bool) -> Result<NetworkRef> {
        let (plain, flags) = (
            Procedure::NetworkDefineXml,
            Procedure::NetworkDefineXmlFlags,
        );
        self.send_xml(plain, flags, xml, validate).await
    }

    /// Starts a transient network.
    pub async fn create(&mut self, xml: &str, validate: bool) -> Result<NetworkRef> {
        let (plain, flags) = (
            Procedure::NetworkCreateXml,
            Procedure::NetworkCreateXmlFlags,
        );
        self.send_xml(plain, flags, xml, validate).await
    }

    async fn send_xml(
        &mut self,
        plain: Procedure,
        with_flags: Procedure,
        xml: &str,
        validate: bool,
    ) -> Result<NetworkRef> {
        if !validate {
            return self.remote(plain, xml).await;
        }
        let args = XmlArgs {
            xml: xml.to_owned(),
            flags: XML_VALIDATE,
        };
        self.remote(with_flags, &args).await
    }

    /// Starts a defined network.
    pub async fn start(&mut self, network: &NetworkRef) -> Result<()> {
        self.remote(Procedure::NetworkCreate, network).await
    }

    /// Stops a network.
    pub async fn destroy(&mut self, network: &NetworkRef) -> Result<()> {
        self.remote(Procedure::NetworkDestroy, network).await
    }

    /// Removes a definition.
    pub async fn undefine(&mut self, network: &NetworkRef) -> Result<()> {
        self.remote(Procedure::NetworkUndefine, network).await
    }

    /// Changes one entry of its definition.
    pub async fn update(
        &mut self,
        network: &NetworkRef,
        update: &Update,
        affect: Affect,
    ) -> Result<()> {
        let place = update.parent_index.and_then(|index| index.try_into().ok());
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let args = UpdateArgs {
            network: network.clone(),
            command: update.command.number(),
            section: update.section.number(),
            parent_index: place.unwrap_or(-1),
            xml: update.xml.clone(),
            flags: flag(affect.live, AFFECT_LIVE) | flag(affect.config, AFFECT_CONFIG),
        };
        self.remote(Procedure::NetworkUpdate, &args).await
    }

    /// Makes a network start with the agent, or not.
    pub async fn set_autostart(&mut self, network: &NetworkRef, on: bool) -> Result<()> {
        let args = AutostartArgs {
            network: network.clone(),
            autostart: i32::from(on),
        };
        self.remote(Procedure::NetworkSetAutostart, &args).await
    }

    /// Does it start with the agent?
    pub async fn autostart(&mut self, network: &NetworkRef) -> Result<bool> {
        self.flag(Procedure::NetworkGetAutostart, network).await
    }

    /// Is it running?
    pub async fn is_active(&mut self, network: &NetworkRef) -> Result<bool> {
        self.flag(Procedure::NetworkIsActive, network).await
    }

    /// Does it have a definition?
    pub async fn is_persistent(&mut self, network: &NetworkRef) -> Result<bool> {
        self.flag(Procedure::NetworkIsPersistent, network).await
    }

    async fn flag(&mut self, procedure: Procedure, network: &NetworkRef) -> Result<bool> {
        let value: i32 = self.remote(procedure, network).await?;
        Ok(value != 0)
    }

    /// Name of its bridge; an error when it has none.
    pub async fn bridge(&mut self, network: &NetworkRef) -> Result<String> {
        self.remote(Procedure::NetworkGetBridgeName, network).await
    }

    /// Its XML: what runs, or the definition of the next start.
    pub async fn xml(&mut self, network: &NetworkRef, inactive: bool) -> Result<String> {
        let args = XmlDescArgs {
            network: network.clone(),
            flags: if inactive { XML_INACTIVE } else { 0 },
        };
        self.remote(Procedure::NetworkGetXmlDesc, &args).await
    }

    /// Its DHCP leases, of one MAC address or all.
    pub async fn leases(
        &mut self,
        network: &NetworkRef,
        mac: Option<&str>,
    ) -> Result<Vec<LeaseRecord>> {
        let args = LeasesArgs {
            network: network.clone(),
            mac: mac.map(str::to_owned),
            need_results: 1,
            flags: 0,
        };
        let reply: LeasesReply = self.remote(Procedure::NetworkGetDhcpLeases, &args).await?;
        Ok(reply.leases.0)
    }

    /// The ports of an active network.
    pub async fn ports(&mut self, network: &NetworkRef) -> Result<Vec<PortRef>> {
        let args = ListPortsArgs {
            network: network.clone(),
            need_results: 1,
            flags: 0,
        };
        let reply: ListPortsReply = self.remote(Procedure::NetworkListAllPorts, &args).await?;
        Ok(reply.ports.0)
    }

    /// A port of a network.
    pub async fn port(&mut self, network: &NetworkRef, uuid: Uuid) -> Result<PortRef> {
        let network = network.clone();
        let args = LookupPortArgs { network, uuid };
        self.remote(Procedure::NetworkPortLookupByUuid, &args).await
    }

    /// Makes a port of an active network.
    pub async fn create_port(
        &mut self,
        network: &NetworkRef,
        xml: &str,
        validate: bool,
    ) -> Result<PortRef> {
        let args = CreatePortArgs {
            network: network.clone(),
            xml: xml.to_owned(),
            flags: if validate { PORT_VALIDATE } else { 0 },
        };
        self.remote(Procedure::NetworkPortCreateXml, &args).await
    }

    /// Makes a port again that a guest has had before, as its XML says with all that it was given.
    pub async fn reclaim_port(&mut self, network: &NetworkRef, xml: &str) -> Result<PortRef> {
        let args = CreatePortArgs {
            network: network.clone(),
            xml: xml.to_owned(),
            flags: PORT_RECLAIM,
        };
        self.remote(Procedure::NetworkPortCreateXml, &args).await
    }

    /// A port's XML.
    pub async fn port_xml(&mut self, port: PortRef) -> Result<String> {
        let args = PortArgs { port, flags: 0 };
        self.remote(Procedure::NetworkPortGetXmlDesc, &args).await
    }

    /// Deletes a port.
    pub async fn delete_port(&mut self, port: PortRef) -> Result<()> {
        let args = PortArgs { port, flags: 0 };
        self.remote(Procedure::NetworkPortDelete, &args).await
    }

    /// What would be done for the network of this name, or for all active ones.
    pub async fn plan(&mut self, network: Option<&str>) -> Result<Vec<String>> {
        let args = network.map(str::to_owned);
        let procedure = NetdProcedure::Plan as i32;
        let steps: List<String, PLAN_MAX> = self.call(PROGRAM_NETD, procedure, &args).await?;
        Ok(steps.0)
    }

    /// What is attached where, as JSON.
    pub async fn status_json(&mut self) -> Result<String> {
        let procedure = NetdProcedure::Status as i32;
        self.call(PROGRAM_NETD, procedure, &()).await
    }

    /// What is attached where.
    pub async fn status(&mut self) -> Result<Status> {
        Ok(serde_json::from_str(&self.status_json().await?)?)
    }

    /// The port forwards of the network of this name, or of all of them.
    pub async fn forwards(&mut self, network: Option<&str>) -> Result<Vec<NetworkForwards>> {
        let args = network.map(str::to_owned);
        let procedure = NetdProcedure::ForwardList as i32;
        let json: String = self.call(PROGRAM_NETD, procedure, &args).await?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Adds or deletes a port forward.
    pub async fn change_forward(&mut self, change: &ForwardChange) -> Result<Changed> {
        let args = serde_json::to_string(change)?;
        let procedure = NetdProcedure::ForwardChange as i32;
        let json: String = self.call(PROGRAM_NETD, procedure, &args).await?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Who is banned.
    pub async fn bans(&mut self) -> Result<Vec<Ban>> {
        let procedure = NetdProcedure::BanList as i32;
        let bans: List<String, BANS> = self.call(PROGRAM_NETD, procedure, &()).await?;
        let bans = bans.0.iter().map(|ban| serde_json::from_str(ban));
        Ok(bans.collect::<std::result::Result<_, _>>()?)
    }

    /// Bans somebody, or ends bans.
    pub async fn change_bans(&mut self, change: &BanChange) -> Result<()> {
        let args = serde_json::to_string(change)?;
        let procedure = NetdProcedure::BanChange as i32;
        self.call(PROGRAM_NETD, procedure, &args).await
    }

    /// What of the host is not as its administrator may believe.
    pub async fn doctor(&mut self) -> Result<Vec<Problem>> {
        let procedure = NetdProcedure::Doctor as i32;
        let json: String = self.call(PROGRAM_NETD, procedure, &()).await?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Why packets were dropped: counters, and the records behind number `since`.
    pub async fn drops(&mut self, since: u64) -> Result<Drops> {
        let procedure = NetdProcedure::Drops as i32;
        let json: String = self.call(PROGRAM_NETD, procedure, &since).await?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Names for the numbers in connections.
    pub async fn flow_names(&mut self) -> Result<FlowNames> {
        let procedure = NetdProcedure::FlowNames as i32;
        let reply: FlowNamesReply = self.call(PROGRAM_NETD, procedure, &()).await?;
        let guests = reply
            .guests
            .0
            .iter()
            .map(|guest| serde_json::from_str(guest));
        let names: FlowNames = serde_json::from_str(&reply.names)?;
        Ok(FlowNames {
            guests: guests.collect::<std::result::Result<_, _>>()?,
            ..names
        })
    }

    /// The ports of the bridge of the network of this name, or of all active ones.
    pub async fn guest_ports(&mut self, network: Option<&str>) -> Result<Vec<GuestPort>> {
        let args = network.map(str::to_owned);
        let procedure = NetdProcedure::GuestPorts as i32;
        let ports: List<String, GUEST_PORTS_MAX> =
            self.call(PROGRAM_NETD, procedure, &args).await?;
        let ports = ports.0.iter().map(|port| serde_json::from_str(port));
        Ok(ports.collect::<std::result::Result<_, _>>()?)
    }

    /// Ends connections; returns how many.
    pub async fn kill_flows(&mut self, which: &FlowKill) -> Result<u64> {
        let args = serde_json::to_string(which)?;
        let procedure = NetdProcedure::FlowKill as i32;
        self.call(PROGRAM_NETD, procedure, &args).await
    }

    /// Has the agent take a network from libvirt's own driver, or give one back.
    pub async fn hand_over(&mut self, handover: &Handover) -> Result<()> {
        let args = serde_json::to_string(handover)?;
        let procedure = NetdProcedure::HandOver as i32;
        self.call(PROGRAM_NETD, procedure, &args).await
    }

    /// Has the definitions read again.
    pub async fn reload(&mut self) -> Result<Reloaded> {
        let procedure = NetdProcedure::Reload as i32;
        let json: String = self.call(PROGRAM_NETD, procedure, &()).await?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Has an active network run with its definition, or asks what that would take.
    pub async fn apply(&mut self, network: &NetworkRef, dry_run: bool) -> Result<Applied> {
        let procedure = match dry_run {
            true => NetdProcedure::ApplyDryRun,
            false => NetdProcedure::Apply,
        };
        let json: String = self.call(PROGRAM_NETD, procedure as i32, network).await?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Hears of events from now on: `kind` is an `EVENT_ID_` of [`crate::rpc::procedures`].
    pub async fn listen(&mut self, kind: i32, network: Option<NetworkRef>) -> Result<()> {
        let args = EventRegisterArgs {
            event: kind,
            network,
        };
        let _: i32 = self
            .remote(Procedure::NetworkEventRegisterAny, &args)
            .await?;
        Ok(())
    }

    /// The next event. May be dropped while it waits: no event is lost.
    pub async fn next_event(&mut self) -> Result<NetworkEvent> {
        loop {
            let message = match self.events.pop_front() {
                Some(message) => message,
                None => self.message().await?.ok_or(ClientError::Ended)?,
            };
            if let Some(event) = events::read(&message) {
                return Ok(event?);
            }
        }
    }

    async fn remote<A: Encode + ?Sized, R: Decode>(
        &mut self,
        procedure: Procedure,
        args: &A,
    ) -> Result<R> {
        self.call(PROGRAM_REMOTE, procedure as i32, args).await
    }

    async fn call<A: Encode + ?Sized, R: Decode>(
        &mut self,
        program: u32,
        procedure: i32,
        args: &A,
    ) -> Result<R> {
        let serial = self.send(program, procedure, args).await?;
        self.receive(serial).await
    }

    /// Sends a call; returns its number, by which [`Self::receive`] waits for the answer.
    pub(super) async fn send<A: Encode + ?Sized>(
        &mut self,
        program: u32,
        procedure: i32,
        args: &A,
    ) -> Result<u32> {
        let header = Header {
            program,
            version: VERSION,
            procedure,
            kind: TYPE_CALL,
            serial: self.serial,
            status: STATUS_OK,
        };
        self.serial = self.serial.wrapping_add(1);
        let call = Message::new(header, args)?;
        self.writer.write_all(&call.to_bytes()).await?;
        Ok(header.serial)
    }

    /// Waits for the answer of a call.
    pub(super) async fn receive<R: Decode>(&mut self, serial: u32) -> Result<R> {
        let (status, payload) = self.reply(serial).await?;
        match status {
            STATUS_OK => Ok(xdr::from_bytes(payload)?),
            _ => Err(ClientError::Remote(xdr::from_bytes(payload)?)),
        }
    }

    async fn reply(&mut self, serial: u32) -> Result<(u32, Bytes)> {
        loop {
            let message = self.message().await?.ok_or(ClientError::Closed)?;
            match message.header.kind {
                TYPE_REPLY if message.header.serial == serial => {
                    return Ok((message.header.status, message.payload));
                }
                TYPE_MESSAGE => self.events.push_back(message),
                _ => {}
            }
        }
    }

    /// The next message that is no ping; `None` when the agent closed the connection.
    async fn message(&mut self) -> Result<Option<Message>> {
        while let Some(received) = self.reader.next().await? {
            let header = received.message.header;
            if header.program != PROGRAM_KEEPALIVE {
                return Ok(Some(received.message));
            }
            if header.kind == TYPE_MESSAGE && header.procedure == KEEPALIVE_PING {
                let pong = Message::keepalive(KEEPALIVE_PONG).to_bytes();
                self.writer.write_all(&pong).await?;
            }
        }
        Ok(None)
    }
}
