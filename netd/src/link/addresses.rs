//! Addresses of devices, and the routes that belong to them.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::LinkError;
use super::requests::Links;
use super::snapshot::Address;
use crate::model::{in_subnet, network_address};

/// The metric of the kernel's own routes to IPv6 subnets (`IP6_RT_PRIO_ADDRCONF`).
const CONNECTED_METRIC: u32 = 256;

impl Links {
    /// Gives a device an address; an IPv4 one comes with its subnet's broadcast address. An IPv6
    /// one is good at once, without asking the link who else has it: a bridge without ports could
    /// not ask, and no guest is to be able to take the address away by answering.
    pub async fn add_address(
        &self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), LinkError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address, prefix));
        let result = self
            .requests
            .change(message, NLM_F_CREATE | NLM_F_EXCL)
            .await;
        self.named(index, &format!("add address {address}/{prefix} to"), result)
            .await
    }

    /// Adds the way to a subnet by a gateway on a device's link.
    pub async fn add_route(
        &self,
        index: u32,
        (subnet, prefix): (IpAddr, u8),
        gateway: IpAddr,
        metric: u32,
    ) -> Result<(), LinkError> {
        let what = format!("add the route to {subnet}/{prefix} via {gateway} on");
        let result = match route_message(index, (subnet, prefix), gateway, metric) {
            Ok(message) => {
                let message = RouteNetlinkMessage::NewRoute(message);
                self.requests
                    .change(message, NLM_F_CREATE | NLM_F_EXCL)
                    .await
            }
            Err(error) => Err(error),
        };
        self.named(index, &what, result).await
    }

    /// Removes such a way; one that is not there is no error.
    pub async fn del_route(
        &self,
        index: u32,
        (subnet, prefix): (IpAddr, u8),
        gateway: IpAddr,
        metric: u32,
    ) -> Result<(), LinkError> {
        let what = format!("remove the route to {subnet}/{prefix} via {gateway} on");
        let result = match route_message(index, (subnet, prefix), gateway, metric) {
            Ok(message) => {
                let message = RouteNetlinkMessage::DelRoute(message);
                match self.requests.change(message, 0).await {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                    result => result,
                }
            }
            Err(error) => Err(error),
        };
        self.named(index, &what, result).await
    }

    /// Adds the way to the subnet of a device's address as the kernel does when the address comes.
    pub async fn add_connected_route(
        &self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), LinkError> {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Kernel;
        message.header.kind = RouteType::Unicast;
        let subnet = network_address(address, prefix);
        message.attributes = vec![
            RouteAttribute::Destination(subnet.into()),
            RouteAttribute::Oif(index),
        ];
        match address {
            IpAddr::V4(_) => {
                message.header.address_family = AddressFamily::Inet;
                message.header.scope = RouteScope::Link;
                message
                    .attributes
                    .push(RouteAttribute::PrefSource(address.into()));
            }
            IpAddr::V6(_) => {
                message.header.address_family = AddressFamily::Inet6;
                message
                    .attributes
                    .push(RouteAttribute::Priority(CONNECTED_METRIC));
            }
        }
        let message = RouteNetlinkMessage::NewRoute(message);
        let result = self.requests.change(message, NLM_F_CREATE).await;
        let what = format!("add the route to {subnet}/{prefix} on");
        self.named(index, &what, result).await
    }

    /// Takes an address from a device; one that it does not have is no error.
    pub async fn del_address(
        &self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), LinkError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address, prefix));
        let result = match self.requests.change(message, 0).await {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            result => result,
        };
        self.named(
            index,
            &format!("remove address {address}/{prefix} from"),
            result,
        )
        .await
    }
}

/// A way to a subnet by a gateway, whose family is the subnet's.
fn route_message(
    index: u32,
    (subnet, prefix): (IpAddr, u8),
    gateway: IpAddr,
    metric: u32,
) -> io::Result<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .priority(metric)
        .protocol(RouteProtocol::Static)
        .destination_prefix(subnet, prefix)
        .and_then(|builder| builder.gateway(gateway));
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    builder.map(RouteMessageBuilder::build).map_err(invalid)
}

/// How a device comes to have other addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readdressing {
    /// What is taken from it, in order.
    pub removed: Vec<(IpAddr, u8)>,
    /// What it is given then, in order.
    pub added: Vec<(IpAddr, u8)>,
}

/// How a device with the addresses `present` loses those that go and gets what it lacks of `wanted`.
///
/// An IPv4 address beside an earlier one of its subnet is secondary, and goes with that one
/// (`inet_del_ifa`, unless `promote_secondaries` is set). It is taken away first and given again.
#[must_use]
pub fn readdress<'a>(
    present: impl IntoIterator<Item = &'a Address>,
    wanted: &[(IpAddr, u8)],
    goes: impl Fn(&(IpAddr, u8)) -> bool,
) -> Readdressing {
    let present: Vec<&Address> = present.into_iter().collect();
    let pair = |address: &&Address| (address.address, address.prefix);
    let stale: Vec<(IpAddr, u8)> = present
        .iter()
        .map(pair)
        .filter(|pair| goes(pair) && !wanted.contains(pair))
        .collect();
    let goes_along = |address: &&&Address| {
        !address.primary
            && wanted.contains(&pair(address))
            && stale.iter().any(|&(first, prefix)| {
                prefix == address.prefix && in_subnet(first, address.address, prefix)
            })
    };
    let mut removed: Vec<(IpAddr, u8)> = present.iter().filter(goes_along).map(pair).collect();
    removed.extend(stale);
    let stays = |pair: &(IpAddr, u8)| {
        let mut present = present.iter();
        present.any(|address| (address.address, address.prefix) == *pair) && !removed.contains(pair)
    };
    let added = wanted.iter().filter(|pair| !stays(pair)).copied().collect();
    Readdressing { removed, added }
}

pub(super) fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.flags = match address {
        IpAddr::V4(_) => AddressHeaderFlags::empty(),
        IpAddr::V6(_) => AddressHeaderFlags::Nodad,
    };
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    if let IpAddr::V4(address) = address
        && let Some(broadcast) = broadcast(address, prefix)
    {
        message
            .attributes
            .push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

/// The subnet's last address; subnets of one or two addresses have no broadcast (RFC 3021).
fn broadcast(address: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    (prefix < 31).then(|| Ipv4Addr::from(u32::from(address) | (u32::MAX >> prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_is_the_last_address() {
        let address = Ipv4Addr::new(192, 168, 122, 1);
        let last = |a, b, c, d| Some(Ipv4Addr::new(a, b, c, d));
        assert_eq!(broadcast(address, 24), last(192, 168, 122, 255));
        assert_eq!(broadcast(address, 30), last(192, 168, 122, 3));
        assert_eq!(broadcast(address, 0), last(255, 255, 255, 255));
        assert_eq!(broadcast(address, 31), None);
        assert_eq!(broadcast(address, 32), None);
    }

    fn address(last: u8, prefix: u8, primary: bool) -> Address {
        Address {
            index: 1,
            address: IpAddr::from([10, 0, 0, last]),
            prefix,
            primary,
            scope: crate::link::Scope::Global,
        }
    }

    #[test]
    fn what_is_secondary_to_an_address_that_goes_is_given_again() {
        let of = |last: u8, prefix: u8| (IpAddr::from([10, 0, 0, last]), prefix);
        let present = [
            address(1, 24, true),
            address(2, 24, false),
            address(9, 32, true),
        ];
        let change = |wanted: &[(IpAddr, u8)], gone: (IpAddr, u8)| {
            readdress(&present, wanted, |pair| *pair == gone)
        };
        let to = |removed: &[(IpAddr, u8)], added: &[(IpAddr, u8)]| Readdressing {
            removed: removed.to_vec(),
            added: added.to_vec(),
        };
        // What is nobody's to take stays.
        assert_eq!(change(&[of(2, 24), of(1, 24)], of(9, 24)), to(&[], &[]));
        assert_eq!(change(&[of(1, 24)], of(2, 24)), to(&[of(2, 24)], &[]));
        assert_eq!(
            change(&[of(2, 24), of(3, 24)], of(1, 24)),
            to(&[of(2, 24), of(1, 24)], &[of(2, 24), of(3, 24)])
        );
        // Of a subnet of another size it is its own.
        assert_eq!(
            change(&[of(9, 32), of(1, 16)], of(1, 24)),
            to(&[of(1, 24)], &[of(1, 16)])
        );
        // What is asked for does not go.
        assert_eq!(change(&[of(1, 24), of(2, 24)], of(1, 24)), to(&[], &[]));
    }
}
