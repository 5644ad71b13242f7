//! Whose addresses are: what leases, definitions, guests' ports and the programs know of them together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_common::timeout::idle;

use super::controller::Controller;
use super::flows::seconds;
use super::registry::Live;
use crate::api::{ApiError, FlowNames, GuestAddress, MAX_GUEST_ADDRESSES, Result};
use crate::datapath::flow_table::now;
use crate::dnsmasq::leases;
use crate::link::Snapshot;
use crate::model::Mac;

/// What is known, by bridge and address.
type Known = BTreeMap<(u32, IpAddr), GuestAddress>;

impl Controller {
    /// Names for the numbers in flows.
    pub(super) async fn flow_names(&self) -> Result<FlowNames> {
        let snapshot = self.host.links.snapshot().await;
        let snapshot = snapshot.map_err(ApiError::internal)?;
        let networks = self.networks.live().filter_map(|live| {
            let bridge = snapshot.by_name(live.network.bridge.name.as_deref()?)?;
            Some((bridge.index, live.network.name.clone()))
        });
        let devices = snapshot.links.values();
        let devices = devices.map(|link| (link.index, link.name.clone()));
        Ok(FlowNames {
            networks: networks.collect(),
            devices: devices.collect(),
            guests: self.guest_addresses(&snapshot)?,
        })
    }

    /// Guests' addresses, as far as they are known; [`MAX_GUEST_ADDRESSES`] at most.
    pub(super) fn guest_addresses(&self, snapshot: &Snapshot) -> Result<Vec<GuestAddress>> {
        let mut known = Known::new();
        let mut domains = BTreeMap::new();
        for live in self.networks.live() {
            let bridge = live.network.bridge.name.as_deref();
            let Some(bridge) = bridge.and_then(|name| snapshot.by_name(name)) else {
                continue;
            };
            self.add_definition_and_leases(live, bridge.index, &mut known);
            for port in live.network_ports.iter() {
                domains.insert((bridge.index, port.mac), port.owner.name.clone());
            }
        }
        let now = now();
        let endpoints = self.host.datapath()?.maps.endpoints();
        for (address, endpoint) in endpoints.map_err(ApiError::internal)? {
            let Some(link) = snapshot.links.get(&endpoint.ifindex) else {
                continue;
            };
            let bridge = link.controller.unwrap_or(link.index);
            let guest = entry(&mut known, bridge, address);
            guest.mac = Some(Mac(endpoint.mac).to_string());
            guest.seen_at = Some(endpoint.ifindex);
            guest.seen = Some(seconds(idle(endpoint.last_seen, now)));
        }
        let guests = known.into_values().take(MAX_GUEST_ADDRESSES);
        let named = guests.map(|mut guest| {
            let mac = guest.mac.as_deref().and_then(|mac| mac.parse().ok());
            let domain = mac.and_then(|mac| domains.get(&(guest.bridge, mac)));
            guest.domain = domain.cloned();
            guest
        });
        Ok(named.collect())
    }

    fn add_definition_and_leases(&self, live: &Live, bridge: u32, known: &mut Known) {
        let canonical = |mac: &String| {
            mac.parse()
                .map_or_else(|_| mac.clone(), |mac: Mac| mac.to_string())
        };
        let network = &live.network;
        for host in network.ips.iter().flat_map(|ip| &ip.dhcp.hosts) {
            if let Some(address) = host.ip {
                let guest = entry(known, bridge, address);
                guest.mac = host.mac.as_ref().map(canonical);
                guest.hostname.clone_from(&host.name);
            }
        }
        let dir = self.host.paths.dnsmasq_dir();
        let name = network.bridge.name.as_deref().unwrap_or_default();
        let now = jiff::Timestamp::now().as_second();
        let leases = match leases::read(&dir, name, network, None, now) {
            Ok(leases) => leases,
            Err(error) => {
                tracing::error!(network = network.name, %error, "its guests are told without names");
                return;
            }
        };
        for lease in leases {
            let guest = entry(known, bridge, lease.ip);
            guest.mac = lease.mac.as_ref().map(canonical).or(guest.mac.take());
            guest.hostname = lease.hostname.or(guest.hostname.take());
            guest.lease = Some(lease.expiry);
        }
    }
}

fn entry(known: &mut Known, bridge: u32, address: IpAddr) -> &mut GuestAddress {
    known.entry((bridge, address)).or_insert(GuestAddress {
        address,
        bridge,
        mac: None,
        hostname: None,
        domain: None,
        lease: None,
        seen_at: None,
        seen: None,
    })
}
