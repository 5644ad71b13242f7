//! Namespaces of services, and what runs in them.

use std::collections::BTreeSet;

use super::super::{
    Act, DeviceAct, Intent, Member, Observed, Outcome, Rehearsal, Scope, ServiceAct, Step, execute,
};
use super::{NO_PORTS, host};
use crate::config::Xdp;
use crate::datapath::Hook;
use crate::datapath::ports::Ports;
use crate::dnsmasq::Digest;
use crate::model::{self, Network};
use crate::services::host_end;

const DIGEST: Digest = Digest { conf: 1, hosts: 2 };

fn network(further: &str) -> Network {
    let xml = format!(
        "<network><name>n</name><uuid>11111111-2222-3333-4444-555555555555</uuid>\
         <bridge name='virbr7'/><mac address='52:54:00:00:00:07'/>{further}\
         <ip address='10.0.7.1' prefix='24'><dhcp><range start='10.0.7.2' end='10.0.7.9'/></dhcp>\
         </ip></network>"
    );
    model::parse(&xml).unwrap()
}

fn converge(host: &mut Rehearsal, network: &Network, up: bool, serves: bool) -> Outcome {
    let xdp = Xdp::default();
    let member = Member {
        network,
        generation: 1,
        up,
        service: serves.then_some(DIGEST),
        ports: &[],
        network_ports: &NO_PORTS,
    };
    let intent = Intent {
        members: vec![member],
        firewall: None,
        xdp: &xdp,
        scope: Scope::Host,
        let_go: BTreeSet::new(),
    };
    let run = execute(host, &intent);
    futures_util::FutureExt::now_or_never(run).expect("it waits for nothing")
}

fn fresh() -> Rehearsal {
    Rehearsal::new(Observed {
        links: host().into(),
        reserved: Some(Ports::default()),
        reserved_held: Some(Ports::default()),
        published_held: Some(Ports::default()),
        forwarding: [Some(true); 2],
        datapath: true,
        ..Observed::default()
    })
}

fn is(step: &Step, what: &str) -> bool {
    match &step.act {
        Act::Device(DeviceAct::MakeNamespace(_)) => what == "make",
        Act::Device(DeviceAct::RemoveNamespace { .. }) => what == "remove",
        Act::Service(ServiceAct::StartDnsmasq { .. }) => what == "dnsmasq",
        Act::Service(ServiceAct::StartRelay { .. }) => what == "relay",
        Act::Service(ServiceAct::StopRelay { .. }) => what == "no relay",
        Act::Service(ServiceAct::StopDnsmasq { .. }) => what == "no dnsmasq",
        _ => false,
    }
}

/// Those of the steps that are about services, in order.
fn services(outcome: &Outcome) -> Vec<&'static str> {
    let all = [
        "make",
        "remove",
        "dnsmasq",
        "relay",
        "no relay",
        "no dnsmasq",
    ];
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    let of = |step| all.into_iter().find(|what| is(step, what));
    outcome.done.iter().filter_map(of).collect()
}

#[test]
fn a_network_with_dnsmasq_has_a_namespace_for_as_long_as_it_runs() {
    let network = network("");
    let mut host = fresh();
    let started = converge(&mut host, &network, true, true);
    assert_eq!(services(&started), ["make", "relay", "dnsmasq"]);
    let observed = host.observed();
    let end = observed.links.by_name(&host_end("virbr7")).unwrap();
    let bridge = observed.links.by_name("virbr7").unwrap();
    let record = observed.records.networks[&bridge.index];
    assert_eq!(record.services_ifindex, end.index);
    assert_eq!(
        observed.records.ports[&end.index].bridge_ifindex,
        bridge.index
    );
    let programs: Vec<Hook> = observed.programs.keys().map(|at| at.hook).collect();
    assert!(programs.contains(&Hook::ServicesIngress), "{programs:?}");
    assert_eq!(converge(&mut host, &network, true, true).done, []);

    let stopped = converge(&mut host, &network, false, true);
    assert_eq!(services(&stopped), ["no dnsmasq", "no relay", "remove"]);
    let observed = host.observed();
    assert!(observed.links.by_name(&host_end("virbr7")).is_none());
    assert!(observed.noted.is_empty() && observed.namespaces.is_empty());
}

#[test]
fn what_is_lost_is_made_again_and_dnsmasq_moves() {
    let network = network("");
    let mut host = fresh();
    converge(&mut host, &network, true, true);
    // Somebody deletes the link: the namespace is of no use any more.
    let mut observed = host.observed();
    let mut dump = crate::link::Dump::clone(&observed.links);
    dump.links.retain(|_, link| link.name != host_end("virbr7"));
    observed.links = dump.into();
    let mut host = Rehearsal::numbered(observed, 5000);
    let mended = converge(&mut host, &network, true, true);
    assert_eq!(services(&mended), ["make", "relay", "dnsmasq"]);
    assert_eq!(converge(&mut host, &network, true, true).done, []);

    // An earlier version's dnsmasq is in the host's namespace.
    let mut observed = host.observed();
    observed.relays.clear();
    for service in observed.services.values_mut() {
        service.in_place = false;
    }
    let mut host = Rehearsal::numbered(observed, 6000);
    let moved = converge(&mut host, &network, true, true);
    assert_eq!(services(&moved), ["relay", "dnsmasq"]);
}

#[test]
fn services_that_end_leave_the_network_and_without_dns_there_is_no_relay() {
    let network = network("<dns enable='no'/>");
    let mut host = fresh();
    let started = converge(&mut host, &network, true, true);
    assert_eq!(services(&started), ["make", "dnsmasq"]);
    let ended = converge(&mut host, &network, true, false);
    assert_eq!(services(&ended), ["no dnsmasq", "remove"]);
    let observed = host.observed();
    let bridge = observed.links.by_name("virbr7").unwrap().index;
    assert_eq!(observed.records.networks[&bridge].services_ifindex, 0);
    assert_eq!(observed.records.networks[&bridge].flags, 0);
}
