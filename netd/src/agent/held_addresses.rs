//! Fixed addresses that other guests still have: dnsmasq gives them to nobody else until their leases end. Those of guests
//! that are gone are ended.

use std::net::{IpAddr, Ipv4Addr};

use uuid::Uuid;

use super::contested::Contested;
use super::controller::Controller;
use crate::api::Lease;
use crate::dnsmasq::{give_back, leases};
use crate::link::{Snapshot, packets};
use crate::model::{DhcpHost, Mac, Network, in_subnet};
use crate::plan::guest_of_tap;
use crate::services::host_end;

/// Is a lease the one of the guest that an entry is for?
fn is_of(host: &DhcpHost, lease: &Lease) -> bool {
    let mac = |text: &Option<String>| text.as_deref().and_then(|mac| mac.parse::<Mac>().ok());
    match (mac(&host.mac), &host.id) {
        (Some(own), _) => mac(&lease.mac) == Some(own),
        (None, Some(id)) => lease.client_id.as_ref() == Some(id),
        (None, None) => host.name.is_some() && host.name == lease.hostname,
    }
}

/// A fixed address that somebody else leases.
struct Held<'a> {
    host: &'a DhcpHost,
    lease: &'a Lease,
}

fn held<'a>(network: &'a Network, leases: &'a [Lease]) -> Vec<Held<'a>> {
    let hosts = network.ips.iter().flat_map(|ip| &ip.dhcp.hosts);
    let pairs = hosts.flat_map(|host| leases.iter().map(move |lease| Held { host, lease }));
    let is_held =
        |Held { host, lease }: &Held<'_>| Some(lease.ip) == host.ip && !is_of(host, lease);
    pairs.filter(is_held).collect()
}

impl std::fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, lease } = self;
        let first = |names: [&Option<String>; 3]| {
            let name = names.into_iter().flatten().next();
            name.map(|name| name.escape_debug().to_string())
                .unwrap_or_default()
        };
        let who = first([&host.name, &host.mac, &host.id]);
        let holder = first([&lease.hostname, &lease.mac, &lease.client_id]);
        write!(
            f,
            "{}, fixed for '{who}', is leased by '{holder}'",
            lease.ip
        )?;
        match jiff::Timestamp::from_second(lease.expiry) {
            Ok(end) if lease.expiry > 0 => write!(f, " until {end}")?,
            _ => {}
        }
        write!(
            f,
            "; it changes hands when that guest is gone, or gives it back"
        )
    }
}

/// Is a guest gone for sure? That can be told where each port of the bridge says whose it is, as libvirt's
/// taps do.
fn is_gone(holder: Mac, bridge: &str, links: &Snapshot) -> bool {
    let Some(bridge) = links.by_name(bridge) else {
        return false;
    };
    let mut ports = links.ports_of(bridge.index);
    ports.all(|port| {
        let guest = port.mac.and_then(guest_of_tap);
        guest.is_some_and(|tap| tap.0[1..] != holder.0[1..])
    })
}

impl Controller {
    fn leases_of(&self, network: &Network) -> Vec<Lease> {
        let Some(bridge) = &network.bridge.name else {
            return Vec::new();
        };
        let now = jiff::Timestamp::now().as_second();
        let leases = leases::read(&self.host.paths.dnsmasq_dir(), bridge, network, None, now);
        leases.unwrap_or_else(|error| {
            tracing::warn!(network = network.name, %error, "cannot look whose fixed addresses are");
            Vec::new()
        })
    }

    /// What an administrator should know of the fixed addresses that a definition of an active network
    /// names.
    pub(super) fn held_addresses(&self, network: &Network) -> Vec<String> {
        let leases = self.leases_of(network);
        let held = held(network, &leases);
        held.iter().map(ToString::to_string).collect()
    }

    /// Note whose leases are to end when they are gone, of a network that runs with other fixed addresses.
    pub(super) fn note_contested(&mut self, uuid: Uuid) {
        let live = self.networks.get(uuid).ok().and_then(|e| e.live.as_ref());
        let Some(network) = live.map(|live| &live.network) else {
            self.contested.remove(&uuid);
            return;
        };
        let leases = self.leases_of(network);
        let contested = held(network, &leases).into_iter().filter_map(|held| {
            let IpAddr::V4(address) = held.lease.ip else {
                return None;
            };
            let own = |&(server, prefix): &(Ipv4Addr, u8)| {
                in_subnet(server.into(), address.into(), prefix)
            };
            Some(Contested {
                bridge: network.bridge.name.clone()?,
                server: network.ipv4_subnets().find(own)?.0,
                address,
                holder: held.lease.mac.as_deref()?.parse().ok()?,
            })
        });
        let contested: Vec<Contested> = contested.collect();
        match contested.is_empty() {
            true => self.contested.remove(&uuid),
            false => self.contested.insert(uuid, contested),
        };
    }

    /// End the leases of those that are gone.
    pub(super) async fn end_contested(&mut self) {
        if self.contested.is_empty() {
            return;
        }
        let networks = &self.networks;
        let is_live = |uuid: &Uuid| networks.get(*uuid).is_ok_and(|entry| entry.live.is_some());
        self.contested.retain(|uuid, _| is_live(uuid));
        let Ok(links) = self.snapshot().await else {
            return;
        };
        for uuid in self.contested.keys().copied().collect::<Vec<Uuid>>() {
            for one in self.contested.get(&uuid).cloned().unwrap_or_default() {
                if !is_gone(one.holder, &one.bridge, &links) {
                    continue;
                }
                let packet = give_back::packet(one.holder, one.address, one.server);
                let device = host_end(&one.bridge);
                match packets::send_to_all(&device, &packet) {
                    Ok(()) => tracing::info!(
                        address = %one.address,
                        guest = %one.holder,
                        "its lease ends: the guest is gone, and the address is fixed for another"
                    ),
                    Err(error) => tracing::warn!(%error, device, "a lease lasts until its end"),
                }
                if let Some(all) = self.contested.get_mut(&uuid) {
                    all.retain(|other| *other != one);
                }
            }
        }
        self.contested.retain(|_, all| !all.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Dump, Link};
    use crate::model;

    #[test]
    fn only_what_another_guest_leases_is_told() {
        let network = model::parse(
            "<network><name>n</name><ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>\
             <host mac='52:54:00:00:00:0A' name='web' ip='10.0.0.5'/>\
             <host name='db' ip='10.0.0.6'/><host mac='52:54:00:00:00:03' ip='10.0.0.7'/>\
             </dhcp></ip></network>",
        )
        .unwrap();
        let lease = |ip: [u8; 4], mac: &str, name: Option<&str>| Lease {
            interface: "br".to_owned(),
            expiry: 1_900_000_000,
            mac: Some(mac.to_owned()),
            iaid: None,
            ip: ip.into(),
            prefix: 24,
            hostname: name.map(str::to_owned),
            client_id: None,
        };
        let own = [
            lease([10, 0, 0, 5], "52:54:00:00:00:0a", None),
            lease([10, 0, 0, 6], "52:54:00:00:00:0b", Some("db")),
            lease([10, 0, 0, 9], "52:54:00:00:00:0c", Some("other")),
        ];
        assert!(held(&network, &own).is_empty());
        let others = [
            lease([10, 0, 0, 5], "52:54:00:00:00:0b", Some("old")),
            lease([10, 0, 0, 7], "52:54:00:00:00:0c", None),
        ];
        let told: Vec<String> = held(&network, &others)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("10.0.0.5, fixed for 'web', is leased by 'old' until 2030-"));
        assert!(told[1].contains("for '52:54:00:00:00:03', is leased by '52:54:00:00:00:0c'"));
    }

    #[test]
    fn a_guest_is_gone_where_every_port_is_somebody_elses() {
        let link = |index: u32, name: &str, mac: [u8; 6], controller: Option<u32>| Link {
            index,
            name: name.to_owned(),
            mac: Some(Mac(mac)),
            controller,
            ..Link::default()
        };
        let holder = Mac([0x52, 0x54, 0, 0, 0, 9]);
        let gone = |macs: &[[u8; 6]]| {
            let ports = (2..)
                .zip(macs)
                .map(|(index, mac)| link(index, "vnet", *mac, Some(1)));
            let all = ports.chain([link(1, "br", [2; 6], None)]);
            let dump = Dump {
                links: all.map(|link| (link.index, link)).collect(),
                ..Dump::default()
            };
            is_gone(holder, "br", &dump.into())
        };
        let tap = |last| [0xfe, 0x54, 0, 0, 0, last];
        assert!(gone(&[]));
        assert!(gone(&[tap(8)]));
        assert!(!gone(&[tap(8), tap(9)]));
        // Whose that is nobody knows.
        assert!(!gone(&[tap(8), [2, 0, 0, 0, 0, 1]]));
    }
}
