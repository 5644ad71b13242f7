//! Router advertisements and DHCPv6: guests configure their IPv6 by themselves, with the clients that
//! they really have.

use std::fs;
use std::net::Ipv6Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::lab6::{OUTSIDE6, check6};
use netd_tests::{Guest, Lab, Network, SOON, eventually, write_executable};

use crate::managers::networkd;
use crate::polkit::{bus, spawn};
use crate::sockets::open_directory;

/// Switches on what a guest's kernel does by itself with advertisements (RFC 4861, RFC 4862).
fn autoconfigure(guest: &Guest) -> Result<()> {
    let link = guest.netns();
    link.run(["ip", "link", "set", "eth0", "down"])?;
    for parameter in ["accept_ra", "autoconf"] {
        link.sysctl(&format!("net/ipv6/conf/eth0/{parameter}"), "1")?;
    }
    link.run(["ip", "link", "set", "eth0", "up"])?;
    Ok(())
}

/// Waits for a global address that the guest got in the network's IPv6 subnet.
fn address_in(guest: &Guest, network: &Network) -> Result<Ipv6Addr> {
    let subnet = network.address6(0).segments();
    eventually(SOON, || {
        let show = [
            "ip",
            "-6",
            "-o",
            "addr",
            "show",
            "eth0",
            "scope",
            "global",
            "-tentative",
        ];
        let text = guest.netns().run(show)?;
        let words = text
            .split_whitespace()
            .filter_map(|word| word.split_once('/'));
        let mut addresses = words.filter_map(|(address, _)| address.parse::<Ipv6Addr>().ok());
        addresses
            .find(|address| address.segments()[..3] == subnet[..3])
            .with_context(|| format!("no address in the subnet: {text}"))
    })
}

/// The guest's default route.
fn default_route(guest: &Guest) -> Result<String> {
    guest.netns().run(["ip", "-6", "route", "show", "default"])
}

fn link_local(lab: &Lab, bridge: &str) -> Result<String> {
    let text = lab
        .hv
        .run(["ip", "-6", "-o", "addr", "show", bridge, "scope", "link"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet6");
    let address = words.nth(1).and_then(|word| word.split('/').next());
    Ok(address.context(text.clone())?.to_owned())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_configure_themselves_in_every_mode() {
    check6(|lab| {
        lab.agent.start()?;
        for (number, network, leads_out) in [
            (1, Network::nat6("nat6", 1), true),
            (2, Network::route("route", 2).ipv6(), true),
            (3, Network::isolated("isolated", 3).ipv6(), false),
        ] {
            let network = network.dns().with("<mtu size='1400'/>");
            lab.up(&network)?;
            lab.route6(&network)?;
            let guest = lab.plugged(number, &network.bridge())?;
            autoconfigure(&guest)?;
            let told = || format!("in network {}", network.name);
            let own = address_in(&guest, &network).with_context(told)?;
            // The rest of it is of the guest's MAC address (RFC 4291, appendix A).
            ensure!(own.octets()[11..13] == [0xff, 0xfe], "{own}");
            let route = default_route(&guest)?;
            let gateway = link_local(lab, &network.bridge())?;
            ensure!(
                leads_out == route.contains(&format!("via {gateway} ")),
                "{}: {route}",
                network.name
            );
            let mtu = guest
                .netns()
                .run(["cat", "/proc/sys/net/ipv6/conf/eth0/mtu"])?;
            ensure!(mtu.trim() == "1400", "{}: MTU {mtu}", network.name);
            guest.ping(&network.address6(1).to_string())?;
            if leads_out {
                guest.ping(&OUTSIDE6.to_string()).with_context(told)?;
            }
        }
        Ok(())
    });
}

/// What ISC's client does with what it gets: it takes the address, and writes all down.
const SCRIPT: &str = r#"#!/bin/sh
set -e
case "$reason" in
BOUND6 | RENEW6 | REBIND6)
    ip -6 addr replace "$new_ip6_address/$new_ip6_prefixlen" dev "$interface"
    env | grep ^new_ > "${0%.sh}.draft"
    mv "${0%.sh}.draft" "${0%.sh}.lease" ;;
esac
"#;

/// Gets an address by DHCPv6 for a guest that calls itself `name`; returns all that the server said.
fn dhcpv6(lab: &Lab, guest: &Guest, name: &str) -> Result<String> {
    let place = lab.directory().join(format!("dhclient-{name}"));
    fs::create_dir_all(&place)?;
    let (script, conf) = (place.join("script.sh"), place.join("conf"));
    write_executable(&script, SCRIPT)?;
    fs::write(&conf, format!("send fqdn.fqdn \"{name}\";\n"))?;
    let file = |name: &str| place.join(name).display().to_string();
    let mut client = guest.netns().command("timeout");
    // A DUID of the MAC address (RFC 8415, section 11.4).
    client.args(["60", "dhclient", "-6", "-1", "-d", "-D", "LL", "-cf"]);
    client.arg(&conf).arg("-sf").arg(&script);
    client.args(["-lf", &file("leases"), "-pf", &file("pid"), "eth0"]);
    // It sends from its link-local address.
    guest.netns().wait_for_addresses("eth0")?;
    let mut running = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let lease = eventually(SOON, || Ok(fs::read_to_string(place.join("script.lease"))?));
    running.kill()?;
    running.wait()?;
    lease.with_context(|| format!("no lease for {name}"))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn dhcpv6_gives_reserved_addresses_and_others() {
    check6(|lab| {
        lab.agent.start()?;
        let xml = "<network><name>six</name><forward mode='nat'><nat ipv6='yes'/></forward>\
            <bridge name='virbr1'/><domain name='lab.test'/>\
            <ip family='ipv6' address='fd00:10:1::1' prefix='64'><dhcp>\
            <range start='fd00:10:1::100' end='fd00:10:1::1ff'/>\
            <host id='0:3:0:1:52:54:0:0:0:1' name='one' ip='fd00:10:1::5'/>\
            <host name='two' ip='fd00:10:1::6'/></dhcp></ip></network>";
        lab.agent.up("six", xml)?;
        let gateway = "fd00:10:1::1";
        let guests = [(1, "other"), (2, "two"), (3, "three"), (4, "four")];
        for (number, name) in guests {
            let guest = lab.plugged(number, "virbr1")?;
            if number == 3 {
                let host = "<host name='three' ip='fd00:10:1::7'/>";
                lab.agent
                    .ok(["net-update", "six", "add", "ip-dhcp-host", host, "--live"])?;
            }
            // The default route is the advertisements' to tell (RFC 5942), the address is not.
            autoconfigure(&guest)?;
            let lease = dhcpv6(lab, &guest, name)?;
            let address = lease
                .lines()
                .find_map(|line| line.strip_prefix("new_ip6_address="))
                .context(lease.clone())?;
            match number {
                1 => ensure!(address == "fd00:10:1::5", "{lease}"),
                2 => ensure!(address == "fd00:10:1::6", "{lease}"),
                3 => ensure!(address == "fd00:10:1::7", "{lease}"),
                _ => ensure!(address.starts_with("fd00:10:1::1"), "{lease}"),
            }
            ensure!(
                lease.contains(&format!("new_dhcp6_name_servers={gateway}")),
                "{lease}"
            );
            eventually(SOON, || {
                let route = default_route(&guest)?;
                ensure!(route.contains("via fe80:"), "no default route: {route}");
                Ok(())
            })?;
            guest.netns().wait_for_addresses("eth0")?;
            guest.ping(&OUTSIDE6.to_string())?;
            let known = ["busybox", "nslookup", "-type=aaaa", "one.lab.test", gateway];
            eventually(SOON, || {
                let answer = guest.netns().run(known)?;
                ensure!(answer.contains("fd00:10:1::5"), "{answer}");
                Ok(())
            })?;
            // Noted after the guest was answered.
            eventually(SOON, || {
                let leases = lab.agent.ok(["net-dhcp-leases", "six"])?;
                let told = leases.lines().any(|line| {
                    line.contains(&format!(" {address}/64 "))
                        && line.contains("ipv6")
                        && line.contains(&guest.mac)
                });
                ensure!(told, "{address}: {leases}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Makes a place for dhcpcd in namespaces of its own.
const DHCPCD: &str = "set -e
mount -t tmpfs tmpfs /run
mkdir -p /var/lib/dhcpcd
mount -t tmpfs tmpfs /var/lib/dhcpcd
exec dhcpcd --nobackground --nohook resolv.conf eth0";

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn clients_of_distributions_get_both_families() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::nat6("default", 1);
        let range = "<dhcp><range start='fd00:10:1::100' end='fd00:10:1::1ff'/></dhcp>";
        let xml = network.clone().dhcp("").xml();
        let xml = xml.replace("prefix='64'/>", &format!("prefix='64'>{range}</ip>"));
        lab.agent.up("default", &xml)?;
        let clients: [(u8, &str); 2] = [(1, "networkd"), (2, "dhcpcd")];
        for (number, client) in clients {
            let guest = lab.plugged(number, "virbr1")?;
            guest.netns().sysctl("net/ipv6/conf/eth0/accept_ra", "0")?;
            guest.netns().sysctl("net/ipv6/conf/eth0/autoconf", "0")?;
            let place = open_directory()?;
            let place = place.path();
            let _bus = bus(place)?;
            let _running = if client == "networkd" {
                let settings = "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n";
                networkd(guest.netns(), place, settings)?
            } else {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", guest.netns().path().display()))
                    .args(["unshare", "--mount", "sh", "-c", DHCPCD]);
                spawn(&mut command, &place.join("dhcpcd.log"))?
            };
            let got = || -> Result<()> {
                let address = address_in(&guest, &network)?;
                ensure!(
                    address.segments()[7] & 0xff00 == 0x100,
                    "{address} is no lease"
                );
                eventually(SOON, || {
                    guest.ping(&OUTSIDE6.to_string())?;
                    guest.ping(&OUTSIDE.to_string())
                })?;
                Ok(())
            };
            got().with_context(|| {
                let log = fs::read_to_string(place.join(format!("{client}.log")));
                format!("{client}: {}", log.unwrap_or_default())
            })?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn every_subnet_is_advertised_as_far_as_its_prefix_allows() {
    check6(|lab| {
        lab.agent.start()?;
        let network = |number: u8, ips: &str| {
            format!(
                "<network><name>n{number}</name><forward mode='route'/>\
                 <bridge name='virbr{number}'/>{ips}</network>"
            )
        };
        // Longer than hosts make themselves addresses in: the guest has its own, and a router.
        let long = "<ip family='ipv6' address='fd00:10:1::1' prefix='80'/>";
        lab.agent.up("n1", &network(1, long))?;
        let guest = lab.plugged(1, "virbr1")?;
        autoconfigure(&guest)?;
        guest.address("fd00:10:1::11/80", None)?;
        eventually(SOON, || {
            let route = default_route(&guest)?;
            ensure!(route.contains("via fe80:"), "no default route: {route}");
            Ok(())
        })?;
        lab.wan
            .run("ip -6 route add fd00:10:1::/80 via 2001:db8:1::2".split(' '))?;
        guest.ping(&OUTSIDE6.to_string())?;
        // Shorter, one of two.
        let both = "<ip family='ipv6' address='fd00:10:2::1' prefix='48'/>\
             <ip family='ipv6' address='fd00:10:3::1' prefix='64'><dhcp>\
             <range start='fd00:10:3::100' end='fd00:10:3::1ff'/></dhcp></ip>";
        lab.agent.up("n2", &network(2, both))?;
        let guest = lab.plugged(2, "virbr2")?;
        autoconfigure(&guest)?;
        address_in(&guest, &Network::isolated("n2", 2))?;
        let lease = dhcpv6(lab, &guest, "two")?;
        ensure!(lease.contains("new_ip6_address=fd00:10:3::1"), "{lease}");
        Ok(())
    });
}
