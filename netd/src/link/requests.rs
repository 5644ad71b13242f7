//! Asking the kernel about devices, and changing them.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridgePort, InfoData, InfoVeth, LinkAttribute, LinkExtentMask, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::drivers::{DriverWatch, Drivers};
use super::error::LinkError;
use super::netlink::Requests;
use super::snapshot::{Address, Dump, Link, Route, Snapshot, ticks};
use crate::model::{Mac, check_interface_name};
use crate::netns::Netns;

/// The least and the greatest forward delay the kernel's STP works with
/// (`BR_MIN_FORWARD_DELAY`, `BR_MAX_FORWARD_DELAY`).
const STP_DELAY_MS: (u32, u32) = (2_000, 30_000);

/// The forward delay a bridge really has after [`Links::set_bridge`]: with STP the kernel keeps
/// it between 2 and 30 seconds, whatever was asked for.
#[must_use]
pub fn effective_delay_ms(stp: bool, delay_ms: u32) -> u32 {
    if stp {
        delay_ms.clamp(STP_DELAY_MS.0, STP_DELAY_MS.1)
    } else {
        delay_ms
    }
}

/// The far one of a pair of veth devices.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: Mac,
    /// The MTU of both.
    pub mtu: u32,
    /// Where it is; none for here.
    pub netns: Option<&'a Netns>,
}

/// The devices of the network namespace it was opened in; clones share one socket.
#[derive(Clone, Debug)]
pub struct Links {
    pub(super) requests: Requests,
    /// Asked what they can do, where anybody wants to know.
    drivers: Option<Drivers>,
}

impl Links {
    /// Opens the socket. Must be called within a tokio runtime, on a thread that is in the network
    /// namespace that is meant.
    pub fn connect() -> Result<Self, LinkError> {
        Ok(Self {
            requests: Requests::connect().map_err(LinkError::Socket)?,
            drivers: None,
        })
    }

    /// From now on [`Link::driver`] says what drivers can do.
    ///
    /// # Errors
    /// The kernel cannot tell (it can since Linux 6.3).
    pub fn ask_drivers(&mut self) -> Result<(), LinkError> {
        let drivers = Drivers::find().map_err(|source| LinkError::Dump {
            what: "netdev family of generic netlink",
            source,
        })?;
        self.drivers = Some(drivers);
        Ok(())
    }

    /// Subscribes to changes of [`Link::driver`]; none while nobody asked for that.
    ///
    /// # Errors
    /// The kernel does not tell of them.
    pub fn watch_drivers(&self) -> Result<Option<DriverWatch>, LinkError> {
        let watch = self.drivers.map(Drivers::watch).transpose();
        watch.map_err(LinkError::Socket)
    }

    /// Reads all devices, addresses and routes. The three lists are consistent each, not
    /// with one another: an address may name a device that is already gone.
    pub async fn snapshot(&self) -> Result<Snapshot, LinkError> {
        let mut dump = Dump::default();

        let mut request = LinkMessage::default();
        // Nobody here reads counters, and they are most of the answer's bytes.
        request
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let links = self
            .dump("network devices", RouteNetlinkMessage::GetLink(request))
            .await?;
        for message in links {
            if let RouteNetlinkMessage::NewLink(message) = message {
                let link = Link::from(message);
                dump.links.insert(link.index, link);
            }
        }

        if let Some(drivers) = &self.drivers {
            // Nothing depends on it: a driver that is not known can do nothing.
            let abilities = drivers.abilities().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot ask what drivers can do with XDP");
                Default::default()
            });
            for (index, driver) in abilities {
                if let Some(link) = dump.links.get_mut(&index) {
                    link.driver = driver;
                }
            }
        }

        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for message in self.dump("addresses", request).await? {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                dump.addresses.extend(Address::parse(message));
            }
        }

        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(request);
            for message in self.dump("routes", request).await? {
                // A kernel without IPv6 answers with what it has instead: the other family.
                if let RouteNetlinkMessage::NewRoute(message) = message
                    && message.header.address_family == family
                {
                    dump.routes.extend(Route::parse(message));
                }
            }
        }
        Ok(dump.into())
    }

    /// The index of the device that has this name now, if there is one.
    pub async fn index_of(&self, name: &str) -> Result<Option<u32>, LinkError> {
        let request = LinkUnspec::new_with_name(name).build();
        match self.get_link(request).await {
            Ok(link) => Ok(Some(link.index)),
            Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(refused("find", name, source)),
        }
    }

    /// The device that has this name now, if there is one.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        match self.get_link(LinkUnspec::new_with_name(name).build()).await {
            Ok(link) => Ok(Some(link)),
            Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(refused("find", name, source)),
        }
    }

    /// Creates a pair of veth devices, both down: one here, the other maybe in another network namespace.
    /// Returns the number of the one here.
    pub async fn create_veth(
        &self,
        name: &str,
        mac: Mac,
        inner: &Inner<'_>,
    ) -> Result<u32, LinkError> {
        let mut peer = LinkUnspec::new_with_name(inner.name)
            .address(inner.mac.0.to_vec())
            .mtu(inner.mtu);
        if let Some(netns) = inner.netns {
            peer = peer.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        let peer = peer.build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(
            rtnetlink::packet_route::link::InfoKind::Veth,
        )
        .name(name)
        .address(mac.0.to_vec())
        .mtu(inner.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
        self.requests
            .change(
                RouteNetlinkMessage::NewLink(message),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .await
            .map_err(|source| refused("create", name, source))?;
        let link = self.get_link(LinkUnspec::new_with_name(name).build()).await;
        Ok(link
            .map_err(|source| refused("find the new device", name, source))?
            .index)
    }

    /// Creates a bridge, down and without addresses, and returns its index. A device that already
    /// has the name is an error: it is somebody else's.
    pub async fn create_bridge(
        &self,
        name: &str,
        mac: Mac,
        mtu: Option<u32>,
    ) -> Result<u32, LinkError> {
        check_interface_name(name)
            .map_err(|reason| LinkError::InvalidName(name.to_owned(), reason))?;
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            .address(mac.0.to_vec())
            .build();
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.requests
            .change(RouteNetlinkMessage::NewLink(message), flags)
            .await
            .map_err(|source| {
                if source.raw_os_error() == Some(libc::EEXIST) {
                    LinkError::Exists(name.to_owned())
                } else {
                    refused("create bridge", name, source)
                }
            })?;
        let request = LinkUnspec::new_with_name(name).build();
        let index = self
            .get_link(request)
            .await
            .map_err(|source| refused("find the new bridge", name, source))?
            .index;
        // Not part of the creation: only br_change_mtu marks the MTU as chosen, and without that
        // mark br_mtu_auto_adjust changes it with every port that is added.
        if let Some(mtu) = mtu
            && let Err(error) = self.set_mtu(index, mtu).await
        {
            if let Err(again) = self.delete(index).await {
                tracing::warn!("after a failed creation: {again}");
            }
            return Err(error);
        }
        Ok(index)
    }

    /// Switches a bridge's STP and sets its forward delay. With STP on the kernel has limits, see
    /// [`effective_delay_ms`].
    pub async fn set_bridge(&self, index: u32, stp: bool, delay_ms: u32) -> Result<(), LinkError> {
        let bridge = || bridge_message(index);
        let delay = ticks(effective_delay_ms(stp, delay_ms));
        let state = if stp {
            BridgeStpState::KernelStp
        } else {
            BridgeStpState::Disabled
        };
        // br_changelink sets the delay before it switches STP, and br_set_forward_delay refuses a
        // short delay while STP runs: to leave STP takes two steps.
        if !stp {
            self.set(
                index,
                "switch off STP of",
                bridge().stp_state(state).build(),
            )
            .await?;
        }
        self.set(
            index,
            &format!("set STP and a forward delay of {delay_ms} ms on"),
            bridge().forward_delay(delay).stp_state(state).build(),
        )
        .await
    }

    /// Sets the MTU.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.set(index, &format!("set MTU {mtu} on"), message).await
    }

    /// Sets the hardware address.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index)
            .address(mac.0.to_vec())
            .build();
        self.set(index, "set the MAC address of", message).await
    }

    /// Switches a device on or off.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), LinkError> {
        let builder = LinkUnspec::new_with_index(index);
        if up {
            self.set(index, "bring up", builder.up().build()).await
        } else {
            self.set(index, "take down", builder.down().build()).await
        }
    }

    /// Isolates a port from the other isolated ports of its bridge, or no longer.
    pub async fn set_isolated(&self, port: u32, on: bool) -> Result<(), LinkError> {
        let message = LinkBridgePort::new(port)
            .append_info_data(InfoBridgePort::Isolated(on))
            .build();
        let what = if on { "isolate" } else { "let others reach" };
        self.set(port, &format!("{what} the port"), message).await
    }

    /// Has a bridge hold its ports to VLANs, or no longer.
    pub async fn filter_vlans(&self, bridge: u32, on: bool) -> Result<(), LinkError> {
        let message = bridge_message(bridge).vlan_filtering(on).build();
        self.set(bridge, "set VLAN filtering of", message).await
    }

    /// Makes a device a port of `controller`, or of none.
    pub async fn set_controller(
        &self,
        port: u32,
        controller: Option<u32>,
    ) -> Result<(), LinkError> {
        let builder = LinkUnspec::new_with_index(port);
        match controller {
            Some(controller) => {
                let name = self.name_of(controller).await;
                let message = builder.controller(controller).build();
                self.set(port, &format!("add to {name} the port"), message)
                    .await
            }
            None => {
                let message = builder.nocontroller().build();
                self.set(port, "remove from its bridge the port", message)
                    .await
            }
        }
    }

    /// Makes the kernel ask anew who has an address behind a device, and with which MAC address.
    pub async fn forget_neighbour(&self, index: u32, address: IpAddr) -> Result<(), LinkError> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        (message.header.family, message.attributes) = match address {
            IpAddr::V4(a) => (
                AddressFamily::Inet,
                vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(a))],
            ),
            IpAddr::V6(a) => (
                AddressFamily::Inet6,
                vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(a))],
            ),
        };
        const NO_SUCH_ENTRY: i32 = 2;
        let message = RouteNetlinkMessage::DelNeighbour(message);
        match self.requests.change(message, 0).await {
            Err(error) if error.raw_os_error() == Some(NO_SUCH_ENTRY) => Ok(()),
            result => {
                self.named(index, &format!("forget neighbour {address} on"), result)
                    .await
            }
        }
    }

    /// Has a device listen to solicitations for an address that no device has, or no longer. The
    /// kernel joins the group they are sent to; it does not answer them unless `proxy_ndp` is on.
    pub async fn listen_for(
        &self,
        index: u32,
        address: Ipv6Addr,
        on: bool,
    ) -> Result<(), LinkError> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        message.header.family = AddressFamily::Inet6;
        message.header.flags = NeighbourFlags::Proxy;
        message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(
            address,
        ))];
        let result = if on {
            let message = RouteNetlinkMessage::NewNeighbour(message);
            self.requests.change(message, NLM_F_CREATE).await
        } else {
            let message = RouteNetlinkMessage::DelNeighbour(message);
            self.requests.change(message, 0).await
        };
        match result {
            // The device, or the entry, went before.
            Err(error)
                if !on && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) =>
            {
                Ok(())
            }
            result => {
                let action = format!("listen for solicitations for {address} on");
                self.named(index, &action, result).await
            }
        }
    }

    /// Deletes a device.
    pub async fn delete(&self, index: u32) -> Result<(), LinkError> {
        let name = self.name_of(index).await;
        let message = LinkUnspec::new_with_index(index).build();
        self.requests
            .change(RouteNetlinkMessage::DelLink(message), 0)
            .await
            .map_err(|source| refused("delete", &name, source))
    }

    /// Sends a changed device.
    pub(super) async fn set(
        &self,
        index: u32,
        action: &str,
        message: LinkMessage,
    ) -> Result<(), LinkError> {
        let result = self
            .requests
            .change(RouteNetlinkMessage::NewLink(message), 0)
            .await;
        self.named(index, action, result).await
    }

    /// Adds operation and device to a failure; the name is looked up only then.
    pub(super) async fn named<T>(
        &self,
        index: u32,
        action: &str,
        result: io::Result<T>,
    ) -> Result<T, LinkError> {
        match result {
            Ok(value) => Ok(value),
            Err(source) => Err(refused(action, &self.name_of(index).await, source)),
        }
    }

    /// A device's name for a message, or its number when it is gone.
    pub(super) async fn name_of(&self, index: u32) -> String {
        match self
            .get_link(LinkUnspec::new_with_index(index).build())
            .await
        {
            Ok(link) => link.name,
            Err(_) => format!("device number {index}"),
        }
    }

    /// One device.
    async fn get_link(&self, request: LinkMessage) -> io::Result<Link> {
        self.get_link_message(request).await.map(Link::from)
    }

    /// One device, with all the kernel says about it.
    pub(super) async fn get_link_message(&self, request: LinkMessage) -> io::Result<LinkMessage> {
        match self
            .requests
            .get(RouteNetlinkMessage::GetLink(request))
            .await?
        {
            RouteNetlinkMessage::NewLink(message) => Ok(message),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the kernel answered with message type {}",
                    other.message_type()
                ),
            )),
        }
    }

    pub(super) async fn dump(
        &self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, LinkError> {
        self.requests
            .dump(request)
            .await
            .map_err(|source| LinkError::Dump { what, source })
    }
}

/// A message that changes an existing bridge.
pub(super) fn bridge_message(index: u32) -> LinkMessageBuilder<LinkBridge> {
    LinkMessageBuilder::<LinkBridge>::new_with_info_kind(
        rtnetlink::packet_route::link::InfoKind::Bridge,
    )
    .index(index)
}

fn refused(action: &str, device: &str, source: io::Error) -> LinkError {
    LinkError::Refused {
        action: action.to_owned(),
        device: device.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stp_bounds_the_delay() {
        assert_eq!(effective_delay_ms(true, 0), 2_000);
        assert_eq!(effective_delay_ms(true, 4_000), 4_000);
        assert_eq!(effective_delay_ms(true, 90_000), 30_000);
        assert_eq!(effective_delay_ms(false, 0), 0);
    }
}
