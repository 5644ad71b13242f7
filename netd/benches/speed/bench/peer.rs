//! The peers: one hypervisor each, all there at once, of which all but one are idle.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use netd_tests::lab::{HOST, OUTSIDE};
use netd_tests::published::{forward, forwards, range};
use netd_tests::{Guest, Lab, Netns, Network};

use super::cpu;
use super::kind::{Cable, Kind};
use super::others::{other_bridge, other_network, other_subnet, write_definitions};
use super::programs::{Mac, Redirect, Traffic, redirect};
use super::rules::{self, Published};

/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 11);
/// The gateway's MAC address where a peer has no bridge.
const NOBODY: Mac = [2, 0, 0, 0, 0, 1];
/// Flows that netd has room for, unless a case is larger: twice what it has by itself, since flows of
/// one case live on into the next.
pub const ROOM: u32 = 1 << 18;
/// More networks than this at once netd is not told one by one: an agent that is started again
/// reads their definitions.
const BY_HAND: u32 = 200;

/// A hypervisor with one guest and the world outside.
pub struct Peer {
    /// What it is.
    pub kind: Kind,
    /// Its namespaces, and netd's agent where it is that.
    pub lab: Lab,
    /// Its guest.
    pub guest: Guest,
    network: Network,
    room: u32,
    others: u32,
    published: Vec<Published>,
    /// Kept: what is attached goes with it.
    _redirect: Option<Ebpf>,
}

impl Peer {
    /// Builds it; netd gets room for that many flows. What moves frames at a tap shares the processor
    /// with both ends.
    ///
    /// # Errors
    /// Not root, a tool is missing, or no packet gets through.
    pub fn build(kind: Kind, cable: Cable, room: u32) -> Result<Self> {
        // The same one when it is defined again.
        let network =
            Network::nat("default", 1).with("<uuid>0ddba11a-0000-4000-8000-ffffffffffff</uuid>");
        let mut lab = if kind.is_netd() {
            Lab::new()?
        } else {
            Lab::with_binary(Path::new("/bin/true"))? // nobody starts it
        };
        match kind {
            Kind::Empty | Kind::Limit => {}
            Kind::Netd | Kind::NetdXdp => {
                let mut settings = format!("[flows]\nmax = {room}\n");
                if kind == Kind::NetdXdp {
                    settings.push_str("[xdp]\non = ['uplink', 'vnet*']\n");
                    take_frames(&lab.wan, "wan0")?;
                }
                std::fs::write(lab.agent.config_dir().join("netd.toml"), settings)?;
                lab.agent.start()?;
                lab.up(&network)?;
            }
            Kind::LimitTc | Kind::Plain | Kind::Nft | Kind::Flowtable => {
                bridge(&lab.hv, &network.bridge())?;
                let address = format!("{}/24", network.gateway());
                lab.hv.address(&network.bridge(), &address)?;
                lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
            }
        }
        let guest = match cable {
            Cable::Veth => lab.guest(1)?,
            Cable::Tap => lab.guest_at_tap(1)?,
        };
        if let Some(relay) = guest.relay() {
            cpu::keep(relay.thread())?;
        }
        let address = format!("{GUEST}/24");
        if matches!(kind, Kind::Empty | Kind::Limit) {
            guest.address(&address, None)?;
        } else {
            if kind == Kind::NetdXdp {
                take_frames(guest.netns(), "eth0")?;
            }
            lab.plug(&guest, &network.bridge())?;
            guest.address(&address, Some(&network.gateway().to_string()))?;
        }
        let mut peer = Self {
            kind,
            lab,
            guest,
            network,
            room,
            others: 0,
            published: Vec::new(),
            _redirect: None,
        };
        peer.finish()?;
        Ok(peer)
    }

    fn finish(&mut self) -> Result<()> {
        if !self.translates() {
            let subnet = self.network.subnet();
            let way = ["ip", "route", "add", &subnet, "via", &HOST.to_string()];
            self.lab.wan.run(way)?;
        }
        self.load_rules()?;
        if matches!(self.kind, Kind::Limit | Kind::LimitTc) {
            let (hv, port) = (&self.lab.hv, self.guest.port.as_str());
            let redirects = [
                Redirect {
                    from: port,
                    to: "uplink",
                    macs: [hv.mac("uplink")?, self.lab.wan.mac("wan0")?],
                },
                Redirect {
                    from: "uplink",
                    to: port,
                    macs: [self.gateway()?, self.guest.netns().mac("eth0")?],
                },
            ];
            self._redirect = Some(redirect(hv, self.kind == Kind::LimitTc, &redirects)?);
        }
        if self.kind.carries_tcp() {
            self.guest.ping(&OUTSIDE.to_string())?;
        }
        Ok(())
    }

    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Do guests hide behind the host's address?
    pub fn translates(&self) -> bool {
        matches!(self.kind, Kind::Nft | Kind::Flowtable) || self.kind.is_netd()
    }

    /// The address by which outside reaches the guest's flows.
    pub fn address(&self) -> Ipv4Addr {
        if self.translates() { HOST } else { GUEST }
    }

    /// MAC address of the guest's gateway.
    ///
    /// # Errors
    /// The bridge is gone.
    pub fn gateway(&self) -> Result<Mac> {
        match self.kind {
            Kind::Empty | Kind::Limit => Ok(NOBODY),
            _ => self.lab.hv.mac(&self.network.bridge()),
        }
    }

    /// Puts the counters in their places, and lets devices take frames that are not the stack's.
    ///
    /// # Errors
    /// ethtool is missing, or the kernel refuses.
    pub fn prepare_for_frames(&self, traffic: &mut Traffic) -> Result<()> {
        let (hv, port) = (&self.lab.hv, self.guest.port.as_str());
        for device in [port, "uplink"] {
            take_frames(hv, device)?;
        }
        if self.kind == Kind::Empty {
            traffic.count_at(hv, port)?;
            return traffic.count_at(hv, "uplink");
        }
        traffic.count_at(&self.lab.wan, "wan0")?;
        traffic.count_at(self.guest.netns(), "eth0")
    }

    /// Gives netd's table the size for that many flows: a larger one costs each packet more, so a peer
    /// whose table has another size is built anew. It has no other networks and publishes nothing.
    ///
    /// # Errors
    /// As [`Self::build`] and [`Self::prepare_for_frames`].
    pub fn make_room(&mut self, flows: u32, traffic: &mut Traffic) -> Result<()> {
        let room = if flows > ROOM / 2 {
            flows + flows / 4
        } else {
            ROOM
        };
        if !self.kind.is_netd() || room == self.room {
            return Ok(());
        }
        *self = Self::build(self.kind, Cable::Veth, room)?;
        self.prepare_for_frames(traffic)?;
        // Every device has changed: let the agent look at them before it is measured.
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    /// Publishes that many ports, in place of those before.
    ///
    /// # Errors
    /// The rules or the definition are refused.
    pub fn publish(&mut self, number: u16) -> Result<()> {
        self.published = (0..number).map(Published::new).collect();
        if !self.kind.is_netd() {
            return self.load_rules();
        }
        let all: String = self
            .published
            .iter()
            .map(|one| {
                let ports = range(one.port, one.port, one.guest_port);
                forward("udp", "", &one.guest.to_string(), &ports)
            })
            .collect();
        self.lab
            .agent
            .define(&self.network.clone().with(&forwards(&all)).xml())?;
        self.lab.agent.ok(["reload"])?;
        Ok(())
    }

    /// Has that many other networks beside the guest's.
    ///
    /// # Errors
    /// A device cannot be made, or netd refuses.
    pub fn add_networks(&mut self, number: u32) -> Result<()> {
        let more = self.others..number;
        self.others = number;
        match self.kind {
            Kind::Empty | Kind::Limit => Ok(()),
            Kind::Netd | Kind::NetdXdp if number > BY_HAND => {
                self.lab.agent.stop()?;
                write_definitions(&self.lab, more)?;
                self.lab.agent.start()
            }
            Kind::Netd | Kind::NetdXdp => more.into_iter().try_for_each(|n| {
                let (name, xml) = other_network(n, "");
                self.lab.agent.up(&name, &xml)
            }),
            Kind::LimitTc | Kind::Plain | Kind::Nft | Kind::Flowtable => {
                let mut batch = String::new();
                for n in more {
                    let (device, [a, b, c, _]) = (other_bridge(n), other_subnet(n).octets());
                    let kind = "type bridge stp_state 0 forward_delay 0";
                    // Writing to a string does not fail.
                    let _ = writeln!(
                        batch,
                        "link add {device} {kind}\naddr add {a}.{b}.{c}.1/24 dev {device}\n\
                         link set {device} up"
                    );
                }
                let file = self.lab.agent.file("networks.ip", &batch)?;
                self.lab.hv.run(["ip", "-batch", &file])?;
                self.load_rules()
            }
        }
    }

    /// Loads the rules where there are any: they are one text with all networks and forwards.
    fn load_rules(&self) -> Result<()> {
        let flowtable = match self.kind {
            Kind::Nft => None,
            Kind::Flowtable => Some(self.network.bridge()),
            _ => return Ok(()),
        };
        let other = |n| (other_bridge(n), format!("{}/24", other_subnet(n)));
        // The guest's network stands in the middle, as on average it does.
        let mut networks: Vec<_> = (0..self.others / 2).map(other).collect();
        networks.push((self.network.bridge(), self.network.subnet()));
        networks.extend((self.others / 2..self.others).map(other));
        let text = rules::text(&networks, &self.published, flowtable.as_deref());
        let file = self.lab.agent.file("rules.nft", &text)?;
        self.lab
            .hv
            .run(["nft", "-f", &file])
            .context("nft refuses the rules")?;
        Ok(())
    }
}

/// A frame that is not the stack's reaches a device only where that polls, which GRO or XDP makes it
/// do.
fn take_frames(netns: &Netns, device: &str) -> Result<()> {
    netns.run(["ethtool", "-K", device, "gro", "on"])?;
    Ok(())
}

fn bridge(hv: &Netns, device: &str) -> Result<()> {
    let add = format!("ip link add {device} type bridge stp_state 0 forward_delay 0");
    hv.run(add.split(' '))?;
    let up = hv.run(["ip", "link", "set", device, "up"])?;
    ensure!(up.is_empty(), "{up}");
    Ok(())
}
