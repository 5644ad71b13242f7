//! What guests are held to, as the programs look it up.

use std::net::IpAddr;

use netd_common::abi::{
    BINDING_STATIC, Binding, BindingKey, BridgePort, NETWORK_GUARDED, NETWORK_HOST_NONE,
    NETWORK_HOST_SERVICES, NETWORK_PORTS_ISOLATED, PORT_GUARD_ARP, PORT_GUARD_DHCP, PORT_GUARD_IP,
    PORT_GUARD_MAC, PORT_GUARD_ND, PORT_ISOLATED,
};

use super::Guests;
use crate::datapath::records::Records;
use crate::link::Link;
use crate::model::{AntiSpoof, HostAccess, Mac, Network, NetworkPorts, TapOwner};

/// How the MAC address begins that libvirt gives a guest's tap, for guests' addresses of the two
/// ranges it chooses from, QEMU's (52:54:00) and Xen's (00:16:3e): only the first byte is not the
/// guest's. That byte alone would not do, since one random address of 64 has it.
const TAPS: [[u8; 3]; 2] = [[0xfe, 0x54, 0x00], [0xfe, 0x16, 0x3e]];

/// `NETWORK_*` bits that follow from what the definition holds its guests to.
pub(super) fn network_flags(network: &Network, ports: &NetworkPorts) -> u32 {
    let mut flags = match network.netd.host.unwrap_or_default() {
        HostAccess::All => 0,
        HostAccess::Services => NETWORK_HOST_SERVICES,
        HostAccess::None => NETWORK_HOST_NONE,
    };
    // Where a port is exempt, each of them is looked at.
    if network.port_isolated == Some(true) && !ports.has_exempt() {
        flags |= NETWORK_PORTS_ISOLATED;
    }
    if network.netd.antispoof.is_some() {
        flags |= NETWORK_GUARDED;
    }
    flags
}

/// Whose a port of the bridge is, as far as clients told.
fn owner(ports: &NetworkPorts, link: &Link) -> Option<TapOwner> {
    ports.of_tap(link.mac?)
}

/// Is this port of the bridge to be isolated? What is said of the guest goes before what is said of its
/// network.
pub(super) fn is_to_be_isolated(network: &Network, ports: &NetworkPorts, link: &Link) -> bool {
    let own = owner(ports, link).and_then(|owner| owner.isolated);
    own.or(network.port_isolated) == Some(true)
}

/// The record of a port of the bridge with this number.
pub(super) fn port(
    network: &Network,
    ports: &NetworkPorts,
    bridge: u32,
    link: &Link,
) -> BridgePort {
    let mut port = BridgePort {
        bridge_ifindex: bridge,
        ..BridgePort::default()
    };
    if link.isolated || is_to_be_isolated(network, ports, link) {
        port.flags |= PORT_ISOLATED;
    }
    if let Some(AntiSpoof {
        mac,
        ip,
        arp,
        nd,
        dhcp,
    }) = network.netd.antispoof
    {
        for (on, flag) in [
            (mac, PORT_GUARD_MAC),
            (ip, PORT_GUARD_IP),
            (arp, PORT_GUARD_ARP),
            (nd, PORT_GUARD_ND),
            (dhcp, PORT_GUARD_DHCP),
        ] {
            if on {
                port.flags |= flag;
            }
        }
        if let Some(mac) = guests_mac(ports, link) {
            port.mac = mac.0;
        }
    }
    port
}

/// The MAC address of the guest at a port, as far as its port or the tap's own address tells.
fn guests_mac(ports: &NetworkPorts, link: &Link) -> Option<Mac> {
    match owner(ports, link) {
        Some(owner) => owner.mac,
        None => {
            let is_tap = |mac: &Mac| TAPS.iter().any(|tap| mac.0.starts_with(tap));
            link.mac.filter(is_tap)
        }
    }
}

/// Add whose the addresses of `network`'s guests are: static hosts, then leases.
pub(super) fn bind(records: &mut Records, network: &Network, bridge: u32, guests: &Guests) {
    let hosts = network.ips.iter().flat_map(|ip| &ip.dhcp.hosts);
    let fixed = hosts.filter_map(|host| {
        let mac: Mac = host.mac.as_deref()?.parse().ok()?;
        Some((host.ip?, mac))
    });
    for (address, Mac(mac)) in guests.bound(network.uuid).chain(fixed) {
        let binding = Binding {
            mac,
            kind: BINDING_STATIC,
            pad: 0,
        };
        match address {
            IpAddr::V4(address) => {
                let address = address.octets();
                let key = BindingKey {
                    bridge_ifindex: bridge,
                    address,
                };
                records.v4.bindings.insert(key, binding);
            }
            IpAddr::V6(address) => {
                let address = address.octets();
                let key = BindingKey {
                    bridge_ifindex: bridge,
                    address,
                };
                records.v6.bindings.insert(key, binding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    #[test]
    fn a_tap_of_libvirts_tells_its_guest() {
        let network = parse(
            "<network><name>n</name><metadata><n:antispoof xmlns:n='urn:netd:network:1'/></metadata>\
             <ip address='10.0.0.1' prefix='24'/></network>",
        );
        for (mac, known) in [
            ([0xfe, 0x54, 0x00, 1, 2, 3], true),
            ([0xfe, 0x16, 0x3e, 1, 2, 3], true),
            // What the kernel or somebody else may have drawn.
            ([0xfe, 0x11, 0x22, 1, 2, 3], false),
            ([0x52, 0x54, 0x00, 1, 2, 3], false),
        ] {
            let link = Link {
                mac: Some(Mac(mac)),
                ..Link::default()
            };
            let ports = NetworkPorts::default();
            let port = port(network.as_ref().unwrap(), &ports, 7, &link);
            assert_eq!(port.mac, if known { mac } else { [0; 6] });
        }
    }

    /// A tap, and the ports that lead to it.
    fn guest(xml: &[&str]) -> (NetworkPorts, Link) {
        let mut ports = NetworkPorts::default();
        for (number, more) in xml.iter().enumerate() {
            let xml = format!(
                "<networkport><uuid>22222222-2222-3333-4444-55555555555{number}</uuid>\
                 <owner><name>vm</name><uuid>33333333-2222-3333-4444-555555555555</uuid></owner>\
                 <mac address='56:11:22:00:00:01'/>{more}</networkport>"
            );
            ports.insert(crate::model::parse_port(&xml).unwrap().port);
        }
        let link = Link {
            mac: Some(Mac([0xfe, 0x11, 0x22, 0, 0, 1])),
            ..Link::default()
        };
        (ports, link)
    }

    fn network(more: &str) -> Network {
        parse(&format!(
            "<network><name>n</name>{more}<ip address='10.0.0.1' prefix='24'/></network>"
        ))
        .unwrap()
    }

    #[test]
    fn a_port_tells_whose_a_tap_is() {
        let guarded = network("<metadata><n:antispoof xmlns:n='urn:netd:network:1'/></metadata>");
        let (ports, link) = guest(&[""]);
        let known = port(&guarded, &ports, 7, &link);
        assert_eq!(known.mac, [0x56, 0x11, 0x22, 0, 0, 1]);
        assert_eq!(known.flags & PORT_ISOLATED, 0);
        let unknown = port(&guarded, &NetworkPorts::default(), 7, &link);
        assert_eq!(unknown.mac, [0; 6], "the tap alone does not tell");
        let other = Link {
            mac: Some(Mac([0xfe, 0x11, 0x22, 0, 0, 2])),
            ..Link::default()
        };
        assert_eq!(port(&guarded, &ports, 7, &other).mac, [0; 6]);
        // Nobody looks at MAC addresses where nobody is guarded.
        assert_eq!(port(&network(""), &ports, 7, &link).mac, [0; 6]);
    }

    #[test]
    fn what_is_said_of_the_guest_goes_before_what_is_said_of_its_network() {
        let (yes, no) = ("<port isolated='yes'/>", "<port isolated='no'/>");
        for (of_network, of_ports, isolated) in [
            ("", &[][..], false),
            ("", &[yes], true),
            ("", &[no, yes], true),
            (yes, &[], true),
            (yes, &[""], true),
            (yes, &[no], false),
            (yes, &[no, ""], true),
        ] {
            let network = network(of_network);
            let (ports, link) = guest(of_ports);
            let record = port(&network, &ports, 7, &link);
            let context = format!("{of_network} {of_ports:?}");
            assert_eq!(record.flags & PORT_ISOLATED != 0, isolated, "{context}");
            assert_eq!(is_to_be_isolated(&network, &ports, &link), isolated);
            // What somebody else has isolated stays so.
            let link = Link {
                isolated: true,
                ..link
            };
            assert_ne!(port(&network, &ports, 7, &link).flags & PORT_ISOLATED, 0);
            let everybody = network_flags(&network, &ports) & NETWORK_PORTS_ISOLATED != 0;
            let exempt = of_ports.contains(&no);
            assert_eq!(everybody, of_network == yes && !exempt, "{context}");
        }
    }
}
