//! Guests that serve others on a network with anti-spoofing: they may, and nobody else.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Guest, Lab, Network, SOON, eventually};

/// The address that virtual routers take over from each other.
const VIRTUAL: &str = "10.10.1.250";

fn definition(guests: &str) -> String {
    let metadata = format!(
        "<metadata><n:antispoof xmlns:n='urn:netd:network:1'>{guests}</n:antispoof></metadata>"
    );
    Network::default().with(&metadata).xml()
}

/// A guest whose tap has the MAC address that libvirt would give it.
fn guest(lab: &Lab, number: u8, address: Option<&str>) -> Result<Guest> {
    let guest = lab.guest_at_tap(number)?;
    lab.plug(&guest, "virbr1")?;
    if let Some(address) = address {
        guest.address(address, None)?;
    }
    Ok(guest)
}

/// A DHCP server with one address to give, in a guest.
fn serve(lab: &Lab, guest: &Guest) -> Result<()> {
    let file = |name: &str| lab.directory().join(name).display().to_string();
    guest.netns().run([
        "dnsmasq",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=eth0",
        "--bind-interfaces",
        "--user=root",
        "--no-ping",
        "--dhcp-authoritative",
        "--dhcp-range=10.10.1.30,10.10.1.30,255.255.255.0,1h",
        &format!("--pid-file={}", file("server.pid")),
        &format!("--dhcp-leasefile={}", file("server.leases")),
    ])?;
    Ok(())
}

/// Does a guest get a lease soon?
fn leased(guest: &Guest) -> Result<Option<Ipv4Addr>> {
    let words = ["-t", "3", "-T", "1"];
    Ok(guest.dhcp_with(&words).ok().map(|lease| lease.address))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t44_a_guest_that_may_serves_dhcp_and_its_client_uses_the_lease() {
    check(|lab| {
        lab.agent.start()?;
        let server = "<n:guest mac='52:54:00:00:00:02' allow='dhcp' addresses='10.10.1.2'/>";
        let client = "<n:guest mac='52:54:00:00:00:01' addresses='10.10.1.30'/>";
        let server_alone = server.replace("allow='dhcp'", "");
        lab.agent.up("default", &definition(&server_alone))?;
        let (g1, g2) = (guest(lab, 1, None)?, guest(lab, 2, Some("10.10.1.2/24"))?);
        g2.ping("10.10.1.1")?;
        serve(lab, &g2)?;
        // It may have its address, but not serve.
        let before = lab.agent.dropped("rogue_server")?;
        let mut served = None;
        eventually(SOON, || {
            served = served.or(leased(&g1)?);
            let dropped = lab.agent.dropped("rogue_server")? > before;
            ensure!(dropped || served.is_some(), "nobody tries to serve");
            Ok(())
        })?;
        ensure!(served.is_none(), "anybody serves");

        let uuid = lab.agent.ok(["net-uuid", "default"])?;
        let xml = definition(&format!("{server}{client}"));
        let uuid = format!("<network><uuid>{}</uuid>", uuid.trim());
        lab.agent.define(&xml.replacen("<network>", &uuid, 1))?;
        lab.agent.ok(["reload"])?;
        let address = eventually(SOON, || {
            leased(&g1)?.ok_or_else(|| anyhow::anyhow!("no lease: {:?}", lab.agent.drops()))
        })?;
        ensure!(address.to_string() == "10.10.1.30", "{address}");
        g1.ping("10.10.1.1")?;
        g1.ping("10.10.1.2")?;
        // Nobody else may have what is the client's.
        let g3 = guest(lab, 3, Some("10.10.1.30/24"))?;
        let before = lab.agent.dropped("spoofed_arp")?;
        eventually(SOON, || {
            g3.try_ping("10.10.1.1")?;
            ensure!(lab.agent.dropped("spoofed_arp")? > before, "not counted");
            Ok(())
        })
    });
}

/// Two that stand in for each other, as keepalived and MetalLB do: the address moves, announced by ARP.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t44_virtual_routers_take_an_address_over_and_others_do_not() {
    check(|lab| {
        lab.agent.start()?;
        let guests: String = (1..=3)
            .map(|number| {
                let mac = format!("mac='52:54:00:00:00:0{number}'");
                let allow = if number == 3 { "" } else { "allow='ip arp nd'" };
                format!("<n:guest {mac} {allow} addresses='10.10.1.1{number}'/>")
            })
            .collect();
        lab.agent.up("default", &definition(&guests))?;
        let routers = [1, 2].map(|number| {
            let own = format!("10.10.1.1{number}/24");
            guest(lab, number, Some(&own))
        });
        let [first, second] = routers;
        let (first, second) = (first?, second?);
        let client = guest(lab, 3, Some("10.10.1.13/24"))?;
        let take = |router: &Guest| -> Result<()> {
            let address = format!("{VIRTUAL}/32");
            router
                .netns()
                .run(["ip", "addr", "add", &address, "dev", "eth0"])?;
            let announce = ["busybox", "arping", "-U", "-c", "2", "-I", "eth0", VIRTUAL];
            router.netns().output(announce)?;
            Ok(())
        };
        for router in [&first, &second] {
            take(router)?;
            client.ping(VIRTUAL)?;
            let seen = client.netns().run(["ip", "neigh", "show", VIRTUAL])?;
            ensure!(seen.contains(&router.mac), "{} has it: {seen}", router.mac);
            let address = format!("{VIRTUAL}/32");
            router
                .netns()
                .run(["ip", "addr", "del", &address, "dev", "eth0"])?;
        }
        // The client may not.
        let before = lab.agent.dropped("spoofed_arp")?;
        take(&client)?;
        eventually(SOON, || {
            ensure!(
                lab.agent.dropped("spoofed_arp")? > before,
                "anybody takes it"
            );
            Ok(())
        })
    });
}
