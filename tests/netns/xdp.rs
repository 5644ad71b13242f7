//! The XDP fast path: datagrams pass from driver to driver where the administrator wants it, and
//! where that cannot be, as well as ever.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::packet::UDP;
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON, Sniffer, eventually};

const PORT: u16 = 7000;
const DATAGRAMS: usize = 3000;
const IN_A_ROW: usize = 100;

/// Lets a device receive as hardware does, without which its peer is sent nothing of others', and
/// complete its checksums itself or leave that to the next device.
fn card(netns: &Netns, device: &str, checksums: &str) -> Result<()> {
    netns.run(["ethtool", "-K", device, "gro", "on", "tx", checksums])?;
    Ok(())
}

/// The agent with the XDP fast path at these devices, and a guest that knows its way out.
fn start(lab: &mut Lab, on: &str) -> Result<Guest> {
    card(&lab.wan, "wan0", "off")?;
    let config = lab.agent.config_dir();
    std::fs::create_dir_all(&config)?;
    std::fs::write(config.join("netd.toml"), format!("[xdp]\non = [{on}]\n"))?;
    lab.agent.start()?;
    let network = Network::default();
    lab.up(&network)?;
    let guest = lab.guest(1)?;
    card(guest.netns(), "eth0", "off")?;
    lab.plug(&guest, &network.bridge())?;
    let (address, gateway) = (network.address(11), network.gateway().to_string());
    guest.address(&format!("{address}/24"), Some(&gateway))?;
    guest.ping(&OUTSIDE.to_string())?;
    Ok(guest)
}

/// The devices with an XDP program, by `netd status`.
fn fast(lab: &Lab) -> Result<Vec<String>> {
    let status: serde_json::Value = serde_json::from_str(&lab.agent.ok(["status", "--json"])?)?;
    let hooks = status["hooks"].as_array().cloned().unwrap_or_default();
    let mut devices: Vec<String> = hooks
        .iter()
        .filter(|hook| hook["hook"] == "xdp" && hook["programs"][0]["ours"] == true)
        .filter_map(|hook| hook["device"].as_str().map(str::to_owned))
        .collect();
    devices.sort();
    Ok(devices)
}

/// Waits until drivers may send to all these devices: the agent hears of a device's changes.
fn wait_for(lab: &Lab, devices: &[&str]) -> Result<()> {
    eventually(SOON, || {
        let fast = fast(lab)?;
        ensure!(fast == devices, "{fast:?} have the XDP fast path");
        Ok(())
    })
}

/// Asks and answers `DATAGRAMS` times; returns how many datagrams the hypervisor's stack saw, of
/// twice as many on two devices each.
fn exchange(lab: &Lab, guest: &Guest) -> Result<usize> {
    let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
    let socket = guest.netns().udp("0.0.0.0:0")?;
    socket.connect(at(OUTSIDE, PORT))?;
    let sniffer = Sniffer::start(&lab.hv)?;
    let mut buffer = [0; 2048];
    for number in 0..DATAGRAMS {
        let data = number.to_be_bytes().repeat(1 + number % 100);
        socket.send(&data)?;
        let length = socket.recv(&mut buffer)?;
        ensure!(buffer[..length] == data, "another answer to {number}");
    }
    let seen = sniffer.finish()?;
    Ok(seen.iter().filter(|packet| packet.protocol == UDP).count())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn datagrams_do_not_come_by_the_stack() {
    check(|lab| {
        let guest = start(lab, "'uplink', 'vnet*'")?;
        wait_for(lab, &["uplink", "vnet1"])?;
        let begun = Instant::now();
        let seen = exchange(lab, &guest)?;
        // A flow is looked at again now and then, on its way in and out.
        let looks = 4 * (begun.elapsed().as_secs() as usize + 3);
        ensure!(
            seen <= looks,
            "{seen} of {} by the stack, {looks} expected",
            4 * DATAGRAMS
        );
        // TCP is none of its business, and not in its way.
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 4_000_000)?;
        // The host's own datagrams are the stack's.
        let _own = Server::udp(&lab.hv, at(HOST, PORT))?;
        traffic::ask_udp(&lab.wan, at(HOST, PORT))?;
        traffic::ask_udp(guest.netns(), at(HOST, PORT))?;
        Ok(())
    });
}

/// What a device is still to do its checksum of cannot go from driver to driver.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p30_unfinished_checksums_are_finished() {
    check(|lab| {
        let guest = start(lab, "'uplink', 'vnet*'")?;
        wait_for(lab, &["uplink", "vnet1"])?;
        card(guest.netns(), "eth0", "on")?;
        card(&lab.wan, "wan0", "on")?;
        let seen = exchange(lab, &guest)?;
        ensure!(seen >= 4 * DATAGRAMS, "{seen} came by the stack");
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 4_000_000)?;
        Ok(())
    });
}

/// P56: a device whose driver takes no frames of others', or whose queue would have ordered them,
/// is reached by TC.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p56_devices_that_cannot_take_frames_are_reached_by_tc() {
    check(|lab| {
        let guest = start(lab, "'uplink', 'vnet*'")?;
        wait_for(lab, &["uplink", "vnet1"])?;
        let limit = "tc qdisc add dev uplink root tbf rate 1gbit burst 1mb latency 50ms";
        lab.hv.run(limit.split(' '))?;
        // The agent hears of it with the next change of the device, a moment later.
        for state in ["down", "up"] {
            lab.hv.run(["ip", "link", "set", "vnet1", state])?;
        }
        guest.ping(&OUTSIDE.to_string())?;
        eventually(SOON, || {
            let seen = exchange(lab, &guest)?;
            ensure!(seen >= 2 * DATAGRAMS, "{seen}: not by the queue");
            Ok(())
        })?;
        lab.hv
            .run(["tc", "qdisc", "del", "dev", "uplink", "root"])?;
        Ok(())
    });
}

/// An agent that is told otherwise takes it away, and no datagram is lost by that.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_fast_path_comes_and_goes_with_the_settings() {
    check(|lab| {
        let guest = start(lab, "'vnet*'")?;
        wait_for(lab, &["vnet1"])?;
        exchange(lab, &guest)?;
        let config = lab.agent.config_dir().join("netd.toml");
        std::fs::write(&config, "[xdp]\non = ['*']\noff = ['vnet1']\n")?;
        lab.agent.kill()?;
        exchange(lab, &guest)?;
        lab.agent.start()?;
        wait_for(lab, &["uplink"])?;
        exchange(lab, &guest)?;
        std::fs::remove_file(&config)?;
        lab.agent.stop()?;
        lab.agent.start()?;
        wait_for(lab, &[])?;
        exchange(lab, &guest)?;
        Ok(())
    });
}

/// A veth takes frames of others' while its peer receives as hardware does: when that ends, its
/// datagrams go by TC at once.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p56_a_device_that_takes_no_frames_any_more_is_reached_by_tc() {
    check(|lab| {
        let guest = start(lab, "'uplink', 'vnet*'")?;
        wait_for(lab, &["uplink", "vnet1"])?;
        exchange(lab, &guest)?;
        guest.netns().run(["ethtool", "-K", "eth0", "gro", "off"])?;
        let server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let socket = guest.netns().udp("0.0.0.0:0")?;
        socket.connect(at(OUTSIDE, PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // A flow's first packets and those that look at it again go by TC anyway: only many in a
        // row tell that the agent has heard of the change.
        eventually(SOON, || {
            for _ in 0..IN_A_ROW {
                socket.send(b"?")?;
                socket.recv(&mut [0; 64])?;
            }
            Ok(())
        })?;
        drop(server);
        exchange(lab, &guest)?;
        Ok(())
    });
}
