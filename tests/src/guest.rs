//! A guest: a namespace with one network card, and what its user types.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{Netns, Relay, Tap};

/// What a DHCP client does with a lease: the script sees it in its environment.
const DHCP_SCRIPT: &str = r#"#!/bin/sh
set -e
case "$1" in
deconfig)
    ip addr flush dev "$interface"
    ip link set "$interface" up ;;
bound | renew)
    ip addr replace "$ip/$mask" dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    [ -z "$router" ] || ip route replace default via "${router%% *}"
    printf '%s\n' "ip=$ip" "mask=$mask" "router=${router%% *}" "dns=${dns%% *}" \
        "domain=$domain" "mtu=$mtu" "lease=$lease" "hostname=$hostname" > "$NETD_LEASE" ;;
esac
"#;

/// Time that an answer may take: less than the 30 s after which netd looks at flows by itself.
const ANSWERED: Duration = Duration::from_secs(20);

/// Exit status of `timeout` where the command was still running.
const TIMED_OUT: i32 = 124;

/// One guest. Its cable ends in the hypervisor as [`Guest::port`].
#[derive(Debug)]
pub struct Guest {
    /// Between its card and its port, where that is a tap device. It goes first: a device that a
    /// monitor still holds would keep the namespace.
    relay: Option<Relay>,
    netns: Netns,
    /// Device in the hypervisor.
    pub port: String,
    /// MAC address of the guest's card.
    pub mac: String,
    /// Name it tells the DHCP server.
    pub hostname: String,
    directory: PathBuf,
}

/// What the DHCP server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Prefix length of its subnet.
    pub prefix: u8,
    /// Default gateway, where one was given.
    pub router: Option<Ipv4Addr>,
    /// Name server, where one was given.
    pub dns: Option<Ipv4Addr>,
    /// Domain, where one was given.
    pub domain: Option<String>,
    /// MTU, where one was given.
    pub mtu: Option<u32>,
    /// Seconds the lease lasts.
    pub seconds: u32,
    /// Host name, where one was given.
    pub hostname: Option<String>,
}

/// Its port goes with it at once. With the namespace alone it would go in the kernel's own time, which
/// is minutes where a connection still waits to be acknowledged.
impl Drop for Guest {
    fn drop(&mut self) {
        // The test may have taken it away.
        let _ = self.netns.run(["ip", "link", "del", "eth0"]);
    }
}

impl Guest {
    /// Guest number `number` (1–99), cabled to the hypervisor but plugged into no bridge.
    ///
    /// # Errors
    /// The cable cannot be made.
    pub fn new(hv: &Netns, number: u8, directory: PathBuf) -> Result<Self> {
        let guest = Self::without_card(number, directory)?;
        hv.veth(&guest.port, &guest.netns, "eth0")?;
        guest.switch_on(hv)?;
        Ok(guest)
    }

    /// The same with a tap device for a port, as a virtual machine has it. The guest's card is one,
    /// too, and a [`Relay`] joins them.
    ///
    /// # Errors
    /// The devices cannot be made, or tc is missing.
    pub fn at_tap(hv: &Netns, number: u8, directory: PathBuf) -> Result<Self> {
        let mut guest = Self::without_card(number, directory)?;
        let (port, card) = (Tap::new(hv, &guest.port)?, Tap::new(&guest.netns, "eth0")?);
        // As libvirt leaves it: the guest's address with another first byte, which no bridge takes
        // for its own, and no queue.
        let mac = guest.mac.replacen("52", "fe", 1);
        hv.run(["ip", "link", "set", &guest.port, "address", &mac])?;
        let queue = format!("tc qdisc replace dev {} root noqueue", guest.port);
        hv.run(queue.split(' '))?;
        guest.relay = Some(Relay::start(port, card)?);
        guest.switch_on(hv)?;
        Ok(guest)
    }

    fn without_card(number: u8, directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self {
            relay: None,
            netns: Netns::new(&format!("vm{number}"))?,
            port: format!("vnet{number}"),
            mac: format!("52:54:00:00:00:{number:02}"),
            hostname: format!("vm{number}"),
            directory,
        })
    }

    fn switch_on(&self, hv: &Netns) -> Result<()> {
        self.netns
            .run(["ip", "link", "set", "eth0", "address", &self.mac, "up"])?;
        hv.run(["ip", "link", "set", &self.port, "up"])?;
        self.netns.wait_for_carrier("eth0")?;
        hv.wait_for_carrier(&self.port)
    }

    /// What moves frames between the guest's card and its port, where that is a tap device.
    #[must_use]
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// The guest's namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Gives the guest a fixed address and, where named, a default route.
    ///
    /// # Errors
    /// The address is not one.
    pub fn address(&self, address: &str, gateway: Option<&str>) -> Result<()> {
        self.netns.address("eth0", address)?;
        if let Some(gateway) = gateway {
            self.netns
                .run(["ip", "route", "add", "default", "via", gateway])?;
        }
        Ok(())
    }

    /// Gets an address with a real DHCP client.
    ///
    /// # Errors
    /// No lease within about a minute.
    pub fn dhcp(&self) -> Result<Lease> {
        // It gives up when three requests get no answer, and dnsmasq may have to wait for the disk before it gives one.
        crate::eventually(crate::SOON, || self.dhcp_with(&[]))
    }

    /// The same with further words for `busybox udhcpc`.
    ///
    /// # Errors
    /// As [`Guest::dhcp`].
    pub fn dhcp_with(&self, words: &[&str]) -> Result<Lease> {
        let script = self.directory.join("dhcp.sh");
        let lease = self.directory.join("lease");
        if !script.exists() {
            crate::write_executable(&script, DHCP_SCRIPT)?;
        }
        if lease.exists() {
            fs::remove_file(&lease)?;
        }
        let hostname = format!("hostname:{}", self.hostname);
        let output = crate::output(
            self.netns
                .command("timeout")
                .env("NETD_LEASE", &lease)
                .args(["60", "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n"])
                .args(["-t", "50", "-T", "1", "-x", &hostname, "-O", "mtu", "-s"])
                .arg(&script)
                .args(words),
        )?;
        ensure!(
            output.status.success(),
            "no lease for {}: {}",
            self.hostname,
            String::from_utf8_lossy(&output.stderr)
        );
        let text = fs::read_to_string(&lease)
            .with_context(|| format!("{}'s DHCP client reported no lease", self.hostname))?;
        Lease::parse(&text)
    }

    /// Pings until an answer comes, which it must. That may take seconds where the machine is busy: a bridge sends
    /// nothing of its own until the kernel has noticed, in the background, that it has a port, and a question for a
    /// neighbour that is lost there is repeated after a second. What comes right only when netd looks at its
    /// flows again by itself is not waited for.
    ///
    /// # Errors
    /// None comes.
    pub fn ping(&self, to: &str) -> Result<String> {
        crate::eventually(ANSWERED, || {
            let output = self.try_ping(to)?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(
                output.status.success(),
                "{} cannot ping {to}:\n{text}",
                self.hostname
            );
            Ok(text)
        })
    }

    /// Pings once, whatever comes of it.
    ///
    /// # Errors
    /// ping cannot be started.
    pub fn try_ping(&self, to: &str) -> Result<Output> {
        self.netns
            .output(["busybox", "ping", "-c", "1", "-W", "3", to])
    }

    /// Asks a name server for the IPv4 address of a name, until it answers.
    ///
    /// # Errors
    /// It does not know, or says nothing.
    pub fn resolve(&self, name: &str, server: Ipv4Addr) -> Result<Ipv4Addr> {
        let server = server.to_string();
        let text = crate::eventually(crate::SOON, || {
            let output = self.netns.output([
                "timeout", "15", "busybox", "nslookup", "-type=a", name, &server,
            ])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(
                output.status.code() != Some(TIMED_OUT) && !text.contains("timed out"),
                "{server} does not answer about {name}:\n{text}"
            );
            Ok(text)
        })?;
        // The answer follows the line with the name; the first address printed is the server's.
        let answer = text
            .split_once("Name:")
            .and_then(|(_, rest)| rest.split_once("Address: "))
            .and_then(|(_, rest)| rest.lines().next());
        match answer {
            Some(address) => address
                .trim()
                .parse()
                .with_context(|| format!("answer for {name}: {address:?}")),
            None => bail!("{server} does not resolve {name}:\n{text}"),
        }
    }
}

impl Lease {
    /// What the client's script noted.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
                .filter(|value| !value.is_empty())
        };
        let needed = |key: &str| value(key).with_context(|| format!("no {key} in:\n{text}"));
        Ok(Self {
            address: needed("ip")?.parse()?,
            prefix: needed("mask")?.parse()?,
            router: value("router").map(|text| text.parse()).transpose()?,
            dns: value("dns").map(|text| text.parse()).transpose()?,
            domain: value("domain"),
            mtu: value("mtu").map(|text| text.parse()).transpose()?,
            seconds: needed("lease")?.parse()?,
            hostname: value("hostname"),
        })
    }
}
