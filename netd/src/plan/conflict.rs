//! Ports that two networks publish.

use crate::model::{Network, PortForward, find_clash};

/// A forward cannot be put in force: another network publishes the port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "network '{}' cannot publish port {port} ({own}): network '{}' publishes it already ({other}); \
     choose another port or address, or delete the other forward",
    network.escape_debug(),
    holder.escape_debug()
)]
pub struct Conflict {
    /// The network that is to get the forward.
    pub network: String,
    /// Its forward.
    pub own: PortForward,
    /// The network that has the port.
    pub holder: String,
    /// That one's forward.
    pub other: PortForward,
    /// The lowest such port; 0 where both are for all ports.
    pub port: u16,
}

/// The first port that `network` publishes and one of the active networks does too, with the same
/// protocol and family and in the same scope: the same address, the same device, or every address.
/// Other scopes live side by side, where an address goes before a device and that before all
/// addresses. `network` itself, by its UUID, does not count.
#[must_use]
pub fn conflict(network: &Network, active: &[&Network]) -> Option<Conflict> {
    let own = network.netd.forwards();
    if own.is_empty() {
        return None;
    }
    let others = active.iter().filter(|other| other.uuid != network.uuid);
    others.into_iter().find_map(|holder| {
        let theirs = holder.netd.forwards();
        let clash = find_clash(own.iter().chain(theirs))?;
        Some(Conflict {
            network: network.name.clone(),
            own: own.get(clash.first)?.clone(),
            holder: holder.name.clone(),
            other: theirs.get(clash.second.checked_sub(own.len())?)?.clone(),
            port: clash.port,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    fn network(number: u8, forwards: &str) -> Network {
        parse(&format!(
            "<network><name>n{number}</name>\
             <uuid>00000000-0000-0000-0000-0000000000{number:02}</uuid>\
             <metadata><n:forwards xmlns:n='urn:netd:network:1'>{forwards}</n:forwards></metadata>\
             <ip address='10.0.{number}.1' prefix='24'/></network>"
        ))
        .unwrap()
    }

    fn forward(attributes: &str, number: u8, start: u16, end: u16) -> String {
        format!(
            "<n:portForward {attributes} guest='10.0.{number}.9'>\
             <n:range start='{start}' end='{end}'/></n:portForward>"
        )
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let first = network(1, &forward("proto='tcp'", 1, 80, 90));
        let second = network(
            2,
            &(forward("proto='udp'", 2, 80, 90) + &forward("proto='tcp'", 2, 85, 95)),
        );
        let empty = network(3, "");
        let found = conflict(&second, &[&empty, &second, &first]).unwrap();
        assert_eq!((found.holder.as_str(), found.port), ("n1", 85));
        assert_eq!(
            found.to_string(),
            "network 'n2' cannot publish port 85 (tcp 85-95 to 10.0.2.9): network 'n1' publishes \
             it already (tcp 80-90 to 10.0.1.9); choose another port or address, or delete the \
             other forward"
        );
        assert_eq!(conflict(&second, &[&empty, &second]), None);
        assert_eq!(conflict(&empty, &[&first, &second]), None);
    }

    #[test]
    fn scopes_live_side_by_side() {
        let scopes = [
            "proto='tcp'",
            "proto='udp'",
            "proto='tcp' dev='eth0'",
            "proto='tcp' dev='eth1'",
            "proto='tcp' address='203.0.113.5'",
            "proto='tcp' address='203.0.113.6'",
        ];
        for a in scopes {
            for b in scopes {
                let one = network(1, &forward(a, 1, 80, 80));
                let two = network(2, &forward(b, 2, 80, 80));
                assert_eq!(conflict(&two, &[&one]).is_some(), a == b, "{a} and {b}");
            }
        }
    }
}
