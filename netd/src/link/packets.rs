//! Packets that are put on a device's link, whoever they are from.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::sockopt::{BindToDevice, Broadcast};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto, setsockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

/// Have a device send an IPv4 packet to everybody on its link. The kernel fills in its checksum.
///
/// # Errors
/// There is no such device, it is down, or the kernel refuses.
pub fn send_to_all(device: &str, packet: &[u8]) -> io::Result<()> {
    // With this protocol the header is the sender's to write (raw(7)).
    let protocol = Some(ipproto::RAW);
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, protocol)?;
    setsockopt(&socket, BindToDevice, &device.into())?;
    setsockopt(&socket, Broadcast, &true)?;
    let all = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::BROADCAST, 0));
    let sent = sendto(socket.as_raw_fd(), packet, &all, MsgFlags::empty())?;
    match sent == packet.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}
