//! Programs of the host that wait at a port that is published: whoever asks there reaches the guest
//! from now on, which they should know.

use std::net::{IpAddr, SocketAddr};

use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};
use procfs::process::FDTarget;

use crate::model::{ForwardProtocol, PortForward};

/// A sentence for every socket of the host's that the forward takes packets from. What cannot be
/// read warns of nothing.
pub(super) fn warnings(forward: &PortForward) -> Vec<String> {
    let sockets = match forward.protocol {
        ForwardProtocol::Tcp => tcp(),
        ForwardProtocol::Udp => udp(),
        ForwardProtocol::Sctp | ForwardProtocol::All => Vec::new(),
    };
    let spans = forward.spans();
    let mut found: Vec<(SocketAddr, u64)> = sockets
        .into_iter()
        .filter(|(local, _)| {
            let port = local.port();
            spans.iter().any(|s| s.first <= port && port <= s.last) && hears(forward, local.ip())
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
        .into_iter()
        .map(|(local, inode)| {
            format!(
                "{} listens on {} port {} of the host ({}); what is sent there reaches the guest \
                 from now on",
                owner(inode),
                forward.protocol,
                local.port(),
                local.ip()
            )
        })
        .collect()
}

/// Does a socket at `local` get packets that the forward takes? A device's addresses are not looked
/// up: such a forward concerns sockets at all addresses.
fn hears(forward: &PortForward, local: IpAddr) -> bool {
    local.is_unspecified()
        || match forward.address {
            Some(address) => address == local,
            None => forward.dev.is_none() && !local.is_loopback(),
        }
}

fn tcp() -> Vec<(SocketAddr, u64)> {
    let both = [procfs::net::tcp(), procfs::net::tcp6()];
    let entries = both.into_iter().flatten().flatten();
    entries
        .filter(|entry: &TcpNetEntry| entry.state == TcpState::Listen)
        .map(|entry| (entry.local_address, entry.inode))
        .collect()
}

fn udp() -> Vec<(SocketAddr, u64)> {
    let both = [procfs::net::udp(), procfs::net::udp6()];
    let entries = both.into_iter().flatten().flatten();
    entries
        // A connected one has a peer of its own.
        .filter(|entry: &UdpNetEntry| entry.remote_address.port() == 0)
        .map(|entry| (entry.local_address, entry.inode))
        .collect()
}

/// The process that has the socket, as far as it can be told.
fn owner(inode: u64) -> String {
    let processes = procfs::process::all_processes().into_iter().flatten();
    for process in processes.flatten() {
        let has = process.fd().is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|f| f.target == FDTarget::Socket(inode)))
        });
        if has {
            let command = process
                .stat()
                .map_or_else(|_| "?".to_owned(), |stat| stat.comm);
            return format!("{} (pid {})", command.escape_debug(), process.pid());
        }
    }
    "somebody".to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::model::ForwardRange;

    fn forward(protocol: ForwardProtocol, address: Option<&str>, port: u16) -> PortForward {
        PortForward {
            protocol,
            address: address.map(|address| address.parse().unwrap()),
            dev: None,
            guest: "10.0.0.5".to_owned().into(),
            ranges: vec![ForwardRange {
                start: port,
                end: port,
                to: None,
                exclude: false,
            }],
        }
    }

    #[test]
    fn who_listens_is_named() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (protocol, port) in [
            (ForwardProtocol::Tcp, tcp.local_addr().unwrap().port()),
            (ForwardProtocol::Udp, udp.local_addr().unwrap().port()),
        ] {
            let found = warnings(&forward(protocol, Some("127.0.0.1"), port));
            let [warning] = found.as_slice() else {
                panic!("{found:?}");
            };
            let pid = format!("(pid {})", std::process::id());
            assert!(warning.contains(&pid), "{warning}");
            // It keeps its clients where all addresses are published, and at another address.
            assert!(warnings(&forward(protocol, None, port)).is_empty());
            assert!(warnings(&forward(protocol, Some("127.0.0.2"), port)).is_empty());
        }
    }
}
