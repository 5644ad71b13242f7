//! `<bandwidth>`: real TCP, and what it gets of the rate that is defined.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::lab6::{OUTSIDE6, at6, check6};
use netd_tests::rate::{Bounds, Bulk, Way, hold_to};
use netd_tests::traffic::{Load, Server};
use netd_tests::{Guest, Lab, Losses, Netns, Network, SOON, eventually};

/// Kilobytes per second that the networks here are held to; small, so that a busy machine has them.
const RATE: u64 = 1000;
/// In bytes.
const BYTES: u64 = RATE * 1000;

/// Frames at a device, headers included.
const FRAMES: Bounds = Bounds {
    most: 1.05,
    least: 0.9,
};
/// What TCP makes of them, from one moment to another: see [`holds`].
const TCP: Bounds = Bounds {
    most: f64::INFINITY,
    least: 0.9,
};
/// That nobody is held to anything shows at three times the rate.
const UNHELD: u64 = 3;

/// Rates that nobody here meets.
pub const UNNOTICED: &str =
    "<bandwidth><inbound average='100000'/><outbound average='100000'/></bandwidth>";

/// A network that is held to the rate in both directions.
pub fn both_directions(network: Network) -> Network {
    network.with(&format!(
        "<bandwidth><inbound average='{RATE}'/><outbound average='{RATE}'/></bandwidth>"
    ))
}

fn held(network: Network, direction: &str) -> Network {
    network.with(&format!(
        "<bandwidth><{direction} average='{RATE}'/></bandwidth>"
    ))
}

/// Bytes that the hypervisor has sent to a guest.
fn sent_to(lab: &Lab, guest: &Guest) -> Result<u64> {
    Ok(lab.hv.counters(&guest.port)?.sent_bytes)
}

/// A transfer has the rate, and had no more since it began.
fn holds(bulk: &Bulk) -> Result<()> {
    hold_to(BYTES, TCP, || Ok(bulk.received()))?;
    let part = bulk.speed() / BYTES as f64;
    ensure!(part <= FRAMES.most, "{part:.3} of {BYTES} bytes a second");
    Ok(())
}

/// A guest gets the rate, on the wire and in TCP's hands, and no more.
fn gets_the_rate(lab: &Lab, guest: &Guest, server: &Netns, to: SocketAddr) -> Result<()> {
    let bulk = Bulk::tcp(guest.netns(), server, to, Way::Down)?;
    hold_to(BYTES, FRAMES, || sent_to(lab, guest)).with_context(|| format!("frames from {to}"))?;
    holds(&bulk).with_context(|| format!("TCP from {to}"))
}

/// Bytes that the hypervisor has sent outside.
fn sent_outside(lab: &Lab) -> Result<u64> {
    Ok(lab.hv.counters("uplink")?.sent_bytes)
}

/// A guest sends at the rate, on the wire and in TCP's hands, and not faster.
fn sends_at_the_rate(lab: &Lab, guest: &Guest, to: SocketAddr) -> Result<()> {
    let bulk = Bulk::tcp(guest.netns(), &lab.wan, to, Way::Up)?;
    hold_to(BYTES, FRAMES, || sent_outside(lab)).with_context(|| format!("frames to {to}"))?;
    holds(&bulk).with_context(|| format!("TCP to {to}"))
}

/// A transfer is held to nothing.
pub fn is_unheld(count: impl FnMut() -> Result<u64>) -> Result<()> {
    let unheld = Bounds {
        most: f64::INFINITY,
        least: 1.0,
    };
    hold_to(BYTES * UNHELD, unheld, count).map(drop)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_goes_to_a_guest_is_held_to_the_rate() {
    check6(|lab| {
        lab.agent.start()?;
        let network = held(Network::nat6("default", 1), "inbound");
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        gets_the_rate(lab, &guest, &lab.wan, at(OUTSIDE, 5001).into())?;
        gets_the_rate(lab, &guest, &lab.wan, at6(OUTSIDE6, 5001).into())?;
        // From the host itself.
        gets_the_rate(lab, &guest, &lab.hv, at(network.gateway(), 5001).into())?;
        // What the guest sends is not.
        let up = Bulk::tcp(guest.netns(), &lab.wan, at(OUTSIDE, 5002), Way::Up)?;
        is_unheld(|| Ok(up.received()))
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_rate_is_that_of_all_guests_together() {
    check(|lab| {
        lab.agent.start()?;
        let network = held(Network::route("default", 1), "inbound");
        lab.up(&network)?;
        let route = format!("ip route add {} via {HOST}", network.subnet());
        lab.wan.run(route.split(' '))?;
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        for guest in &guests {
            guest.ping(&OUTSIDE.to_string())?;
        }
        let mut bulks = Vec::new();
        for (guest, port) in guests.iter().zip(5001..) {
            let (to, way) = (at(OUTSIDE, port), Way::Down);
            bulks.push(Bulk::tcp(guest.netns(), &lab.wan, to, way)?);
        }
        let both = || Ok(sent_to(lab, &guests[0])? + sent_to(lab, &guests[1])?);
        hold_to(BYTES, FRAMES, both).context("two guests")?;
        drop(bulks);
        // Guests of one network talk to each other as they like.
        let (here, there) = (&guests[0], &guests[1]);
        let to = at(network.address(12), 5003);
        let bulk = Bulk::tcp(here.netns(), there.netns(), to, Way::Up)?;
        is_unheld(|| Ok(bulk.received())).context("guest to guest")
    });
}

/// The queue of a device, as `tc` shows it.
fn queue(lab: &Lab, device: &str) -> Result<String> {
    lab.hv.run(["tc", "qdisc", "show", "dev", device])
}

/// Waits until netd's queue is at a bridge again, from which it was removed.
fn is_put_back(lab: &Lab, bridge: &str) -> Result<()> {
    eventually(SOON, || {
        ensure!(queue(lab, bridge)?.contains("htb 6e64:"), "not put back");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_rate_outlives_the_agent_and_is_mended() {
    check(|lab| {
        lab.agent.start()?;
        let network = held(Network::default(), "inbound");
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        guest.ping(&OUTSIDE.to_string())?;
        let bridge = network.bridge();
        let to = at(OUTSIDE, 5001);
        lab.agent.kill()?;
        gets_the_rate(lab, &guest, &lab.wan, to.into()).context("without an agent")?;
        let classes = || lab.hv.run(["tc", "-s", "class", "show", "dev", &bridge]);
        let before = classes()?;
        lab.agent.start()?;
        let plan = lab.agent.ok(["plan"])?;
        ensure!(!plan.contains(" kB/s"), "nothing to do: {plan}");
        // Not made anew: it goes on counting.
        let sent = |text: &str| -> Result<u64> {
            let line = text.lines().find(|line| line.contains("Sent"));
            let word = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(word.context("a counter")?.parse()?)
        };
        ensure!(sent(&classes()?)? >= sent(&before)?, "{}", classes()?);

        for broken in [
            format!("tc qdisc del dev {bridge} root"),
            format!("tc class change dev {bridge} parent 6e64:1 classid 6e64:2 htb rate 1gbit"),
            format!("tc qdisc del dev {bridge} parent 6e64:2"),
        ] {
            let whole = queue(lab, &bridge)?;
            lab.hv.run(broken.split(' '))?;
            let mended = || {
                let [queue, classes] = [queue(lab, &bridge)?, classes()?];
                let kinds = |text: &str| text.lines().count();
                ensure!(kinds(&queue) == kinds(&whole), "{broken}: {queue}");
                ensure!(!classes.contains("1Gbit"), "{broken}: {classes}");
                Ok(())
            };
            eventually(SOON, mended)?;
        }
        gets_the_rate(lab, &guest, &lab.wan, to.into()).context("once it was mended")?;

        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.ok(["net-start", "default"])?;
        lab.hv.run(["tc", "qdisc", "del", "dev", &bridge, "root"])?;
        is_put_back(lab, &bridge)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_queue_of_somebody_elses_is_left_alone() {
    check(|lab| {
        lab.agent.start()?;
        let network = held(Network::default(), "inbound");
        lab.up(&network)?;
        let bridge = network.bridge();
        lab.agent.kill()?;
        let own = format!(
            "tc qdisc replace dev {bridge} root handle 7: tbf rate 1gbit burst 1mb latency 50ms"
        );
        lab.hv.run(["tc", "qdisc", "del", "dev", &bridge, "root"])?;
        lab.hv.run(own.split(' '))?;
        lab.agent.start()?;
        eventually(SOON, || {
            let log = lab.agent.log();
            ensure!(log.contains("a queue of somebody else's"), "not told");
            Ok(())
        })?;
        let theirs = queue(lab, &bridge)?;
        ensure!(theirs.contains("tbf 7:"), "{theirs}");
        lab.hv.run(["tc", "qdisc", "del", "dev", &bridge, "root"])?;
        is_put_back(lab, &bridge)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_guests_send_is_held_to_the_rate() {
    check6(|lab| {
        lab.agent.start()?;
        let network = held(Network::nat6("default", 1), "outbound");
        lab.up(&network)?;
        let guests = [lab.member6(1, &network)?, lab.member6(2, &network)?];
        let [guest, other] = &guests;
        sends_at_the_rate(lab, guest, at(OUTSIDE, 5001).into())?;
        sends_at_the_rate(lab, guest, at6(OUTSIDE6, 5001).into())?;
        // To the host itself, too.
        let to = at(network.gateway(), 5001);
        let bulk = Bulk::tcp(guest.netns(), &lab.hv, to, Way::Up)?;
        holds(&bulk).context("to the host")?;
        drop(bulk);

        let both = [(guest, 5002), (other, 5003)].map(|(guest, port)| {
            let to = at(OUTSIDE, port);
            Bulk::tcp(guest.netns(), &lab.wan, to, Way::Up)
        });
        hold_to(BYTES, FRAMES, || sent_outside(lab)).context("two guests")?;
        drop(both);

        let down = Bulk::tcp(guest.netns(), &lab.wan, at(OUTSIDE, 5004), Way::Down)?;
        is_unheld(|| Ok(down.received())).context("what it gets")?;
        drop(down);
        let to = at(network.address(12), 5005);
        let bulk = Bulk::tcp(guest.netns(), other.netns(), to, Way::Up)?;
        is_unheld(|| Ok(bulk.received())).context("guest to guest")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn both_directions_where_the_hosts_rules_are_respected() {
    check(|lab| {
        lab.agent.start()?;
        let network = both_directions(Network::default()).with(
            "<metadata><netd:host xmlns:netd='urn:netd:network:1' firewall='respect'/></metadata>",
        );
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        guest.ping(&OUTSIDE.to_string())?;
        gets_the_rate(lab, &guest, &lab.wan, at(OUTSIDE, 5001).into())?;
        sends_at_the_rate(lab, &guest, at(OUTSIDE, 5002).into())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn both_directions_without_an_agent_and_with_filters() {
    check(|lab| {
        lab.agent.attach_by("clsact")?;
        lab.agent.start()?;
        let network = both_directions(Network::route("default", 1));
        lab.up(&network)?;
        let route = format!("ip route add {} via {HOST}", network.subnet());
        lab.wan.run(route.split(' '))?;
        let guest = lab.member(1, &network)?;
        guest.ping(&OUTSIDE.to_string())?;
        lab.agent.kill()?;
        gets_the_rate(lab, &guest, &lab.wan, at(OUTSIDE, 5001).into())?;
        sends_at_the_rate(lab, &guest, at(OUTSIDE, 5002).into())?;
        lab.agent.start()?;
        // What somebody takes away comes back, and leaves nobody without a limit.
        for broken in ["ip link del virbr1-out", "ip link set virbr1-back down"] {
            let before = lab.hv.ifindex("virbr1-out")?;
            lab.hv.run(broken.split(' '))?;
            eventually(SOON, || {
                let now = lab.hv.ifindex("virbr1-out")?;
                let queue = queue(lab, "virbr1-out")?;
                ensure!(
                    now != before && queue.contains("htb 6e64:"),
                    "{broken}: {queue}"
                );
                Ok(())
            })?;
            eventually(SOON, || guest.ping(&OUTSIDE.to_string()))?;
        }
        sends_at_the_rate(lab, &guest, at(OUTSIDE, 5003).into())
    });
}

/// A floor of half the rate is kept beside a guest that takes all it can get, with many connections.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_floor_is_kept_whatever_the_others_get() {
    check6(|lab| {
        lab.agent.start()?;
        let network = held(Network::nat6("default", 1), "inbound");
        lab.up(&network)?;
        let guests = [lab.member6(1, &network)?, lab.member6(2, &network)?];
        let [guest, other] = &guests;
        let mut bulks = Vec::new();
        for port in 5001..5007 {
            bulks.push(Bulk::tcp(
                other.netns(),
                &lab.wan,
                at(OUTSIDE, port),
                Way::Down,
            )?);
        }
        let floor = RATE * 6 / 10;
        let mac = guest
            .netns()
            .mac("eth0")?
            .map(|byte| format!("{byte:02x}"))
            .join(":");
        let port = format!(
            "<networkport><uuid>aaaaaaaa-0000-0000-0000-000000000001</uuid><owner><name>vm</name>\
             <uuid>bbbbbbbb-0000-0000-0000-000000000001</uuid></owner><mac address='{mac}'/>\
             <bandwidth><inbound average='{RATE}' floor='{floor}'/></bandwidth></networkport>"
        );
        let file = lab.agent.file("port.xml", &port)?;
        lab.agent.ok(["net-port-create", "default", &file])?;
        let bridge = network.bridge();
        eventually(SOON, || {
            let show = format!("tc filter show dev {bridge} parent 6e64:");
            let filters = lab.hv.run(show.split(' '))?;
            ensure!(filters.contains("flowid 6e64:3"), "{filters}");
            Ok(())
        })?;
        let kept = Bounds {
            most: f64::INFINITY,
            least: 0.9,
        };
        for to in [
            SocketAddr::from(at(OUTSIDE, 5011)),
            at6(OUTSIDE6, 5011).into(),
        ] {
            let bulk = Bulk::tcp(guest.netns(), &lab.wan, to, Way::Down)?;
            hold_to(floor * 1000, kept, || sent_to(lab, guest)).with_context(|| format!("{to}"))?;
            drop(bulk);
        }
        // Both together are still held to the rate.
        let _bulk = Bulk::tcp(guest.netns(), &lab.wan, at(OUTSIDE, 5012), Way::Down)?;
        let both = || Ok(sent_to(lab, guest)? + sent_to(lab, other)?);
        hold_to(BYTES, FRAMES, both).context("together")?;
        let second = port.replace("0001</uuid><owner>", "0002</uuid><owner>");
        let file = lab.agent.file("second.xml", &second)?;
        let refused = lab.agent.fails(["net-port-create", "default", &file])?;
        ensure!(
            refused.contains("would overcommit average=1000"),
            "{refused}"
        );
        let uuid = "aaaaaaaa-0000-0000-0000-000000000001";
        lab.agent.ok(["net-port-delete", "default", uuid])?;
        eventually(SOON, || {
            let classes = lab.hv.run(["tc", "class", "show", "dev", &bridge])?;
            ensure!(!classes.contains("6e64:3"), "{classes}");
            Ok(())
        })
    });
}

/// A stream of questions and answers goes on while rates come, change and go.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rates_change_while_guests_talk() {
    check(|lab| {
        lab.agent.start()?;
        let plain = Network::default();
        lab.up(&plain)?;
        let guest = lab.member(1, &plain)?;
        guest.ping(&OUTSIDE.to_string())?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
        let before = Losses::look(&[&lab.hv, &lab.wan, guest.netns()])?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, 7))?;
        let dumped = lab.agent.ok(["net-dumpxml", "default"])?;
        let with =
            |bandwidth: &str| dumped.replace("<ip address", &format!("{bandwidth}<ip address"));
        let both = |average: u64| {
            with(&format!(
                "<bandwidth><inbound average='{average}'/><outbound average='{average}'/></bandwidth>"
            ))
        };
        let mut sent = 0;
        for (text, pending) in [
            (both(4000), true),
            (both(RATE), true),
            (
                with(&format!(
                    "<bandwidth><outbound average='{RATE}'/></bandwidth>"
                )),
                true,
            ),
            (with(""), true),
            (both(RATE), true),
        ] {
            lab.agent.define(&text)?;
            let plan = lab.agent.ok(["plan"])?;
            ensure!(plan.contains("<bandwidth>") == pending, "{plan}");
            let said = lab.agent.ok(["reload"])?;
            ensure!(said.contains("definition's bandwidth"), "{said}");
            sent += 500;
            load.reach(sent)?;
        }
        let report = load.finish()?;
        let lost = report.lost.len() as u64;
        let overload = Losses::look(&[&lab.hv, &lab.wan, guest.netns()])?
            .since(&before)
            .to_overload();
        ensure!(
            lost <= overload,
            "{lost} of {} lost, {overload} to overload",
            report.sent
        );
        gets_the_rate(lab, &guest, &lab.wan, at(OUTSIDE, 5001).into())?;
        sends_at_the_rate(lab, &guest, at(OUTSIDE, 5002).into())
    });
}

/// libvirt's QEMU driver sets `<inbound>` of a guest's interface at its tap: what netd redirects there meets
/// that queue.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_queue_at_a_guests_tap_holds_for_what_is_redirected() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let port = &guest.port;
        for line in [
            format!("tc qdisc add dev {port} root handle 1: htb default 1"),
            format!(
                "tc class add dev {port} parent 1: classid 1:1 htb rate {RATE}kbps ceil {RATE}kbps"
            ),
        ] {
            lab.hv.run(line.split(' '))?;
        }
        gets_the_rate(lab, &guest, &lab.wan, at(OUTSIDE, 5001).into())?;
        ensure!(queue(lab, port)?.contains("htb 1:"), "it is not netd's");
        Ok(())
    });
}

/// By `tc_index` netd knows the frames that have waited, or were held; a guest in a network namespace can set it,
/// too, and the mark that has to be beside it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_guest_cannot_say_that_its_frames_have_waited() {
    check(|lab| {
        lab.agent.start()?;
        let network = held(Network::default(), "outbound");
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        guest.ping(&OUTSIDE.to_string())?;
        let script = lab.agent.file("claims.py", include_str!("claims.py"))?;
        let port = lab.hv.ifindex(&guest.port)?.to_string();
        // `skb::WAITED` in the programs, and `abi::HELD_LONG`.
        for (claim, to) in [("0x7761", 5001), ("0x6e66", 5002)] {
            let mut claims = guest.netns().command("python3");
            let mut claims = claims
                .args([&script, claim, &port])
                .stdout(Stdio::piped())
                .spawn()
                .context("python3")?;
            let mut ready = String::new();
            let output = claims.stdout.take().context("no output")?;
            BufReader::new(output).read_line(&mut ready)?;
            let sent = match ready.trim() {
                "ready" => sends_at_the_rate(lab, &guest, at(OUTSIDE, to).into()),
                said => Err(anyhow!("the guest's program: {said:?}")),
            };
            claims.kill()?;
            claims.wait()?;
            sent.with_context(|| format!("claiming {claim}"))?;
        }
        Ok(())
    });
}
