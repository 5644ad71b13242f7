//! A network that comes to run with another definition has all of that and nothing of the former one,
//! whatever fails and whoever dies on the way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::convergence::{Definition, FakeHost, definition, host, intent, run};
use crate::config::Xdp;
use crate::model::{self, Network, NetworkPorts};
use crate::plan::{Given, Intent, Observed, Outcome, RouteSpec};

/// What differs between two definitions of one network.
type Choices = ((u8, bool, bool, bool, bool), u8);

/// Network 1, whose addresses, routes and MTU are chosen as well.
fn redefined((choices, others): Choices) -> Definition {
    let mut definition = definition(1, choices);
    // What a client says of a guest stays.
    definition.network_ports = NetworkPorts::default();
    let network = &mut definition.network;
    let more = |xml: &str| -> Network {
        model::parse(&format!("<network><name>n</name>{xml}</network>")).unwrap()
    };
    if others & 1 != 0 {
        network
            .ips
            .extend(more("<ip address='10.0.1.2' netmask='255.255.255.0'/>").ips);
    }
    if others & 2 != 0 {
        network.ips[0] = more("<ip address='10.0.1.3' netmask='255.255.255.0'/>")
            .ips
            .remove(0);
    }
    if others & 4 != 0 {
        network.routes.clear();
    }
    if others & 8 != 0 {
        network.mtu = Some(1400);
    }
    if others & 16 != 0 {
        network.bridge.stp = false;
    }
    definition
}

fn choices() -> impl Strategy<Value = Choices> {
    any::<Choices>()
}

/// What the bridge has, as far as a definition gives it.
fn given(
    observed: &Observed,
    network: &Network,
) -> (BTreeSet<(IpAddr, u8)>, BTreeSet<RouteSpec>, u32) {
    let bridge = observed.links.by_name("virbr1").unwrap();
    let addresses = observed.links.addresses_of(bridge.index);
    let addresses = addresses
        .map(|address| (address.address, address.prefix))
        .collect();
    let own = observed
        .links
        .routes
        .iter()
        .filter(|route| route.index == Some(bridge.index));
    let routes = own.filter_map(|route| {
        Some(RouteSpec {
            destination: route.destination,
            gateway: route.gateway?,
            metric: route.metric?,
        })
    });
    let routes = routes.collect();
    let noted = &observed.noted[&network.uuid];
    assert_eq!((&noted.given, &noted.former), (&Given::by(network), &None));
    (addresses, routes, bridge.mtu)
}

fn with_generation<'a>(definitions: &'a [Definition], xdp: &'a Xdp, generation: u64) -> Intent<'a> {
    let mut intent = intent(definitions, &[], xdp);
    for member in &mut intent.members {
        member.generation = generation;
    }
    intent
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn nothing_of_a_former_definition_is_left(
        before in choices(),
        between in choices(),
        after in choices(),
        fail in prop::collection::btree_set(1usize..30, 0..4),
        death in prop::option::of(1usize..30),
    ) {
        let xdp = Xdp::default();
        let [before, between, after] = [before, between, after].map(|c| [redefined(c)]);
        let mut changed = FakeHost::new(host(false));
        run(&mut changed, &with_generation(&before, &xdp, 1));
        changed.fail = fail.iter().map(|step| step + changed.asked).collect();
        if let Some(death) = death {
            changed.dies_at = changed.asked + death;
        }
        run(&mut changed, &with_generation(&between, &xdp, 2));
        changed.restart();
        run(&mut changed, &with_generation(&after, &xdp, 3));
        let again = run(&mut changed, &with_generation(&after, &xdp, 3));
        prop_assert_eq!(again, Outcome::default());

        let mut fresh = FakeHost::new(host(false));
        run(&mut fresh, &with_generation(&after, &xdp, 1));
        let network = &after[0].network;
        let [changed, fresh] = [changed, fresh].map(|host| host.has.observed());
        prop_assert_eq!(given(&changed, network), given(&fresh, network));
        let isolated = |observed: &Observed| observed.links.links[&11].isolated;
        prop_assert_eq!(isolated(&changed), isolated(&fresh));
        let modes = |observed: &Observed| {
            let networks = observed.records.networks.values();
            networks.map(|record| record.v4.mode).collect::<Vec<u8>>()
        };
        prop_assert_eq!(modes(&changed), modes(&fresh));
        let services = |observed: &Observed| observed.services.values().map(|s| s.serves).collect::<Vec<_>>();
        prop_assert_eq!(services(&changed), services(&fresh));
        prop_assert_eq!(changed.forwarding, fresh.forwarding);
    }
}

/// What somebody else gave the bridge is not taken.
#[test]
fn foreign_addresses_stay() {
    let xdp = Xdp::default();
    let plain = (1, true, false, false, false);
    let [one, two] = [[redefined((plain, 1))], [redefined((plain, 0))]];
    let mut host = FakeHost::new(host(false));
    run(&mut host, &with_generation(&one, &xdp, 1));
    let act = crate::plan::DeviceAct::AddAddress {
        bridge: "virbr1".to_owned(),
        address: IpAddr::from([172, 16, 0, 1]),
        prefix: 24,
    };
    let step = crate::plan::Step {
        network: None,
        act: act.into(),
    };
    host.has.carry_out(&step, &with_generation(&one, &xdp, 1));
    let done = run(&mut host, &with_generation(&two, &xdp, 2)).done;
    let said = crate::plan::sentences(&done);
    assert!(
        said.contains(&"remove address 10.0.1.2/24 from virbr1".to_owned()),
        "{said:?}"
    );
    let (addresses, ..) = given(&host.has.observed(), &two[0].network);
    let expected = [([10, 0, 1, 1], 24), ([172, 16, 0, 1], 24)];
    assert_eq!(
        addresses,
        expected.map(|(a, p)| (IpAddr::from(a), p)).into()
    );
}
