//! An echo request of a guest's whose answer is on its way while the guest's network changes hands.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::packet::checksum;
use netd_tests::{Netns, SOON};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

// RFC 792
const REPLY: u8 = 0;
const REQUEST: u8 = 8;

/// Outside answers when the test wants it to.
pub struct Echo {
    identifier: [u8; 2],
    asking: OwnedFd,
    answering: OwnedFd,
    /// What was asked, and by whom as outside sees it.
    asked: (Vec<u8>, Ipv4Addr),
}

impl Echo {
    /// Has an echo answered, so that it is a connection to everybody, and asks once more. No identifier is
    /// to be used twice: whoever had it may still know of it.
    pub fn ask(guest: &Netns, wan: &Netns, identifier: u16) -> Result<Self> {
        wan.sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
        let mut echo = Self {
            identifier: identifier.to_be_bytes(),
            asking: socket(guest)?,
            answering: socket(wan)?,
            asked: (Vec::new(), OUTSIDE),
        };
        for number in [1, 2] {
            let request = message(
                REQUEST,
                &[&echo.identifier[..], &[0, number], b"late"].concat(),
            );
            send(&echo.asking, &request, OUTSIDE)?;
            echo.asked = receive(&echo.answering, |message| {
                message[0] == REQUEST && message[6..8] == [0, number]
            })?;
            if number == 1 {
                echo.answer(number)?;
            }
        }
        Ok(echo)
    }

    fn answer(&self, number: u8) -> Result<()> {
        let (request, from) = &self.asked;
        send(&self.answering, &message(REPLY, &request[4..]), *from)?;
        receive(&self.asking, |message| {
            message[0] == REPLY && message[4..6] == self.identifier && message[6..8] == [0, number]
        })?;
        Ok(())
    }

    /// The late answer, which the guest gets under the identifier of its own.
    pub fn finish(self, wan: &Netns) -> Result<()> {
        self.answer(2)?;
        wan.sysctl("net/ipv4/icmp_echo_ignore_all", "0")
    }
}

fn socket(netns: &Netns) -> Result<OwnedFd> {
    let socket = netns.enter(|| {
        rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(ipproto::ICMP),
        )
    })??;
    set_socket_timeout(&socket, Timeout::Recv, Some(SOON))?;
    Ok(socket)
}

/// An ICMP message of code 0 with what follows its checksum.
fn message(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], rest].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn send(socket: &OwnedFd, message: &[u8], to: Ipv4Addr) -> Result<()> {
    let to = SocketAddrV4::new(to, 0);
    rustix::net::sendto(socket, message, SendFlags::empty(), &to)?;
    Ok(())
}

/// The first message that is `wanted`, and who sent it. There comes an IPv4 header before it.
fn receive(socket: &OwnedFd, wanted: impl Fn(&[u8]) -> bool) -> Result<(Vec<u8>, Ipv4Addr)> {
    let mut buffer = [0; 2048];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let packet = &buffer[..length];
        ensure!(length >= 28, "a short packet: {packet:?}");
        let message = &packet[usize::from(packet[0] & 15) * 4..];
        if message.len() >= 8 && wanted(message) {
            let from: [u8; 4] = packet[12..16].try_into()?;
            return Ok((message.to_vec(), from.into()));
        }
    }
}
