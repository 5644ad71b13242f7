//! What is asked for, and what the host has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use uuid::Uuid;

use super::Guests;
use super::failure::Failure;
use super::given::Given;
use super::phase::Scope;
use super::step::{Act, DatapathAct, DeviceAct, Port, ServiceAct, Step};
use crate::config::Xdp;
use crate::datapath::Attachment;
use crate::datapath::ports::Ports;
use crate::datapath::records::{Change, Records};
use crate::dnsmasq::Digest;
use crate::link::Snapshot;
use crate::model::{Firewall, Network, NetworkPorts};
use crate::shaping::Shape;

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
    /// What the host's own rules may do to networks that do not say; none where its kernel knows none.
    pub firewall: Option<Firewall>,
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
    /// What the definition in the record gives the bridge.
    pub given: Given,
    /// What those before it gave, until the host has none of that any more.
    pub former: Option<Given>,
    /// Did it run with a definition by which it was routed, in some family?
    pub was_routed: bool,
    /// Does the namespace of its services have what is given? Nobody notes that: an agent that starts
    /// looks again where another definition was on its way.
    pub furnished: bool,
}

impl Noted {
    /// The record of a network that is to start.
    #[must_use]
    pub fn new(member: &Member<'_>) -> Self {
        Self {
            name: member.network.name.clone(),
            generation: member.generation,
            ports: member.ports.to_vec(),
            given: Given::by(member.network),
            furnished: true,
            ..Self::default()
        }
    }

    /// Take it as an agent that starts does: whoever changed the definition may not have come far.
    pub fn adopt(&mut self) {
        self.furnished = self.former.is_none();
    }

    /// The record of a network that runs, with another definition.
    pub fn redefine(&mut self, member: &Member<'_>) {
        let given = Given::by(member.network);
        self.name.clone_from(&member.network.name);
        self.generation = member.generation;
        if self.bridge.is_none() {
            self.ports = member.ports.to_vec();
        }
        let (before, now) = (self.given.routed, given.translated);
        self.was_routed |= before.iter().zip(now).any(|(before, now)| *before && now);
        if given == self.given {
            return;
        }
        self.furnished &= given.furnishes_as(&self.given);
        let before = std::mem::replace(&mut self.given, given);
        self.former = Some(self.former.take().unwrap_or_default().and(&before));
    }

    /// The ports that are there and in no bridge any more.
    pub fn ports_outside<'a>(&'a self, links: &'a Snapshot) -> impl Iterator<Item = &'a Port> {
        self.ports.iter().filter(|(index, name)| {
            let link = links.links.get(index);
            link.is_some_and(|link| link.name == *name && link.controller.is_none())
        })
    }
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
    /// It runs in the namespace of the network's services.
    pub in_place: bool,
}

/// The process between a network's dnsmasq and the host's name servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    /// It runs.
    pub alive: bool,
    /// As [`Service::held_back`].
    pub held_back: bool,
    /// The port at the host's loopback addresses for the host's own questions, once that is known.
    pub port: Option<u16>,
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
    /// Devices at whose ingress somebody's filters of traffic control hang.
    pub filtered: BTreeSet<u32>,
    /// The rates that devices are held to by netd.
    pub shapes: BTreeMap<u32, Shape>,
    /// Do the host's rules see what is bridged (br_netfilter)?
    pub bridged_rules: bool,
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
    /// Devices that an agent has listen to routers although the host forwards.
    pub listeners: BTreeSet<u32>,
    /// Devices that systemd-networkd leaves alone for netd; `None` on a host without systemd.
    pub unmanaged: Option<BTreeSet<String>>,
    /// Bridges that lost ports so lately that nobody can say yet whether all of them go.
    pub unsettled: BTreeSet<u32>,
    /// Bridges that somebody took all their ports from.
    pub emptied: BTreeSet<u32>,
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
    /// Their relays.
    pub relays: BTreeMap<Uuid, Relay>,
    /// The bridges whose services have a namespace.
    pub namespaces: BTreeSet<String>,
    /// What DHCP says about guests.
    pub guests: Guests,
    /// What could not be looked at.
    pub unread: Vec<Failure>,
}

impl Observed {
    /// The port by which the host asks a network's services for names.
    #[must_use]
    pub fn resolver_of(&self, network: Uuid) -> Option<u16> {
        let relay = self.relays.get(&network)?;
        relay.port.filter(|_| relay.alive)
    }

    /// What the host has after a step, but for devices, addresses and routes: those are the
    /// kernel's to tell.
    pub fn note(&mut self, step: &Step, intent: &Intent<'_>) {
        match &step.act {
            Act::Device(act) => self.note_device(act, step.network),
            Act::Datapath(act) => self.note_datapath(act),
            Act::Service(act) => {
                if let Some(uuid) = step.network {
                    self.note_service(act, uuid, intent);
                }
            }
        }
    }

    fn note_device(&mut self, act: &DeviceAct, network: Option<Uuid>) {
        match act {
            DeviceAct::MakeNamespace(bridge) => {
                self.namespaces.insert(bridge.name.clone());
                // What ran in an earlier one does not run in this one.
                if let Some(uuid) = network {
                    self.furnished(uuid);
                    self.relays.remove(&uuid);
                    if let Some(service) = self.services.get_mut(&uuid) {
                        service.in_place = false;
                    }
                }
            }
            DeviceAct::FurnishNamespace(_) => {
                if let Some(uuid) = network {
                    self.furnished(uuid);
                }
            }
            DeviceAct::RemoveNamespace { bridge, .. } => {
                self.namespaces.remove(bridge);
            }
            DeviceAct::EnableForwarding { family, .. } => {
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
            DeviceAct::Shape { index, shape, .. } => {
                self.shapes.insert(*index, Shape::clone(shape));
            }
            DeviceAct::Unshape { index, .. } => {
                self.shapes.remove(index);
            }
            DeviceAct::LeaveToNetd(devices) => self.unmanaged = Some(devices.clone()),
            DeviceAct::ListenToRouters { index, on, .. } => {
                if *on {
                    self.listeners.insert(*index);
                } else {
                    self.listeners.remove(index);
                }
            }
            _ => {}
        }
    }

    fn furnished(&mut self, uuid: Uuid) {
        if let Some(noted) = self.noted.get_mut(&uuid) {
            noted.furnished = true;
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
            ServiceAct::NoteNetwork { .. } => {
                if let Some(member) = member {
                    let noted = self.noted.entry(uuid);
                    let noted = noted.and_modify(|noted| noted.redefine(member));
                    noted.or_insert_with(|| Noted::new(member));
                }
            }
            ServiceAct::SettleNetwork { .. } => {
                if let Some(noted) = self.noted.get_mut(&uuid) {
                    noted.former = None;
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
                    in_place: true,
                };
                self.services.insert(uuid, service);
            }
            ServiceAct::StartRelay { .. } => {
                let relay = Relay {
                    alive: true,
                    ..Relay::default()
                };
                self.relays.insert(uuid, relay);
            }
            ServiceAct::StopRelay { .. } => {
                self.relays.remove(&uuid);
            }
        }
    }
}
