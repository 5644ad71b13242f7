//! Where programs are.

use super::*;

#[test]
fn hooks_are_where_traffic_passes() {
    let network = network("<forward/>");
    let mut host = running();
    // A tunnel with a route and no link-layer header; a device that carries nothing.
    host.links.insert(
        7,
        Link {
            ether: false,
            headerless: true,
            ..link(7, "wg0")
        },
    );
    host.routes.push(Route {
        destination: (IpAddr::from([10, 9, 0, 0]), 16),
        index: Some(7),
        gateway: None,
        table: 254,
        advertised: false,
        mtu: None,
        metric: None,
    });
    host.links.insert(8, link(8, "tap-new"));
    let at = |ifindex, hook| Attachment { ifindex, hook };
    let wanted = BTreeSet::from([
        at(BRIDGE, Hook::BridgeIngress),
        at(BRIDGE, Hook::BridgeEgress),
        at(TAP, Hook::PortIngress),
        at(UPLINK, Hook::UplinkIngress),
        at(UPLINK, Hook::UplinkEgress),
        at(7, Hook::TunnelIngress),
        at(7, Hook::TunnelEgress),
    ]);
    assert_eq!(hooks(&[&network], &host), wanted);
    assert!(hooks(&[], &host).is_empty(), "no network, no program");
}

#[test]
fn steps_of_programs_name_devices() {
    let network = network("<forward/>");
    let xdp = Xdp::default();
    let intent = Intent {
        members: vec![Member {
            network: &network,
            generation: 0,
            up: true,
            service: None,
            ports: &[],
            network_ports: &NO_PORTS,
        }],
        xdp: &xdp,
        firewall: None,
        scope: super::super::Scope::Host,
        let_go: BTreeSet::new(),
    };
    let gone = Attachment {
        ifindex: 77,
        hook: Hook::PortIngress,
    };
    let observed = Observed {
        links: running().into(),
        noted: [(network.uuid, Noted::default())].into(),
        programs: [(gone, true)].into(),
        ..Observed::default()
    };
    let desired = Desired::new(&intent, &observed);
    let said = |phase| -> Vec<String> {
        let steps = diff(&desired, &observed, phase);
        steps.iter().map(ToString::to_string).collect()
    };
    let attached = said(Phase::Attach);
    let wanted = "attach program port_ingress to tap0".to_owned();
    assert!(attached.contains(&wanted), "{attached:?}");
    assert_eq!(attached.len(), hooks(&[&network], &running()).len());
    assert_eq!(said(Phase::Detach), ["detach program port_ingress from 77"]);
}
