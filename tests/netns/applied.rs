//! `netd net-apply`: a running network comes to run with its changed definition. What a change does not
//! concern does not notice: streams are counted through each of them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::{forward, forwards, range};
use netd_tests::traffic::{self, Load, Server, Verdict};
use netd_tests::{Guest, Lab, Losses, Netns, Network, SOON, eventually};

const ECHO: u16 = 7;

/// Replaces the stored definition of the network, as an editor does; what runs stays as it is.
fn define(lab: &Lab, xml: &str) -> Result<()> {
    let uuid = lab.agent.ok(["net-uuid", "default"])?;
    let uuid = format!("</name><uuid>{}</uuid>", uuid.trim());
    lab.agent.define(&xml.replacen("</name>", &uuid, 1))
}

/// Has the network run with another definition.
fn apply(lab: &Lab, xml: &str) -> Result<()> {
    define(lab, xml)?;
    let said = lab.agent.ok(["net-apply", "default"])?;
    ensure!(said.contains("runs with its changed definition"), "{said}");
    // Nothing is left to do, and nothing of the former definition is remembered.
    let plan = lab.agent.ok(["plan", "default"])?;
    ensure!(plan.contains("Nothing to do"), "{plan}");
    let record = std::fs::read_to_string(lab.directory().join("run/networks/default.json"))?;
    ensure!(!record.contains("former"), "{record}");
    Ok(())
}

fn dry_run(lab: &Lab, xml: &str) -> Result<String> {
    define(lab, xml)?;
    lab.agent.ok(["net-apply", "default", "--dry-run"])
}

/// The number of the network's dnsmasq; others' are none of it.
fn dnsmasq(lab: &Lab) -> Result<String> {
    let pid = std::fs::read_to_string(lab.directory().join("run/default.pid"));
    Ok(pid.context("the pid file")?.trim().to_owned())
}

/// Guests that talk: with each other, with outside, and with outside from another network.
struct Talk {
    guests: Vec<Guest>,
    _servers: Vec<Server>,
}

impl Talk {
    fn begin(lab: &mut Lab, network: &Network) -> Result<Self> {
        lab.agent.start()?;
        lab.up(network)?;
        let other = Network::nat("other", 2);
        lab.up(&other)?;
        let guests = vec![
            lab.member(1, network)?,
            lab.member(2, network)?,
            lab.member(3, &other)?,
        ];
        let servers = vec![
            Server::udp(&lab.wan, at(OUTSIDE, ECHO))?,
            Server::tcp_echo(&lab.wan, at(OUTSIDE, ECHO))?,
            Server::udp(guests[1].netns(), at(network.address(12), ECHO))?,
        ];
        Ok(Self {
            guests,
            _servers: servers,
        })
    }

    /// Makes a change while they talk, and counts.
    fn unnoticed(&self, lab: &Lab, what: &str, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let [first, second, stranger] = [0, 1, 2].map(|at| self.guests[at].netns());
        let all = [&lab.hv, &lab.wan, first, second, stranger];
        let before = Losses::look(&all)?;
        let to = |netns: &Netns, address| Load::udp(netns, at(address, ECHO));
        let loads = [
            ("guest to outside", to(first, OUTSIDE)?),
            ("guest to guest", to(first, Ipv4Addr::new(10, 10, 1, 12))?),
            ("another network's guest", to(stranger, OUTSIDE)?),
            ("connection", Load::tcp(second, at(OUTSIDE, ECHO))?),
        ];
        for (_, load) in &loads {
            load.reach(50)?;
        }
        change().with_context(|| what.to_owned())?;
        for (who, load) in loads {
            load.reach(200)?;
            let report = load.finish().with_context(|| format!("{what}: {who}"))?;
            before
                .account_for(&report, &all)
                .with_context(|| format!("{what}: {who}"))?;
        }
        Ok(())
    }
}

/// A new guest's lease.
fn lease(lab: &Lab, number: u8) -> Result<netd_tests::guest::Lease> {
    lab.plugged(number, "virbr1")?.dhcp()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_dnsmasq_tells_changes_and_streams_go_on() {
    check(|lab| {
        let network = Network::default().dhcp("");
        let talk = Talk::begin(lab, &network)?;
        let holder = lab.plugged(4, "virbr1")?;
        let held = holder.dhcp()?.address;
        lab.leases_with("default", held)?;
        let domain = network
            .clone()
            .with("<domain name='lab.example' localOnly='yes'/>");
        talk.unnoticed(lab, "domain", || apply(lab, &domain.xml()))?;
        let told = lease(lab, 5)?;
        ensure!(told.domain.as_deref() == Some("lab.example"), "{told:?}");
        let range = domain.xml().replace("10.10.1.100'", "10.10.1.60'");
        let range = range.replace("10.10.1.200'", "10.10.1.69'");
        talk.unnoticed(lab, "range", || apply(lab, &range))?;
        let told = lease(lab, 6)?;
        ensure!((60..=69).contains(&told.address.octets()[3]), "{told:?}");
        // Nobody's lease was lost.
        lab.leases_with("default", held)?;
        let host = "<host mac='52:54:00:00:00:07' name='web' ip='10.10.1.50'/>";
        let before = dnsmasq(lab)?;
        let with_host = range.replace("</dhcp>", &format!("{host}</dhcp>"));
        talk.unnoticed(lab, "host", || apply(lab, &with_host))?;
        ensure!(dnsmasq(lab)? == before, "a host needs no other dnsmasq");
        let told = lease(lab, 7)?;
        ensure!(told.address == network.address(50), "{told:?}");
        let mtu = with_host.replace("<ip ", "<mtu size='1400'/><ip ");
        talk.unnoticed(lab, "MTU", || apply(lab, &mtu))?;
        let told = lease(lab, 8)?;
        ensure!(told.mtu == Some(1400), "{told:?}");
        let link = lab.hv.run(["ip", "link", "show", "virbr1"])?;
        ensure!(link.contains("mtu 1400"), "{link}");
        let services = lab.in_services("virbr1", ["ip", "link", "show", "virbr1"])?;
        ensure!(services.contains("mtu 1400"), "{services}");
        talk.unnoticed(lab, "no MTU", || apply(lab, &with_host))?;
        let link = lab.hv.run(["ip", "link", "show", "virbr1"])?;
        ensure!(link.contains("mtu 1500"), "{link}");
        lab.leases_with("default", held)?;
        Ok(())
    });
}

/// While dnsmasq is replaced guests wait for an answer no longer than this: a question that is lost is
/// asked again a second or more later. A busy machine may take longer, but not each time.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_replaced_dnsmasq_answers_soon() {
    check(|lab| {
        const LIMIT: Duration = Duration::from_millis(200);
        const ROUNDS: usize = 30;
        let host = "<dns><host ip='10.10.1.9'><hostname>printer.lan</hostname></host></dns>";
        let network = Network::default().with(host).dhcp("");
        let _talk = Talk::begin(lab, &network)?;
        let guest = lab.member(4, &network)?;
        let socket = guest.netns().udp("0.0.0.0:0")?;
        socket.connect(at(network.gateway(), 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(5)))?;
        // printer.lan, type A.
        let question = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
                         \x07printer\x03lan\x00\x00\x01\x00\x01";
        let ask = || {
            socket.send(question).is_ok()
                && matches!(socket.recv(&mut [0; 512]), Ok(length) if length > 12)
        };
        eventually(SOON, || {
            ensure!(ask(), "no answer");
            Ok(())
        })?;
        let mut gaps = Vec::new();
        while gaps.last().is_none_or(|gap| *gap >= LIMIT) {
            let number = gaps.len();
            ensure!(number < ROUNDS, "without an answer: {gaps:?}");
            let domain = format!("<domain name='lab{number}.example'/>");
            define(lab, &network.clone().with(&domain).xml())?;
            let before = dnsmasq(lab)?;
            let gap = std::thread::scope(|scope| -> Result<Duration> {
                let change = scope.spawn(|| lab.agent.ok(["net-apply", "default"]));
                let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
                while !change.is_finished() {
                    if ask() {
                        gap = gap.max(last.elapsed());
                        last = Instant::now();
                    }
                }
                eventually(SOON, || {
                    ensure!(ask(), "no answer");
                    Ok(())
                })?;
                change
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(gap.max(last.elapsed()))
            })?;
            ensure!(dnsmasq(lab)? != before, "it was not replaced");
            gaps.push(gap);
        }
        println!("without an answer: {gaps:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn addresses_and_routes_come_and_go_while_guests_talk() {
    check(|lab| {
        let network = Network::default().dhcp("");
        let talk = Talk::begin(lab, &network)?;
        let second = network.clone().with(
            "<ip address='10.20.1.1' prefix='24'/>\
             <ip family='ipv6' address='fd00:20::1' prefix='64'/>\
             <route address='10.30.0.0' prefix='16' gateway='10.10.1.11'/>",
        );
        let plan = dry_run(lab, &second.xml())?;
        for line in [
            "add address 10.20.1.1/24 to virbr1",
            "switch IPv6 on on virbr1",
            "add route to 10.30.0.0/16 via 10.10.1.11 on virbr1, metric 1",
            "set addresses, routes and MTU of virbr1's services",
        ] {
            ensure!(plan.contains(line), "{line} is not in:\n{plan}");
        }
        talk.unnoticed(lab, "second address", || apply(lab, &second.xml()))?;
        let guest = &talk.guests[0];
        guest.netns().address("eth0", "10.20.1.11/24")?;
        guest.ping("10.20.1.1")?;
        guest.netns().address("eth0", "fd00:20::11/64")?;
        guest.netns().wait_for_addresses("eth0")?;
        guest.ping("fd00:20::1")?;
        let routes = || lab.hv.run(["ip", "route", "show", "dev", "virbr1"]);
        ensure!(routes()?.contains("10.30.0.0/16"), "{}", routes()?);
        // Names are answered there, too.
        let name = "<dns><host ip='10.10.1.9'><hostname>printer.lan</hostname></host></dns>";
        let named = second.clone().with(name);
        talk.unnoticed(lab, "a name", || apply(lab, &named.xml()))?;
        ensure!(guest.resolve("printer.lan", Ipv4Addr::new(10, 20, 1, 1))? == network.address(9));

        let other = named.xml().replace(
            "gateway='10.10.1.11'/>",
            "gateway='10.10.1.12' metric='7'/>",
        );
        talk.unnoticed(lab, "another route", || apply(lab, &other))?;
        ensure!(
            routes()?.contains("10.30.0.0/16 via 10.10.1.12 proto static metric 7"),
            "{}",
            routes()?
        );
        talk.unnoticed(lab, "one address", || apply(lab, &network.xml()))?;
        let has = lab.hv.run(["ip", "addr", "show", "virbr1"])?;
        ensure!(!has.contains("10.20.") && !has.contains("fd00:20"), "{has}");
        ensure!(!routes()?.contains("10.30."), "{}", routes()?);
        let services = lab.in_services("virbr1", ["ip", "addr", "show", "virbr1"])?;
        ensure!(
            services.contains("10.10.1.1/24") && !services.contains("10.20."),
            "{services}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn bridge_and_definition_change_while_guests_talk() {
    check(|lab| {
        let network = Network::default().dhcp("");
        let talk = Talk::begin(lab, &network)?;
        let (before, bridge) = (dnsmasq(lab)?, lab.hv.ifindex("virbr1")?);
        let stp = |attributes: &str| {
            network.xml().replace(
                "<bridge name='virbr1'/>",
                &format!("<bridge name='virbr1' {attributes}/>"),
            )
        };
        talk.unnoticed(lab, "STP off", || apply(lab, &stp("stp='off' delay='3'")))?;
        let detail = lab.hv.run(["ip", "-d", "link", "show", "virbr1"])?;
        ensure!(
            detail.contains("forward_delay 300 ") && detail.contains("stp_state 0"),
            "{detail}"
        );
        talk.unnoticed(lab, "STP on", || apply(lab, &network.xml()))?;
        let group = network
            .clone()
            .with("<portgroup name='web'/><title>all of them</title>");
        let plan = dry_run(lab, &group.xml())?;
        let plan: Vec<&str> = plan.lines().filter(|line| !line.is_empty()).collect();
        ensure!(
            plan == ["write the record of active network default"],
            "{plan:?}"
        );
        talk.unnoticed(lab, "portgroup", || apply(lab, &group.xml()))?;
        let runs = lab.agent.ok(["net-dumpxml", "default"])?;
        ensure!(
            runs.contains("<portgroup name='web'") && runs.contains("all of them"),
            "{runs}"
        );
        let dev = network
            .clone()
            .forward("<forward mode='nat' dev='uplink'/>");
        talk.unnoticed(lab, "forward dev", || apply(lab, &dev.xml()))?;
        let leave = network
            .clone()
            .forward("<forward mode='nat' dev='elsewhere'/>");
        apply(lab, &leave.xml())?;
        let first = talk.guests[0].netns();
        let said = traffic::ask_udp(first, at(OUTSIDE, ECHO))?;
        ensure!(!matches!(said, Verdict::Answered(_)), "{said:?}");
        apply(lab, &network.xml())?;
        ensure!(dnsmasq(lab)? == before, "dnsmasq was replaced");
        ensure!(lab.hv.ifindex("virbr1")? == bridge, "another bridge");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn nat_becomes_route_and_nat_again() {
    check(|lab| {
        let network = Network::default().dhcp("");
        let talk = Talk::begin(lab, &network)?;
        let way = ["ip", "route", "add", "10.10.1.0/24", "via", "198.51.100.2"];
        lab.wan.run(way)?;
        let seen = || -> Result<IpAddr> {
            Ok(traffic::answered(talk.guests[0].netns(), at(OUTSIDE, ECHO))?.ip())
        };
        ensure!(seen()? == HOST, "{}", seen()?);
        let before = dnsmasq(lab)?;
        let routed = network.clone().forward("<forward mode='route'/>");
        talk.unnoticed(lab, "route", || apply(lab, &routed.xml()))?;
        ensure!(seen()? == network.address(11), "{}", seen()?);
        talk.unnoticed(lab, "nat", || apply(lab, &network.xml()))?;
        ensure!(seen()? == HOST, "{}", seen()?);
        ensure!(dnsmasq(lab)? == before, "dnsmasq was replaced");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn isolation_begins_and_ends_while_guests_talk() {
    check(|lab| {
        let network = Network::default();
        let talk = Talk::begin(lab, &network)?;
        let first = talk.guests[0].netns();
        let neighbour = at(network.address(12), ECHO);
        traffic::answered(first, neighbour)?;
        let all = [&lab.hv, &lab.wan, first];
        let before = Losses::look(&all)?;
        let load = Load::udp(first, at(OUTSIDE, ECHO))?;
        let isolated = network.clone().with("<port isolated='yes'/>");
        apply(lab, &isolated.xml())?;
        let said = traffic::ask_udp(first, neighbour)?;
        ensure!(!matches!(said, Verdict::Answered(_)), "not isolated");
        // An agent that starts in between knows what to take back.
        lab.agent.kill()?;
        lab.agent.start()?;
        apply(lab, &network.xml())?;
        traffic::answered(first, neighbour).context("still isolated")?;
        load.reach(100)?;
        before.account_for(&load.finish()?, &[&lab.hv, &lab.wan, first])?;
        talk.unnoticed(lab, "nothing", || Ok(()))
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_needs_another_bridge_is_refused() {
    check(|lab| {
        let network = Network::default();
        let talk = Talk::begin(lab, &network)?;
        let runs = lab.agent.ok(["net-dumpxml", "default"])?;
        let same = lab.agent.ok(["net-apply", "default"])?;
        ensure!(same.contains("already"), "{same}");
        for (change, why) in [
            (network.xml().replace("virbr1", "virbr9"), "<bridge name> asks for another bridge"),
            (network.clone().with("<mac address='52:54:00:12:34:56'/>").xml(), "<mac> asks for another"),
            (
                "<network><name>default</name><forward mode='bridge'/><bridge name='br0'/></network>".to_owned(),
                "<forward mode> asks for another bridge",
            ),
            // The other network's.
            (network.xml().replace("10.10.1.1", "10.10.2.129"), "10.10.2."),
        ] {
            define(lab, &change)?;
            for options in [&["--dry-run"][..], &[]] {
                let said = lab.agent.fails([&["net-apply", "default"], options].concat())?;
                ensure!(said.contains(why), "{why:?} is not in {said}");
            }
            ensure!(lab.agent.ok(["net-dumpxml", "default"])? == runs);
        }
        define(lab, &network.xml().replace("virbr1", "virbr9"))?;
        let plan = lab.agent.ok(["plan", "default"])?;
        ensure!(plan.contains("applied at next start: <bridge>"), "{plan}");
        define(lab, &network.clone().with("<mtu size='1400'/>").xml())?;
        let plan = lab.agent.ok(["plan", "default"])?;
        ensure!(
            plan.contains("by 'netd net-apply default' or at next start: <mtu>"),
            "{plan}"
        );
        lab.agent.ok(["net-destroy", "default"])?;
        let said = lab.agent.fails(["net-apply", "default"])?;
        ensure!(said.contains("is not active"), "{said}");
        lab.agent.ok(["net-start", "default"])?;
        talk.unnoticed(lab, "nothing", || Ok(()))
    });
}

/// Devices and guests come and go: what is not there now is told, by `forward add --config` too, and stored.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_is_not_there_is_stored_with_a_warning() {
    check(|lab| {
        lab.agent.start()?;
        let published = forwards(&forward("tcp", "dev='eth8'", "nobody", &range(80, 80, 80)));
        let network = Network::default().dhcp("").with(&published);
        let network = network.forward("<forward mode='nat' dev='eth9'/>");
        lab.agent.define(&network.xml())?;
        let log = lab.agent.log();
        for words in [
            "<forward>: there is no interface 'eth9' now",
            "there is no interface 'eth8' now",
            "no <host> and no lease of the network has the name 'nobody' now",
        ] {
            ensure!(log.contains(words), "{words} is not in:\n{log}");
        }
        let words = "forward add default tcp 81 somebody:81 --config";
        let said = lab.agent.cli(words.split(' '))?;
        let error = String::from_utf8_lossy(&said.stderr);
        ensure!(
            said.status.success() && error.contains("has the name 'somebody' now"),
            "{said:?}"
        );
        let stored = lab.agent.ok(["net-dumpxml", "default"])?;
        ensure!(
            stored.contains("eth9") && stored.contains("somebody"),
            "{stored}"
        );
        Ok(())
    });
}

/// A fixed address that another guest leases is told, and given as soon as that guest is gone.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_fixed_address_changes_hands_when_its_guest_is_gone() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        // As libvirt calls taps.
        let guest = |number: u8| -> Result<Guest> {
            let guest = lab.guest(number)?;
            let tap = format!("fe{}", &guest.mac[2..]);
            lab.hv
                .run(["ip", "link", "set", &guest.port, "address", &tap])?;
            lab.plug(&guest, "virbr1")?;
            Ok(guest)
        };
        let (holder, heir) = (guest(1)?, guest(2)?);
        let held = holder.dhcp()?.address;
        lab.leases_with("default", held)?;
        let host = format!("<host mac='{}' name='web' ip='{held}'/>", heir.mac);
        define(lab, &Network::default().dhcp(&host).xml())?;
        let said = lab.agent.cli(["net-apply", "default"])?;
        let error = String::from_utf8_lossy(&said.stderr);
        let words = format!("{held}, fixed for 'web', is leased by 'vm1'");
        ensure!(said.status.success() && error.contains(&words), "{said:?}");
        let other = heir.dhcp()?.address;
        ensure!(other != held, "two guests with one address");
        lab.hv.run(["ip", "link", "del", &holder.port])?;
        eventually(SOON, || {
            let leases = lab.agent.ok(["net-dhcp-leases", "default"])?;
            ensure!(!leases.contains(&format!(" {held}/")), "{leases}");
            Ok(())
        })?;
        heir.netns().run(["ip", "addr", "flush", "dev", "eth0"])?;
        let now = heir.dhcp()?.address;
        ensure!(now == held, "{now}, not {held}");
        Ok(())
    });
}
