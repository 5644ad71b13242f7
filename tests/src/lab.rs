//! The topology: a hypervisor, the world outside, and as many guests as a test wants.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{Agent, Capture, Guest, Netns, Network, Snapshot};

/// The hypervisor's address on the uplink.
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The outside host on the same wire.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A host behind the outside one, see [`Lab::far`].
pub const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// A hypervisor with an uplink to an outside host, and an agent that is not running yet.
#[derive(Debug)]
pub struct Lab {
    /// The agent of the hypervisor.
    pub agent: Agent,
    /// The hypervisor.
    pub hv: Netns,
    /// The outside host.
    pub wan: Netns,
    directory: TempDir,
}

impl Lab {
    /// Builds the topology for the binary under test.
    ///
    /// # Errors
    /// As [`Lab::with_binary`] and [`crate::agent::binary`].
    pub fn new() -> Result<Self> {
        Self::with_binary(&crate::agent::binary()?)
    }

    /// Builds the topology for an agent of one's choice.
    ///
    /// # Errors
    /// Not root, or a tool is missing.
    pub fn with_binary(netd: &Path) -> Result<Self> {
        let (hv, wan) = hypervisor()?;
        let directory = tempfile::Builder::new().prefix("netd-").tempdir()?;
        Ok(Self {
            agent: Agent::new(&hv, directory.path(), netd)?,
            hv,
            wan,
            directory,
        })
    }

    /// Where the agent keeps everything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A guest, cabled but not plugged in. Numbers are the test's to choose, 1–99.
    ///
    /// # Errors
    /// The number is in use.
    pub fn guest(&self, number: u8) -> Result<Guest> {
        Guest::new(
            &self.hv,
            number,
            self.directory().join(format!("vm{number}")),
        )
    }

    /// A guest at a tap device, not plugged in.
    ///
    /// # Errors
    /// The number is in use.
    pub fn guest_at_tap(&self, number: u8) -> Result<Guest> {
        Guest::at_tap(
            &self.hv,
            number,
            self.directory().join(format!("vm{number}")),
        )
    }

    /// A guest whose port is in the bridge, as a hypervisor's driver leaves it.
    ///
    /// # Errors
    /// The number is in use, or there is no such bridge.
    pub fn plugged(&self, number: u8, bridge: &str) -> Result<Guest> {
        let guest = self.guest(number)?;
        self.plug(&guest, bridge)?;
        Ok(guest)
    }

    /// Plugs a guest's cable into a bridge.
    ///
    /// # Errors
    /// There is no such bridge.
    pub fn plug(&self, guest: &Guest, bridge: &str) -> Result<()> {
        self.hv
            .run(["ip", "link", "set", &guest.port, "master", bridge])?;
        self.hv.wait_for_carrier(bridge)
    }

    /// A guest of that network with a fixed address, .10 + `number`, and a default route.
    ///
    /// # Errors
    /// The number is in use, or the network is not active.
    pub fn member(&self, number: u8, network: &Network) -> Result<Guest> {
        let guest = self.plugged(number, &network.bridge())?;
        let address = format!("{}/24", network.address(10 + number));
        guest.address(&address, Some(&network.gateway().to_string()))?;
        Ok(guest)
    }

    /// Starts the agent and one NAT network (number 1) with guest number 1, which knows its way out.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn nat_guest(&mut self) -> Result<Guest> {
        self.agent.start()?;
        let network = Network::default();
        self.up(&network)?;
        let guest = self.member(1, &network)?;
        guest.ping(&network.gateway().to_string())?;
        guest.ping(&OUTSIDE.to_string())?;
        Ok(guest)
    }

    /// Waits until the agent has done what the host asks of it: it hears of a new port or route some time after
    /// that is there, on a busy machine seconds later.
    ///
    /// # Errors
    /// Something remains to be done.
    pub fn settled(&self) -> Result<()> {
        crate::eventually(crate::SOON, || {
            let plan = self.agent.ok(["plan"])?;
            ensure!(plan.contains("Nothing to do"), "to be done still:\n{plan}");
            Ok(())
        })
    }

    /// The table of a network's leases once it shows `address`: dnsmasq calls the helper that
    /// notes a lease only after it has answered the guest.
    ///
    /// # Errors
    /// The address does not appear.
    pub fn leases_with(&self, network: &str, address: Ipv4Addr) -> Result<String> {
        crate::eventually(crate::SOON, || {
            let table = self.agent.ok(["net-dhcp-leases", network])?;
            let shown = format!(" {address}/");
            ensure!(table.contains(&shown), "{address} is not in:\n{table}");
            Ok(table)
        })
    }

    /// Defines a network and starts it.
    ///
    /// # Errors
    /// Either is refused.
    pub fn up(&self, network: &Network) -> Result<()> {
        self.agent.up(&network.name, &network.xml())
    }

    /// Numbers of the dnsmasq processes that answer to the hypervisor's guests, without the
    /// children by which they call the lease helper. Such a child outlives a killed parent for a
    /// moment; it has none of its sockets.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn dnsmasqs(&self) -> Result<Vec<i32>> {
        let named = |pid: &i32| {
            // A process may end between the two looks.
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "dnsmasq"
        };
        let all: Vec<i32> = self.service_processes()?;
        let all: Vec<i32> = all.into_iter().filter(named).collect();
        let parent = |pid: &i32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            line.trim().parse::<i32>().ok()
        };
        let is_child = |pid: &i32| parent(pid).is_some_and(|parent| all.contains(&parent));
        let serves = |pid: &i32| {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
            let mut files = files.into_iter().flatten().flatten();
            files.any(|file| {
                let target = std::fs::read_link(file.path()).unwrap_or_default();
                target.to_string_lossy().starts_with("socket:")
            })
        };
        let own = all.iter().filter(|pid| !is_child(pid) && serves(pid));
        Ok(own.copied().collect())
    }

    /// The file that stands for the namespace of the services of a bridge.
    #[must_use]
    pub fn services(&self, bridge: &str) -> std::path::PathBuf {
        self.directory().join("run/netns").join(bridge)
    }

    /// Numbers of the processes in the namespaces of networks' services.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn service_processes(&self) -> Result<Vec<i32>> {
        use std::os::unix::fs::MetadataExt as _;
        let id = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
        let names = std::fs::read_dir(self.directory().join("run/netns"));
        let names = names.into_iter().flatten().flatten();
        let ids: Vec<(u64, u64)> = names.filter_map(|name| id(&name.path()).ok()).collect();
        let mut pids = Vec::new();
        for process in std::fs::read_dir("/proc")? {
            let process = process?;
            let pid = process.file_name().to_string_lossy().parse::<i32>();
            let netns = id(&process.path().join("ns/net"));
            if let (Ok(pid), Ok(netns)) = (pid, netns)
                && ids.contains(&netns)
            {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// Runs a command in the namespace of the services of a bridge and returns its stdout.
    ///
    /// # Errors
    /// There is none, or the command fails.
    pub fn in_services<'a>(
        &self,
        bridge: &str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<String> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.services(bridge).display()))
            .args(["--", "timeout", "300"])
            .args(arguments);
        crate::run(&mut command)
    }

    /// A host two hops outside, behind a wire of that MTU.
    ///
    /// # Errors
    /// It exists already.
    pub fn far(&self, mtu: u32) -> Result<Netns> {
        let far = Netns::new("far")?;
        let mtu = mtu.to_string();
        self.wan.veth("wan1", &far, "far0")?;
        self.wan.run(["ip", "link", "set", "wan1", "mtu", &mtu])?;
        far.run(["ip", "link", "set", "far0", "mtu", &mtu])?;
        self.wan.address("wan1", "203.0.113.1/24")?;
        far.address("far0", &format!("{FAR}/24"))?;
        far.run(["ip", "route", "add", "default", "via", "203.0.113.1"])?;
        self.wan.sysctl("net/ipv4/ip_forward", "1")?;
        // The kernel notices a carrier in the background.
        crate::eventually(crate::SOON, || {
            self.wan.run(["ping", "-c1", "-W1", &FAR.to_string()])
        })?;
        Ok(far)
    }

    /// What the hypervisor looks like now.
    ///
    /// # Errors
    /// A tool fails.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.hv, self.directory())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.agent.end();
        // What a failed test leaves in namespaces that are none of the topology's.
        for pid in self.service_processes().unwrap_or_default() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // Mounts are the machine's to see: none may stay.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(self.directory.path())) {
            if let Err(error) = crate::run(Command::new("umount").arg("-l").arg(point)) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The namespaces of a hypervisor and of the world outside, cabled: `uplink` has the default route.
///
/// # Errors
/// Not root, or a tool is missing.
pub fn hypervisor() -> Result<(Netns, Netns)> {
    let hv = Netns::new("hv")?;
    let wan = Netns::new("wan")?;
    hv.veth("uplink", &wan, "wan0")?;
    hv.address("uplink", &format!("{HOST}/24"))?;
    wan.address("wan0", &format!("{OUTSIDE}/24"))?;
    // The kernel notices a carrier in the background, and adds addresses and routes then. Until that a device
    // sends nothing.
    for (netns, device) in [(&hv, "uplink"), (&wan, "wan0")] {
        crate::eventually(crate::SOON, || {
            let link = netns.run(["ip", "addr", "show", device])?;
            ensure!(
                link.contains("state UP") && link.contains("inet6 fe80"),
                "{device} is not ready: {link}"
            );
            Ok(())
        })?;
        netns.wait_for_addresses(device)?;
    }
    hv.run(["ip", "route", "add", "default", "via", &OUTSIDE.to_string()])?;
    hv.sysctl("net/ipv4/ip_forward", "0")?;
    Ok((hv, wan))
}

/// An address and a port, for short.
#[must_use]
pub fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// The frame of a topology test: builds a [`Lab`], runs the test in it, tears the agent down and
/// panics where anything is left behind or the test failed. The agent's log is shown then, and what
/// passed the hypervisor's devices is kept in a file.
///
/// # Panics
/// When the test fails: that is its purpose.
pub fn check(test: impl FnOnce(&mut Lab) -> Result<()>) {
    check_in(Lab::new(), test);
}

/// The same with [`Lab::nat_guest`].
///
/// # Panics
/// As [`check`].
pub fn check_guest(test: impl FnOnce(&mut Lab, &Guest) -> Result<()>) {
    check(|lab| {
        let guest = lab.nat_guest()?;
        test(lab, &guest)
    });
}

/// As [`check`] on a hypervisor whose own stack forwards everything that it can be made to forward, so
/// that only netd stands between guests and outside.
///
/// # Panics
/// As [`check`].
pub fn check_router(test: impl FnOnce(&mut Lab) -> Result<()>) {
    let lab = Lab::new().and_then(|lab| {
        lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
        for device in ["all", "default", "uplink", "lo"] {
            let key = |name| format!("net/ipv4/conf/{device}/{name}");
            lab.hv.sysctl(&key("rp_filter"), "0")?;
            lab.hv.sysctl(&key("accept_source_route"), "1")?;
        }
        Ok(lab)
    });
    check_in(lab, test);
}

pub(crate) fn check_in(lab: Result<Lab>, test: impl FnOnce(&mut Lab) -> Result<()>) {
    let lab = lab.and_then(|lab| Ok((Capture::start(&lab.hv)?, lab)));
    let (capture, mut lab) = lab.unwrap_or_else(|error| panic!("no topology: {error:?}"));
    let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let before = lab.snapshot().context("the picture before")?;
        test(&mut lab)?;
        lab.agent.end();
        lab.agent.teardown().context("teardown")?;
        before.wait_for_same(&lab.hv, lab.directory())
    }));
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("--- the agent's log ---\n{}--- end ---", lab.agent.log());
        match capture.save() {
            Ok(path) => eprintln!("what passed the hypervisor: {}", path.display()),
            Err(error) => eprintln!("what passed the hypervisor was not kept: {error:#}"),
        }
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:?}"),
        Err(panic) => resume_unwind(panic),
    }
}
