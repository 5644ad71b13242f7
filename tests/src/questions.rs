//! Questions to servers, and what becomes of them.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::socket::any;
use crate::{Netns, SOON};

/// Question to which a server answers with the address it sees.
pub const WHO: &[u8] = b"who am I?";

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server answered and saw this source.
    Answered(SocketAddr),
    /// ICMP said that nobody is there: a REJECT or a closed port.
    Refused,
    /// ICMP said that there is no way: nobody there, prohibited, or something used up.
    Unreachable,
    /// Nothing came back.
    Silent,
}

/// Asks a UDP server ([`Server::udp`](crate::traffic::Server::udp)) who we are. Nothing may come back from a
/// server that is there, where the machine is busy: of one that is to answer, see [`answered`].
///
/// # Errors
/// The socket cannot be made, or has no route.
pub fn ask_udp(netns: &Netns, to: impl Into<SocketAddr>) -> Result<Verdict> {
    ask_udp_from(netns, 0, to)
}

/// The same from a source port of one's choice.
///
/// # Errors
/// As [`ask_udp`], and where the port is in use.
pub fn ask_udp_from(netns: &Netns, port: u16, to: impl Into<SocketAddr>) -> Result<Verdict> {
    let to = to.into();
    let socket = netns.udp(any(to, port))?;
    netns.enter(|| socket.connect(to))??;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 128];
    // Neighbour resolution may swallow the very first datagram, so a silent peer is asked twice.
    for questions in 1..=2 {
        socket.send(WHO)?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                // Who counts what servers receive is not to count a question that comes later.
                if questions == 2 {
                    let _ = socket.recv(&mut buffer);
                }
                let seen = text.parse().with_context(|| format!("answer {text:?}"))?;
                return Ok(Verdict::Answered(seen));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                return Ok(Verdict::Refused);
            }
            // "Administratively prohibited" is the former in IPv4 and the latter in IPv6.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::HostUnreachable | ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(Verdict::Unreachable);
            }
            // A wait with a limit is not taken up again after a signal, not even one without a handler
            // (signal(7)).
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error).context(format!("asking {to}")),
        }
    }
    Ok(Verdict::Silent)
}

/// Asks a UDP server that is to answer, for as long as nothing comes back; whom it sees.
///
/// # Errors
/// Nothing comes back in time, or something else than an answer.
pub fn answered(netns: &Netns, to: impl Into<SocketAddr>) -> Result<SocketAddr> {
    answered_from(netns, 0, to)
}

/// The same from a source port of one's choice.
///
/// # Errors
/// As [`answered`], and where the port is in use.
pub fn answered_from(netns: &Netns, port: u16, to: impl Into<SocketAddr>) -> Result<SocketAddr> {
    let to = to.into();
    match heard(netns, port, to)? {
        Verdict::Answered(seen) => Ok(seen),
        verdict => bail!("{to} does not answer: {verdict:?}"),
    }
}

/// Asks where a question is to be refused, for as long as nothing comes back.
///
/// # Errors
/// Nothing comes back in time, or something else than a refusal.
pub fn refused(netns: &Netns, to: impl Into<SocketAddr>) -> Result<()> {
    let to = to.into();
    match heard(netns, 0, to)? {
        Verdict::Refused => Ok(()),
        verdict => bail!("{to} is not refused: {verdict:?}"),
    }
}

/// What comes back, once something does. A host without a neighbour's MAC address tells itself "unreachable"
/// after three seconds.
fn heard(netns: &Netns, port: u16, to: SocketAddr) -> Result<Verdict> {
    crate::eventually(SOON, || match ask_udp_from(netns, port, to)? {
        verdict @ (Verdict::Silent | Verdict::Unreachable) => bail!("{to}: {verdict:?}"),
        verdict => Ok(verdict),
    })
}

/// A TCP connection out of a namespace to a server that is to answer.
///
/// # Errors
/// It is refused or not answered in time.
pub fn connect(netns: &Netns, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    connect_within(SOON, netns, to.into())
}

/// The same where perhaps nobody answers: it is waited for no longer than a few seconds.
///
/// # Errors
/// As [`connect`].
pub fn try_connect(netns: &Netns, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    connect_within(Duration::from_secs(5), netns, to.into())
}

fn connect_within(limit: Duration, netns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let stream = netns
        .enter(|| TcpStream::connect_timeout(&to, limit))?
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}
