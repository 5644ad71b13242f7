//! What is asked for, and what the host has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use uuid::Uuid;

use super::Guests;
use super::failure::Failure;
use super::phase::Scope;
use super::step::{Act, DatapathAct, DeviceAct, Port, ServiceAct, Step};
use crate::config::Xdp;
use crate::datapath::Attachment;
use crate::datapath::ports::Ports;
use crate::datapath::records::{Change, Records};
use crate::dnsmasq::Digest;
use crate::link::Snapshot;
use crate::model::{Family, Network, NetworkPorts};

/// Both families, for what is done for each.
pub const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// One network, and what is to become of it.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The definition it is to run with.
    pub network: &'a Network,
    /// Raised whenever that is another one.
    pub generation: u64,
    /// Is it to run? If not, nothing of it is to be left.
    pub up: bool,
    /// What its dnsmasq is to serve; none for a network without.
    pub service: Option<Digest>,
    /// Ports that it had when it ran before, to be given back.
    pub ports: &'a [Port],
    /// Its guests' ports, as clients made them.
    pub network_ports: &'a NetworkPorts,
}

/// What is asked of the host.
#[derive(Clone, Debug)]
pub struct Intent<'a> {
    /// All networks that run, are to run, or ran.
    pub members: Vec<Member<'a>>,
    /// Devices that may have programs in their drivers.
    pub xdp: &'a Xdp,
    /// How much of the host is looked at.
    pub scope: Scope,
    /// Bridges of networks that another driver has from now on: they stay, and nobody guards them.
    pub let_go: BTreeSet<u32>,
}

impl<'a> Intent<'a> {
    /// A member.
    #[must_use]
    pub fn member(&self, uuid: Uuid) -> Option<&Member<'a>> {
        self.members
            .iter()
            .find(|member| member.network.uuid == uuid)
    }
}

/// What an agent wrote down about an active network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Its name.
    pub name: String,
    /// [`Member::generation`] of the definition in the record.
    pub generation: u64,
    /// Number of its bridge when that was last seen.
    pub bridge: Option<u32>,
    /// The ports its bridge had then.
    pub ports: Vec<Port>,
}

/// A network's dnsmasq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The process runs.
    pub alive: bool,
    /// What it was given to serve, where that is known.
    pub serves: Option<Digest>,
    /// It died so soon after it was started again that it has to wait.
    pub held_back: bool,
}

/// The programs of the host's own sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// Not attached.
    #[default]
    Detached,
    /// Attached, in part or by another build.
    Stale,
    /// All attached.
    Attached,
}

/// What the host has at one moment, as far as it is the agent's business.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Records of active networks on disk.
    pub noted: BTreeMap<Uuid, Noted>,
    /// Devices, addresses and routes.
    pub links: Snapshot,
    /// Attached programs; `true` where they are this agent's build.
    pub programs: BTreeMap<Attachment, bool>,
    /// Programs that a driver did not take.
    pub refused: BTreeSet<Attachment>,
    /// What the maps hold.
    pub records: Records,
    /// The ports that the host keeps for itself, where its list can be read.
    pub reserved: Option<Ports>,
    /// Those that the programs keep from flows, where that is known.
    pub reserved_held: Option<Ports>,
    /// The published ports that the programs know, where that is known.
    pub published_held: Option<Ports>,
    /// `CONTROL_*` bits.
    pub flags: u32,
    /// Records changed since flows last checked policy and path.
    pub unchecked: bool,
    /// Networks went since flows that are over were last freed.
    pub unswept: bool,
    /// Devices that listen to solicitations; `false` where only an earlier agent's word says so.
    pub proxies: BTreeMap<(u32, Ipv6Addr), bool>,
    /// The programs at the host's own sockets.
    pub sockets: Sockets,
    /// Are there programs and maps of any layout?
    pub datapath: bool,
    /// Does the host forward, by family? None where that cannot be read.
    pub forwarding: [Option<bool>; 2],
    /// What it did before an agent switched that on.
    pub forwarding_was: [Option<bool>; 2],
    /// The networks' dnsmasqs.
    pub services: BTreeMap<Uuid, Service>,
    /// What DHCP says about guests.
    pub guests: Guests,
    /// What could not be looked at.
    pub unread: Vec<Failure>,
}

impl Observed {
    /// What the host has after a step, but for devices, addresses and routes: those are the
    /// kernel's to tell.
    pub fn note(&mut self, step: &Step, intent: &Intent<'_>) {
        match &step.act {
            Act::Device(act) => self.note_device(act),
            Act::Datapath(act) => self.note_datapath(act),
            Act::Service(act) => {
                if let Some(uuid) = step.network {
                    self.note_service(act, uuid, intent);
                }
            }
        }
    }

    fn note_device(&mut self, act: &DeviceAct) {
        match act {
            DeviceAct::EnableForwarding(family) => {
                let at = *family as usize;
                self.forwarding_was[at].get_or_insert(false);
                self.forwarding[at] = Some(true);
            }
            DeviceAct::RestoreForwarding(family, was) => {
                self.forwarding_was[*family as usize] = None;
                self.forwarding[*family as usize] = Some(*was);
            }
            DeviceAct::ProxyNeighbour {
                index, address, on, ..
            } => {
                if *on {
                    self.proxies.insert((*index, *address), true);
                } else {
                    self.proxies.remove(&(*index, *address));
                }
            }
            _ => {}
        }
    }

    fn note_datapath(&mut self, act: &DatapathAct) {
        match act {
            DatapathAct::Attach { at, .. } => {
                self.programs.insert(*at, true);
            }
            DatapathAct::Detach { at, .. } => {
                self.programs.remove(at);
            }
            DatapathAct::ReservePorts(ports) => self.reserved_held = Some(ports.clone()),
            DatapathAct::ForgetGuests { .. } => {}
            DatapathAct::Record { change, .. } => {
                self.unchecked |= change.record().decides();
                let ends = matches!(
                    change,
                    Change::Remove(crate::datapath::records::Record::Network(..))
                );
                self.unswept |= ends;
                self.records.apply(change);
            }
            DatapathAct::Publish(ports) => self.published_held = Some(ports.clone()),
            DatapathAct::SetFlags(flags) => {
                self.flags = *flags;
                self.unchecked = true;
            }
            DatapathAct::Revalidate => self.unchecked = false,
            DatapathAct::SweepFlows => self.unswept = false,
            DatapathAct::AttachSockets => self.sockets = Sockets::Attached,
            DatapathAct::DetachSockets => self.sockets = Sockets::Detached,
            DatapathAct::RemoveDatapath => {
                self.programs.clear();
                self.records = Records::default();
                self.sockets = Sockets::Detached;
                self.datapath = false;
            }
        }
    }

    fn note_service(&mut self, act: &ServiceAct, uuid: Uuid, intent: &Intent<'_>) {
        let member = intent.member(uuid);
        match act {
            ServiceAct::NoteNetwork { network } => {
                let noted = self.noted.entry(uuid).or_default();
                noted.name.clone_from(network);
                if let Some(member) = member {
                    noted.generation = member.generation;
                    if noted.bridge.is_none() {
                        noted.ports = member.ports.to_vec();
                    }
                }
            }
            ServiceAct::ForgetNetwork { .. } => {
                self.noted.remove(&uuid);
            }
            ServiceAct::NotePorts { bridge, ports, .. } => {
                if let Some(noted) = self.noted.get_mut(&uuid) {
                    noted.bridge = Some(*bridge);
                    noted.ports.clone_from(ports);
                }
            }
            ServiceAct::StopDnsmasq { .. } => {
                self.services.remove(&uuid);
            }
            ServiceAct::StartDnsmasq { .. } | ServiceAct::ReloadDnsmasq { .. } => {
                let service = Service {
                    alive: true,
                    serves: member.and_then(|member| member.service),
                    held_back: false,
                };
                self.services.insert(uuid, service);
            }
        }
    }
}
