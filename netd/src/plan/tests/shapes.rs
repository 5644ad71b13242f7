//! Rates that devices are held to.

use std::collections::BTreeMap;

use netd_common::abi::{PORT_BY_BRIDGE, PORT_QUEUED};

use super::*;
use crate::model::parse_port;
use crate::shaping::{OTHERS, Shape, WHOLE};

const RATE: &str = "<forward/><bandwidth><inbound average='1000'/></bandwidth>";

fn diffed(
    network: &Network,
    ports: &NetworkPorts,
    shapes: BTreeMap<u32, Shape>,
) -> (Vec<Step>, BTreeMap<u32, Shape>) {
    diffed_on(&running(), network, ports, shapes)
}

fn diffed_on(
    host: &Dump,
    network: &Network,
    ports: &NetworkPorts,
    shapes: BTreeMap<u32, Shape>,
) -> (Vec<Step>, BTreeMap<u32, Shape>) {
    let xdp = Xdp::default();
    let intent = Intent {
        members: vec![Member {
            network,
            generation: 0,
            up: true,
            service: None,
            ports: &[],
            network_ports: ports,
        }],
        xdp: &xdp,
        firewall: None,
        scope: super::super::Scope::Host,
        let_go: BTreeSet::new(),
    };
    let mut observed = Observed {
        links: host.clone().into(),
        noted: [(network.uuid, Noted::default())].into(),
        shapes,
        ..Observed::default()
    };
    let desired = Desired::new(&intent, &observed);
    let both = |observed: &Observed| {
        let mut steps = diff(&desired, observed, Phase::Shapes);
        steps.extend(diff(&desired, observed, Phase::Unshape));
        steps
    };
    let steps = both(&observed);
    for step in &steps {
        observed.note(step, &intent);
    }
    if *host == running() {
        assert!(both(&observed).is_empty());
    }
    (steps, observed.shapes)
}

fn said(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn a_bridge_is_held_to_its_networks_rate() {
    let network = network(RATE);
    let (steps, shapes) = diffed(&network, &NO_PORTS, BTreeMap::new());
    assert_eq!(said(&steps), ["hold what br sends to 1000 kB/s"]);
    assert_eq!(steps[0].network, Some(network.uuid));
    assert_eq!(shapes.keys().copied().collect::<Vec<_>>(), [BRIDGE]);
    // What an agent finds it leaves as it is.
    assert!(diffed(&network, &NO_PORTS, shapes.clone()).0.is_empty());
    // Somebody changed a class, or took the queue of one.
    for broken in [WHOLE, OTHERS] {
        let mut shapes = shapes.clone();
        let classes = &mut shapes.get_mut(&BRIDGE).unwrap().classes;
        let class = classes.get_mut(&broken).unwrap();
        class.queue = false;
        class.ceil += 1;
        assert_eq!(diffed(&network, &NO_PORTS, shapes).0.len(), 1);
    }
}

#[test]
fn what_is_asked_for_no_more_goes() {
    let (_, shapes) = diffed(&network(RATE), &NO_PORTS, BTreeMap::new());
    let (steps, left) = diffed(&network("<forward/>"), &NO_PORTS, shapes.clone());
    assert_eq!(said(&steps), ["remove the queue of br"]);
    assert!(left.is_empty());
    // Of a device that is not there any more nothing is left.
    let gone = shapes.into_values().map(|shape| (77, shape)).collect();
    assert!(diffed(&network("<forward/>"), &NO_PORTS, gone).0.is_empty());
}

#[test]
fn floors_come_and_go_with_ports() {
    let network = network(RATE);
    let port = parse_port(
        "<networkport><uuid>aaaaaaaa-0000-0000-0000-000000000001</uuid><owner><name>vm</name>\
         <uuid>bbbbbbbb-0000-0000-0000-000000000001</uuid></owner>\
         <mac address='52:54:00:00:00:07'/>\
         <bandwidth><inbound average='5' floor='300'/></bandwidth></networkport>",
    )
    .unwrap();
    let port = port.port.allocate(&network, &NO_PORTS).unwrap();
    let mut ports = NetworkPorts::default();
    ports.insert(port);
    let (steps, shapes) = diffed(&network, &ports, BTreeMap::new());
    let with_floor = "hold what br sends to 1000 kB/s, with a floor for 1 guest";
    assert_eq!(said(&steps), [with_floor]);
    let shape = &shapes[&BRIDGE];
    assert_eq!(shape.classes[&3].rate, 300_000);
    assert_eq!(shape.classes[&OTHERS].rate, 700_000);
    assert_eq!(shape.guests[&3], Mac([0x52, 0x54, 0, 0, 0, 7]));
    let (steps, _) = diffed(&network, &NO_PORTS, shapes);
    assert_eq!(said(&steps), ["hold what br sends to 1000 kB/s"]);
}

#[test]
fn what_guests_get_goes_by_the_bridge_where_it_is_held_to_a_rate() {
    let flags = |network: &Network| {
        let records = records(&[network], &running(), &Guests::default());
        records.ports[&TAP].flags & (PORT_BY_BRIDGE | PORT_QUEUED)
    };
    assert_eq!(flags(&network("<forward/>")), 0);
    assert_eq!(flags(&network(RATE)), PORT_QUEUED);
    let none = "<forward/><bandwidth><inbound average='0'/></bandwidth>";
    assert_eq!(flags(&network(none)), 0);
}

const OUTBOUND: &str = "<forward/><bandwidth><outbound average='250' peak='500'/></bandwidth>";

#[test]
fn what_guests_send_waits_in_a_device_of_its_own() {
    let network = network(OUTBOUND);
    let xdp = Xdp::default();
    let member = Member {
        network: &network,
        generation: 0,
        up: true,
        service: None,
        ports: &[],
        network_ports: &NO_PORTS,
    };
    let intent = |up| Intent {
        members: vec![Member {
            up,
            ..member.clone()
        }],
        xdp: &xdp,
        firewall: None,
        scope: super::super::Scope::Host,
        let_go: BTreeSet::new(),
    };
    let mut rehearsal = Rehearsal::new(Observed {
        links: running().into(),
        noted: [(network.uuid, Noted::default())].into(),
        ..Observed::default()
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let outcome = runtime.block_on(execute(&mut rehearsal, &intent(true)));
    let done = said(&outcome.done);
    for step in [
        "make br-out, where what guests of br send waits",
        "attach program shaper_ingress to br-back",
        "write record of br-back in map ports",
        "hold what br-out sends to 250 kB/s",
    ] {
        assert!(done.iter().any(|done| done == step), "{step}: {done:#?}");
    }
    let observed = rehearsal.observed();
    let index = |name: &str| observed.links.by_name(name).unwrap().index;
    let record = observed.records.networks[&BRIDGE];
    assert_eq!(record.shaper_ifindex, index("br-out"));
    let back = observed.records.ports[&index("br-back")];
    assert_eq!(back.bridge_ifindex, BRIDGE);
    assert_eq!(
        observed.shapes[&index("br-out")].classes[&OTHERS].ceil,
        500_000
    );
    assert_eq!(observed.shapes[&BRIDGE], Shape::default());
    let again = runtime.block_on(execute(&mut rehearsal, &intent(true)));
    assert_eq!(said(&again.done), [""; 0]);
    // One end alone is none.
    let mut half = Dump::clone(&observed.links);
    half.links.remove(&index("br-back"));
    let mut broken = Rehearsal::new(Observed {
        links: half.into(),
        ..observed.clone()
    });
    let outcome = runtime.block_on(execute(&mut broken, &intent(true)));
    assert!(
        said(&outcome.done).contains(&"make br-out, where what guests of br send waits".to_owned())
    );

    let outcome = runtime.block_on(execute(&mut rehearsal, &intent(false)));
    assert!(
        said(&outcome.done).contains(&"remove br-out".to_owned()),
        "{outcome:#?}"
    );
    let left = rehearsal.observed();
    assert!(left.links.by_name("br-back").is_none() && left.noted.is_empty());
}

#[test]
fn a_device_that_holds_nobodys_packets_goes() {
    let spec = bridge_spec(&network(OUTBOUND)).unwrap();
    let made = carry_out(
        &running(),
        &[DeviceAct::MakeShaper {
            bridge: spec.name.clone(),
            mac: spec.mac,
        }],
    );
    let (steps, _) = diffed_on(&made, &network("<forward/>"), &NO_PORTS, BTreeMap::new());
    assert_eq!(said(&steps), ["remove br-out"]);
    // One of that name that is not netd's stays.
    let mut other = made.clone();
    for link in other
        .links
        .values_mut()
        .filter(|link| link.name.starts_with("br-"))
    {
        link.mac = Some(Mac([2, 0, 0, 0, 0, 9]));
    }
    let (steps, _) = diffed_on(&other, &network("<forward/>"), &NO_PORTS, BTreeMap::new());
    assert!(steps.is_empty());
}
