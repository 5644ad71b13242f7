//! Programs as filters of the qdisc `clsact`, as on kernels without TCX: the same networks, and the same
//! manners towards what others have put there.

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::traffic::{self, Load, Server, Verdict};
use netd_tests::{Guest, Lab, Netns, Network, SOON, Sniffer, eventually};

use crate::hooks;
use crate::life::{of_another_build, pause, programs, without_loss_after};

const PORT: u16 = 7000;

/// A filter of somebody else's for packets to an address, at that priority: it takes them, and sends
/// them back out of the device it is at.
fn foreign(netns: &Netns, device: &str, priority: &str, to: &str) -> Result<()> {
    let words = format!(
        "tc filter add dev {device} ingress pref {priority} protocol ip \
         u32 match ip dst {to}/32 action mirred egress redirect dev {device}"
    );
    netns.run(words.split_whitespace())?;
    Ok(())
}

/// The filters that come in at a device, by priority, and whether they are netd's.
fn order(netns: &Netns, device: &str) -> Result<Vec<(u32, bool)>> {
    let text = hooks::filters(netns, device, "ingress")?;
    let mut order = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let Some(priority) = words.by_ref().skip_while(|word| *word != "pref").nth(1) {
            let entry = (priority.parse()?, line.contains(" netd:"));
            // tc has a line for each table of a u32 filter.
            order.retain(|known| known != &entry);
            order.push(entry);
        }
    }
    // And one for each priority before those of its filters.
    let own: Vec<u32> = order
        .iter()
        .filter(|(_, own)| *own)
        .map(|(p, _)| *p)
        .collect();
    order.retain(|(priority, is_own)| *is_own || !own.contains(priority));
    Ok(order)
}

/// The kinds of the qdiscs that filters hang from.
fn qdiscs(netns: &Netns, device: &str) -> Result<Vec<String>> {
    let text = netns.run(["tc", "qdisc", "show", "dev", device])?;
    let kinds = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    let with_filters = kinds.filter(|kind| ["clsact", "ingress"].contains(kind));
    Ok(with_filters.map(str::to_owned).collect())
}

/// A guest of a NAT network behind filters.
fn nat_guest(lab: &mut Lab) -> Result<Guest> {
    lab.agent.attach_by("clsact")?;
    lab.nat_guest()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn every_hook_is_a_filter() {
    check(|lab| {
        let guest = nat_guest(lab)?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 1_000_000)?;
        lab.settled()?;
        for (device, side, program) in [
            ("vnet1", "ingress", "port_ingress"),
            ("virbr1", "ingress", "bridge_ingress"),
            ("virbr1", "egress", "bridge_egress"),
            ("uplink", "ingress", "uplink_ingress"),
            ("uplink", "egress", "uplink_egress"),
        ] {
            let filters = hooks::filters(&lab.hv, device, side)?;
            let name = format!(" netd:{program} direct-action");
            ensure!(filters.contains(&name), "{device} {side}: {filters}");
            let tcx = hooks::tcx_programs(&lab.hv, device)?;
            ensure!(tcx.is_empty(), "{device}: {tcx:?}");
        }
        let status = lab.agent.ok(["status"])?;
        ensure!(status.contains("programs attached by clsact"), "{status}");
        for line in ["clsact ingress", "clsact egress"] {
            ensure!(status.contains(line), "{status}");
        }
        // A network that goes takes its filters along, and a port and an uplink are as they were.
        lab.agent.ok(["net-destroy", "default"])?;
        for device in ["vnet1", "uplink"] {
            let qdiscs = qdiscs(&lab.hv, device)?;
            ensure!(qdiscs.is_empty(), "{device}: {qdiscs:?}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_modes_keep_their_promises() {
    check(|lab| {
        lab.agent.attach_by("clsact")?;
        lab.agent.start()?;
        let nat = Network::nat("nat", 1).dhcp("").ipv6();
        let (route, isolated) = (Network::route("route", 2), Network::isolated("isolated", 3));
        for network in [&nat, &route, &isolated] {
            lab.up(network)?;
        }
        lab.wan.run([
            "ip",
            "route",
            "add",
            &route.subnet(),
            "via",
            &HOST.to_string(),
        ])?;
        let guest = lab.plugged(1, &nat.bridge())?;
        let lease = guest.dhcp()?;
        let routed = lab.member(2, &route)?;
        let lonely = lab.member(3, &isolated)?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let inside = Server::udp(guest.netns(), at(lease.address, PORT))?;
        let outside = at(OUTSIDE, PORT);
        let source = traffic::answered(guest.netns(), outside).context("masqueraded")?;
        ensure!(source.ip() == HOST, "from {source}");
        let source = traffic::answered(routed.netns(), outside).context("routed")?;
        ensure!(source.ip() == route.address(12), "from {source}");
        let verdict = traffic::ask_udp(lonely.netns(), outside)?;
        ensure!(!matches!(verdict, Verdict::Answered(_)), "{verdict:?}");
        lonely.ping(&isolated.gateway().to_string())?;
        let published = format!("{}:{PORT}", lease.address);
        lab.agent
            .ok(["forward", "add", "nat", "udp", "9000", &published, "--live"])?;
        for (who, netns) in [("outside", &lab.wan), ("the host", &lab.hv)] {
            traffic::answered(netns, at(HOST, 9000)).context(who)?;
        }
        drop(inside);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn agents_come_and_go_without_loss() {
    without_loss_after(
        |lab| lab.agent.attach_by("clsact"),
        |lab| {
            let first = programs(lab)?;
            ensure!(first.len() >= 5, "{first:?}");
            lab.agent.stop()?;
            pause();
            lab.agent.start()?;
            let kept = programs(lab)?;
            ensure!(kept == first, "a restart left {kept:?}, not {first:?}");
            lab.agent.kill()?;
            pause();
            of_another_build(lab)?;
            lab.agent.start()?;
            let replaced = programs(lab)?;
            ensure!(
                replaced.len() == first.len()
                    && first.iter().all(|(place, id)| replaced[place] != *id),
                "an upgrade left {replaced:?} of {first:?}"
            );
            Ok(())
        },
    );
}

/// The administrator chooses the mechanism anew. Both are there for a moment, and none at no moment.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_mechanism_can_be_changed() {
    check(|lab| {
        let guest = nat_guest(lab)?;
        lab.settled()?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let load = Load::tcp(guest.netns(), at(OUTSIDE, PORT))?;
        let sniffer = Sniffer::start(&lab.wan)?;
        for mechanism in ["tcx", "clsact"] {
            lab.agent.stop()?;
            lab.agent.attach_by(mechanism)?;
            lab.agent.start()?;
            for device in ["vnet1", "virbr1", "uplink"] {
                // The kernel detaches what nothing pins any more in its own time.
                eventually(SOON, || {
                    let tcx = hooks::tcx_programs(&lab.hv, device)?;
                    ensure!(
                        tcx.is_empty() == (mechanism == "clsact"),
                        "{device}: {tcx:?}"
                    );
                    Ok(())
                })?;
                let qdiscs = qdiscs(&lab.hv, device)?;
                ensure!(
                    qdiscs.is_empty() == (mechanism == "tcx"),
                    "{mechanism}, {device}: {qdiscs:?}"
                );
            }
            guest.ping(&OUTSIDE.to_string())?;
        }
        let report = load.finish().context("the connection from before")?;
        ensure!(report.lost.is_empty(), "{:?}", report.lost);
        let packets = sniffer.finish()?;
        let private = packets.iter().find(|p| p.source.octets()[0] == 10);
        ensure!(private.is_none(), "a private source left: {private:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn others_filters_keep_their_places() {
    check(|lab| {
        let (before, after) = ("192.0.2.1", "192.0.2.2");
        lab.hv
            .run(["tc", "qdisc", "add", "dev", "uplink", "clsact"])?;
        foreign(&lab.hv, "uplink", "1", before)?;
        foreign(&lab.hv, "uplink", "40000", after)?;
        let guest = nat_guest(lab)?;
        lab.settled()?;
        let expected = [(1, false), (32, true), (40000, false)];
        let found = order(&lab.hv, "uplink")?;
        ensure!(found == expected, "{found:?}");
        // Put there after netd, where netd made the qdisc.
        foreign(&lab.hv, "vnet1", "7", before)?;
        let found = order(&lab.hv, "vnet1")?;
        ensure!(found == [(7, false), (32, true)], "{found:?}");
        lab.agent.stop()?;
        of_another_build(lab)?;
        lab.agent.start()?;
        let found = order(&lab.hv, "uplink")?;
        ensure!(found == expected, "after an upgrade: {found:?}");
        guest.ping(&OUTSIDE.to_string())?;
        lab.agent.ok(["net-destroy", "default"])?;
        let found = order(&lab.hv, "uplink")?;
        ensure!(found == [(1, false), (40000, false)], "{found:?}");
        let found = order(&lab.hv, "vnet1")?;
        ensure!(found == [(7, false)], "{found:?}");
        lab.agent.end();
        lab.agent.teardown()?;
        for device in ["uplink", "vnet1"] {
            let kinds = qdiscs(&lab.hv, device)?;
            ensure!(kinds == ["clsact"], "{device}: {kinds:?}");
            lab.hv
                .run(["tc", "qdisc", "del", "dev", device, "clsact"])?;
        }
        Ok(())
    });
}

/// Filters that somebody has at the very place of netd's are not overwritten.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_place_that_is_taken_is_told() {
    check(|lab| {
        lab.hv
            .run(["tc", "qdisc", "add", "dev", "uplink", "clsact"])?;
        foreign(&lab.hv, "uplink", "32", "192.0.2.1")?;
        lab.agent.attach_by("clsact")?;
        lab.agent.start()?;
        lab.agent.define(&Network::default().xml())?;
        let refused = lab.agent.fails(["net-start", "default"])?;
        ensure!(refused.contains("uplink (clsact ingress)"), "{refused}");
        let found = order(&lab.hv, "uplink")?;
        ensure!(found == [(32, false)], "{found:?}");
        lab.hv
            .run(["tc", "qdisc", "del", "dev", "uplink", "clsact"])?;
        lab.agent.ok(["net-start", "default"])?;
        Ok(())
    });
}

/// What limits a guest's rate comes with the qdisc `ingress` (libvirt's `<bandwidth>`).
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_port_with_the_qdisc_ingress_is_guarded_too() {
    check(|lab| {
        lab.agent.attach_by("clsact")?;
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let guest = lab.guest(1)?;
        lab.hv
            .run(["tc", "qdisc", "add", "dev", &guest.port, "ingress"])?;
        lab.plug(&guest, &network.bridge())?;
        guest.address(&format!("{}/24", network.address(11)), Some("10.10.1.1"))?;
        guest.ping(&OUTSIDE.to_string())?;
        lab.settled()?;
        let filters = hooks::filters(&lab.hv, &guest.port, "ingress")?;
        ensure!(filters.contains("netd:port_ingress"), "{filters}");
        lab.agent.ok(["net-destroy", "default"])?;
        let filters = hooks::filters(&lab.hv, &guest.port, "ingress")?;
        ensure!(filters.is_empty(), "{filters}");
        let kinds = qdiscs(&lab.hv, &guest.port)?;
        ensure!(kinds == ["ingress"], "{kinds:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn own_filters_are_nobody_elses() {
    check(|lab| {
        let guest = nat_guest(lab)?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, 7))?;
        load.reach(200)?;
        load.finish()?;
        let log = lab.agent.log();
        ensure!(!log.contains("filters of traffic control see"), "{log}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn filters_that_somebody_deletes_come_back() {
    check(|lab| {
        let guest = nat_guest(lab)?;
        let both = |device: &str| {
            eventually(SOON, || {
                let names = hooks::programs(&lab.hv, device)?;
                ensure!(names.len() == 2, "{device}: {names:?}");
                Ok(())
            })
        };
        lab.hv
            .run(["tc", "qdisc", "del", "dev", "uplink", "clsact"])?;
        both("uplink")?;
        lab.hv
            .run(["tc", "filter", "del", "dev", "virbr1", "egress"])?;
        both("virbr1")?;
        guest.ping(&OUTSIDE.to_string())?;
        // Unseen by an agent: the next one finds it.
        lab.agent.kill()?;
        lab.hv
            .run(["tc", "filter", "del", "dev", "uplink", "ingress"])?;
        lab.agent.start()?;
        both("uplink")?;
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}
