//! Whether there is room for a network on the host: its bridge's name and its subnets are free.

use std::net::IpAddr;

use super::controller::Controller;
use crate::api::{ApiError, Result};
use crate::link::{
    Holding, InUse, Link, Snapshot, free_subnet, subnet_around, subnet_in_use, sysctl,
};
use crate::model::{Family, ForwardMode, Network, in_subnet, network_address};

type Subnet = (IpAddr, u8);

/// Other networks that an agent knows.
#[derive(Default)]
pub(super) struct Neighbours<'a> {
    /// Those that run. No address is in the subnets of two: who has it would be left to chance.
    pub running: Vec<&'a Network>,
    /// Those that are defined.
    pub defined: Vec<&'a Network>,
}

impl Controller {
    /// May the network start on this host as it is now, beside those that run?
    pub(super) fn check_room(&self, network: &Network, snapshot: &Snapshot) -> Result<()> {
        check_host(network, snapshot, &self.neighbours(network))
    }

    /// May an active network, whose bridge is there, run with this definition?
    pub(super) fn check_changed(&self, network: &Network, snapshot: &Snapshot) -> Result<()> {
        let neighbours = self.neighbours(network);
        match network.is_managed() {
            true => check_subnets(network, snapshot, &neighbours),
            false => check_host(network, snapshot, &neighbours),
        }
    }

    fn neighbours(&self, network: &Network) -> Neighbours<'_> {
        let others = self.networks.iter();
        let others = others.filter(|(uuid, _)| **uuid != network.uuid);
        let mut neighbours = Neighbours::default();
        for (_, entry) in others {
            let live = entry.live.as_ref();
            neighbours.running.extend(live.map(|live| &live.network));
            neighbours.defined.extend(&entry.config);
        }
        neighbours
    }
}

/// May the network start on this host as it is now?
pub(super) fn check_host(
    network: &Network,
    snapshot: &Snapshot,
    neighbours: &Neighbours<'_>,
) -> Result<()> {
    let name = match network.bridge.name.as_deref() {
        // Guests' macvtap and PCI devices are made by those who run the guests.
        None if !network.is_managed() => return Ok(()),
        name => name.unwrap_or_default(),
    };
    if network.mode() == ForwardMode::Bridge {
        return match snapshot.by_name(name) {
            Some(link) if link.bridge.is_some() => Ok(()),
            Some(_) => Err(ApiError::internal(format_args!(
                "network '{}' needs the host's bridge '{name}', but that device is no bridge",
                network.name
            ))),
            None => Err(ApiError::internal(format_args!(
                "network '{}' needs the host's bridge '{name}', which does not exist; create it \
                 first",
                network.name
            ))),
        };
    }
    if let Some(link) = snapshot.by_name(name) {
        return Err(ApiError::internal(format_args!(
            "bridge name '{name}' already in use: a device of that name exists{}; choose another \
             <bridge name> for network '{}' or remove the device (ip link delete {name})",
            belongings(link, snapshot),
            network.name
        )));
    }
    check_subnets(network, snapshot, neighbours)
}

/// What is on a device that is in the way, for those who think of removing it.
fn belongings(link: &Link, snapshot: &Snapshot) -> String {
    let ports: Vec<&str> = snapshot.ports_of(link.index).map(|p| &*p.name).collect();
    let addresses = snapshot.addresses_of(link.index);
    let addresses: Vec<String> = addresses
        .map(|address| format!("{}/{}", address.address, address.prefix))
        .collect();
    let list = |what: &str, of: String| match of.is_empty() {
        true => format!("no {what}"),
        false => format!("{what} {of}"),
    };
    let kind = link.kind.as_deref().unwrap_or("interface");
    let ports = list("ports", ports.join(", "));
    let addresses = list("addresses", addresses.join(", "));
    format!(" (a {kind} with {ports} and {addresses})")
}

/// Are a network's addresses free, but for its own bridge, and may the host have such?
pub(super) fn check_subnets(
    network: &Network,
    snapshot: &Snapshot,
    neighbours: &Neighbours<'_>,
) -> Result<()> {
    let name = network.bridge.name.as_deref();
    for subnet in subnets(network) {
        let in_use = subnet_in_use(subnet, name, snapshot);
        let in_use = in_use.or_else(|| neighbours.holder(subnet));
        let Some(in_use) = in_use else {
            continue;
        };
        let known = neighbours.running.iter().chain(&neighbours.defined);
        let taken: Vec<Subnet> = known.flat_map(|other| subnets(other)).collect();
        return Err(match free_subnet(subnet, &taken, snapshot) {
            Some((free, prefix)) => {
                ApiError::internal(format_args!("{in_use}; {free}/{prefix} is free"))
            }
            None => ApiError::internal(in_use),
        });
    }
    if network.has(Family::Ipv6) && !sysctl::has_ipv6().map_err(ApiError::internal)? {
        return Err(ApiError::internal(format_args!(
            "network '{}' has an IPv6 <ip>, but this kernel runs without IPv6; boot it \
             without ipv6.disable=1 or remove the element",
            network.name
        )));
    }
    Ok(())
}

impl Neighbours<'_> {
    /// A network that runs and has part of a subnet.
    fn holder(&self, subnet: Subnet) -> Option<InUse> {
        self.running.iter().find_map(|other| {
            let (network, prefix) = subnets(other)
                .find(|&(address, prefix)| in_subnet(address, subnet.0, prefix.min(subnet.1)))?;
            Some(InUse {
                interface: other.bridge.name.clone().unwrap_or_default(),
                holding: Holding::Subnet(network_address(network, prefix), prefix),
            })
        })
    }
}

/// The subnets of a network and those behind its guests: its address there, or the first one, and the
/// length of the prefix.
fn subnets(network: &Network) -> impl Iterator<Item = Subnet> {
    let v4 = network.ipv4_subnets().map(|(a, len)| (IpAddr::V4(a), len));
    let v6 = network.ipv6_subnets().map(|(a, len)| (IpAddr::V6(a), len));
    let behind = network.routes.iter().map(|r| (r.address, r.prefix_len()));
    v4.chain(v6).chain(behind)
}

/// Tells of a wider subnet that a network takes its own from: what the host sent there goes to guests.
pub(super) fn warn_of_subnets_around(network: &Network, snapshot: &Snapshot) {
    let around = subnets(network).find_map(|subnet| {
        let around = subnet_around(subnet, network.bridge.name.as_deref(), snapshot)?;
        Some((subnet, around))
    });
    if let Some(((address, prefix), InUse { interface, holding })) = around
        && let Holding::Subnet(wide, length) = holding
    {
        tracing::warn!(
            network = network.name,
            "its subnet {address}/{prefix} is part of {wide}/{length}, which the host reaches by \
             {interface}; what it sends to that part goes to guests from now on"
        );
    }
}
