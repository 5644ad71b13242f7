//! A socket on a wire: sends frames, and receives all that the other end sends.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::bind;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, eth, recv, send,
    socket_with,
};

use super::neighbour::Question;
use super::world::Station;
use crate::Netns;

/// Longest frame.
const LONGEST: usize = 65_600;
/// Room for what arrives while packets are being sent.
const BUFFER: usize = 32 << 20;

/// The socket.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// A tap on a device of a namespace. What it sends itself it does not receive.
    ///
    /// # Errors
    /// There is no such device, or not root.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        netns.enter(|| {
            let address = nix::ifaddrs::getifaddrs()?
                .filter(|interface| interface.interface_name == device)
                .find_map(|interface| interface.address?.as_link_addr().copied())
                .with_context(|| format!("no device {device}"))?;
            let socket = socket_with(
                AddressFamily::PACKET,
                SocketType::RAW,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                Some(Protocol::from_raw(eth::ALL.as_raw())),
            )
            .context("opening a packet socket")?;
            bind(socket.as_raw_fd(), &address).context("binding it to the device")?;
            set_socket_recv_buffer_size_force(&socket, BUFFER).context("enlarging its buffer")?;
            Ok(Self { socket })
        })?
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The device is down, or the frame too long for it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = match send(&self.socket, frame, SendFlags::empty()) {
            // Too long for the device, or for the other end of the cable, on both sides alike.
            Err(Errno::NOBUFS | Errno::MSGSIZE) => return Ok(()),
            sent => sent.context("sending a frame")?,
        };
        ensure!(sent == frame.len(), "{sent} of {} bytes sent", frame.len());
        Ok(())
    }

    /// The next frame with an IP packet, or with a question for a MAC address, where there is one
    /// already.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; LONGEST];
        loop {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((length, _))
                    if is_traffic(&buffer[..length])
                        || Question::read(&buffer[..length]).is_some() =>
                {
                    return Ok(Some(buffer[..length].to_vec()));
                }
                // Multicast reports, spanning tree.
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error).context("receiving"),
            }
        }
    }
}

/// Does a frame carry an IP packet to one receiver? Everything else is the hypervisor's talk with
/// its neighbours.
fn is_traffic(frame: &[u8]) -> bool {
    let ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
    // ICMPv6 types 133 to 137: neighbour discovery.
    let discovery = matches!(frame.get(12..21), Some([0x86, 0xdd, _, _, _, _, _, _, 58]))
        && matches!(frame.get(54), Some(133..=137));
    ip && !discovery && frame[0] & 1 == 0
}

/// A packet in the frame its sender puts around it.
#[must_use]
pub fn frame(sender: &Station, packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        [0x86, 0xdd]
    } else {
        [0x08, 0x00]
    };
    [&sender.gateway[..], &sender.mac, &ether_type, packet].concat()
}
