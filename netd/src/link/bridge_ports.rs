//! What goes through devices, and whom bridges have seen at their ports. A [`super::Snapshot`] has
//! neither: both change with every packet.

use std::collections::BTreeMap;

use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::LinkError;
use super::requests::Links;
use crate::model::Mac;

/// What a device has carried, as its driver counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that came in by it.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Those that were dropped.
    pub rx_dropped: u64,
    /// Packets that left by it.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Those that were dropped, because nobody took them say.
    pub tx_dropped: u64,
    /// Is somebody at its other end?
    pub carrier: bool,
}

/// A MAC address that a bridge has seen, or was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Learned {
    /// The bridge (ifindex).
    pub bridge: u32,
    /// Its port (ifindex).
    pub port: u32,
    /// The address.
    pub mac: Mac,
}

impl Links {
    /// The counters of all devices, by index.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub async fn counters(&self) -> Result<BTreeMap<u32, Counters>, LinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let links = self.dump("network devices", request).await?.into_iter();
        let counted = links.filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => {
                Some((message.header.index, counters(&message)))
            }
            _ => None,
        });
        Ok(counted.collect())
    }

    /// Whom the host's bridges know behind their ports; addresses of the host's own devices are left out.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub async fn learned(&self) -> Result<Vec<Learned>, LinkError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        let request = RouteNetlinkMessage::GetNeighbour(request);
        let entries = self.dump("bridges' MAC addresses", request).await?;
        Ok(entries
            .iter()
            .filter_map(|entry| match entry {
                RouteNetlinkMessage::NewNeighbour(message) => learned(message),
                _ => None,
            })
            .collect())
    }
}

fn counters(message: &LinkMessage) -> Counters {
    let mut counters = Counters::default();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Carrier(carrier) => counters.carrier = *carrier != 0,
            LinkAttribute::Stats64(stats) => {
                counters = Counters {
                    rx_packets: stats.rx_packets,
                    rx_bytes: stats.rx_bytes,
                    rx_dropped: stats.rx_dropped,
                    tx_packets: stats.tx_packets,
                    tx_bytes: stats.tx_bytes,
                    tx_dropped: stats.tx_dropped,
                    ..counters
                }
            }
            _ => {}
        }
    }
    counters
}

/// What an entry of a bridge's table says of somebody behind one of its ports.
pub(super) fn learned(message: &NeighbourMessage) -> Option<Learned> {
    // The bridge's own address, and those of its ports' devices, are no guests'.
    if message.header.state == NeighbourState::Permanent {
        return None;
    }
    let mut mac = None;
    let mut bridge = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
            }
            NeighbourAttribute::Controller(index) => bridge = Some(*index),
            _ => {}
        }
    }
    Some(Learned {
        bridge: bridge?,
        port: message.header.ifindex,
        mac: Mac(mac?),
    })
}
