//! Who watches what guests send and receive (an intrusion detection system in a guest, say) goes on to see it:
//! by a bridge that is made a hub, and by mirrors at a guest's port.

use std::time::Duration;

use anyhow::{Result, ensure};
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::packet::UDP;
use netd_tests::traffic::Server;
use netd_tests::{Guest, Lab, Network, SOON, Sniffer, control, eventually};

const PORT: u16 = 7000;
/// Of guest 1.
const OWN: u16 = 5000;

/// Asks by one flow until it is answered, some times.
fn ask(guest: &Guest) -> Result<()> {
    let socket = guest.netns().udp(("0.0.0.0", OWN))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    for _ in 0..10 {
        eventually(SOON, || {
            socket.send_to(b"question", at(OUTSIDE, PORT))?;
            socket.recv(&mut [0; 16])?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Does guest 2 see what comes from outside to guest 1?
fn is_heard(lab: &Lab, guest: &Guest, watcher: &Guest) -> Result<bool> {
    let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
    let sniffer = Sniffer::start(watcher.netns())?;
    ask(guest)?;
    let heard = sniffer.finish()?;
    Ok(heard
        .iter()
        .any(|packet| packet.source == OUTSIDE && packet.protocol == UDP))
}

/// The bridge sends to everybody (`ageing_time 0`) what it cannot know the addressee of.
fn a_hub(lab: &Lab, guest: &Guest, watcher: &Guest) -> Result<()> {
    let set = |centiseconds: &str| {
        lab.hv.run([
            "ip",
            "link",
            "set",
            "virbr1",
            "type",
            "bridge",
            "ageing_time",
            centiseconds,
        ])
    };
    ensure!(!is_heard(lab, guest, watcher)?, "a bridge is no hub");
    set("0")?;
    eventually(SOON, || {
        ensure!(is_heard(lab, guest, watcher)?, "nothing is heard at a hub");
        Ok(())
    })?;
    set("30000")?;
    eventually(SOON, || {
        ensure!(!is_heard(lab, guest, watcher)?, "it stays a hub");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_bridge_that_is_a_hub_shows_everybody_what_comes_from_outside() {
    let by_kernel = || -> Result<()> {
        let (lab, guest) = control::nat_guest()?;
        let watcher = lab.member(2, &Network::default())?;
        a_hub(&lab, &guest, &watcher)
    };
    by_kernel().expect("the control");
    check(|lab| {
        let guest = lab.nat_guest()?;
        let watcher = lab.member(2, &Network::default())?;
        a_hub(lab, &guest, &watcher)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn mirrors_at_a_port_see_both_directions() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let tap = netd_tests::Netns::new("tap")?;
        lab.hv.veth("mirror", &tap, "eth0")?;
        lab.hv.run(["ip", "link", "set", "mirror", "up"])?;
        tap.run(["ip", "link", "set", "eth0", "up"])?;
        lab.hv
            .run(["tc", "qdisc", "add", "dev", &guest.port, "clsact"])?;
        for direction in ["ingress", "egress"] {
            let filter = format!(
                "tc filter add dev {} {direction} protocol all u32 match u32 0 0 \
                 action mirred egress mirror dev mirror",
                guest.port
            );
            let output = lab.hv.output(filter.split_whitespace())?;
            let error = String::from_utf8_lossy(&output.stderr);
            if error.contains("Failed to load") || error.contains("not supported") {
                eprintln!("SKIPPED: this kernel has no mirrors: {error}");
                lab.hv
                    .run(["tc", "qdisc", "del", "dev", &guest.port, "clsact"])?;
                lab.hv.run(["ip", "link", "del", "mirror"])?;
                return Ok(());
            }
            ensure!(output.status.success(), "{error}");
        }
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        eventually(SOON, || {
            let sniffer = Sniffer::start(&tap)?;
            ask(&guest)?;
            let seen = sniffer.finish()?;
            let of = |source| {
                let theirs = seen
                    .iter()
                    .filter(|p| p.protocol == UDP && p.source == source);
                theirs.count()
            };
            let (sent, received) = (of(Network::default().address(11)), of(OUTSIDE));
            ensure!(
                sent >= 10 && received >= 10,
                "{sent} sent, {received} received are seen"
            );
            Ok(())
        })?;
        lab.hv
            .run(["tc", "qdisc", "del", "dev", &guest.port, "clsact"])?;
        lab.hv.run(["ip", "link", "del", "mirror"])?;
        Ok(())
    });
}
