//! The socket of a DHCPv6 client at one device (RFC 8415, section 7).

use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UdpSocket;

const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
/// All servers and relay agents of a link.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// `IFA_F_TENTATIVE` of linux/if_addr.h: it may be another's.
const TENTATIVE: u32 = 0x40;

/// A device with a link-local address, by which servers are asked.
pub struct Link {
    socket: UdpSocket,
    index: u32,
}

impl Link {
    /// Ask by this device.
    ///
    /// # Errors
    /// There is none of that name, it has no link-local address (yet), or another client of the host's has
    /// the port there.
    pub fn open(device: &str) -> io::Result<Self> {
        let (index, own) = link_local(device)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        // At its own address alone, so that no other client loses its answers to this one.
        bind(&socket, &SocketAddrV6::new(own, CLIENT_PORT, 0, index))?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, index })
    }

    /// Send to all servers.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.index);
        self.socket.send_to(bytes, to).await.map(drop)
    }

    /// The next message. One from another link than this is none.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (length, from) = self.socket.recv_from(buffer).await?;
            let is_near = matches!(from, std::net::SocketAddr::V6(from)
                if from.ip().is_unicast_link_local() && from.scope_id() == self.index);
            if is_near {
                return Ok(length);
            }
        }
    }
}

/// Number and link-local address of a device, as /proc/net/if_inet6 has it.
fn link_local(device: &str) -> io::Result<(u32, Ipv6Addr)> {
    let table = fs::read_to_string("/proc/thread-self/net/if_inet6")?;
    find(&table, device).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("{device} has no link-local IPv6 address"),
        )
    })
}

/// A line is address, number, prefix length, scope and flags, in hexadecimal, and the name.
fn find(table: &str, device: &str) -> Option<(u32, Ipv6Addr)> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let index = u32::from_str_radix(words.next()?, 16).ok()?;
        let flags = u32::from_str_radix(words.nth(2)?, 16).ok()?;
        let address = Ipv6Addr::from(address);
        let is_it =
            words.next()? == device && address.is_unicast_link_local() && flags & TENTATIVE == 0;
        is_it.then_some((index, address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_that_is_the_devices_own_is_found() {
        let table = "\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000505400fffe000001 02 40 20 c0    eth0
20010db8000000000000000000000005 03 40 00 80    eth1
fe80000000000000505400fffe000002 03 40 20 80    eth1
";
        let own = "fe80::5054:ff:fe00:2".parse().unwrap();
        assert_eq!(find(table, "eth1"), Some((3, own)));
        // Tentative; of none; no such device.
        for device in ["eth0", "lo", "eth"] {
            assert_eq!(find(table, device), None, "{device}");
        }
    }
}
