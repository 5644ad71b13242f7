//! What is to be done: the difference between what is asked for and what the host has.

use std::collections::{BTreeMap, BTreeSet};

use netd_common::abi::RouteKey;
use uuid::Uuid;

use super::bridge;
use super::desired::{Desired, Wanted, returning_ports};
use super::forwarding::forwarding;
use super::guards::is_to_be_isolated;
use super::observed::{Observed, Sockets};
use super::phase::{self, Phase};
use super::rates;
use super::redefined::{moves_gateway, reunited, settle};
use super::spec::{namespace_of, services_link};
use super::step::{Act, DatapathAct, DeviceAct, Port, ServiceAct, Step};
use super::table;
use super::whose::{name_of, network_of, of, of_all, with_bridges};
use crate::datapath::Attachment;
use crate::datapath::records::{Change, FamilyRecord, Record};
use crate::dnsmasq;
use crate::model::Mac;

/// The steps of one phase. Nothing is to be done where the host has all that is asked for.
#[must_use]
pub fn diff(desired: &Desired<'_>, observed: &Observed, phase: Phase) -> Vec<Step> {
    match phase {
        Phase::Note => note(desired),
        Phase::EndService => end_services(desired, observed),
        Phase::Bridges => bridges(desired, observed),
        Phase::Namespaces => namespaces(desired, observed),
        Phase::Shapers => rates::shapers(desired, observed),
        Phase::Attach => attach(desired, observed),
        Phase::Records if desired.scope == phase::Scope::Teardown => remove_datapath(observed),
        Phase::Records => records(desired, observed),
        Phase::Proxies => proxies(desired, observed),
        Phase::Sockets => sockets(desired, observed),
        Phase::Detach => detach(desired, observed),
        Phase::Shapes => rates::shapes(desired, observed),
        Phase::Unshape => rates::unshape(desired, observed),
        Phase::Up => up(desired, observed),
        Phase::Forwarding => forwarding(desired, observed),
        Phase::Ports => ports(desired, observed),
        Phase::NotePorts => note_ports(desired, observed),
        Phase::Serve => serve(desired, observed),
        Phase::Forget => forget(desired, observed),
    }
}

fn note(desired: &Desired<'_>) -> Vec<Step> {
    let unnoted = desired.unnoted.iter();
    let steps = unnoted.map(|member| {
        let network = member.network.name.clone();
        of(member.network.uuid, ServiceAct::NoteNetwork { network })
    });
    steps.collect()
}

/// dnsmasqs that are not to run, and what is beside them.
fn end_services(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for wanted in &desired.wanted {
        let member = &wanted.member;
        let uuid = member.network.uuid;
        let network = || member.network.name.clone();
        let is_there = observed.services.contains_key(&uuid);
        // One that was killed leaves files behind.
        let was_there =
            !member.up && member.service.is_some() && observed.noted.contains_key(&uuid);
        let goes = !member.up || member.service.is_none();
        if goes && (is_there || was_there) {
            let network = network();
            steps.push(of(uuid, ServiceAct::StopDnsmasq { network }));
        }
        let Some(spec) = &wanted.spec else {
            continue;
        };
        let bridge = || spec.name.clone();
        let moves = moves_gateway(uuid, observed);
        if observed.relays.contains_key(&uuid) && (goes || moves || !asks_host(member.network)) {
            let (network, bridge) = (network(), bridge());
            steps.push(of(uuid, ServiceAct::StopRelay { network, bridge }));
        }
        if goes && observed.namespaces.contains(&spec.name) {
            let (bridge, mac) = (bridge(), spec.mac);
            steps.push(of(uuid, DeviceAct::RemoveNamespace { bridge, mac }));
        }
    }
    steps
}

/// Does a network's dnsmasq ask the host's name servers, and is it asked by the host?
fn asks_host(network: &crate::model::Network) -> bool {
    dnsmasq::offers(network).dns
}

/// Namespaces of services that are to run, where they or the links that lead there are missing.
fn namespaces(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for (wanted, link) in with_bridges(desired, observed) {
        let (Some(spec), Some(_)) = (&wanted.spec, wanted.member.service) else {
            continue;
        };
        let is_there = observed.namespaces.contains(&spec.name)
            && services_link(spec, &observed.links).is_some_and(|link| link.up);
        let uuid = wanted.member.network.uuid;
        let noted = observed.noted.get(&uuid);
        if !is_there {
            let bridge = namespace_of(spec, link);
            steps.push(of(uuid, DeviceAct::MakeNamespace(bridge)));
        } else if noted.is_some_and(|noted| !noted.furnished) {
            let bridge = namespace_of(spec, link);
            steps.push(of(uuid, DeviceAct::FurnishNamespace(bridge)));
        }
    }
    steps
}

fn bridges(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    // Before the devices are there, and after they have gone.
    let told = observed.unmanaged.as_ref();
    let told = told.filter(|told| **told != desired.unmanaged);
    let tell = || of_all(DeviceAct::LeaveToNetd(desired.unmanaged.clone()));
    let is_more = |told: &BTreeSet<String>| !desired.unmanaged.is_subset(told);
    steps.extend(told.filter(|told| is_more(told)).map(|_| tell()));
    let hosts = desired.wanted.iter();
    steps.extend(hosts.filter_map(|wanted| table::of_host(wanted, observed)));
    for Wanted {
        member,
        spec,
        bridge,
    } in &desired.wanted
    {
        let Some(spec) = spec else {
            continue;
        };
        let uuid = member.network.uuid;
        let link = bridge.and_then(|index| observed.links.links.get(&index));
        if member.up {
            let noted = observed.noted.get(&uuid);
            let former = noted.and_then(|noted| noted.former.as_ref());
            let acts = bridge::make(spec, link, former, &observed.links);
            steps.extend(acts.into_iter().map(|act| of(uuid, act)));
            steps.extend(reunited(member, link, former, observed));
        } else if let Some(link) = link {
            let (index, bridge) = (link.index, link.name.clone());
            steps.push(of(uuid, DeviceAct::DeleteBridge { index, bridge }));
        }
    }
    if desired.scope == phase::Scope::Teardown {
        // Their programs go with the maps, and a bridge without them would let everything through.
        let mut lost = Vec::new();
        for index in &desired.orphans {
            let (Some(link), Some(network)) = (
                observed.links.links.get(index),
                observed.records.networks.get(index),
            ) else {
                continue;
            };
            // The number may be another bridge's by now.
            if link.mac == Some(Mac(network.mac)) {
                let (index, bridge) = (*index, link.name.clone());
                lost.push(of_all(DeviceAct::DeleteBridge { index, bridge }));
            }
        }
        steps.extend(lost);
    }
    steps.extend(told.filter(|told| !is_more(told)).map(|_| tell()));
    steps
}

fn attach(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let missing = desired.hooks.iter().filter(|at| !is_attached(observed, at));
    let steps = missing.map(|at| Step {
        network: network_of(desired, observed, at.ifindex),
        act: Act::Datapath(DatapathAct::Attach {
            device: name_of(observed, at.ifindex),
            at: *at,
        }),
    });
    steps.collect()
}

fn is_attached(observed: &Observed, at: &Attachment) -> bool {
    observed.programs.get(at) == Some(&true)
}

/// Devices that lack a program that they need.
fn unguarded(desired: &Desired<'_>, observed: &Observed) -> BTreeSet<u32> {
    let missing = desired.hooks.iter();
    let missing = missing.filter(|at| !at.hook.is_optional() && !is_attached(observed, at));
    missing.map(|at| at.ifindex).collect()
}

fn detach(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    if desired.scope == phase::Scope::Teardown {
        return Vec::new();
    }
    let has_gone = |at: &Attachment| !observed.links.links.contains_key(&at.ifindex);
    let stale = observed
        .programs
        .keys()
        .filter(|at| !desired.hooks.contains(at) && (desired.prunes() || has_gone(at)));
    let steps = stale.map(|at| Step {
        network: network_of(desired, observed, at.ifindex),
        act: Act::Datapath(DatapathAct::Detach {
            device: name_of(observed, at.ifindex),
            at: *at,
        }),
    });
    steps.collect()
}

fn remove_datapath(observed: &Observed) -> Vec<Step> {
    match observed.datapath {
        true => vec![of_all(DatapathAct::RemoveDatapath)],
        false => Vec::new(),
    }
}

fn records(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let held = &observed.records;
    // A device is used for masquerading only while its programs are in place.
    let unguarded = unguarded(desired, observed);
    let mut wanted = desired.records.clone();
    wanted
        .devices
        .retain(|ifindex, _| !unguarded.contains(ifindex));
    let prunes = desired.prunes();
    let mut steps = Vec::new();
    if let Some(reserved) = &observed.reserved
        && observed.reserved_held.as_ref() != Some(reserved)
    {
        steps.push(of_all(DatapathAct::ReservePorts(reserved.clone())));
    }
    let changes = held.changes(&wanted, prunes);
    steps.extend(forget_guests(desired, &changes));
    let mut unchecked = observed.unchecked;
    let mut unswept = observed.unswept;
    for change in changes {
        let record = change.record();
        unchecked |= record.decides();
        unswept |= matches!(change, Change::Remove(Record::Network(..)));
        let owner = record.bridge();
        let network = owner.and_then(|bridge| desired.owners.get(&bridge).copied());
        let device = subject(record, observed);
        let act = Act::Datapath(DatapathAct::Record { device, change });
        steps.push(Step { network, act });
    }
    let mut published = desired.records.published();
    if let (false, Some(held)) = (prunes, &observed.published_held) {
        published.add(held);
    }
    if observed.published_held.as_ref() != Some(&published) {
        steps.push(of_all(DatapathAct::Publish(published)));
    }
    // An orphan's network may still need what the flags say.
    let kept = if prunes { 0 } else { observed.flags };
    let flags = desired.records.flags() | kept;
    if flags != observed.flags {
        unchecked = true;
        steps.push(of_all(DatapathAct::SetFlags(flags)));
    }
    if unchecked && !(held.networks.is_empty() && wanted.networks.is_empty()) {
        steps.push(of_all(DatapathAct::Revalidate));
    }
    if unswept {
        steps.push(of_all(DatapathAct::SweepFlows));
    }
    steps
}

/// What a record is about, for people.
fn subject(record: &Record, observed: &Observed) -> String {
    let device = |index: &u32| name_of(observed, *index);
    match record {
        Record::Usage(index)
        | Record::Network(index, _)
        | Record::Device(index, _)
        | Record::Port(index, _)
        | Record::XdpTarget(index)
        | Record::PortMac(index, _) => device(index),
        Record::RouteMtu((key, len), _) => {
            let destination = std::net::Ipv4Addr::from(key.destination);
            let len = len.saturating_sub(RouteKey::DEFAULT);
            format!("{destination}/{len} on {}", device(&key.ifindex))
        }
        Record::Prefix((prefix, len), _) => {
            format!("{}/{len}", std::net::Ipv6Addr::from(*prefix))
        }
        Record::V4(record) => family_subject(record, device),
        Record::V6(record) => family_subject(record, device),
    }
}

fn family_subject<A: Copy + Into<std::net::IpAddr>>(
    record: &FamilyRecord<A>,
    device: impl Fn(&u32) -> String,
) -> String {
    match record {
        FamilyRecord::Address(address, index) => {
            format!("{} on {}", (*address).into(), device(index))
        }
        FamilyRecord::Pool((prefix, len), bridge) | FamilyRecord::Subnet((prefix, len), bridge) => {
            format!("{}/{len} of {}", (*prefix).into(), device(bridge))
        }
        FamilyRecord::Forward((key, _), forward) => {
            let port = u16::from_be_bytes(key.port);
            let guest: std::net::IpAddr = forward.guest.into();
            format!(
                "port {port} to {guest} on {}",
                device(&forward.bridge_ifindex)
            )
        }
        FamilyRecord::Binding(key, _) => {
            let address: std::net::IpAddr = key.address.into();
            format!("{address} on {}", device(&key.bridge_ifindex))
        }
    }
}

/// Guests of ports and bridges that go may come back at another, or somebody else with their
/// address.
fn forget_guests(desired: &Desired<'_>, changes: &[Change]) -> Option<Step> {
    let gone = changes.iter().filter_map(|change| match change {
        Change::Remove(Record::Port(index, port)) => Some((*index, port.bridge_ifindex)),
        Change::Remove(Record::Network(index, _)) => Some((*index, *index)),
        _ => None,
    });
    let ports: BTreeMap<u32, u32> = gone.collect();
    let owners: BTreeSet<Option<Uuid>> = ports
        .values()
        .map(|bridge| desired.owners.get(bridge).copied())
        .collect();
    let network = match owners.len() {
        0 => return None,
        1 => owners.into_iter().next().flatten(),
        _ => None,
    };
    let act = Act::Datapath(DatapathAct::ForgetGuests { ports });
    Some(Step { network, act })
}

fn proxies(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let step = |(index, address): (u32, std::net::Ipv6Addr), on| {
        of_all(DeviceAct::ProxyNeighbour {
            index,
            device: name_of(observed, index),
            address,
            on,
        })
    };
    let held = observed.proxies.keys();
    let stale = held.filter(|proxy| !desired.proxies.contains(proxy));
    let missing = desired.proxies.iter();
    let missing = missing.filter(|proxy| observed.proxies.get(proxy) != Some(&true));
    let stale = stale.map(|proxy| step(*proxy, false));
    stale
        .chain(missing.map(|proxy| step(*proxy, true)))
        .collect()
}

fn sockets(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let wanted = desired.records.has_forwards() || desired.records.has_resolvers();
    match observed.sockets {
        Sockets::Detached | Sockets::Stale if wanted => vec![of_all(DatapathAct::AttachSockets)],
        Sockets::Stale | Sockets::Attached if !wanted && desired.prunes() => {
            vec![of_all(DatapathAct::DetachSockets)]
        }
        _ => Vec::new(),
    }
}

fn up(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let unguarded = unguarded(desired, observed);
    let mut steps = Vec::new();
    for (wanted, link) in with_bridges(desired, observed) {
        let Some(spec) = &wanted.spec else {
            continue;
        };
        if unguarded.contains(&link.index) {
            continue;
        }
        let uuid = wanted.member.network.uuid;
        let acts = bridge::open(spec, link, &observed.links);
        steps.extend(acts.into_iter().map(|act| of(uuid, act)));
        let noted = observed.noted.get(&uuid);
        let ports = noted.map(|noted| returning_ports(noted, link.index, observed));
        let guarded = ports
            .into_iter()
            .flatten()
            .filter(|(port, _)| !unguarded.contains(port));
        steps.extend(guarded.map(|(_, port)| {
            let (port, bridge) = (port.clone(), spec.name.clone());
            of(uuid, DeviceAct::Enslave { port, bridge })
        }));
    }
    steps
}

fn ports(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for (wanted, link) in with_bridges(desired, observed) {
        let network = wanted.member.network;
        let index = link.index;
        let waiting = observed.links.edge_ports(index);
        let edges = wanted
            .spec
            .as_ref()
            .is_some_and(|spec| spec.has_edge_ports());
        if edges && !waiting.is_empty() {
            let act = DeviceAct::ForwardPorts {
                index,
                bridge: link.name.clone(),
                ports: waiting,
            };
            steps.push(of(network.uuid, act));
        }
        steps.extend(table::of_ports(wanted, link, observed));
        let guests = wanted.member.network_ports;
        let open = observed.links.ports_of(index).filter(|port| !port.isolated);
        let open = open.filter(|port| is_to_be_isolated(network, guests, port));
        steps.extend(open.map(|port| {
            let (index, port) = (port.index, port.name.clone());
            let on = true;
            of(network.uuid, DeviceAct::IsolatePort { index, port, on })
        }));
    }
    steps
}

fn note_ports(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for (wanted, link) in with_bridges(desired, observed) {
        if observed.unsettled.contains(&link.index) {
            continue;
        }
        let network = wanted.member.network;
        let ports = observed.links.ports_of(link.index);
        let ports: Vec<Port> = ports.map(|port| (port.index, port.name.clone())).collect();
        let noted = observed.noted.get(&network.uuid);
        if noted.is_some_and(|n| n.bridge == Some(link.index) && n.ports == ports) {
            continue;
        }
        let act = ServiceAct::NotePorts {
            network: network.name.clone(),
            bridge: link.index,
            ports,
        };
        steps.push(of(network.uuid, act));
    }
    steps
}

fn serve(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for wanted in desired.wanted.iter().filter(|wanted| wanted.member.up) {
        let network = wanted.member.network;
        let (Some(digest), Some(bridge)) = (wanted.member.service, &network.bridge.name) else {
            continue;
        };
        // No server without its bridge; a bridge of the host's has none.
        if !matches!(desired.scope, phase::Scope::Service(_)) && wanted.bridge.is_none() {
            continue;
        }
        // It is nobody's but the one of the namespace.
        if !observed.namespaces.contains(bridge) {
            continue;
        }
        let relay = observed.relays.get(&network.uuid).copied();
        let relay = relay.unwrap_or_default();
        if asks_host(network) && !relay.alive && !relay.held_back {
            let act = ServiceAct::StartRelay {
                network: network.name.clone(),
                bridge: bridge.clone(),
            };
            steps.push(of(network.uuid, act));
        }
        let service = observed.services.get(&network.uuid).copied();
        let service = service.unwrap_or_default();
        let (network_name, bridge) = (network.name.clone(), bridge.clone());
        let act = match service.serves {
            _ if !service.alive && service.held_back => continue,
            _ if !service.alive || !service.in_place => ServiceAct::StartDnsmasq {
                network: network_name,
                bridge,
            },
            Some(serves) if serves == digest => continue,
            serves => ServiceAct::ReloadDnsmasq {
                network: network_name,
                bridge,
                replace: serves.is_none_or(|serves| serves.conf != digest.conf),
            },
        };
        steps.push(of(network.uuid, act));
    }
    steps
}

fn forget(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let left = desired.wanted.iter().filter(|wanted| {
        let uuid = &wanted.member.network.uuid;
        let namespace = wanted.spec.as_ref().map(|spec| &spec.name);
        wanted.bridge.is_some()
            || observed.services.contains_key(uuid)
            || observed.relays.contains_key(uuid)
            || namespace.is_some_and(|name| observed.namespaces.contains(name))
            || rates::has_shaper(wanted, observed)
    });
    let left: BTreeSet<Uuid> = left.map(|wanted| wanted.member.network.uuid).collect();
    let mut steps = settle(desired, observed);
    let stays = |uuid: &Uuid| desired.running.contains(uuid) || left.contains(uuid);
    let gone = observed.noted.iter().filter(|(uuid, _)| !stays(uuid));
    steps.extend(gone.map(|(uuid, noted)| {
        let network = noted.name.clone();
        of(*uuid, ServiceAct::ForgetNetwork { network })
    }));
    steps
}
