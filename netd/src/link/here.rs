//! Changes in the calling thread's network namespace, one question to the kernel at a time: for
//! namespaces that a thread enters to furnish them.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{LinkBridge, LinkUnspec, RouteMessageBuilder};
use rustix::net::{AddressFamily, SocketType, socket};

use super::addresses::address_message;

const NEW: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Number of the device that has this name.
///
/// # Errors
/// There is none.
pub fn index_of(name: &str) -> io::Result<u32> {
    let socket = socket(AddressFamily::NETLINK, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(socket, name)?)
}

/// Make a bridge.
///
/// # Errors
/// The kernel refuses, for example since there is a device of that name.
pub fn add_bridge(name: &str) -> io::Result<()> {
    let message = LinkBridge::new(name).build();
    ask(RouteNetlinkMessage::NewLink(message), NEW)
}

/// Switch a device on.
///
/// # Errors
/// The kernel refuses.
pub fn set_up(index: u32) -> io::Result<()> {
    let message = LinkUnspec::new_with_index(index).up().build();
    ask(RouteNetlinkMessage::NewLink(message), NLM_F_ACK)
}

/// As [`super::Links::add_address`].
///
/// # Errors
/// The kernel refuses.
pub fn add_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let message = address_message(index, address, prefix);
    ask(RouteNetlinkMessage::NewAddress(message), NEW)
}

/// Take an address from a device; one that it does not have is no error.
///
/// # Errors
/// The kernel refuses.
pub fn del_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let message = address_message(index, address, prefix);
    match ask(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}

/// Add the way to a subnet by a gateway on a device's link.
///
/// # Errors
/// The kernel refuses.
pub fn add_route(index: u32, (subnet, prefix): (IpAddr, u8), gateway: IpAddr) -> io::Result<()> {
    let route = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .protocol(RouteProtocol::Static)
        .destination_prefix(subnet, prefix)
        .and_then(|route| route.gateway(gateway));
    new_route(route.map(RouteMessageBuilder::build))
}

/// Have every address of a family that no other route has be one of this namespace's own. What is sent
/// to one has the address `from`.
///
/// # Errors
/// The kernel refuses.
pub fn add_local_route(loopback: u32, any: IpAddr, from: IpAddr) -> io::Result<()> {
    /// The table that routes are in unless they say otherwise: it comes after that of the addresses
    /// of devices, and has those of their subnets, which are longer.
    const MAIN: u32 = 254;
    let route = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(loopback)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .table_id(MAIN)
        .protocol(RouteProtocol::Static)
        .destination_prefix(any, 0)
        .and_then(|route| route.pref_source(from));
    new_route(route.map(RouteMessageBuilder::build))
}

fn new_route<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    route: Result<RouteMessage, E>,
) -> io::Result<()> {
    let route = route.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    ask(RouteNetlinkMessage::NewRoute(route), NEW)
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    crate::netlink::ask::<_, RouteNetlinkMessage>(None, flags, message).map(drop)
}
