//! One network namespace that goes away with its owner.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its namespaces.
const NETNS_DIR: &str = "/run/netns";
/// No command of a test may hang it: seconds.
const COMMAND_LIMIT: &str = "300";

/// A named network namespace; dropping it ends every process inside and removes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// Counters of a device. A segment that a card is to cut up later is one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub received_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

impl Netns {
    /// A fresh namespace with its loopback up. `label` is for people; the name is unique.
    ///
    /// # Errors
    /// Not root, or iproute2 is missing.
    pub fn new(label: &str) -> Result<Self> {
        static SEQUENCE: AtomicU32 = AtomicU32::new(0);
        let number = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let name = format!("netd-{}-{number}-{label}", std::process::id());
        crate::run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        // Addresses are usable at once; a test does not want to wait for duplicate detection.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        // Nor for the next ICMP error that the kernel allows itself to send to the same peer.
        netns.sysctl("net/ipv4/icmp_ratelimit", "0")?;
        netns.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        netns.run(["ip", "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// A command that will run inside; only the network is another one, files are the machine's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command inside and returns its stdout.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        crate::run(&mut self.limited(arguments))
    }

    /// Runs a command inside, whatever its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn output<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        crate::output(&mut self.limited(arguments))
    }

    fn limited<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.command("timeout");
        command.arg(COMMAND_LIMIT).args(arguments);
        command
    }

    /// Calls `inside` on a thread that lives in the namespace. Sockets made there stay there,
    /// whichever thread uses them later.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        let entered = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    join(&file)?;
                    Ok(inside())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        entered.map_err(|errno: Errno| self.refused(errno))
    }

    /// Leaves `inside` running on a thread of its own in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn spawn(&self, inside: impl FnOnce() + Send + 'static) -> Result<()> {
        let file = self.open()?;
        let (told, entered) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let outcome = join(&file);
            let usable = outcome.is_ok();
            if told.send(outcome).is_ok() && usable {
                inside();
            }
        });
        let outcome = entered.recv().context("the thread ended at once")?;
        outcome.map_err(|errno| self.refused(errno))
    }

    fn open(&self) -> Result<File> {
        let path = self.path();
        File::open(&path).with_context(|| format!("opening {}", path.display()))
    }

    fn refused(&self, errno: Errno) -> anyhow::Error {
        anyhow!("entering {}: {errno}", self.path().display())
    }

    /// Sets a sysctl below /proc/sys inside.
    ///
    /// # Errors
    /// The kernel has no such knob or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("writing {value} to {}", path.display()))
    }

    /// Reads a sysctl inside.
    ///
    /// # Errors
    /// The kernel has no such knob.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = Path::new("/proc/sys").join(key);
        let text = self
            .enter(|| std::fs::read_to_string(&path))?
            .with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// A cable from `device` here to `peer_device` in `peer`; both ends are down.
    ///
    /// # Errors
    /// A device of that name exists already.
    pub fn veth(&self, device: &str, peer: &Self, peer_device: &str) -> Result<()> {
        crate::run(
            Command::new("ip")
                .args(["link", "add", device, "netns", &self.name, "type", "veth"])
                .args(["peer", "name", peer_device, "netns", &peer.name]),
        )?;
        Ok(())
    }

    /// Gives a device an address and brings it up.
    ///
    /// # Errors
    /// No such device, or the address is not one.
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        self.run(["ip", "addr", "add", address, "dev", device])?;
        self.run(["ip", "link", "set", device, "up"])?;
        Ok(())
    }

    /// Waits until the kernel has acted upon what it knows of a device's carrier. It does so in the background
    /// (`linkwatch_event`), behind everybody who changes devices on this machine, and a device that has just
    /// got a carrier loses what it is to send until then.
    ///
    /// # Errors
    /// No such device.
    pub fn wait_for_carrier(&self, device: &str) -> Result<()> {
        crate::eventually(crate::SOON, || {
            let link = self.run(["ip", "-o", "link", "show", "dev", device])?;
            // Tap devices have no state.
            let acted = link.contains(" state UP ") || link.contains(" state UNKNOWN ");
            ensure!(acted == link.contains("LOWER_UP"), "not yet: {link}");
            Ok(())
        })
    }

    /// Waits until all IPv6 addresses of a device can be used. The kernel sees to that in the
    /// background (`addrconf_dad_work`), even where it looks for no duplicates. Until then it
    /// sends from the link-local address instead, and no router forwards that; and what comes for
    /// the address is routed on for want of a local route, which it adds behind that.
    ///
    /// # Errors
    /// One stays tentative, or is not routed to.
    pub fn wait_for_addresses(&self, device: &str) -> Result<()> {
        crate::eventually(crate::SOON, || {
            let shown = self.run(["ip", "-6", "addr", "show", "dev", device])?;
            ensure!(!shown.contains("tentative"), "not ready: {shown}");
            let local = "ip -6 route show table all type local dev";
            let routes = self.run(local.split(' ').chain([device]))?;
            for address in shown.lines().filter_map(inet6) {
                let route = format!("local {address} ");
                ensure!(routes.contains(&route), "no {route}in: {routes}");
            }
            Ok(())
        })
    }

    /// Makes the kernel forget the MAC addresses of a device's neighbours: it has to ask for them
    /// again before the next packet goes to one.
    ///
    /// The entries stay, without a state. To delete one costs what waits in it for an answer
    /// (`neigh_invalidate`), and `ip neigh flush` goes on deleting until it finds none: its second
    /// round meets the entries that traffic has made since the first. Those packets are lost on a
    /// host without netd too.
    ///
    /// # Errors
    /// No such device.
    pub fn forget_neighbours(&self, device: &str) -> Result<()> {
        // The kernel may drop an entry of its own accord between the two commands.
        crate::eventually(crate::SOON, || {
            let list = self.run(["ip", "neigh", "show", "dev", device])?;
            for line in list.lines().filter(|line| !line.ends_with("PERMANENT")) {
                let mut words = line.split_whitespace();
                if let (Some(address), Some("lladdr")) = (words.next(), words.next()) {
                    let state = ["dev", device, "nud", "none"];
                    let change = ["ip", "neigh", "change", address];
                    self.run(change.into_iter().chain(state))?;
                }
            }
            Ok(())
        })
    }

    /// Has a device keep what waits for a neighbour's MAC address, all of it and until there is one: a
    /// kernel's own limits are 0.1 s of what the tests send, and three questions.
    ///
    /// # Errors
    /// No such device.
    pub fn wait_for_neighbours(&self, device: &str) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            let key = |name| format!("net/{family}/neigh/{device}/{name}");
            self.sysctl(&key("unres_qlen_bytes"), "67108864")?;
            self.sysctl(&key("mcast_solicit"), "1000")?;
        }
        Ok(())
    }

    /// MAC address of a device.
    ///
    /// # Errors
    /// No such device, or it has none.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        let link = self.link(device)?;
        let text = link["address"].as_str().unwrap_or_default();
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().unwrap_or_default();
            *byte = u8::from_str_radix(part, 16)
                .with_context(|| format!("MAC address {text:?} of {device}"))?;
        }
        Ok(mac)
    }

    /// Number of a device.
    ///
    /// # Errors
    /// No such device.
    pub fn ifindex(&self, device: &str) -> Result<u64> {
        let link = self.link(device)?;
        link["ifindex"].as_u64().context("a device has a number")
    }

    /// What a device has received and sent so far.
    ///
    /// # Errors
    /// No such device.
    pub fn counters(&self, device: &str) -> Result<Counters> {
        let text = self.run(["ip", "-s", "-j", "link", "show", "dev", device])?;
        let list: serde_json::Value = serde_json::from_str(&text)?;
        let count = |way: &str, what: &str| {
            let value = list[0]["stats64"][way][what].as_u64();
            value.with_context(|| format!("no {way} {what} of {device}: {text}"))
        };
        Ok(Counters {
            received_packets: count("rx", "packets")?,
            received_bytes: count("rx", "bytes")?,
            sent_packets: count("tx", "packets")?,
            sent_bytes: count("tx", "bytes")?,
        })
    }

    fn link(&self, device: &str) -> Result<serde_json::Value> {
        let text = self.run(["ip", "-j", "link", "show", "dev", device])?;
        let mut list: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        list.pop().with_context(|| format!("no device {device}"))
    }

    /// The processes inside.
    ///
    /// # Errors
    /// `ip netns pids` fails.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let pids = crate::run(Command::new("ip").args(["netns", "pids", &self.name]))?;
        pids.lines()
            .map(|line| line.trim().parse().with_context(|| format!("pid {line:?}")))
            .collect()
    }

    /// Removes what test runs left behind whose process was killed.
    ///
    /// # Errors
    /// The directory of namespaces cannot be read.
    pub fn sweep() -> Result<()> {
        let Ok(entries) = std::fs::read_dir(NETNS_DIR) else {
            return Ok(()); // no namespace was ever made on this machine
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix("netd-")
                .and_then(|rest| rest.split('-').next())
                .and_then(|pid| pid.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                drop(Self { name });
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        for pid in self.processes()? {
            if let Some(pid) = Pid::from_raw(pid) {
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        crate::run(Command::new("ip").args(["netns", "del", &self.name]))?;
        Ok(())
    }
}

/// The IPv6 address in a line of `ip addr`.
fn inet6(line: &str) -> Option<&str> {
    let address = line.trim_start().strip_prefix("inet6 ")?;
    address.split(['/', ' ']).next()
}

/// Moves the calling thread.
fn join(namespace: &File) -> Result<(), Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("removing namespace {}: {error:#}", self.name);
        }
    }
}
