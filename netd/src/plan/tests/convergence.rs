//! Whatever is asked of whatever host, and whatever fails in between: it converges.

use std::collections::{BTreeMap, BTreeSet};

use netd_common::abi::{NETWORK_DHCP, NETWORK_DNS, PORT_SERVICES};
use proptest::prelude::*;
use uuid::Uuid;

use crate::api::ApiError;
use crate::config::Xdp;
use crate::datapath::Hook;
use crate::datapath::ports::Ports;
use crate::datapath::records::{Record, Records};
use crate::dnsmasq::Digest;
use crate::link::{Address, DeviceConf, Dump, Ipv6Conf, Link, Scope as AddressScope, Snapshot};
use crate::model::{self, Firewall, Mac, Network, NetworkPorts};
use crate::plan::{
    Act, DeviceAct, Host, Intent, Member, Noted, Observed, Outcome, Port, Rehearsal, Scope,
    ServiceAct, Sockets, Step, StepError, execute, sentences,
};

/// A host whose steps may fail, and which looks after each of them whether anybody is unguarded.
pub(super) struct FakeHost {
    pub(super) has: Rehearsal,
    /// Steps that were asked for.
    pub(super) asked: usize,
    /// Those of them, by number, that fail.
    pub(super) fail: BTreeSet<usize>,
    /// From this one on the agent is dead: nothing is done any more.
    pub(super) dies_at: usize,
    faults: Vec<String>,
}

impl FakeHost {
    pub(super) fn new(observed: Observed) -> Self {
        Self {
            has: Rehearsal::numbered(observed, 1000),
            asked: 0,
            fail: BTreeSet::new(),
            dies_at: usize::MAX,
            faults: Vec::new(),
        }
    }

    /// Another agent takes over. It knows what is on disk and in the kernel alone.
    pub(super) fn restart(&mut self) {
        let mut observed = self.has.observed();
        observed.unchecked = true;
        for current in observed.programs.values_mut() {
            *current = false;
        }
        for sure in observed.proxies.values_mut() {
            *sure = false;
        }
        if observed.sockets == Sockets::Attached {
            observed.sockets = Sockets::Stale;
        }
        observed.noted.values_mut().for_each(Noted::adopt);
        self.has = Rehearsal::numbered(observed, 2000);
        self.dies_at = usize::MAX;
        self.fail.clear();
    }

    fn look(&mut self, step: &Step) {
        let observed = self.has.observed();
        let has = |ifindex: u32, hooks: &[Hook]| {
            let mut programs = observed.programs.keys();
            programs.any(|at| at.ifindex == ifindex && hooks.contains(&at.hook))
        };
        for link in observed.links.links.values() {
            let is_own = link.bridge.is_some() && link.name.starts_with("virbr");
            if is_own && link.up && !has(link.index, &[Hook::BridgeIngress]) {
                self.faults
                    .push(format!("{} is open after: {step}", link.name));
            }
            if is_own && link.up && !observed.records.networks.contains_key(&link.index) {
                self.faults
                    .push(format!("{} has no policy after: {step}", link.name));
            }
            if link.controller.is_some() && !has(link.index, &[Hook::PortIngress]) {
                self.faults
                    .push(format!("{} can send after: {step}", link.name));
            }
        }
        let egress = [Hook::UplinkEgress, Hook::TunnelEgress, Hook::BridgeEgress];
        for device in observed.records.devices.keys() {
            if observed.links.links.contains_key(device) && !has(*device, &egress) {
                self.faults
                    .push(format!("device {device} is used after: {step}"));
            }
        }
        if let (Some(uuid), Act::Device(_)) = (step.network, &step.act)
            && !observed.noted.contains_key(&uuid)
        {
            self.faults.push(format!("on no disk: {step}"));
        }
    }
}

impl Host for FakeHost {
    async fn observe(&mut self, _: &Intent<'_>) -> Result<Observed, ApiError> {
        Ok(self.has.observed())
    }

    async fn links(&mut self) -> Result<Snapshot, ApiError> {
        Ok(self.has.observed().links)
    }

    async fn apply(&mut self, steps: &[Step], intent: &Intent<'_>) -> Vec<Result<(), StepError>> {
        let mut results = Vec::new();
        for step in steps {
            self.asked += 1;
            if self.fail.contains(&self.asked) || self.asked >= self.dies_at {
                results.push(Err(StepError::internal("it fails")));
                continue;
            }
            self.has.carry_out(step, intent);
            self.look(step);
            results.push(Ok(()));
        }
        results
    }
}

/// Networks, by number, and what dnsmasq is to serve.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) network: Network,
    pub(super) network_ports: NetworkPorts,
    pub(super) service: Option<Digest>,
    pub(super) ports: Vec<Port>,
}

/// What a client said of the guest at a tap, if anything.
fn network_ports(choice: u8, tap: u32) -> NetworkPorts {
    let isolated = match choice & 0x0c {
        0 => return NetworkPorts::default(),
        4 => "<port isolated='yes'/>",
        8 => "<port isolated='no'/>",
        _ => "",
    };
    let xml = format!(
        "<networkport><uuid>22222222-2222-3333-4444-5555555555{tap:02}</uuid>\
         <owner><name>vm</name><uuid>33333333-2222-3333-4444-555555555555</uuid></owner>\
         <mac address='52:00:00:00:00:{tap:02x}'/>{isolated}</networkport>"
    );
    let mut ports = NetworkPorts::default();
    ports.insert(model::parse_port(&xml).unwrap().port);
    ports
}

pub(super) fn definition(number: u8, choices: (u8, bool, bool, bool, bool)) -> Definition {
    let (mode, dhcp, ipv6, publishes, isolated) = choices;
    let forward = [
        "",
        "<forward mode='nat'/>",
        "<forward mode='route'/>",
        "<forward mode='open'/>",
    ][usize::from(mode % 4)];
    let metadata = if publishes {
        format!(
            "<metadata><n:network xmlns:n='urn:netd:network:1'><n:antispoof/><n:forwards>\
             <n:portForward proto='tcp' guest='10.0.{number}.9'>\
             <n:range start='80{number}0' end='80{number}9'/></n:portForward>\
             <n:portForward proto='udp' address='2001:db8::{number}9' guest='fd00:{number}::9'>\
             <n:range start='53'/></n:portForward></n:forwards></n:network></metadata>"
        )
    } else {
        String::new()
    };
    let ipv6 = match ipv6 || publishes {
        true => format!("<ip family='ipv6' address='fd00:{number}::1' prefix='64'/>"),
        false => String::new(),
    };
    let isolated = if isolated {
        "<port isolated='yes'/>"
    } else {
        ""
    };
    let xml = format!(
        "<network><name>n{number}</name>\
         <uuid>11111111-2222-3333-4444-55555555550{number}</uuid>{metadata}{forward}\
         <bridge name='virbr{number}' stp='on' delay='0'/>\
         <mac address='52:54:00:00:00:0{number}'/>{isolated}\
         <ip address='10.0.{number}.1' netmask='255.255.255.0'/>{ipv6}\
         <route address='10.9.{number}.0' prefix='24' gateway='10.0.{number}.7'/></network>"
    );
    let network = model::parse(&xml).unwrap_or_else(|error| panic!("{error}: {xml}"));
    let tap = u32::from(number) + 10;
    Definition {
        network,
        network_ports: network_ports(mode, tap),
        service: dhcp.then_some(Digest {
            conf: u64::from(number),
            hosts: u64::from(mode),
        }),
        ports: vec![(tap, format!("tap{tap}"))],
    }
}

fn definitions() -> impl Strategy<Value = Vec<Definition>> {
    let choices = any::<(u8, bool, bool, bool, bool)>();
    prop::collection::vec(choices, 1..4).prop_map(|all| {
        let numbered = (1u8..).zip(all);
        numbered
            .map(|(number, choices)| definition(number, choices))
            .collect()
    })
}

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        ether: true,
        up: true,
        mtu: 1500,
        mac: Some(Mac([2, 0, 0, 0, 0, index as u8])),
        conf: DeviceConf {
            forwarding: [Some(false); 2],
            ipv6: Some(Ipv6Conf {
                accept_ra: 1,
                ..Ipv6Conf::default()
            }),
        },
        ..Link::default()
    }
}

/// A host with an uplink, and a tap for each of four networks.
pub(super) fn host(forwards: bool) -> Observed {
    let mut dump = Dump::default();
    dump.links.insert(2, link(2, "eth0"));
    for index in 11..15 {
        let tap = Link {
            kind: Some("tun".to_owned()),
            mac: Some(Mac([0xfe, 0, 0, 0, 0, index as u8])),
            conf: DeviceConf::default(),
            ..link(index, &format!("tap{index}"))
        };
        dump.links.insert(index, tap);
    }
    for (address, prefix) in [("198.51.100.2", 24), ("2001:db8::2", 64)] {
        dump.addresses.push(Address {
            index: 2,
            address: address.parse().unwrap(),
            prefix,
            primary: true,
            scope: AddressScope::Global,
        });
    }
    Observed {
        links: dump.into(),
        reserved: Some(Ports::default()),
        reserved_held: Some(Ports::default()),
        published_held: Some(Ports::default()),
        forwarding: [Some(forwards); 2],
        datapath: true,
        unmanaged: Some(BTreeSet::new()),
        ..Observed::default()
    }
}

fn member(definition: &Definition, generation: u64, up: bool) -> Member<'_> {
    Member {
        network: &definition.network,
        generation,
        up,
        service: definition.service,
        ports: &definition.ports,
        network_ports: &definition.network_ports,
    }
}

/// What is asked while these networks run and those go.
pub(super) fn intent<'a>(up: &'a [Definition], down: &'a [Definition], xdp: &'a Xdp) -> Intent<'a> {
    let running = up.iter().map(|definition| member(definition, 1, true));
    let going = down.iter().map(|definition| member(definition, 1, false));
    Intent {
        members: running.chain(going).collect(),
        xdp,
        firewall: Some(Firewall::Bypass),
        scope: Scope::Host,
        let_go: BTreeSet::new(),
    }
}

pub(super) fn run(host: &mut impl Host, intent: &Intent<'_>) -> Outcome {
    futures_util::FutureExt::now_or_never(execute(host, intent)).expect("it waits for nothing")
}

/// The networks of which records are on disk.
fn noted(host: &FakeHost, all: &[Definition]) -> Vec<Definition> {
    let observed = host.has.observed();
    let is_noted = |d: &&Definition| observed.noted.contains_key(&d.network.uuid);
    all.iter().filter(is_noted).cloned().collect()
}

/// What belongs to one network: its bridge with its addresses, its ports and its records.
fn share(observed: &Observed, definition: &Definition) -> String {
    let name = definition.network.bridge.name.as_deref().unwrap();
    let Some(bridge) = observed.links.by_name(name) else {
        return String::new();
    };
    let ports: Vec<_> = observed.links.ports_of(bridge.index).collect();
    let addresses: Vec<_> = observed.links.addresses_of(bridge.index).collect();
    let uuid = definition.network.uuid;
    let changes = Records::default().changes(&observed.records, true);
    let is_own = |record: &&Record| record.bridge() == Some(bridge.index);
    let records: Vec<_> = changes.iter().map(|c| c.record()).filter(is_own).collect();
    let at = ports.iter().map(|port| port.index).chain([bridge.index]);
    let at: BTreeSet<u32> = at.collect();
    let programs = observed.programs.keys().filter(|p| at.contains(&p.ifindex));
    let programs: Vec<_> = programs.collect();
    format!(
        "{bridge:?} {ports:?} {addresses:?} {records:?} {programs:?} {:?} {:?}",
        observed.noted.get(&uuid),
        observed.services.get(&uuid)
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// One run does all there is to do, in the way that a plan said before, and no moment of it
    /// leaves anybody unguarded. The next finds nothing.
    #[test]
    fn what_a_plan_says_is_done_at_once(all in definitions(), forwards in any::<bool>()) {
        let xdp = Xdp::default();
        let intent = intent(&all, &[], &xdp);
        let mut host = FakeHost::new(host(forwards));
        let mut rehearsal = Rehearsal::new(host.has.observed());
        let planned = run(&mut rehearsal, &intent);
        let done = run(&mut host, &intent);
        prop_assert!(done.failures.is_empty(), "{:?}", done.failures);
        prop_assert_eq!(sentences(&planned.done), sentences(&done.done));
        prop_assert!(!done.done.is_empty());
        let links = host.has.observed().links;
        for definition in &all {
            // The ports that it had before.
            let bridge = links.by_name(definition.network.bridge.name.as_deref().unwrap());
            let ports = links.ports_of(bridge.unwrap().index);
            let ports: Vec<Port> = ports.map(|port| (port.index, port.name.clone())).collect();
            prop_assert_eq!(&ports, &definition.ports);
        }
        prop_assert_eq!(&host.faults, &Vec::<String>::new());
        let again = run(&mut host, &intent);
        prop_assert_eq!(again, Outcome::default());
        // Nor does another agent that finds all that, but for what it cannot know.
        host.restart();
        run(&mut host, &intent);
        prop_assert_eq!(run(&mut host, &intent), Outcome::default());
        prop_assert_eq!(&host.faults, &Vec::<String>::new());
    }

    /// A network that another driver gets keeps its devices and has nothing of netd's; one that comes
    /// from there keeps its devices, too. The others notice neither.
    #[test]
    fn what_is_let_go_and_taken_over_keeps_its_devices(all in definitions()) {
        let xdp = Xdp::default();
        let mut host = FakeHost::new(host(true));
        run(&mut host, &intent(&all, &[], &xdp));
        let before = host.has.observed();
        let (first, others) = all.split_first().unwrap();
        let bridge = before.links.by_name(first.network.bridge.name.as_deref().unwrap());
        let mut letting = intent(others, &[], &xdp);
        letting.let_go = bridge.map(|link| link.index).into_iter().collect();
        let outcome = run(&mut host, &letting);
        prop_assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        prop_assert!(outcome.orphans.is_empty());
        let between = host.has.observed();
        prop_assert_eq!(&between.links.links, &before.links.links);
        prop_assert_eq!(&between.links.addresses, &before.links.addresses);
        prop_assert!(!between.noted.contains_key(&first.network.uuid));
        let index = bridge.unwrap().index;
        // To other networks it is a device of the host's with an address: a way out.
        let guards = [Hook::BridgeIngress, Hook::PortIngress];
        let ports = before.links.ports_of(index).map(|port| port.index);
        let own: BTreeSet<u32> = ports.chain([index]).collect();
        let mut programs = between.programs.keys();
        prop_assert!(!programs.any(|at| own.contains(&at.ifindex) && guards.contains(&at.hook)));
        prop_assert!(!between.records.networks.contains_key(&index));
        for other in others {
            prop_assert_eq!(share(&before, other), share(&between, other));
        }
        host.faults.clear();
        let outcome = run(&mut host, &intent(&all, &[], &xdp));
        prop_assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        let after = host.has.observed();
        prop_assert_eq!(&after.links.links, &before.links.links);
        prop_assert_eq!(share(&after, first), share(&before, first));
    }

    /// Whichever steps fail, the next run does what is left.
    #[test]
    fn failures_are_made_good(
        all in definitions(),
        fail in prop::collection::btree_set(1usize..80, 0..12),
    ) {
        let xdp = Xdp::default();
        let intent = intent(&all, &[], &xdp);
        let mut clean = FakeHost::new(host(false));
        run(&mut clean, &intent);
        let mut host = FakeHost::new(host(false));
        host.fail = fail;
        let first = run(&mut host, &intent);
        let failed = host.fail.iter().filter(|number| **number <= host.asked).count();
        prop_assert_eq!(first.failures.len(), failed);
        host.fail.clear();
        let mended = run(&mut host, &intent);
        prop_assert!(mended.failures.is_empty(), "{:?}", mended.failures);
        prop_assert_eq!(run(&mut host, &intent), Outcome::default());
        prop_assert_eq!(&host.faults, &Vec::<String>::new());
        for definition in &all {
            let (one, other) = (clean.has.observed(), host.has.observed());
            prop_assert_eq!(
                share(&one, definition).is_empty(),
                share(&other, definition).is_empty()
            );
        }
    }

    /// An agent may die between any two steps of a start, a stop, or of what follows: the next one
    /// finishes what records tell of, and a teardown leaves nothing.
    #[test]
    fn a_death_between_any_two_steps_is_survived(
        all in definitions(),
        split in 0usize..4,
        death in 1usize..90,
        stopping in any::<bool>(),
    ) {
        let xdp = Xdp::default();
        let before = host(false);
        let mut host = FakeHost::new(before.clone());
        let (stay, change) = all.split_at(split.min(all.len()));
        if stopping {
            run(&mut host, &intent(&all, &[], &xdp));
            host.dies_at = host.asked + death;
            run(&mut host, &intent(stay, change, &xdp));
        } else {
            run(&mut host, &intent(stay, &[], &xdp));
            host.dies_at = host.asked + death;
            run(&mut host, &intent(&all, &[], &xdp));
        }
        host.restart();
        let left = noted(&host, &all);
        prop_assert!(left.len() >= stay.len(), "what runs stays");
        let mut next = intent(&left, &[], &xdp);
        for member in &mut next.members {
            member.generation = 1;
        }
        let outcome = run(&mut host, &next);
        prop_assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        prop_assert_eq!(run(&mut host, &next), Outcome::default());
        prop_assert_eq!(&host.faults, &Vec::<String>::new());
        let observed = host.has.observed();
        for definition in &left {
            prop_assert!(!share(&observed, definition).is_empty());
        }
        let bridges = observed.links.links.values().filter(|link| link.bridge.is_some());
        prop_assert_eq!(bridges.count(), left.len(), "nobody's bridge is there");

        let teardown = Intent {
            scope: Scope::Teardown,
            ..intent(&[], &left, &xdp)
        };
        let outcome = run(&mut host, &teardown);
        prop_assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        let after = host.has.observed();
        prop_assert_eq!(&after.noted, &BTreeMap::new());
        prop_assert_eq!(&after.services, &BTreeMap::new());
        prop_assert_eq!(&after.programs, &BTreeMap::new());
        prop_assert_eq!(&after.records, &Records::default());
        prop_assert_eq!(&after.proxies, &BTreeMap::new());
        prop_assert_eq!(after.forwarding, before.forwarding);
        prop_assert_eq!(after.forwarding_was, [None; 2]);
        prop_assert_eq!(&after.listeners, &BTreeSet::new());
        prop_assert_eq!(&after.unmanaged, &Some(BTreeSet::new()));
        let uplink = |observed: &Observed| observed.links.links[&2].conf;
        prop_assert_eq!(uplink(&after), uplink(&before));
        prop_assert_eq!(after.links.links.len(), before.links.links.len());
        prop_assert_eq!(after.links.addresses.len(), before.links.addresses.len());
        prop_assert_eq!(run(&mut host, &teardown).done.len(), 0);
    }

    /// A network that starts or stops touches nothing of another, and what it adds is what a plan
    /// for it says.
    #[test]
    fn one_network_is_none_of_anothers_business(all in definitions(), of in 0usize..4) {
        let xdp = Xdp::default();
        let mut host = FakeHost::new(host(false));
        let one = of % all.len();
        let others: Vec<Definition> = all
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != one)
            .map(|(_, definition)| definition.clone())
            .collect();
        let uuid: Uuid = all[one].network.uuid;
        run(&mut host, &intent(&others, &[], &xdp));
        let before: Vec<String> = others.iter().map(|d| share(&host.has.observed(), d)).collect();

        let started = run(&mut host, &intent(&all, &[], &xdp));
        let foreign = |step: &&Step| step.network.is_some_and(|network| network != uuid);
        prop_assert_eq!(started.done.iter().find(foreign), None);
        let between: Vec<String> = others.iter().map(|d| share(&host.has.observed(), d)).collect();
        prop_assert_eq!(&before, &between);

        let stopped = run(&mut host, &intent(&others, std::slice::from_ref(&all[one]), &xdp));
        prop_assert!(stopped.failures.is_empty(), "{:?}", stopped.failures);
        prop_assert_eq!(stopped.done.iter().find(foreign), None);
        let after: Vec<String> = others.iter().map(|d| share(&host.has.observed(), d)).collect();
        prop_assert_eq!(&before, &after);
        prop_assert_eq!(share(&host.has.observed(), &all[one]), "");
        prop_assert_eq!(&host.faults, &Vec::<String>::new());
    }
}

/// The first network that runs is not taken for something to be cleared away when a plan for a
/// second one is made.
#[test]
fn a_second_network_detaches_no_program_of_the_first() {
    let xdp = Xdp::default();
    let choices = (1, true, false, false, false);
    let both = [definition(1, choices), definition(2, choices)];
    let mut host = FakeHost::new(host(false));
    run(&mut host, &intent(&both[..1], &[], &xdp));
    let mut rehearsal = Rehearsal::new(host.has.observed());
    let plan = sentences(&run(&mut rehearsal, &intent(&both, &[], &xdp)).done);
    assert!(plan.contains(&"create bridge virbr2 with MAC address 52:54:00:00:00:02".to_owned()));
    assert!(plan.contains(&"start dnsmasq of network n2 on virbr2".to_owned()));
    // The one that names all bridges is no other step for the first.
    let all = DeviceAct::LeaveToNetd(
        ["tap11", "tap12", "virbr1", "virbr2", "vnet*"]
            .map(str::to_owned)
            .into(),
    );
    let all = all.to_string();
    let others = plan.iter().filter(|line| **line != all);
    let mut others = others.filter(|line| line.contains("detach") || line.contains("virbr1"));
    let wrong = others.next();
    assert_eq!(wrong, None, "{plan:#?}");
}

/// A bridge that cannot be deleted stays guarded, and its network noted.
#[test]
fn a_bridge_that_stays_is_guarded() {
    let xdp = Xdp::default();
    let all = [definition(1, (1, true, true, true, true))];
    let mut host = FakeHost::new(host(false));
    run(&mut host, &intent(&all, &[], &xdp));
    let before = host.has.observed();
    // dnsmasq, its relay and their namespace go first, then the bridge is to.
    host.fail.insert(host.asked + 4);
    let outcome = run(&mut host, &intent(&[], &all, &xdp));
    assert_eq!(outcome.failures.len(), 1);
    let after = host.has.observed();
    // All but what led to the services.
    let mut records = before.records.clone();
    for network in records.networks.values_mut() {
        (network.services_ifindex, network.services_netns) = (0, 0);
        network.flags &= !(NETWORK_DNS | NETWORK_DHCP);
    }
    records.ports.retain(|_, port| port.flags != PORT_SERVICES);
    assert_eq!(after.records, records);
    let mut programs = before.programs.clone();
    programs.retain(|at, _| at.hook != Hook::ServicesIngress);
    assert_eq!(after.programs, programs);
    assert_eq!(after.noted, before.noted);
    assert!(host.faults.is_empty(), "{:?}", host.faults);
    let ended = outcome.done.iter().map(|step| &step.act);
    let ended: Vec<_> = ended
        .filter(|act| matches!(act, Act::Service(ServiceAct::StopDnsmasq { .. })))
        .collect();
    assert_eq!(ended.len(), 1);
}

/// A change of the definition is on disk before it is anywhere else, or nothing of it is done.
#[test]
fn a_change_that_cannot_be_noted_is_not_made() {
    let xdp = Xdp::default();
    let mut all = [definition(1, (1, true, false, false, false))];
    let mut host = FakeHost::new(host(false));
    run(&mut host, &intent(&all, &[], &xdp));
    let before = share(&host.has.observed(), &all[0]);
    all[0].network.mtu = Some(1400);
    let mut changed = intent(&all, &[], &xdp);
    changed.members[0].generation = 2;
    host.fail.insert(host.asked + 1);
    let outcome = run(&mut host, &changed);
    assert_eq!((outcome.done.len(), outcome.failures.len()), (0, 1));
    assert_eq!(share(&host.has.observed(), &all[0]), before);
    let outcome = run(&mut host, &changed);
    let said = sentences(&outcome.done);
    assert_eq!(said[0], "write the record of active network n1");
    assert!(
        said.contains(&"set MTU 1400 on virbr1".to_owned()),
        "{said:?}"
    );
}
