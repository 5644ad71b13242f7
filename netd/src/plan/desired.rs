//! What an intent asks of a host: a pure function of definitions and of what the host has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use uuid::Uuid;

use super::bridge::find_bridge;
use super::failure::Failure;
use super::forwards::nd_proxies;
use super::observed::{FAMILIES, Intent, Member, Noted, Observed};
use super::phase::Scope;
use super::records::{Bridge, Bridges, hooks, records};
use super::spec::{BridgeSpec, bridge_spec};
use super::step::Port;
use super::xdp::fast_path;
use crate::datapath::Attachment;
use crate::datapath::records::Records;
use crate::link::{Dump, Snapshot};
use crate::model::{Family, ForwardMode, Network};

/// Does a network need the host to forward packets of this family? An isolated one does where
/// something from outside is let in.
#[must_use]
pub fn needs_forwarding(network: &Network, family: Family) -> bool {
    let lets_in = || {
        let mut forwards = network.netd.forwards().iter();
        forwards.any(|forward| forward.may_have(family))
    };
    let routes = matches!(
        network.mode(),
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open
    );
    network.has(family) && (routes || lets_in())
}

/// One network's share of what is asked.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The network.
    pub member: Member<'a>,
    /// Its bridge; none where that is not netd's.
    pub spec: Option<BridgeSpec>,
    /// Number of the bridge, where it is there.
    pub bridge: Option<u32>,
}

/// What an intent asks of a host.
#[derive(Debug, Default)]
pub struct Desired<'a> {
    /// How much is looked at.
    pub scope: Scope,
    /// The networks that are to run.
    pub running: BTreeSet<Uuid>,
    /// Networks whose records are not on disk yet, or on disk with another definition.
    pub unnoted: Vec<Member<'a>>,
    /// The networks whose records are.
    pub wanted: Vec<Wanted<'a>>,
    /// Networks by the numbers of their bridges, and of bridges they had.
    pub owners: BTreeMap<u32, Uuid>,
    /// Bridges that programs guard and that no record tells of: nothing that may guard them is
    /// taken away.
    pub orphans: BTreeSet<u32>,
    /// Programs at devices.
    pub hooks: BTreeSet<Attachment>,
    /// What the maps are to hold.
    pub records: Records,
    /// Devices that are to listen to solicitations.
    pub proxies: BTreeSet<(u32, Ipv6Addr)>,
    /// Is the host to forward, by family?
    pub forwarding: [bool; 2],
    /// What cannot be had.
    pub problems: Vec<Failure>,
}

impl<'a> Desired<'a> {
    /// What `intent` asks of a host that has what is `observed`. A network whose record is not on
    /// disk yet has no share in it.
    #[must_use]
    pub fn new(intent: &Intent<'a>, observed: &Observed) -> Self {
        let mut desired = Self {
            scope: intent.scope,
            ..Self::default()
        };
        let mut bridges = Bridges::new();
        for (uuid, noted) in &observed.noted {
            if let Some(bridge) = noted.bridge {
                desired.owners.insert(bridge, *uuid);
            }
        }
        let running = intent.members.iter().filter(|member| member.up);
        desired.running = running.map(|member| member.network.uuid).collect();
        for member in &intent.members {
            desired.add(member.clone(), observed, &mut bridges);
        }
        if matches!(intent.scope, Scope::Service(_)) {
            return desired;
        }
        let lost = observed.records.networks.keys().filter(|&bridge| {
            let link = observed.links.links.get(bridge);
            link.is_some_and(|link| link.bridge.is_some())
                && !bridges.contains_key(bridge)
                && !intent.let_go.contains(bridge)
        });
        desired.orphans = lost.copied().collect();
        if intent.scope == Scope::Teardown {
            return desired;
        }
        // Ports that are to be given back are guarded before they are.
        let returned = desired.with_returned_ports(observed);
        let links = returned.as_ref().unwrap_or(&observed.links);
        desired.hooks = hooks(&bridges, links);
        let fast = fast_path(&desired.hooks, links, intent.xdp);
        let taken = fast.hooks.difference(&observed.refused);
        desired.hooks.extend(taken.copied());
        desired.records = records(&bridges, links, &observed.guests);
        desired.records.xdp_targets = fast.targets;
        desired.proxies = nd_proxies(&desired.records, links);
        let running = intent.members.iter().filter(|member| member.up);
        for member in running {
            for family in FAMILIES {
                desired.forwarding[family as usize] |= needs_forwarding(member.network, family);
            }
        }
        desired
    }

    fn add<'o>(&mut self, member: Member<'a>, observed: &'o Observed, bridges: &mut Bridges<'o>)
    where
        'a: 'o,
    {
        let network = member.network;
        if let Scope::Service(only) = self.scope
            && network.uuid != only
        {
            return;
        }
        let noted = observed.noted.get(&network.uuid);
        if member.up && noted.is_none_or(|noted| noted.generation != member.generation) {
            self.unnoted.push(member.clone());
            if noted.is_none() {
                return;
            }
        }
        // What no record tells of is not netd's, whatever a definition calls its own.
        let is_known = member.up || noted.is_some();
        let spec = bridge_spec(network).filter(|_| is_known);
        let known = noted.and_then(|noted| noted.bridge);
        let mut bridge = None;
        if let Some(spec) = &spec {
            match find_bridge(spec, &observed.links, known) {
                Ok(Some(link)) => {
                    bridge = Some(link.index);
                    let ports = member.network_ports;
                    let with = Bridge {
                        network,
                        ports,
                        link,
                    };
                    bridges.insert(link.index, with);
                    self.owners.insert(link.index, network.uuid);
                }
                Ok(None) => {}
                // Another device of its name is none of a stopped network's business.
                Err(_) if !member.up => {}
                Err(error) => {
                    self.problems.push(Failure::of(network.uuid, error));
                    return;
                }
            }
        }
        self.wanted.push(Wanted {
            member,
            spec,
            bridge,
        });
    }

    /// The links as they are once bridges that were made anew have got back their ports; `None`
    /// where there are no such ports.
    fn with_returned_ports(&self, observed: &Observed) -> Option<Snapshot> {
        let mut returned = Vec::new();
        for wanted in self.wanted.iter().filter(|wanted| wanted.member.up) {
            let noted = observed.noted.get(&wanted.member.network.uuid);
            if let (Some(bridge), Some(noted)) = (wanted.bridge, noted) {
                let ports = returning_ports(noted, bridge, &observed.links);
                returned.extend(ports.map(|(port, _)| (*port, bridge)));
            }
        }
        if returned.is_empty() {
            return None;
        }
        let mut dump = Dump::clone(&observed.links);
        for (port, bridge) in returned {
            if let Some(link) = dump.links.get_mut(&port) {
                link.controller = Some(bridge);
            }
        }
        Some(dump.into())
    }

    /// May anything be taken away?
    #[must_use]
    pub fn prunes(&self) -> bool {
        self.orphans.is_empty()
    }
}

/// The ports that a bridge had before it was made anew, as far as nothing else has taken them.
pub(super) fn returning_ports<'a>(
    noted: &'a Noted,
    bridge: u32,
    links: &'a Snapshot,
) -> impl Iterator<Item = &'a Port> {
    let is_new = noted.bridge != Some(bridge);
    let ports = noted.ports.iter().filter(move |_| is_new);
    ports.filter(|(index, name)| {
        let link = links.links.get(index);
        link.is_some_and(|link| link.name == *name && link.controller.is_none())
    })
}
