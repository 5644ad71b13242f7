//! The policy stays in force whatever becomes of devices, records, pins and agents.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_common::abi::VERSION;
use netd_tests::lab::{HOST, OUTSIDE, at, check, check_router};
use netd_tests::packet::Ipv4;
use netd_tests::traffic::{self, Load, Server, Verdict};
use netd_tests::{Frame, Guest, Lab, Losses, Netns, Network, Sniffer, Wire};

use crate::hooks;

const PORT: u16 = 7000;
/// Time within which the agent follows what happens on the host, on a busy machine too: less than the
/// 30 s after which flows are looked at again for their own sake.
const FOLLOWED: Duration = Duration::from_secs(20);

/// A second way out: device `late` of the hypervisor, down and without an address.
fn second(lab: &Lab) -> Result<Netns> {
    let other = Netns::new("other")?;
    lab.hv.veth("late", &other, "other0")?;
    other.address("other0", "192.0.2.1/24")?;
    Ok(other)
}

/// No packet that a namespace saw has a guest's own address as its source.
fn none_private(sniffer: Sniffer, place: &str) -> Result<()> {
    let packets = sniffer.finish()?;
    let private = |packet: &&Ipv4| packet.source.octets()[0] == 10;
    let seen: Vec<_> = packets.iter().filter(private).take(3).collect();
    ensure!(seen.is_empty(), "private sources {place}: {seen:?}");
    Ok(())
}

fn is_guarded(netns: &Netns, device: &str) -> Result<()> {
    let names = hooks::programs(netns, device)?;
    let both = ["uplink_ingress", "uplink_egress"];
    ensure!(
        both.iter().all(|name| names.contains(*name)),
        "{device}: {names:?}"
    );
    Ok(())
}

fn ask(guest: &Guest, to: Ipv4Addr) -> Result<Verdict> {
    traffic::ask_udp(guest.netns(), at(to, PORT))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_device_without_an_address_is_no_way_in() {
    check_router(|lab| {
        lab.agent.start()?;
        let other = second(lab)?;
        lab.hv.run(["ip", "link", "set", "late", "up"])?;
        let wire = Wire::new(&other, "other0")?;
        let networks = [
            (Network::isolated("isolated", 1), false),
            (Network::nat("nat", 2), false),
            (Network::open("open", 3), true),
        ];
        let mut faults = Vec::new();
        for (number, (network, expected)) in (1..).zip(networks) {
            lab.up(&network)?;
            let guest = lab.member(number, &network)?;
            guest.ping(&network.gateway().to_string())?;
            let sniffer = Sniffer::start(guest.netns())?;
            let source = Ipv4Addr::new(203, 0, 113, 7);
            for tags in [vec![], vec![(0x8100, 0)]] {
                let inside = network.address(10 + number);
                let mut frame = Frame::udp((source, PORT), (inside, PORT), b"in");
                (frame.to, frame.from) = (lab.hv.mac("late")?, other.mac("other0")?);
                frame.tags = tags;
                wire.send(&frame)?;
            }
            let arrived = |packets: &[Ipv4]| packets.iter().any(|packet| packet.source == source);
            let packets = if expected {
                sniffer.finish_when(arrived)?
            } else {
                sniffer.finish()?
            };
            let arrived = arrived(&packets);
            if arrived != expected {
                faults.push(format!("{}: arrived: {arrived}", network.name));
            }
        }
        ensure!(faults.is_empty(), "{faults:?}");
        lab.hv.run(["ip", "link", "del", "late"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_uplink_that_appears_without_an_agent_is_not_used_unguarded() {
    check_router(|lab| {
        lab.agent.start()?;
        let other = second(lab)?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let isolated = Network::isolated("isolated", 2);
        lab.up(&isolated)?;
        let lonely = lab.member(2, &isolated)?;
        guest.ping(&OUTSIDE.to_string())?;
        let sniffer = Sniffer::start(&other)?;
        // This flow is in the middle of it all.
        let load = Load::udp(guest.netns(), at(OUTSIDE, PORT))?;
        load.reach(100)?;
        lab.agent.stop()?;
        lab.hv.address("late", "192.0.2.2/24")?;
        lab.hv
            .run(["ip", "route", "replace", "default", "via", "192.0.2.1"])?;
        let host = format!("{OUTSIDE}/32");
        lab.hv
            .run(["ip", "route", "add", &host, "via", "192.0.2.1"])?;
        let _far = Server::udp(&other, at(Ipv4Addr::new(192, 0, 2, 1), PORT))?;
        let gateway = Ipv4Addr::new(192, 0, 2, 1);
        for _ in 0..3 {
            // Whether it is refused or silently dropped is not the question here.
            ask(&guest, gateway)?;
            ask(&lonely, gateway)?;
        }
        lab.agent.start()?;
        netd_tests::eventually(FOLLOWED, || is_guarded(&lab.hv, "late"))?;
        let own = Ipv4Addr::new(192, 0, 2, 2);
        netd_tests::eventually(FOLLOWED, || {
            let verdict = ask(&guest, gateway)?;
            let translated = matches!(verdict, Verdict::Answered(seen) if seen.ip() == own);
            ensure!(translated, "the new uplink: {verdict:?}");
            Ok(())
        })?;
        load.finish()?;
        none_private(sniffer, "behind the new uplink")?;
        lab.hv.run(["ip", "link", "del", "late"])?;
        lab.hv
            .run(["ip", "route", "add", "default", "via", &OUTSIDE.to_string()])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_device_that_has_nothing_but_a_route_is_guarded() {
    check_router(|lab| {
        lab.agent.start()?;
        let other = second(lab)?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        lab.hv.run(["ip", "link", "set", "late", "up"])?;
        let sniffer = Sniffer::start(&other)?;
        other.run(["ip", "route", "add", &format!("{HOST}/32"), "dev", "other0"])?;
        lab.hv
            .run(["ip", "route", "add", "192.0.2.0/24", "dev", "late"])?;
        let gateway = Ipv4Addr::new(192, 0, 2, 1);
        let _server = Server::udp(&other, at(gateway, PORT))?;
        let _ = ask(&guest, gateway)?;
        netd_tests::eventually(FOLLOWED, || is_guarded(&lab.hv, "late"))?;
        // Behind the address that the host itself would use on that device.
        netd_tests::eventually(FOLLOWED, || {
            let verdict = ask(&guest, gateway)?;
            let translated = matches!(verdict, Verdict::Answered(seen) if seen.ip() == HOST);
            ensure!(translated, "by the device without an address: {verdict:?}");
            Ok(())
        })?;
        none_private(sniffer, "by the device without an address")?;
        lab.hv.run(["ip", "link", "del", "late"])?;
        netd_tests::eventually(FOLLOWED, || {
            let links = lab.agent.bpffs().join(format!("v{VERSION}/links"));
            let count = fs::read_dir(links)?.count();
            // Two at the bridge, one at its port, two at the uplink.
            ensure!(count == 5, "{count} links are pinned");
            Ok(())
        })
    });
}

/// What is left of a file that was not written to its end.
fn cut(path: &PathBuf) -> Result<Vec<u8>> {
    let whole = fs::read(path).with_context(|| path.display().to_string())?;
    fs::write(path, &whole[..whole.len() / 2])?;
    Ok(whole)
}

/// Restarts the agent with one of the network's records cut in half.
fn with_broken_record(extension: &str) {
    check_router(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let isolated = Network::isolated("isolated", 2);
        lab.up(&isolated)?;
        let guest = lab.member(1, &Network::default())?;
        let lonely = lab.member(2, &isolated)?;
        guest.ping(&OUTSIDE.to_string())?;
        lonely.ping(&isolated.gateway().to_string())?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let sniffer = Sniffer::start(&lab.wan)?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, PORT))?;
        lab.agent.stop()?;
        let mut whole = Vec::new();
        for name in ["default", "isolated"] {
            let file = format!("run/networks/{name}.{extension}");
            let path = lab.directory().join(file);
            whole.push((cut(&path)?, path));
        }
        lab.agent.start()?;
        let file = format!("default.{extension}");
        ensure!(
            lab.agent
                .log()
                .lines()
                .any(|line| line.contains("ERROR") && line.contains(&file)),
            "not a word about {file}:\n{}",
            lab.agent.log()
        );
        // Events on the host do not change that.
        lab.hv
            .run(["ip", "link", "add", "other", "type", "bridge"])?;
        lab.hv.address("other", "192.0.2.2/24")?;
        std::thread::sleep(Duration::from_secs(2));
        let seen = traffic::answered(guest.netns(), at(OUTSIDE, PORT))?;
        ensure!(seen.ip() == HOST, "the running network: {seen}");
        let verdict = ask(&lonely, OUTSIDE)?;
        ensure!(
            !matches!(verdict, Verdict::Answered(_)),
            "isolated: {verdict:?}"
        );
        // A network of that name is there, so it cannot start once more.
        if extension == "xml" {
            lab.agent.fails(["net-start", "default"])?;
        }
        before.account_for(&load.finish()?, &[&lab.hv, &lab.wan, guest.netns()])?;
        none_private(sniffer, "at the uplink")?;
        lab.agent.stop()?;
        for (whole, path) in whole {
            fs::write(path, whole)?;
        }
        lab.agent.start()?;
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.ok(["net-destroy", "isolated"])?;
        lab.hv.run(["ip", "link", "del", "other"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_network_whose_ports_are_forgotten_stays_guarded() {
    with_broken_record("json");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_network_whose_definition_is_forgotten_stays_guarded() {
    with_broken_record("xml");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn teardown_leaves_no_unguarded_bridge_for_want_of_a_record() {
    check_router(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let guest = lab.member(1, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        lab.agent.kill()?;
        let _ = fs::remove_file(lab.agent.socket());
        cut(&lab.directory().join("run/networks/default.xml"))?;
        let sniffer = Sniffer::start(&lab.wan)?;
        let said = lab.agent.teardown();
        // The guest has no way out any more; if it had one, the host would forward.
        let _ = ask(&guest, OUTSIDE)?;
        none_private(sniffer, "after the teardown")?;
        // It says what it could not read.
        let error = said.err().context("teardown was content")?;
        ensure!(format!("{error:#}").contains("default.xml"), "{error:#}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_program_that_somebody_detached_comes_back() {
    check_router(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let sniffer = Sniffer::start(&lab.wan)?;
        lab.settled()?;
        let hooks = [
            ("uplink", "uplink_egress"),
            ("uplink", "uplink_ingress"),
            ("virbr1", "bridge_egress"),
            ("virbr1", "bridge_ingress"),
            ("vnet1", "port_ingress"),
        ];
        for (device, program) in hooks {
            let pin = format!("v{VERSION}/links/{}-{program}", lab.hv.ifindex(device)?);
            let pin = lab.agent.bpffs().join(pin);
            fs::remove_file(&pin).with_context(|| pin.display().to_string())?;
            // The kernel detaches it in the background, and the agent may look for other reasons.
            netd_tests::eventually(FOLLOWED, || {
                let attached = hooks::programs(&lab.hv, device)?.contains(program);
                ensure!(
                    !attached || pin.exists(),
                    "{program} was not detached from {device}"
                );
                Ok(())
            })?;
            // Any change on the host makes the agent look.
            lab.hv
                .run(["ip", "link", "add", "other", "type", "bridge"])?;
            lab.hv.run(["ip", "link", "del", "other"])?;
            netd_tests::eventually(FOLLOWED, || {
                let names = hooks::programs(&lab.hv, device)?;
                ensure!(
                    names.contains(program) && pin.exists(),
                    "{device}: {names:?}"
                );
                Ok(())
            })?;
        }
        traffic::answered(guest.netns(), at(OUTSIDE, PORT))?;
        none_private(sniffer, "at the uplink")
    });
}

/// Puts a device of somebody else's in the place of the bridge while there is no agent.
fn with_foreign_device(make: fn(&Netns) -> Result<()>) {
    check_router(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        lab.up(&Network::isolated("other", 2))?;
        let replace = |lab: &mut Lab| -> Result<u64> {
            lab.agent.stop()?;
            lab.hv.run(["ip", "link", "del", "virbr1"])?;
            make(&lab.hv)?;
            lab.hv.ifindex("virbr1")
        };
        let untouched = |lab: &Lab, index: u64| -> Result<()> {
            ensure!(lab.hv.ifindex("virbr1")? == index, "it is another one");
            let addresses = lab.hv.run(["ip", "-4", "addr", "show", "dev", "virbr1"])?;
            ensure!(!addresses.contains("10.10.1.1"), "{addresses}");
            let names = hooks::programs(&lab.hv, "virbr1")?;
            ensure!(!names.contains("bridge_ingress"), "{names:?}");
            Ok(())
        };
        let index = replace(lab)?;
        lab.agent.start()?;
        untouched(lab, index).context("adopted")?;
        ensure!(lab.agent.log().contains("virbr1"), "not a word about it");
        lab.agent.ok(["net-destroy", "default"])?;
        untouched(lab, index).context("net-destroy")?;
        lab.agent.fails(["net-start", "default"])?;
        untouched(lab, index).context("net-start")?;
        lab.agent.ok(["net-info", "other"])?;

        lab.hv.run(["ip", "link", "del", "virbr1"])?;
        lab.agent.ok(["net-start", "default"])?;
        let index = replace(lab)?;
        lab.agent.teardown()?;
        untouched(lab, index).context("teardown")?;
        lab.hv.run(["ip", "link", "del", "virbr1"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_device_that_took_the_bridges_name_is_left_alone() {
    with_foreign_device(|hv| {
        hv.run("ip link add virbr1 type veth peer name virbr1p".split(' '))?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_bridge_that_took_the_bridges_name_is_left_alone() {
    with_foreign_device(|hv| {
        hv.run("ip link add virbr1 address 02:00:00:00:00:99 type bridge".split(' '))?;
        Ok(())
    });
}

/// All of the network is there, or nothing of it.
fn is_whole_or_absent(lab: &Lab, network: &Network) -> Result<bool> {
    let active = lab.agent.ok(["net-list", "--name"])?;
    let active = active.lines().any(|name| name.trim() == network.name);
    let device = lab
        .hv
        .output(["ip", "addr", "show", "dev", &network.bridge()])?;
    let text = String::from_utf8_lossy(&device.stdout).into_owned();
    let dnsmasqs = lab.dnsmasqs()?.len();
    if !active {
        ensure!(!device.status.success(), "inactive, with a bridge:\n{text}");
        ensure!(dnsmasqs == 0, "inactive, with {dnsmasqs} dnsmasq");
        return Ok(false);
    }
    let gateway = format!("inet {}/24", network.gateway());
    ensure!(
        text.contains(&gateway) && text.contains("UP"),
        "active:\n{text}"
    );
    let names = hooks::programs(&lab.hv, &network.bridge())?;
    for program in ["bridge_ingress", "bridge_egress"] {
        ensure!(names.contains(program), "active, with {names:?}");
    }
    ensure!(dnsmasqs == 1, "active, with {dnsmasqs} dnsmasq");
    Ok(true)
}

/// Kills the agent so long after somebody began to ask for a start of the network.
fn killed_in_a_start(lab: &mut Lab, delay: Duration) -> Result<()> {
    let agent = &lab.agent;
    std::thread::scope(|scope| -> Result<()> {
        // Whatever becomes of the request: the agent dies meanwhile.
        let start = scope.spawn(|| agent.cli(["net-start", "default"]));
        std::thread::sleep(delay);
        agent.signal(rustix::process::Signal::KILL)?;
        start
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })?;
    lab.agent.wait()?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_agent_killed_while_a_network_starts_leaves_no_half_of_it() {
    check(|lab| {
        let before = lab.snapshot()?;
        let network = Network::default().dhcp("");
        lab.agent.start()?;
        lab.agent.define(&network.xml())?;
        // A busy machine takes several times as long as an idle one.
        let began = Instant::now();
        lab.agent.ok(["net-start", "default"])?;
        let whole = began.elapsed();
        lab.agent.ok(["net-destroy", "default"])?;
        let mut outcomes = Vec::new();
        let differ = |outcomes: &[bool]| outcomes.contains(&true) && outcomes.contains(&false);
        for round in 0..32 {
            if round >= 16 && differ(&outcomes) {
                break;
            }
            // From before the request is read until after the answer.
            let delay = whole * round * round / 144;
            killed_in_a_start(lab, delay)?;
            if round % 4 == 3 {
                lab.agent.teardown()?;
                // The socket may be anywhere; whoever starts the next agent knows where.
                let _ = fs::remove_file(lab.agent.socket());
                before
                    .wait_for_same(&lab.hv, lab.directory())
                    .with_context(|| format!("teardown, killed after {delay:?}"))?;
                lab.agent.start()?;
                continue;
            }
            lab.agent.start()?;
            let active = netd_tests::eventually(FOLLOWED, || is_whole_or_absent(lab, &network))
                .with_context(|| format!("killed after {delay:?}"))?;
            outcomes.push(active);
            if active {
                lab.agent.ok(["net-destroy", "default"])?;
            }
        }
        println!("active after the restart: {outcomes:?}");
        ensure!(
            differ(&outcomes),
            "always the same, {outcomes:?}: the delays test nothing"
        );
        lab.agent.ok(["net-start", "default"])?;
        let guest = lab.plugged(1, "virbr1")?;
        guest.dhcp()?;
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}
