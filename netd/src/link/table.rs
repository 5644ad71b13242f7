//! A bridge's table of MAC addresses.

use rtnetlink::LinkBridgePort;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::link::InfoBridgePort;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::LinkError;
use super::requests::Links;
use crate::model::Mac;

impl Links {
    /// Has a bridge know a MAC address at a port, where it neither learns nor floods from then on; or
    /// forget it and learn again. The entry does not age (`NUD_NOARP`), and goes with the port.
    pub async fn manage_table(&self, port: u32, mac: Mac, on: bool) -> Result<(), LinkError> {
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = port;
        entry.header.state = NeighbourState::Noarp;
        entry.header.flags = NeighbourFlags::Controller;
        entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
        let port_with = |on: bool| {
            LinkBridgePort::new(port)
                .append_info_data(InfoBridgePort::Learning(on))
                .append_info_data(InfoBridgePort::UnicastFlood(on))
                .build()
        };
        if on {
            // Before nothing is flooded: what is for the guest would be lost.
            let message = RouteNetlinkMessage::NewNeighbour(entry);
            let added = self
                .requests
                .change(message, NLM_F_CREATE | NLM_F_REPLACE)
                .await;
            self.named(port, &format!("expect {mac} at"), added).await?;
            return self
                .set(port, "switch learning off at", port_with(false))
                .await;
        }
        self.set(port, "switch learning on at", port_with(true))
            .await?;
        let message = RouteNetlinkMessage::DelNeighbour(entry);
        let removed = match self.requests.change(message, 0).await {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        };
        self.named(port, &format!("no longer expect {mac} at"), removed)
            .await
    }
}
