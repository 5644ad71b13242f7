//! Programs of the host that wait at a port that is published: whoever asks there reaches the guest
//! from now on, which they should know.

use std::net::{IpAddr, SocketAddr};

use procfs::process::FDTarget;

use crate::link::{self, Listener, Transport};
use crate::model::{Family, ForwardProtocol, PortForward};

/// A sentence for every socket of the host's that one of the forwards takes packets from, unless one
/// of those in force `before` did so already, or the socket is of a process in `own`: those are the
/// networks' dnsmasqs, which keep what guests ask the gateway. What cannot be read warns of nothing.
pub(super) fn warnings(
    forwards: &[PortForward],
    before: &[PortForward],
    own: &[u32],
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (protocol, transport) in [
        (ForwardProtocol::Tcp, Transport::Tcp),
        (ForwardProtocol::Udp, Transport::Udp),
    ] {
        let of_it = |forward: &&PortForward| forward.protocol == protocol;
        if !forwards.iter().any(|forward| of_it(&forward)) {
            continue;
        }
        let takes = |forwards: &[PortForward], local| {
            let mut forwards = forwards.iter().filter(of_it);
            forwards.any(|forward| takes_from(forward, local))
        };
        let mut found = link::listeners(transport).unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot tell who listens");
            Vec::new()
        });
        found.retain(|listener| takes(forwards, listener.local) && !takes(before, listener.local));
        found.sort_unstable();
        found.dedup();
        warnings.extend(found.into_iter().filter_map(|Listener { local, inode }| {
            let owner = owner(inode.into());
            if owner.as_ref().is_some_and(|(pid, _)| own.contains(pid)) {
                return None;
            }
            let owner = owner.map_or_else(
                || "somebody".to_owned(),
                |(pid, command)| format!("{command} (pid {pid})"),
            );
            Some(format!(
                "{owner} listens on {protocol} port {} of the host ({}); what is sent there \
                 reaches the guest from now on",
                local.port(),
                local.ip()
            ))
        }));
    }
    warnings
}

fn takes_from(forward: &PortForward, local: SocketAddr) -> bool {
    let port = local.port();
    hears(forward, local.ip())
        && forward
            .spans()
            .iter()
            .any(|span| span.first <= port && port <= span.last)
}

/// Does a socket at `local` get packets that the forward takes? A device's addresses are not looked
/// up: such a forward concerns sockets at all addresses. A socket at all IPv6 addresses hears IPv4,
/// too, unless it says otherwise.
fn hears(forward: &PortForward, local: IpAddr) -> bool {
    let family = if local.is_ipv4() {
        Family::Ipv4
    } else {
        Family::Ipv6
    };
    let hears_both = local.is_ipv6() && local.is_unspecified();
    if !(forward.may_have(family) || hears_both) {
        return false;
    }
    local.is_unspecified()
        || match forward.address {
            Some(address) => address == local,
            None => forward.dev.is_none() && !local.is_loopback(),
        }
}

/// Number and command of the process that has the socket, as far as it can be told.
fn owner(inode: u64) -> Option<(u32, String)> {
    let processes = procfs::process::all_processes().into_iter().flatten();
    for process in processes.flatten() {
        let has = process.fd().is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|f| f.target == FDTarget::Socket(inode)))
        });
        if has {
            let command = process
                .stat()
                .map_or_else(|_| "?".to_owned(), |stat| stat.comm);
            let pid = u32::try_from(process.pid()).ok()?;
            return Some((pid, command.escape_debug().to_string()));
        }
    }
    None
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
            let at_it = [forward(protocol, Some("127.0.0.1"), port)];
            let found = warnings(&at_it, &[], &[]);
            let [warning] = found.as_slice() else {
                panic!("{found:?}");
            };
            let pid = format!("(pid {})", std::process::id());
            assert!(warning.contains(&pid), "{warning}");
            // It keeps its clients where all addresses are published, and at another address.
            assert!(warnings(&[forward(protocol, None, port)], &[], &[]).is_empty());
            let elsewhere = [forward(protocol, Some("127.0.0.2"), port)];
            assert!(warnings(&elsewhere, &[], &[]).is_empty());
            // What was said once is not news, whomever the port leads to now.
            assert!(warnings(&at_it, &at_it, &[]).is_empty());
            assert_eq!(warnings(&at_it, &elsewhere, &[]), found);
            // Nor does netd's own dnsmasq lose anything.
            assert!(warnings(&at_it, &[], &[std::process::id()]).is_empty());
        }
    }
}
