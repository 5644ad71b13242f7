//! The ports of networks' bridges, for those who ask: who is behind each, and how it goes.

use std::collections::{BTreeMap, BTreeSet};

use netd_common::abi::{PORT_SERVICES, PORT_SHAPER};

use super::controller::Controller;
use super::registry::Live;
use crate::api::{ApiError, Carried, GuestAddress, GuestPort, PortAddress, PortGuest, Result};
use crate::link::{Counters, Learned, Link, Snapshot, port_state};
use crate::model::Mac;

/// What ports are told by.
struct Look {
    snapshot: Snapshot,
    counters: BTreeMap<u32, Counters>,
    /// Who was seen behind ports.
    macs: BTreeMap<u32, BTreeSet<Mac>>,
    /// What is known of their addresses, by bridge.
    addresses: BTreeMap<(u32, Mac), Vec<GuestAddress>>,
    /// Ports that are no guests'.
    own: BTreeSet<u32>,
    /// Drops that are on record, by device.
    drops: BTreeMap<u32, u32>,
}

impl Controller {
    /// The ports of the network named, or of all active ones, by network and name.
    pub(super) async fn guest_ports(&mut self, network: Option<&str>) -> Result<Vec<GuestPort>> {
        if let Some(name) = network {
            self.uuid_of(name)?;
        }
        let look = self.look_at_ports().await?;
        let live = self.networks.live();
        let meant = live.filter(|live| network.is_none_or(|name| live.network.name == name));
        let mut ports: Vec<GuestPort> = meant.flat_map(|live| look.ports(live)).collect();
        ports.sort_by(|a, b| (&a.network, &a.device).cmp(&(&b.network, &b.device)));
        Ok(ports)
    }

    async fn look_at_ports(&mut self) -> Result<Look> {
        let links = &self.host.links;
        let snapshot = links.snapshot().await.map_err(ApiError::internal)?;
        let counters = links.counters().await.map_err(ApiError::internal)?;
        let learned = links.learned().await.map_err(ApiError::internal)?;
        let mut macs: BTreeMap<u32, BTreeSet<Mac>> = BTreeMap::new();
        for Learned { port, mac, .. } in learned {
            macs.entry(port).or_default().insert(mac);
        }
        let mut addresses: BTreeMap<_, Vec<GuestAddress>> = BTreeMap::new();
        for known in self.guest_addresses(&snapshot)? {
            let Some(mac) = known.mac.as_deref().and_then(|mac| mac.parse().ok()) else {
                continue;
            };
            if let Some(port) = known.seen_at {
                macs.entry(port).or_default().insert(mac);
            }
            addresses
                .entry((known.bridge, mac))
                .or_default()
                .push(known);
        }
        let datapath = self.host.datapath_mut()?;
        datapath.events.drain();
        let mut drops = BTreeMap::new();
        for numbered in datapath.events.since(0) {
            *drops.entry(numbered.event.ifindex).or_default() += 1;
        }
        let records = datapath.maps.ports().map_err(ApiError::internal)?;
        let own = records.into_iter();
        let own = own.filter(|(_, port)| port.flags & (PORT_SERVICES | PORT_SHAPER) != 0);
        Ok(Look {
            own: own.map(|(ifindex, _)| ifindex).collect(),
            snapshot,
            counters,
            macs,
            addresses,
            drops,
        })
    }
}

impl Look {
    fn ports(&self, live: &Live) -> Vec<GuestPort> {
        let name = live.network.bridge.name.as_deref();
        let Some(bridge) = name.and_then(|name| self.snapshot.by_name(name)) else {
            return Vec::new();
        };
        let owners = live.network_ports.iter();
        let domains = owners.map(|port| (port.mac, port.owner.name.as_str()));
        let domains = domains.collect();
        let ports = self.snapshot.ports_of(bridge.index);
        let ports = ports.filter(|port| !self.own.contains(&port.index));
        ports
            .map(|port| self.port(live, &domains, bridge, port))
            .collect()
    }

    fn port(
        &self,
        live: &Live,
        domains: &BTreeMap<Mac, &str>,
        bridge: &Link,
        port: &Link,
    ) -> GuestPort {
        let counters = self.counters.get(&port.index).copied().unwrap_or_default();
        // Who is expected there stands first.
        let owner = port.mac.and_then(|tap| live.network_ports.of_tap(tap)?.mac);
        let seen = self.macs.get(&port.index).into_iter().flatten();
        let others = seen.copied().filter(|mac| Some(*mac) != owner);
        let macs = owner.into_iter().chain(others);
        let guests = macs.map(|mac| self.guest(domains.get(&mac).copied(), bridge, mac));
        GuestPort {
            network: live.network.name.clone(),
            bridge: bridge.name.clone(),
            device: port.name.clone(),
            ifindex: port.index,
            link: link_state(port, counters.carrier).to_owned(),
            isolated: port.isolated,
            guests: guests.collect(),
            // What comes in by the port its guest has sent.
            sent: Carried {
                packets: counters.rx_packets,
                bytes: counters.rx_bytes,
                dropped: counters.rx_dropped,
            },
            received: Carried {
                packets: counters.tx_packets,
                bytes: counters.tx_bytes,
                dropped: counters.tx_dropped,
            },
            recent_drops: self.drops.get(&port.index).copied().unwrap_or_default(),
        }
    }

    fn guest(&self, domain: Option<&str>, bridge: &Link, mac: Mac) -> PortGuest {
        let known = self
            .addresses
            .get(&(bridge.index, mac))
            .into_iter()
            .flatten();
        PortGuest {
            mac: mac.to_string(),
            domain: domain.map(str::to_owned),
            hostname: known.clone().find_map(|known| known.hostname.clone()),
            addresses: known
                .map(|known| PortAddress {
                    address: known.address,
                    lease: known.lease,
                    seen: known.seen,
                })
                .collect(),
        }
    }
}

/// How far a port is from carrying its guest's frames, in a word.
fn link_state(port: &Link, carrier: bool) -> &'static str {
    match (port.up, carrier, port.port_state) {
        (false, _, _) => "down",
        (_, false, _) => "no carrier",
        (_, _, Some(port_state::LISTENING)) => "listening",
        (_, _, Some(port_state::LEARNING)) => "learning",
        (_, _, Some(port_state::FORWARDING)) => "forwarding",
        (_, _, Some(port_state::BLOCKING)) => "blocking",
        (_, _, _) => "disabled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_carries_frames_or_says_why_not() {
        let link = |up, state| Link {
            up,
            port_state: Some(state),
            ..Link::default()
        };
        for (up, carrier, state, told) in [
            (false, false, port_state::DISABLED, "down"),
            (true, false, port_state::DISABLED, "no carrier"),
            (true, true, port_state::DISABLED, "disabled"),
            (true, true, port_state::LISTENING, "listening"),
            (true, true, port_state::LEARNING, "learning"),
            (true, true, port_state::BLOCKING, "blocking"),
            (true, true, port_state::FORWARDING, "forwarding"),
        ] {
            assert_eq!(link_state(&link(up, state), carrier), told);
        }
    }
}
