//! What guests are held to, as the programs look it up.

use std::net::IpAddr;

use netd_common::abi::{
    BINDING_STATIC, Binding, BindingKey, BridgePort, NETWORK_GUARDED, NETWORK_HOST_NONE,
    NETWORK_HOST_SERVICES, NETWORK_PORTS_ISOLATED, NETWORK_RESPECT, PORT_BY_BRIDGE, PORT_GUARD_ARP,
    PORT_GUARD_DHCP, PORT_GUARD_IP, PORT_GUARD_MAC, PORT_GUARD_ND, PORT_ISOLATED,
};

use super::Guests;
use crate::datapath::records::Records;
use crate::link::{Link, port_state};
use crate::model::{
    Checks, Firewall, ForwardMode, HostAccess, HostRelation, Mac, Network, NetworkPorts, TapOwner,
};

/// How the MAC address begins that libvirt gives a guest's tap, for guests' addresses of the two
/// ranges it chooses from, QEMU's (52:54:00) and Xen's (00:16:3e): only the first byte is not the
/// guest's. That byte alone would not do, since one random address of 64 has it.
const TAPS: [[u8; 3]; 2] = [[0xfe, 0x54, 0x00], [0xfe, 0x16, 0x3e]];

/// `NETWORK_*` bits that follow from what the definition holds its guests to.
/// `firewall` is what holds where the definition does not say; none where the host has no rules at all.
pub(super) fn network_flags(
    network: &Network,
    ports: &NetworkPorts,
    firewall: Option<Firewall>,
) -> u32 {
    let HostRelation {
        access,
        firewall: own,
    } = network.netd.host.unwrap_or_default();
    let mut flags = match access {
        HostAccess::All => 0,
        HostAccess::Services => NETWORK_HOST_SERVICES,
        HostAccess::None => NETWORK_HOST_NONE,
    };
    let judged = matches!(
        network.mode(),
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::None
    );
    if firewall.map(|default| own.unwrap_or(default)) == Some(Firewall::Respect) && judged {
        flags |= NETWORK_RESPECT;
    }
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

/// Does the bridge itself have a say in what a port's guest sends and gets?
fn is_by_bridge(bridge: &Link, port: &Link) -> bool {
    let attributes = bridge.bridge.unwrap_or_default();
    let forwards = match port.port_state {
        // The ports of a bridge that is down are disabled.
        Some(port_state::DISABLED | port_state::BLOCKING) => false,
        // With STP these only wait for their turn.
        Some(port_state::LISTENING | port_state::LEARNING) => attributes.stp,
        _ => true,
    };
    attributes.vlan_filtering || attributes.is_hub || port.locked || !forwards
}

/// The record of a port of the bridge.
pub(super) fn port(
    network: &Network,
    ports: &NetworkPorts,
    bridge: &Link,
    link: &Link,
) -> BridgePort {
    let mut port = BridgePort {
        bridge_ifindex: bridge.index,
        ..BridgePort::default()
    };
    if is_by_bridge(bridge, link) {
        port.flags |= PORT_BY_BRIDGE;
    }
    if link.isolated || is_to_be_isolated(network, ports, link) {
        port.flags |= PORT_ISOLATED;
    }
    if let Some(antispoof) = &network.netd.antispoof {
        let guest = guests_mac(ports, link);
        let Checks {
            mac,
            ip,
            arp,
            nd,
            dhcp,
        } = antispoof.checks_of(guest);
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
        if let Some(mac) = guest {
            port.mac = mac.0;
        }
    }
    port
}

/// The MAC address of the guest at a port, as far as its port or the tap's own address tells.
fn guests_mac(ports: &NetworkPorts, link: &Link) -> Option<Mac> {
    match owner(ports, link) {
        Some(owner) => owner.mac,
        None => link.mac.and_then(guest_of_tap),
    }
}

/// The MAC address of a guest's tap, which tells the guest's but for its first byte; none where a device has
/// another kind of address.
#[must_use]
pub fn guest_of_tap(mac: Mac) -> Option<Mac> {
    let is_tap = TAPS.iter().any(|tap| mac.0.starts_with(tap));
    is_tap.then_some(mac)
}

/// Add whose the addresses of `network`'s guests are: leases, then static hosts, then what the definition says
/// of guests that serve others.
pub(super) fn bind(records: &mut Records, network: &Network, bridge: u32, guests: &Guests) {
    let hosts = network.ips.iter().flat_map(|ip| &ip.dhcp.hosts);
    let fixed = hosts.filter_map(|host| {
        let mac: Mac = host.mac.as_deref()?.parse().ok()?;
        Some((host.ip?, mac))
    });
    let special = network.netd.antispoof.iter().flat_map(|a| &a.guests);
    let special = special.flat_map(|guest| guest.addresses.iter().map(|ip| (*ip, guest.mac)));
    let bound = guests.bound(network.uuid).chain(fixed).chain(special);
    for (address, Mac(mac)) in bound {
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
    use crate::link::BridgeAttrs;
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
            let port = port(network.as_ref().unwrap(), &ports, &bridge(), &link);
            assert_eq!(port.mac, if known { mac } else { [0; 6] });
        }
    }

    #[test]
    fn a_guest_that_serves_others_is_held_to_less() {
        let network = network(
            "<metadata><n:antispoof xmlns:n='urn:netd:network:1'>\
             <n:guest mac='52:54:00:01:02:03' allow='dhcp arp' addresses='10.0.0.9'/>\
             </n:antispoof></metadata>",
        );
        let flags = |mac: [u8; 6]| {
            let link = Link {
                mac: Some(Mac(mac)),
                ..Link::default()
            };
            port(&network, &NetworkPorts::default(), &bridge(), &link).flags
        };
        let all = PORT_GUARD_MAC | PORT_GUARD_IP | PORT_GUARD_ARP | PORT_GUARD_ND | PORT_GUARD_DHCP;
        let less = all & !(PORT_GUARD_DHCP | PORT_GUARD_ARP);
        assert_eq!(flags([0xfe, 0x54, 0, 1, 2, 3]), less);
        assert_eq!(flags([0xfe, 0x54, 0, 1, 2, 4]), all);
        // Whose it is nobody knows for sure.
        assert_eq!(flags([0x52, 0x54, 0, 1, 2, 3]), all);
        let mut records = Records::default();
        bind(&mut records, &network, 7, &Guests::default());
        let key = BindingKey {
            bridge_ifindex: 7,
            address: [10, 0, 0, 9],
        };
        assert_eq!(records.v4.bindings[&key].mac, [0x52, 0x54, 0, 1, 2, 3]);
    }

    fn bridge() -> Link {
        Link {
            index: 7,
            up: true,
            bridge: Some(BridgeAttrs::default()),
            ..Link::default()
        }
    }

    #[test]
    fn what_the_bridge_has_a_say_in_goes_by_it() {
        let by_bridge = |bridge: &Link, link: &Link| {
            let record = port(&network(""), &NetworkPorts::default(), bridge, link);
            assert_eq!(record.bridge_ifindex, 7);
            record.flags & PORT_BY_BRIDGE != 0
        };
        let stp = Link {
            bridge: Some(BridgeAttrs {
                stp: true,
                ..BridgeAttrs::default()
            }),
            ..bridge()
        };
        for (state, closed, closed_by_stp) in [
            (port_state::DISABLED, true, true),
            (port_state::LISTENING, true, false),
            (port_state::LEARNING, true, false),
            (port_state::FORWARDING, false, false),
            (port_state::BLOCKING, true, true),
        ] {
            let mut link = Link {
                port_state: Some(state),
                ..Link::default()
            };
            assert_eq!(by_bridge(&bridge(), &link), closed, "state {state}");
            assert_eq!(by_bridge(&stp, &link), closed_by_stp, "state {state}");
            link.locked = true;
            assert!(by_bridge(&bridge(), &link));
        }
        assert!(!by_bridge(&bridge(), &Link::default()));
        let filtering = Link {
            bridge: Some(BridgeAttrs {
                vlan_filtering: true,
                ..BridgeAttrs::default()
            }),
            ..bridge()
        };
        assert!(by_bridge(&filtering, &Link::default()));
        let hub = Link {
            bridge: Some(BridgeAttrs {
                is_hub: true,
                ..BridgeAttrs::default()
            }),
            ..bridge()
        };
        assert!(by_bridge(&hub, &Link::default()));
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
        let known = port(&guarded, &ports, &bridge(), &link);
        assert_eq!(known.mac, [0x56, 0x11, 0x22, 0, 0, 1]);
        assert_eq!(known.flags & PORT_ISOLATED, 0);
        let unknown = port(&guarded, &NetworkPorts::default(), &bridge(), &link);
        assert_eq!(unknown.mac, [0; 6], "the tap alone does not tell");
        let other = Link {
            mac: Some(Mac([0xfe, 0x11, 0x22, 0, 0, 2])),
            ..Link::default()
        };
        assert_eq!(port(&guarded, &ports, &bridge(), &other).mac, [0; 6]);
        // Nobody looks at MAC addresses where nobody is guarded.
        assert_eq!(port(&network(""), &ports, &bridge(), &link).mac, [0; 6]);
    }

    #[test]
    fn the_hosts_rules_are_respected_where_there_are_any() {
        let (bypass, respect) = (Some(Firewall::Bypass), Some(Firewall::Respect));
        for (own, default, respected) in [
            ("", bypass, false),
            ("", respect, true),
            ("firewall='bypass'", respect, false),
            ("firewall='respect'", bypass, true),
            ("firewall='respect'", None, false),
            ("", None, false),
        ] {
            let network = network(&format!(
                "<metadata><n:host xmlns:n='urn:netd:network:1' {own}/></metadata>"
            ));
            let flags = network_flags(&network, &NetworkPorts::default(), default);
            assert_eq!(flags & NETWORK_RESPECT != 0, respected, "{own} {default:?}");
        }
        let open = network("<forward mode='open'/>");
        let flags = network_flags(&open, &NetworkPorts::default(), respect);
        assert_eq!(flags, 0, "netd has no say");
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
            let record = port(&network, &ports, &bridge(), &link);
            let context = format!("{of_network} {of_ports:?}");
            assert_eq!(record.flags & PORT_ISOLATED != 0, isolated, "{context}");
            assert_eq!(is_to_be_isolated(&network, &ports, &link), isolated);
            // What somebody else has isolated stays so.
            let link = Link {
                isolated: true,
                ..link
            };
            assert_ne!(
                port(&network, &ports, &bridge(), &link).flags & PORT_ISOLATED,
                0
            );
            let everybody = network_flags(&network, &ports, None) & NETWORK_PORTS_ISOLATED != 0;
            let exempt = of_ports.contains(&no);
            assert_eq!(everybody, of_network == yes && !exempt, "{context}");
        }
    }
}
