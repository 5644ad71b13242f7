//! Agents come and go; networks, guests and packets do not notice.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netd::datapath::pin_dir;
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Guest, Lab, Losses, Network, SOON, Sniffer, eventually};
use rustix::process::Signal;

const UDP_PORT: u16 = 7000;
const TCP_PORT: u16 = 7001;

/// Runs `disturb` while established and new flows of both protocols, outside and between guests,
/// carry numbered packets: not one may be lost, and none may leave with a private source.
fn without_loss(disturb: impl FnMut(&mut Lab) -> Result<()>) {
    without_loss_after(|_| Ok(()), disturb);
}

/// How often a machine may be too slow for the load.
const ATTEMPTS: usize = 3;

/// The same with something done before the agent starts.
///
/// A run in which the kernel counted as many packets at full queues and buffers as were lost shows
/// nothing, neither for netd nor against it, and is made again.
pub(crate) fn without_loss_after(
    prepare: impl FnOnce(&Lab) -> Result<()>,
    mut disturb: impl FnMut(&mut Lab) -> Result<()>,
) {
    check(|lab| {
        prepare(lab)?;
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        let neighbour = lab.member(2, &Network::default())?;
        for attempt in 1..=ATTEMPTS {
            let Some(overload) = loaded(lab, &guest, &neighbour, &mut disturb)? else {
                return Ok(());
            };
            println!("attempt {attempt}: the machine was too slow for the load: {overload}");
        }
        bail!("the machine lost packets by itself {ATTEMPTS} times; see above");
    });
}

/// Runs `disturb` under load. Nothing may be lost but to the machine's own overload, and that is what
/// is returned.
fn loaded(
    lab: &mut Lab,
    guest: &Guest,
    neighbour: &Guest,
    disturb: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<Option<String>> {
    let inside = Network::default().address(12);
    let _servers = [
        Server::udp(&lab.wan, at(OUTSIDE, UDP_PORT))?,
        Server::tcp_echo(&lab.wan, at(OUTSIDE, TCP_PORT))?,
        Server::udp(neighbour.netns(), at(inside, UDP_PORT))?,
    ];
    guest.ping(&OUTSIDE.to_string())?;
    guest.ping(&inside.to_string())?;
    let look = |lab: &Lab| Losses::look(&[&lab.hv, &lab.wan, guest.netns(), neighbour.netns()]);
    let before = look(lab)?;
    let drops = lab.agent.drops()?;

    let sniffer = Sniffer::start(&lab.wan)?;
    let loads = [
        ("UDP", Load::udp(guest.netns(), at(OUTSIDE, UDP_PORT))?),
        (
            "UDP to a neighbour",
            Load::udp(guest.netns(), at(inside, UDP_PORT))?,
        ),
        ("TCP", Load::tcp(guest.netns(), at(OUTSIDE, TCP_PORT))?),
        (
            "new UDP flows",
            Load::new_udp_flows(guest.netns(), at(OUTSIDE, UDP_PORT))?,
        ),
        (
            "new TCP flows",
            Load::new_tcp_flows(guest.netns(), at(OUTSIDE, TCP_PORT))?,
        ),
    ];
    let all_reach = |count| loads.iter().try_for_each(|(_, load)| load.reach(count));
    all_reach(20)?;
    let disturbed = disturb(lab);
    std::thread::sleep(Duration::from_millis(300));
    all_reach(51)?;
    let (mut losses, mut lost) = (String::new(), 0);
    for (name, load) in loads {
        let report = load.finish().with_context(|| name.to_owned())?;
        ensure!(report.sent > 50, "{name}: only {} were sent", report.sent);
        println!("{name}: {} sent, {} lost", report.sent, report.lost.len());
        if !report.lost.is_empty() {
            losses += &format!("{name}: lost {:?} of {}\n", report.lost, report.sent);
            lost += report.lost.len() as u64;
        }
    }
    disturbed?;
    let packets = sniffer.finish()?;
    let private = packets
        .iter()
        .find(|packet| packet.source.octets()[0] == 10);
    ensure!(
        private.is_none(),
        "a private source at the uplink: {private:?}"
    );
    if lost == 0 {
        return Ok(None);
    }
    let counted = look(lab)?.since(&before);
    let told = format!("{losses}{counted}");
    let dropped = lab.agent.drops()?;
    ensure!(
        dropped == drops,
        "{told}netd dropped {dropped:?}, {drops:?} before"
    );
    ensure!(lost <= counted.to_overload(), "{told}");
    Ok(Some(told))
}

/// Time without an agent.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(500));
}

/// What the others are compared with: a machine too slow for the load loses packets by itself.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn nothing_is_lost_while_nothing_happens() {
    without_loss(|_| {
        pause();
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_restart_loses_no_packet() {
    without_loss(|lab| {
        lab.agent.stop()?;
        pause();
        lab.agent.start()?;
        lab.agent.stop()?;
        lab.agent.start()
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p49_kill_9_loses_no_packet() {
    without_loss(|lab| {
        lab.agent.kill()?;
        pause();
        lab.agent.start()
    });
}

/// The kernel's numbers of netd's programs, by device and hook.
pub(crate) fn programs(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let status: serde_json::Value = serde_json::from_str(&lab.agent.ok(["status", "--json"])?)?;
    let hooks = status["hooks"].as_array().context("a list of hooks")?;
    let of = |hook: &serde_json::Value| -> Option<(String, u64)> {
        let programs = hook["programs"].as_array()?;
        let ours = programs.iter().find(|program| program["ours"] == true)?;
        let place = format!("{} {}", hook["device"], hook["hook"]);
        Some((place, ours["id"].as_u64()?))
    };
    Ok(hooks.iter().filter_map(of).collect())
}

/// The same once there is one at that device, of which the agent may not have heard yet.
fn programs_with(lab: &Lab, device: &str) -> Result<BTreeMap<String, u64>> {
    eventually(SOON, || {
        let now = programs(lab)?;
        let there = now.keys().any(|place| place.contains(device));
        ensure!(there, "none at {device}: {now:?}");
        Ok(now)
    })
}

/// Lets the programs in place be another build's, for the next agent.
pub(crate) fn of_another_build(lab: &Lab) -> Result<()> {
    std::fs::remove_dir_all(pin_dir(&lab.agent.bpffs()).join("build"))?;
    Ok(())
}

/// Nothing is loaded and replaced that is there already.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_restart_leaves_the_programs_in_place() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let first = programs_with(lab, &guest.port)?;
        ensure!(first.len() >= 5, "{first:?}");
        lab.agent.stop()?;
        lab.agent.start()?;
        ensure!(
            programs(lab)? == first,
            "{:?}, not {first:?}",
            programs(lab)?
        );
        lab.agent.kill()?;
        // What changes meanwhile is seen to: a link that somebody removed, a device more.
        let links = pin_dir(&lab.agent.bpffs()).join("links");
        let gone = std::fs::read_dir(links)?.flatten().find(|link| {
            link.file_name()
                .to_string_lossy()
                .ends_with("uplink_ingress")
        });
        std::fs::remove_file(gone.context("a link")?.path())?;
        let late = lab.plugged(2, "virbr1")?;
        lab.agent.start()?;
        let now = programs(lab)?;
        for (place, id) in &first {
            let kept = now.get(place) == Some(id);
            ensure!(
                kept != place.contains("uplink\" \"tcx ingress"),
                "{place}: {now:?}"
            );
        }
        ensure!(now.len() == first.len() + 1, "{now:?}");
        ensure!(
            now.keys().any(|place| place.contains(&late.port)),
            "{now:?}"
        );
        guest.ping(&OUTSIDE.to_string())?;
        of_another_build(lab)?;
        lab.agent.stop()?;
        lab.agent.start()?;
        let replaced = programs(lab)?;
        let same = replaced
            .iter()
            .filter(|(place, id)| now.get(*place) == Some(id));
        ensure!(
            same.count() == 0 && replaced.len() == now.len(),
            "{replaced:?}"
        );
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}

/// An agent with other map layouts brings its own programs, and takes the earlier ones away.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_upgrade_to_another_layout_leaves_one_set_of_programs() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, TCP_PORT))?;
        let before = programs_with(lab, &guest.port)?;
        lab.agent.stop()?;
        let pins = pin_dir(&lab.agent.bpffs());
        let earlier = pins.with_file_name("v0");
        std::fs::rename(&pins, &earlier)?;
        guest.ping(&OUTSIDE.to_string())?;
        lab.agent.start()?;
        ensure!(!earlier.exists(), "the earlier pins are still there");
        // The kernel detaches what nothing pins any more in its own time (bpf_link_put).
        eventually(SOON, || {
            let status = lab.agent.ok(["status", "--json"])?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            for hook in status["hooks"].as_array().context("a list of hooks")? {
                let count = hook["programs"].as_array().map_or(0, Vec::len);
                ensure!(count == 1, "{count} programs: {hook}");
            }
            Ok(())
        })?;
        let after = programs(lab)?;
        ensure!(
            after.keys().eq(before.keys()),
            "{after:?}, not at {before:?}"
        );
        ensure!(
            before.iter().all(|(place, id)| after[place] != *id),
            "{after:?}"
        );
        guest.ping(&OUTSIDE.to_string())?;
        traffic::transfer(guest.netns(), at(OUTSIDE, TCP_PORT), 1_000_000)
    });
}

/// What only the earlier programs guard, for want of a record, they go on to guard.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_upgrade_to_another_layout_unguards_nothing() {
    check(|lab| {
        let _guest = lab.nat_guest()?;
        lab.agent.stop()?;
        let pins = pin_dir(&lab.agent.bpffs());
        let earlier = pins.with_file_name("v0");
        std::fs::rename(&pins, &earlier)?;
        for record in ["default.xml", "default.json"] {
            std::fs::remove_file(lab.agent.directory().join("run/networks").join(record))?;
        }
        lab.agent.start()?;
        ensure!(earlier.exists(), "the bridge is guarded by nobody");
        ensure!(
            lab.agent.log().contains("stay in place"),
            "nobody is told: {}",
            lab.agent.log()
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_upgrade_loses_no_packet() {
    without_loss(|lab| {
        lab.agent.install()?;
        of_another_build(lab)?;
        // The old agent's own file is gone now; what it starts must be the new one.
        lab.up(&Network::nat("other", 2).dhcp(""))?;
        let guest = lab.plugged(9, "virbr2")?;
        let lease = guest.dhcp()?;
        lab.leases_with("other", lease.address)?;
        lab.agent.stop()?;
        lab.agent.start()?;
        lab.agent.ok(["net-destroy", "other"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn another_network_starts_and_stops_without_loss() {
    without_loss(|lab| {
        lab.agent.define(&Network::nat("other", 2).xml())?;
        for _ in 0..3 {
            lab.agent.ok(["net-start", "other"])?;
            lab.agent.ok(["net-destroy", "other"])?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn destroy_and_start_give_guests_their_network_back() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let guest = lab.member(1, &Network::default())?;
        let neighbour = lab.member(2, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(
            !guest.try_ping(&OUTSIDE.to_string())?.status.success(),
            "it still pings"
        );
        lab.agent.ok(["net-start", "default"])?;
        // Nobody plugs anything in again.
        guest.ping(&OUTSIDE.to_string())?;
        neighbour.ping(&Network::default().address(11).to_string())?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, TCP_PORT))?;
        traffic::transfer(guest.netns(), at(OUTSIDE, TCP_PORT), 100_000)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn destroy_and_start_find_guests_across_a_restart() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.stop()?;
        lab.agent.start()?;
        lab.agent.ok(["net-start", "default"])?;
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_guest_that_is_plugged_in_talks_at_once() {
    check(|lab| {
        lab.agent.start()?;
        // Spanning tree is on and the delay 0, as libvirt's stock network has it.
        lab.up(&Network::default().dns())?;
        let guest = lab.guest(1)?;
        guest.address("10.10.1.11/24", Some("10.10.1.1"))?;
        // By itself the kernel keeps a port silent for twice the bridge's delay, at least four seconds. A
        // busy machine may need as much, so this delay is longer. The agent takes it back as soon as it
        // hears of it: when the port has begun to wait.
        lab.agent.signal(Signal::STOP)?;
        let slow = "ip link set virbr1 type bridge forward_delay 3000";
        lab.hv.run(slow.split(' '))?;
        lab.plug(&guest, "virbr1")?;
        lab.agent.signal(Signal::CONT)?;
        eventually(Duration::from_secs(20), || {
            let port = lab.hv.run(["bridge", "link", "show", "dev", &guest.port])?;
            ensure!(port.contains("state forwarding"), "{port}");
            Ok(())
        })?;
        guest.ping("10.10.1.1")?;
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_guest_plugged_in_while_no_agent_runs_is_found() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        lab.agent.kill()?;
        let guest = lab.member(1, &Network::default())?;
        lab.agent.start()?;
        guest.ping(&OUTSIDE.to_string())?;
        let status = lab.agent.ok(["status"])?;
        ensure!(status.contains("vnet1"), "{status}");
        Ok(())
    });
}

/// What the programs call one another by is pinned; without that the kernel would empty it with the
/// agent's end.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn new_flows_are_opened_while_no_agent_runs() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        lab.agent.kill()?;
        guest.ping(&OUTSIDE.to_string())?;
        let slow = pin_dir(&lab.agent.bpffs()).join("slow");
        ensure!(std::fs::read_dir(&slow)?.count() == 1, "one build's");
        // Somebody clears up: what goes on is what was open, and the rest is counted.
        std::fs::remove_dir_all(&slow)?;
        eventually(SOON, || {
            let pinged = guest.try_ping(&OUTSIDE.to_string())?;
            ensure!(
                !pinged.status.success(),
                "the kernel has not emptied it yet"
            );
            Ok(())
        })?;
        lab.agent.start()?;
        guest.ping(&OUTSIDE.to_string())?;
        ensure!(lab.agent.dropped("incomplete")? > 0, "uncounted");
        // What another build has left goes once none of its programs is in place.
        lab.agent.stop()?;
        std::fs::create_dir(slow.join("0123456789abcdef"))?;
        of_another_build(lab)?;
        lab.agent.start()?;
        eventually(SOON, || {
            ensure!(
                std::fs::read_dir(&slow)?.count() == 1,
                "another build's is left"
            );
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p64_a_guest_that_moves_to_another_port_keeps_its_flows() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, UDP_PORT))?;
        for _ in 0..3 {
            traffic::answered_from(guest.netns(), 5000, at(OUTSIDE, UDP_PORT))?;
        }
        lab.hv.run(["ip", "link", "del", "vnet1"])?;
        lab.hv.veth("tap7", guest.netns(), "eth0")?;
        lab.hv
            .run(["ip", "link", "set", "tap7", "up", "master", "virbr1"])?;
        guest
            .netns()
            .run(["ip", "link", "set", "eth0", "address", &guest.mac, "up"])?;
        guest.address("10.10.1.11/24", Some("10.10.1.1"))?;
        traffic::answered_from(guest.netns(), 5000, at(OUTSIDE, UDP_PORT))?;
        lab.hv.run(["ip", "link", "del", "tap7"])?;
        Ok(())
    });
}
