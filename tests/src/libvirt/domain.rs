//! A guest that libvirtd starts.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Console, Host, Inside};
use crate::{Lease, SOON};

/// A guest: 96 MiB, one emulated processor, Debian's kernel, a shell on its second serial line.
#[derive(Debug)]
pub struct Domain {
    /// libvirt's name of it, and its host name.
    pub name: String,
    inside: Inside,
    console: Console,
}

/// Seconds between the packets of [`Domain::stream`].
const INTERVAL: f64 = 0.05;

/// What a stream lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// Packets without an answer.
    pub packets: u32,
    /// The longest row of them.
    pub longest: Duration,
}

/// `<interface>` in a network; the MAC address is 52:54:00:00:00 and `number`.
#[must_use]
pub fn nic(network: &str, number: u8) -> String {
    let mac = mac(number);
    format!(
        "<interface type='network'><mac address='{mac}'/><source network='{network}'/>\
         <model type='virtio'/></interface>"
    )
}

fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

/// The definition of a guest with these interfaces.
fn xml(name: &str, interfaces: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>96</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>/guest/vmlinuz</kernel>
<initrd>/guest/initramfs</initrd><cmdline>console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check \
         mitigations=off guest={name}</cmdline></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{interfaces}
<serial type='file'><source path='/guest/{name}.log'/></serial>
<serial type='unix'><source mode='bind' path='/guest/{name}.shell'/></serial>
<memballoon model='none'/></devices></domain>"
    )
}

impl Domain {
    /// Defines a guest with these `<interface>`s, starts it, and waits until it has booted.
    ///
    /// # Errors
    /// libvirt refuses either, or it does not boot.
    pub fn start(host: &Host, name: &str, interfaces: &str) -> Result<Self> {
        let path = format!("/guest/{name}.xml");
        host.file(&path, &xml(name, interfaces))?;
        host.virsh(["define", &path])?;
        Self::boot(host, name)
    }

    /// Starts a guest that is defined, and waits until it has booted.
    ///
    /// # Errors
    /// libvirt refuses, or it does not boot.
    pub fn boot(host: &Host, name: &str) -> Result<Self> {
        host.virsh(["start", name])?;
        Self::booting(host, name)
    }

    /// Waits until a guest has booted that libvirtd starts by itself.
    ///
    /// # Errors
    /// It does not run, or it does not boot.
    pub fn autostarted(host: &Host, name: &str) -> Result<Self> {
        crate::eventually(super::PATIENCE, || {
            let state = host.virsh(["domstate", name])?;
            ensure!(state.trim() == "running", "{name} is {state}");
            Ok(())
        })?;
        Self::booting(host, name)
    }

    fn booting(host: &Host, name: &str) -> Result<Self> {
        let socket = host.path(&format!("/guest/{name}.shell"));
        let console = Console::connect(&socket).with_context(|| {
            let log = fs::read(host.path(&format!("/guest/{name}.log"))).unwrap_or_default();
            format!("guest {name}:\n{}", String::from_utf8_lossy(&log))
        })?;
        Ok(Self {
            name: name.to_owned(),
            inside: host.inside(),
            console,
        })
    }

    /// Runs a line of shell in the guest, which must succeed, and returns what it printed.
    ///
    /// # Errors
    /// It does not, or the guest does not answer.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let name = &self.name;
        self.console
            .run(line)
            .with_context(|| format!("guest {name}"))
    }

    /// The same, whatever comes of it.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn output(&mut self, line: &str) -> Result<(String, i32)> {
        let name = &self.name;
        self.console
            .output(line)
            .with_context(|| format!("guest {name}"))
    }

    /// Gets an address with a real DHCP client.
    ///
    /// # Errors
    /// No lease within about twenty seconds.
    pub fn dhcp(&mut self, device: &str) -> Result<Lease> {
        let text = self.run(&format!("dhcp {device}"))?;
        let (_, lease) = text.split_once("lease:\n").unwrap_or_default();
        Lease::parse(lease)
    }

    /// Pings until an answer comes: a device that was plugged in, or a bridge, takes its time.
    ///
    /// # Errors
    /// None comes.
    pub fn reaches(&mut self, address: &str) -> Result<()> {
        crate::eventually(SOON, || self.ping(address))
    }

    /// Pings once, patiently; the answer must come.
    ///
    /// # Errors
    /// It does not.
    pub fn ping(&mut self, address: &str) -> Result<()> {
        self.run(&format!("ping -c 1 -W 3 {address}")).map(drop)
    }

    /// Pings once; no answer may come.
    ///
    /// # Errors
    /// One comes.
    pub fn reaches_not(&mut self, address: &str) -> Result<()> {
        let (said, status) = self.output(&format!("ping -c 1 -W 1 {address}"))?;
        ensure!(status == 1, "{} reaches {address}:\n{said}", self.name);
        Ok(())
    }

    /// Begins to ping an address twenty times a second.
    ///
    /// # Errors
    /// No answer comes at first.
    pub fn stream(&mut self, address: &str) -> Result<()> {
        self.reaches(address)?;
        let ping = format!("ping -i {INTERVAL} -W 1 {address}");
        self.run(&format!(
            "{ping} > /tmp/stream 2>&1 & echo $! > /tmp/stream.pid"
        ))?;
        crate::eventually(SOON, || self.run("grep -q seq=20 /tmp/stream")).map(drop)
    }

    /// Ends it and tells what was lost, in either direction, and for how long at most.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn end_stream(&mut self) -> Result<Lost> {
        // What was asked last gets its time.
        self.run(
            "n=$(wc -l < /tmp/stream); for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; \
                  [ $(wc -l < /tmp/stream) -gt $n ] && break; done; \
                  kill -INT $(cat /tmp/stream.pid); sleep 0.2",
        )?;
        let said = self.run("cat /tmp/stream")?;
        let number = |line: &str| {
            let (_, rest) = line.split_once("seq=")?;
            rest.split_whitespace().next()?.parse::<u32>().ok()
        };
        let mut answered: Vec<u32> = said.lines().filter_map(number).collect();
        answered.sort_unstable();
        answered.dedup();
        let (first, last) = answered.first().zip(answered.last()).context("no answer")?;
        let gap = answered.windows(2).map(|pair| pair[1] - pair[0] - 1).max();
        Ok(Lost {
            packets: last - first + 1 - u32::try_from(answered.len())?,
            longest: Duration::from_secs_f64(INTERVAL) * gap.unwrap_or(0),
        })
    }

    /// The host's device of its first interface that is of that network.
    ///
    /// # Errors
    /// It has none.
    pub fn port(&self, network: &str) -> Result<String> {
        port(self.inside, &self.name, network)
    }

    /// The same of a guest that nobody waits for.
    ///
    /// # Errors
    /// It has none.
    pub fn port_of(host: &Host, name: &str, network: &str) -> Result<String> {
        port(host.inside(), name, network)
    }
}

fn port(inside: Inside, name: &str, network: &str) -> Result<String> {
    let list = inside.run(["virsh", "domiflist", name])?;
    let port = list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let port = words.next()?;
        words.any(|word| word == network).then_some(port)
    });
    let context = || format!("{name} has no interface in {network}:\n{list}");
    port.map(str::to_owned).with_context(context)
}
