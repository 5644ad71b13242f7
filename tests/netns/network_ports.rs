//! Guests' ports of networks, made by the real virsh as libvirt's daemons make them, and taps as these
//! leave them: called vnetN, with the guest's MAC address but for its first byte.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use netd_tests::frame::{Frame, Wire};
use netd_tests::lab::{OUTSIDE, check};
use netd_tests::packet::Ipv4;
use netd_tests::{Guest, Lab, Network, SOON, Sniffer, eventually};

/// UUID of a guest's port.
fn uuid(number: u8) -> String {
    format!("aaaaaaaa-0000-0000-0000-0000000000{number:02}")
}

fn port_xml(port: u8, mac: &str, more: &str) -> String {
    format!(
        "<networkport><uuid>{}</uuid><owner><name>vm</name>\
         <uuid>bbbbbbbb-0000-0000-0000-000000000001</uuid></owner><mac address='{mac}'/>{more}\
         </networkport>",
        uuid(port)
    )
}

/// Runs virsh; what it printed, or its error.
fn virsh(lab: &Lab, words: &[&str]) -> Result<String> {
    let output = lab.agent.virsh(words.iter().copied())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && error.is_empty(),
        "virsh {}: {error}",
        words.join(" ")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Has virsh make a port.
fn create(lab: &Lab, network: &str, port: u8, mac: &str, more: &str) -> Result<()> {
    let file = lab.agent.file("port.xml", &port_xml(port, mac, more))?;
    let told = virsh(lab, &["net-port-create", network, &file])?;
    ensure!(told.contains(&uuid(port)), "{told}");
    Ok(())
}

fn delete(lab: &Lab, network: &str, port: u8) -> Result<()> {
    virsh(lab, &["net-port-delete", network, &uuid(port)]).map(drop)
}

fn listed(lab: &Lab, network: &str) -> Result<Vec<String>> {
    let list = virsh(lab, &["net-port-list", network, "--uuid"])?;
    Ok(list.split_whitespace().map(str::to_owned).collect())
}

/// Gives a guest's cable the MAC address that libvirt would give the tap.
fn as_tap(lab: &Lab, guest: &Guest, mac: &str) -> Result<()> {
    let tap = format!("fe{}", &mac[2..]);
    lab.hv
        .run(["ip", "link", "set", &guest.port, "address", &tap])?;
    Ok(())
}

/// A guest with a port and a tap on the network's bridge.
fn guest(lab: &Lab, network: &Network, number: u8, more: &str) -> Result<Guest> {
    let guest = lab.guest(number)?;
    create(lab, &network.name, number, &guest.mac, more)?;
    as_tap(lab, &guest, &guest.mac)?;
    lab.plug(&guest, &network.bridge())?;
    let address = format!("{}/24", network.address(10 + number));
    guest.address(&address, Some(&network.gateway().to_string()))?;
    Ok(guest)
}

fn files(lab: &Lab, network: &str) -> PathBuf {
    lab.directory().join("run/ports").join(network)
}

/// Is the tap an isolated port of its bridge?
fn is_isolated(lab: &Lab, guest: &Guest) -> Result<bool> {
    let shown = lab
        .hv
        .run(["bridge", "-d", "link", "show", "dev", &guest.port])?;
    ensure!(shown.contains("isolated o"), "{shown}");
    Ok(shown.contains("isolated on"))
}

fn wait_for_isolation(lab: &Lab, guest: &Guest) -> Result<()> {
    eventually(SOON, || {
        ensure!(is_isolated(lab, guest)?, "{} is not isolated", guest.port);
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ports_live_as_long_as_their_clients_want() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let mac = "52:54:00:00:00:01";
        create(lab, "default", 1, mac, "")?;
        // The guest is plugged in again before its old port goes.
        create(lab, "default", 2, mac, "")?;
        ensure!(listed(lab, "default")? == [uuid(1), uuid(2)]);
        delete(lab, "default", 1)?;
        let xml = virsh(lab, &["net-port-dumpxml", "default", &uuid(2)])?;
        let plug = format!("<plug type='network' bridge='{}'/>", network.bridge());
        ensure!(xml.contains(&plug), "{xml}");
        let dump = lab.agent.ok(["net-dumpxml", "default"])?;
        ensure!(dump.contains("<network connections='1'>"), "{dump}");
        let stored = lab.agent.ok(["net-dumpxml", "default", "--inactive"])?;
        ensure!(!stored.contains("connections"), "{stored}");

        // An agent that is killed and one that ends leave them to the next.
        lab.agent.kill()?;
        std::fs::write(files(lab, "default").join(".new-1.tmp"), "half")?;
        lab.agent.start()?;
        ensure!(listed(lab, "default")? == [uuid(2)]);
        ensure!(virsh(lab, &["net-port-dumpxml", "default", &uuid(2)])? == xml);
        lab.agent.stop()?;
        lab.agent.start()?;
        ensure!(listed(lab, "default")? == [uuid(2)]);
        let left = std::fs::read_dir(files(lab, "default"))?.count();
        ensure!(left == 1, "{left} files of one port");

        // A network that is stopped takes those with it whose guests have no tap.
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(!files(lab, "default").exists(), "files are left");
        let error = virsh(lab, &["net-port-list", "default"]).unwrap_err();
        ensure!(error.to_string().contains("is not active"), "{error}");
        lab.agent.ok(["net-start", "default"])?;
        ensure!(listed(lab, "default")?.is_empty());
        let error = virsh(lab, &["net-port-delete", "default", &uuid(2)]).unwrap_err();
        ensure!(error.to_string().contains(&uuid(2)), "{error}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_port_tells_the_mac_address_of_its_guest() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default()
            .dhcp("")
            .with("<metadata><n:antispoof xmlns:n='urn:netd:network:1'/></metadata>");
        lab.up(&network)?;
        // Of no range that libvirt draws from: the tap alone would not tell.
        let mac = "56:11:22:00:00:01";
        create(lab, "default", 1, mac, "")?;
        let guest = lab.guest(1)?;
        guest
            .netns()
            .run(["ip", "link", "set", "eth0", "address", mac])?;
        as_tap(lab, &guest, mac)?;
        lab.plug(&guest, &network.bridge())?;
        let own = guest.netns().mac("eth0")?;
        let bridge = lab.hv.mac(&network.bridge())?;
        let wire = Wire::new(guest.netns(), "eth0")?;
        let lie = |lab: &Lab| -> Result<()> {
            let me = (network.address(11), 5000);
            let frame = Frame::udp(me, (OUTSIDE, 7000), b"lie");
            let other = [own[0] ^ 4, own[1], own[2], own[3], own[4], own[5]];
            let before = lab.agent.dropped("spoofed_mac")?;
            let frame = frame.between(other, bridge);
            eventually(SOON, || {
                wire.send(&frame)?;
                let after = lab.agent.dropped("spoofed_mac")?;
                ensure!(after > before, "a frame of another passed");
                Ok(())
            })
        };
        // Before it has said a word: nobody but its port could have told.
        eventually(SOON, || {
            let status = lab.agent.ok(["status"])?;
            ensure!(status.contains(&guest.port), "{status}");
            Ok(())
        })?;
        lie(lab).context("before the guest was heard")?;
        guest.dhcp()?;
        guest.ping(&OUTSIDE.to_string())?;
        // Plugged in again under another port, and with the next agent.
        create(lab, "default", 2, mac, "")?;
        delete(lab, "default", 1)?;
        lie(lab).context("with another port")?;
        lab.agent.kill()?;
        lab.agent.start()?;
        lie(lab).context("with another agent")?;
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn isolation_is_each_guests_own() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let yes = "<port isolated='yes'/>";
        let first = guest(lab, &network, 1, yes)?;
        let second = guest(lab, &network, 2, yes)?;
        let open = guest(lab, &network, 3, "")?;
        let apart = |lab: &Lab| -> Result<()> {
            wait_for_isolation(lab, &first)?;
            wait_for_isolation(lab, &second)?;
            ensure!(!is_isolated(lab, &open)?, "the third is isolated, too");
            open.ping(&network.address(11).to_string())?;
            open.ping(&network.address(12).to_string())?;
            first.ping(&OUTSIDE.to_string())?;
            let reached = first.try_ping(&network.address(12).to_string())?;
            ensure!(
                !reached.status.success(),
                "isolated guests reach each other"
            );
            Ok(())
        };
        apart(lab)?;
        lab.hv.run([
            "bridge",
            "link",
            "set",
            "dev",
            &first.port,
            "isolated",
            "off",
        ])?;
        apart(lab).context("mended")?;
        lab.agent.kill()?;
        lab.agent.start()?;
        apart(lab).context("with another agent")?;
        // Guests get back their connection when the network starts again, and their ports with it.
        lab.agent.ok(["net-destroy", "default"])?;
        lab.hv.run(["ip", "link", "del", &open.port])?;
        lab.agent.ok(["net-start", "default"])?;
        ensure!(listed(lab, "default")? == [uuid(1), uuid(2)]);
        wait_for_isolation(lab, &first)?;
        wait_for_isolation(lab, &second)?;
        first.ping(&OUTSIDE.to_string())?;
        let reached = first.try_ping(&network.address(12).to_string())?;
        ensure!(
            !reached.status.success(),
            "isolated guests reach each other"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn one_guest_may_be_exempt_from_isolation() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().with("<port isolated='yes'/>");
        lab.up(&network)?;
        let first = guest(lab, &network, 1, "")?;
        let second = guest(lab, &network, 2, "")?;
        let server = guest(lab, &network, 3, "<port isolated='no'/>")?;
        let xml = virsh(lab, &["net-port-dumpxml", "default", &uuid(1)])?;
        ensure!(xml.contains("<port isolated='yes'/>"), "{xml}");
        wait_for_isolation(lab, &first)?;
        wait_for_isolation(lab, &second)?;
        ensure!(!is_isolated(lab, &server)?, "the exempt one is isolated");
        first.ping(&network.address(13).to_string())?;
        let reached = first.try_ping(&network.address(12).to_string())?;
        ensure!(
            !reached.status.success(),
            "isolated guests reach each other"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_a_network_gives_a_port() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().with(
            "<portgroup name='slow' default='yes'><bandwidth><inbound average='100'/>\
             <outbound average='50'/></bandwidth></portgroup><portgroup name='plain'/>",
        );
        lab.up(&network)?;
        create(lab, "default", 1, "52:54:00:00:00:01", "")?;
        create(
            lab,
            "default",
            2,
            "52:54:00:00:00:02",
            "<group>plain</group>",
        )?;
        let xml = |port| virsh(lab, &["net-port-dumpxml", "default", &uuid(port)]);
        ensure!(xml(1)?.contains("<outbound average='50'/>"), "{}", xml(1)?);
        ensure!(!xml(2)?.contains("bandwidth"), "{}", xml(2)?);
        for (more, words) in [
            (
                "<bandwidth><inbound floor='5'/></bandwidth>",
                "network 'default' has no inbound QoS set",
            ),
            (
                "<virtualport type='openvswitch'/>",
                "not supported for network 'default' which uses IP forwarding",
            ),
            (
                "<plug type='network' bridge='virbr1'/>",
                "Port reclaim not requested but plug type is not none",
            ),
            ("<vlan/>", "at least one <tag>"),
        ] {
            let refused = port_xml(3, "52:54:00:00:00:03", more);
            let file = lab.agent.file("refused.xml", &refused)?;
            let error = virsh(lab, &["net-port-create", "default", &file]).unwrap_err();
            ensure!(error.to_string().contains(words), "'{words}': {error}");
        }
        ensure!(listed(lab, "default")? == [uuid(1), uuid(2)]);

        // macvtap: the least used device, which is the hypervisor's driver's to use.
        lab.hv.veth("other", &lab.wan, "wan1")?;
        let pool = "<network><name>direct</name><forward mode='bridge'><interface dev='uplink'/>\
                    <interface dev='other'/></forward></network>";
        lab.agent.up("direct", pool)?;
        for (number, dev) in [(5, "uplink"), (6, "other"), (7, "uplink")] {
            create(
                lab,
                "direct",
                number,
                &format!("52:54:00:00:00:{number:02}"),
                "",
            )?;
            let xml = virsh(lab, &["net-port-dumpxml", "direct", &uuid(number)])?;
            let plug = format!("<plug type='direct' dev='{dev}' mode='bridge'/>");
            ensure!(xml.contains(&plug), "{xml}");
        }
        lab.agent.kill()?;
        lab.agent.start()?;
        delete(lab, "direct", 7)?;
        let dump = virsh(lab, &["net-dumpxml", "direct"])?;
        ensure!(dump.contains("<network connections='2'>"), "{dump}");
        for dev in ["uplink", "other"] {
            let counted = format!("<interface dev='{dev}' connections='1'/>");
            ensure!(dump.contains(&counted), "{dump}");
        }
        lab.agent.ok(["net-destroy", "direct"])?;
        lab.agent.ok(["net-undefine", "direct"])?;
        ensure!(!files(lab, "direct").exists(), "files are left");
        lab.hv.run(["ip", "link", "del", "other"])?;
        Ok(())
    });
}

/// With `macTableManager='libvirt'` the bridge knows guests by their ports alone: it learns nothing, and what
/// is for nobody reaches nobody. The definition may change while guests talk.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_managed_table_holds_guests_alone() {
    check(|lab| {
        lab.agent.start()?;
        let plain = Network::default();
        let xml = plain
            .xml()
            .replace("<bridge ", "<bridge macTableManager='libvirt' ");
        lab.agent.up(&plain.name, &xml)?;
        let detail = |device: &str| lab.hv.run(["ip", "-d", "link", "show", device]);
        let guests = [guest(lab, &plain, 1, "")?, guest(lab, &plain, 2, "")?];
        let is_managed = |guest: &Guest| -> Result<bool> {
            let told = detail(&guest.port)?;
            Ok(told.contains("learning off flood off"))
        };
        eventually(SOON, || {
            for guest in &guests {
                ensure!(is_managed(guest)?, "{}", detail(&guest.port)?);
                let known = lab.hv.run(["bridge", "fdb", "show", "dev", &guest.port])?;
                let entry = known.lines().find(|line| line.starts_with(&guest.mac));
                ensure!(
                    entry.is_some_and(|entry| entry.contains("static")),
                    "{known}"
                );
            }
            Ok(())
        })?;
        for to in ["10.10.1.12", "10.10.1.1", &OUTSIDE.to_string()] {
            guests[0].ping(to)?;
        }
        let floods = || -> Result<bool> {
            let (from, to) = (Ipv4Addr::new(10, 10, 1, 11), Ipv4Addr::new(10, 10, 1, 12));
            let seen: Sniffer<Ipv4> = Sniffer::start(guests[1].netns())?;
            let wire = Wire::new(guests[0].netns(), "eth0")?;
            let mac = guests[0].netns().mac("eth0")?;
            for (port, card) in [(1, 0x77), (2, 2)] {
                let frame = Frame::udp((from, 7), (to, port), b"?");
                wire.send(&frame.between(mac, [0x52, 0x54, 0, 0, 0, card]))?;
            }
            // The destination port.
            let is_of = |packet: &Ipv4, port| {
                packet.source == from && packet.payload.get(2..4) == Some(&[0, port])
            };
            let all = seen.finish_when(|all| all.iter().any(|packet| is_of(packet, 2)))?;
            Ok(all.iter().any(|packet| is_of(packet, 1)))
        };
        ensure!(!floods()?, "a frame for nobody reached a guest");
        let stranger = lab.guest(3)?;
        lab.plug(&stranger, "virbr1")?;
        ensure!(!is_managed(&stranger)?, "nobody said whose this is");
        // The way back, while they talk.
        let uuid = lab.agent.ok(["net-uuid", "default"])?;
        let uuid = format!("</name><uuid>{}</uuid>", uuid.trim());
        lab.agent
            .define(&plain.xml().replacen("</name>", &uuid, 1))?;
        lab.agent.ok(["net-apply", "default"])?;
        ensure!(!is_managed(&guests[0])?, "{}", detail(&guests[0].port)?);
        guests[0].ping("10.10.1.12")?;
        ensure!(
            floods()?,
            "a bridge that learns floods what it does not know"
        );
        Ok(())
    });
}
