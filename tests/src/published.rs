//! Published ports as tests write them, and services that tell who asked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::traffic::{self, Server, Verdict};
use crate::{Netns, SOON};

/// One `<netd:portForward>`.
#[must_use]
pub fn forward(proto: &str, scope: &str, guest: &str, ranges: &str) -> String {
    format!("<netd:portForward proto='{proto}' {scope} guest='{guest}'>{ranges}</netd:portForward>")
}

/// A range that goes to the guest's ports from `to` on.
#[must_use]
pub fn range(start: u16, end: u16, to: u16) -> String {
    format!("<netd:range start='{start}' end='{end}' to='{to}'/>")
}

/// The metadata of a definition with these forwards.
#[must_use]
pub fn forwards(forwards: &str) -> String {
    format!(
        "<metadata><netd:forwards xmlns:netd='urn:netd:network:1'>{forwards}</netd:forwards>\
         </metadata>"
    )
}

/// One port of both protocols.
#[must_use]
pub fn both(scope: &str, guest: &str, port: u16, to: u16) -> String {
    let range = range(port, port, to);
    forward("tcp", scope, guest, &range) + &forward("udp", scope, guest, &range)
}

/// A UDP and a TCP server at a port, both of which tell who asks.
#[derive(Debug)]
pub struct Service {
    udp: Server,
    tcp: Server,
}

impl Service {
    /// Serves at an address of the namespace.
    ///
    /// # Errors
    /// The address is in use or not one of the namespace.
    pub fn start(netns: &Netns, address: impl Into<SocketAddr>) -> Result<Self> {
        let address = address.into();
        let tell = |mut stream: TcpStream| {
            let peer = stream.peer_addr()?.to_string();
            stream.write_all(peer.as_bytes())
        };
        Ok(Self {
            udp: Server::udp(netns, address)?,
            tcp: Server::tcp(netns, address, tell)?,
        })
    }

    /// Datagrams or connections of the protocol, `udp` or `tcp`, that arrived so far.
    #[must_use]
    pub fn received(&self, proto: &str) -> u64 {
        match proto {
            "udp" => self.udp.received(),
            _ => self.tcp.received(),
        }
    }
}

/// Whom the [`Service`] at the other end sees; nothing when none is reached. One that is there may seem
/// not to be, where the machine is busy: of one that is to be reached, see [`reached`].
///
/// # Errors
/// The client does not speak with whom it asked, or something else answered.
pub fn seen(netns: &Netns, proto: &str, to: impl Into<SocketAddr>) -> Result<Option<IpAddr>> {
    let to = to.into();
    if proto == "udp" {
        return Ok(match traffic::ask_udp(netns, to)? {
            Verdict::Answered(who) => Some(who.ip()),
            _ => None,
        });
    }
    let Ok(mut stream) = traffic::try_connect(netns, to) else {
        return Ok(None);
    };
    ensure!(
        stream.peer_addr()? == to,
        "getpeername: {:?}",
        stream.peer_addr()
    );
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let who: SocketAddr = text
        .parse()
        .with_context(|| format!("{to} says {text:?}"))?;
    Ok(Some(who.ip()))
}

/// Asks a [`Service`] that is to be reached, for as long as nobody is; whom it sees.
///
/// # Errors
/// Nobody is reached in time, or as [`seen`].
pub fn reached(netns: &Netns, proto: &str, to: impl Into<SocketAddr>) -> Result<IpAddr> {
    let to = to.into();
    crate::eventually(SOON, || {
        seen(netns, proto, to)?.with_context(|| format!("nobody answers at {to} by {proto}"))
    })
}
