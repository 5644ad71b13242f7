//! What an intent asks of a host: a pure function of definitions and of what the host has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use uuid::Uuid;

use super::bridge::find_bridge;
use super::failure::Failure;
use super::forwards::nd_proxies;
use super::observed::{Intent, Member, Noted, Observed};
use super::phase::Scope;
use super::records::{Around, Bridge, Bridges, ServicesEnd, hooks, records};
use super::shaping::{shaper_ends, shapes_of};
use super::spec::{BridgeSpec, FAMILIES, bridge_spec, services_link};
use super::step::Port;
use super::xdp::fast_path;
use crate::datapath::Attachment;
use crate::datapath::records::Records;
use crate::link::{Dump, Link, Scope as AddressScope, Snapshot};
use crate::managers::networkd;
use crate::model::{Family, ForwardMode, Network};
use crate::shaping::{Shape, shaper};

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
    /// The rates that devices are to be held to.
    pub shapes: BTreeMap<u32, Shape>,
    /// Devices that are to listen to solicitations.
    pub proxies: BTreeSet<(u32, Ipv6Addr)>,
    /// Devices that nobody else is to manage.
    pub unmanaged: BTreeSet<String>,
    /// Devices that are to listen to routers although the host forwards.
    pub listeners: BTreeSet<u32>,
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
        desired.records = records(
            &bridges,
            &Around {
                snapshot: links,
                guests: &observed.guests,
                firewall: intent.firewall,
                filtered: &observed.filtered,
                bridged_rules: observed.bridged_rules,
            },
        );
        let fast = fast_path(&desired.hooks, &desired.records.ports, links, intent.xdp);
        let taken = fast.hooks.difference(&observed.refused);
        desired.hooks.extend(taken.copied());
        desired.records.xdp_targets = fast.targets;
        desired.proxies = nd_proxies(&desired.records, links);
        let running = intent.members.iter().filter(|member| member.up);
        for member in running {
            for family in FAMILIES {
                desired.forwarding[family as usize] |= needs_forwarding(member.network, family);
            }
        }
        let shapes = desired.wanted.iter();
        let shapes = shapes.filter_map(|wanted| {
            let (spec, bridge) = (wanted.spec.as_ref()?, wanted.bridge?);
            Some(shapes_of(&wanted.member, spec, bridge, &observed.links))
        });
        let shapes = shapes.flatten();
        desired.shapes = shapes.collect();
        desired.listeners = desired.listeners(observed);
        desired.unmanaged = desired.unmanaged(observed);
        desired
    }

    /// The bridges of networks that run, and their ports, once there are any: those that libvirt
    /// makes by a pattern, since they are to be left alone from their first moment on.
    fn unmanaged(&self, observed: &Observed) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for wanted in self.wanted.iter().filter(|wanted| wanted.member.up) {
            let Some(spec) = &wanted.spec else {
                continue;
            };
            names.extend([spec.name.clone(), networkd::GUESTS.to_owned()]);
            if shaper_ends(&wanted.member, spec, &observed.links).is_some() {
                names.extend(shaper::names(&spec.name));
            }
            let noted = observed.noted.get(&wanted.member.network.uuid);
            let outside = noted.map(|noted| noted.ports_outside(&observed.links));
            names.extend(outside.into_iter().flatten().map(|(_, name)| name.clone()));
            let ports = wanted.bridge.map(|bridge| observed.links.ports_of(bridge));
            names.extend(ports.into_iter().flatten().map(|port| port.name.clone()));
        }
        let of_libvirt = |name: &str| name != networkd::GUESTS && name.starts_with("vnet");
        names.retain(|name| {
            name == networkd::GUESTS || (networkd::can_name(name) && !of_libvirt(name))
        });
        names
    }

    /// The devices that would listen to routers if no network needed IPv6 forwarding. A host that
    /// was a router before netd came keeps the ways it has of its own.
    fn listeners(&self, observed: &Observed) -> BTreeSet<u32> {
        let ipv6 = Family::Ipv6 as usize;
        let is_netds_doing =
            observed.forwarding[ipv6] != Some(true) || observed.forwarding_was[ipv6] == Some(false);
        if !self.forwarding[ipv6] || !is_netds_doing {
            return BTreeSet::new();
        }
        let links = &observed.links;
        // A guest's new tap is not, and neither is one end of somebody's cable into a namespace.
        let is_addressed = |link: &Link| {
            let mut addresses = links.addresses_of(link.index);
            addresses.any(|address| address.scope == AddressScope::Global)
        };
        let listens = |link: &&Link| {
            let is_known = observed.listeners.contains(&link.index);
            links.stands_alone(link)
                && !self.owners.contains_key(&link.index)
                && (link.up || is_known)
                && (link.kind.is_none() || is_addressed(link))
                && link.conf.ipv6.is_some_and(|conf| {
                    !conf.disabled && (conf.accept_ra == 1 || (is_known && conf.accept_ra == 2))
                })
        };
        let devices = links.links.values().filter(listens);
        devices.map(|link| link.index).collect()
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
        let mut link = None;
        if let Some(spec) = &spec {
            match find_bridge(spec, &observed.links, known) {
                Ok(found) => link = found,
                // Another device of its name is none of a stopped network's business.
                Err(_) if !member.up => {}
                Err(error) => {
                    self.problems.push(Failure::of(network.uuid, error));
                    return;
                }
            }
        }
        let wanted = Wanted {
            member,
            spec,
            bridge: link.map(|link| link.index),
        };
        if let Some(link) = link {
            let with = with_ends(&wanted, link, observed);
            self.owners.insert(link.index, network.uuid);
            if let Some(ends) = with.shaper {
                self.owners
                    .extend([ends.out, ends.back].map(|end| (end, network.uuid)));
            }
            bridges.insert(link.index, with);
        }
        self.wanted.push(wanted);
    }

    /// The links as they are once bridges that were made anew have got back their ports; `None`
    /// where there are no such ports.
    fn with_returned_ports(&self, observed: &Observed) -> Option<Snapshot> {
        let mut returned = Vec::new();
        for wanted in self.wanted.iter().filter(|wanted| wanted.member.up) {
            let noted = observed.noted.get(&wanted.member.network.uuid);
            if let (Some(bridge), Some(noted)) = (wanted.bridge, noted) {
                let ports = returning_ports(noted, bridge, observed);
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

/// A bridge with the devices that go with it.
fn with_ends<'o>(wanted: &Wanted<'o>, link: &'o Link, observed: &'o Observed) -> Bridge<'o> {
    let (member, spec) = (&wanted.member, wanted.spec.as_ref());
    let services = || {
        member.service?;
        let to = services_link(spec?, &observed.links)?;
        Some(ServicesEnd {
            ifindex: to.index,
            netns: to.peer_netns?,
            resolver: observed.resolver_of(member.network.uuid),
        })
    };
    Bridge {
        network: member.network,
        ports: member.network_ports,
        link,
        services: services(),
        was_routed: {
            let noted = observed.noted.get(&member.network.uuid);
            noted.is_some_and(|noted| noted.was_routed)
        },
        shaper: spec.and_then(|spec| shaper_ends(member, spec, &observed.links)),
    }
}

/// The ports that a bridge had before it was made anew, or before somebody took all of them, as far
/// as nothing else has them now.
pub(super) fn returning_ports<'a>(
    noted: &'a Noted,
    bridge: u32,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a Port> {
    let gives_back = noted.bridge != Some(bridge) || observed.emptied.contains(&bridge);
    let ports = noted.ports_outside(&observed.links);
    ports.filter(move |_| gives_back)
}
