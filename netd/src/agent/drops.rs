//! Why packets were lost, for those who ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netd_common::Reason;
use netd_common::abi::DropEvent;
use netd_common::proto;

use super::controller::Controller;
use crate::api::{ApiError, DropRecord, DropStatus, Drops, Result, SCHEMA};
use crate::datapath::events::{Numbered, age};
use crate::link::Snapshot;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

impl Controller {
    /// The counters, and the records behind number `since`.
    pub(super) async fn drops(&mut self, since: u64) -> Result<Drops> {
        let snapshot = self
            .host
            .links
            .snapshot()
            .await
            .map_err(ApiError::internal)?;
        self.host.datapath_mut()?.events.drain();
        let events = &self.host.datapath()?.events;
        let records: Vec<DropRecord> = events
            .since(since)
            .map(|numbered| self.record(numbered, &snapshot))
            .collect();
        let live = self.networks.live().map(|live| &live.network);
        let isolated = live.filter(|network| network.port_isolated == Some(true));
        Ok(Drops {
            schema: SCHEMA,
            isolated_networks: isolated.map(|network| network.name.clone()).collect(),
            counters: self.drop_counts()?,
            records,
        })
    }

    /// The counters of the reasons that occurred.
    pub(super) fn drop_counts(&self) -> Result<Vec<DropStatus>> {
        let counts = self
            .host
            .datapath()?
            .maps
            .drops()
            .map_err(ApiError::internal)?;
        let counts = counts.into_iter().map(|(reason, count)| DropStatus {
            reason: reason.name().to_owned(),
            explanation: reason.explanation().to_owned(),
            packets: count.packets,
            bytes: count.bytes,
        });
        Ok(counts.collect())
    }

    fn record(&self, Numbered { number, event }: Numbered, snapshot: &Snapshot) -> DropRecord {
        let link = snapshot.links.get(&event.ifindex);
        let bridge = link.map_or(event.ifindex, |link| link.controller.unwrap_or(link.index));
        let mut noted = self.host.noted.values();
        let network = noted.find(|noted| noted.bridge == Some(bridge));
        let reason = Reason::ALL.get(event.reason as usize);
        let now = jiff::Timestamp::now().as_microsecond();
        let age = i64::try_from(age(event.time).as_micros()).unwrap_or_default();
        let (source, destination) = ends(&event);
        DropRecord {
            number,
            time: now.saturating_sub(age),
            network: network.map(|noted| noted.name.clone()),
            device: link.map_or_else(|| event.ifindex.to_string(), |link| link.name.clone()),
            reason: reason.map_or("?", |reason| reason.name()).to_owned(),
            explanation: reason.map_or("", |reason| reason.explanation()).to_owned(),
            protocol: protocol(&event),
            source,
            destination,
            length: event.len,
            suppressed: event.suppressed,
        }
    }
}

/// Source and destination as they are written; empty for frames without addresses.
fn ends(event: &DropEvent) -> (String, String) {
    let address = |bytes: [u8; 16]| -> Option<IpAddr> {
        let [a, b, c, d, ..] = bytes;
        match u16::from_be_bytes(event.ether_type) {
            IPV4 | ARP => Some(Ipv4Addr::new(a, b, c, d).into()),
            IPV6 => Some(Ipv6Addr::from(bytes).into()),
            _ => None,
        }
    };
    let end = |bytes: [u8; 16], port: [u8; 2]| match (address(bytes), u16::from_be_bytes(port)) {
        (None, _) => String::new(),
        (Some(address), 0) => address.to_string(),
        (Some(address), port) => SocketAddr::new(address, port).to_string(),
    };
    (end(event.src, event.sport), end(event.dst, event.dport))
}

/// What the packet is, in a word.
fn protocol(event: &DropEvent) -> String {
    let kind = u16::from_be_bytes(event.ether_type);
    match (kind, event.proto) {
        (ARP, _) => "arp".to_owned(),
        (IPV4 | IPV6, proto::TCP) => "tcp".to_owned(),
        (IPV4 | IPV6, proto::UDP) => "udp".to_owned(),
        (IPV4 | IPV6, proto::SCTP) => "sctp".to_owned(),
        (IPV4, proto::ICMP) => "icmp".to_owned(),
        (IPV6, proto::ICMPV6) => "icmpv6".to_owned(),
        (IPV4 | IPV6, other) => format!("ip {other}"),
        (other, _) => format!("0x{other:04x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, protocol: u8, port: u16) -> DropEvent {
        DropEvent {
            ether_type: kind.to_be_bytes(),
            proto: protocol,
            sport: port.to_be_bytes(),
            src: [10; 16],
            dst: [11; 16],
            ..DropEvent::default()
        }
    }

    #[test]
    fn packets_in_words() {
        for (event, words, source, destination) in [
            (event(IPV4, 6, 80), "tcp", "10.10.10.10:80", "11.11.11.11"),
            (event(IPV4, 1, 0), "icmp", "10.10.10.10", "11.11.11.11"),
            (event(IPV4, 47, 0), "ip 47", "10.10.10.10", "11.11.11.11"),
            (event(ARP, 0, 0), "arp", "10.10.10.10", "11.11.11.11"),
            (event(0x88cc, 0, 0), "0x88cc", "", ""),
        ] {
            assert_eq!(protocol(&event), words);
            assert_eq!(ends(&event), (source.to_owned(), destination.to_owned()));
        }
        let (source, _) = ends(&event(IPV6, 17, 53));
        assert_eq!(source, "[a0a:a0a:a0a:a0a:a0a:a0a:a0a:a0a]:53");
    }
}
