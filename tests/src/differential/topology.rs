//! One side: hypervisor, guests and outside in namespaces of their own. The guests and the outside
//! are wires only; nobody there has an address, and whatever is to be said the harness says.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cast::{
    self, Actor, CAST, Family, HOST6, Mac, OUTSIDE6, POOL, Place, ROUTER, UPLINK, UPLINK_MTU,
    WIRES, mac_text,
};
use super::craft;
use super::header::Header;
use super::step::{Body, Query, Twist};
use super::tap::{Tap, frame};
use super::{peer, subject};
use crate::lab::{HOST, OUTSIDE};
use crate::{Guest, Lab, Netns};

/// Time a side has to begin to forward.
const PATIENCE: Duration = Duration::from_secs(30);

/// The two sides of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The kernel's connection tracking with libvirt's rules.
    Kernel,
    /// netd.
    Netd,
}

/// What translates on a side.
#[derive(Clone, Copy, Debug)]
pub enum Translator<'a> {
    /// The kernel with libvirt's rules.
    Kernel,
    /// The same, but guests may appear with privileged ports: a difference that must be noticed.
    Careless,
    /// netd, of that file.
    Netd(&'a Path),
}

/// Both.
pub const SIDES: [Side; 2] = [Side::Kernel, Side::Netd];

/// A side that is up.
#[derive(Debug)]
pub struct Topology {
    lab: Lab,
    /// Kept: they hold the wires' other ends.
    _guests: Vec<Guest>,
    /// A socket on each wire.
    pub taps: [Tap; WIRES],
}

impl Topology {
    /// Builds a side and waits until it forwards.
    ///
    /// # Errors
    /// Not root, a tool is missing, or nothing is forwarded.
    pub fn build(translator: Translator, ipv6: bool) -> Result<Self> {
        let binary = match translator {
            Translator::Netd(binary) => binary,
            Translator::Kernel | Translator::Careless => Path::new("/bin/true"), // nobody starts it
        };
        let mut lab = Lab::with_binary(binary)?;
        hypervisor(&lab.hv, ipv6)?;
        mute(&lab.wan)?;
        lab.wan.run(["ip", "addr", "flush", "dev", "wan0"])?;
        match translator {
            Translator::Kernel => peer::build(&lab, ipv6, true)?,
            Translator::Careless => peer::build(&lab, ipv6, false)?,
            Translator::Netd(_) => subject::build(&mut lab, ipv6)?,
        }
        let mut guests = Vec::new();
        for actor in CAST {
            let Some(network) = actor.network else {
                continue;
            };
            let bridge = network.device;
            let guest = lab.guest(actor.wire as u8 + 1)?;
            mute(guest.netns())?;
            lab.plug(&guest, bridge)?;
            settle(&lab.hv, actor, bridge, &guest.port, ipv6)?;
            guests.push(guest);
        }
        let taps = [
            Tap::open(guests[0].netns(), "eth0")?,
            Tap::open(guests[1].netns(), "eth0")?,
            Tap::open(guests[2].netns(), "eth0")?,
            Tap::open(guests[3].netns(), "eth0")?,
            Tap::open(&lab.wan, "wan0")?,
        ];
        let topology = Self {
            lab,
            _guests: guests,
            taps,
        };
        topology
            .wait_until_it_forwards()
            .with_context(|| format!("{translator:?}:\n{}", topology.lab.agent.log()))?;
        Ok(topology)
    }

    /// Removes what the agent made, as its users would.
    ///
    /// # Errors
    /// The agent ended by itself meanwhile, or its teardown fails.
    pub fn remove(mut self) -> Result<()> {
        if self.lab.agent.pid().is_some() {
            self.lab.agent.stop()?;
            self.lab.agent.teardown()?;
        }
        Ok(())
    }

    /// Echo requests of a kind the conversations do not use, from every guest to outside.
    fn wait_until_it_forwards(&self) -> Result<()> {
        let peer = &CAST[cast::at(Place::Outside)[0]];
        for actor in CAST {
            let (from, to, expected): (&Actor, &Actor, IpAddr) = match actor.place {
                Place::Nat if actor.has_pool() => (actor, peer, POOL.into()),
                Place::Nat => (actor, peer, HOST.into()),
                Place::Routed => (actor, peer, actor.address(Family::V4)),
                Place::Outside | Place::Host => continue,
            };
            let started = Instant::now();
            while !self.passes(from, to, expected)? {
                if started.elapsed() > PATIENCE {
                    bail!("nothing of {} reaches {}", from.name, to.name);
                }
            }
        }
        // What else may still be on its way.
        std::thread::sleep(Duration::from_millis(100));
        for tap in &self.taps {
            while tap.receive()?.is_some() {}
        }
        Ok(())
    }

    fn passes(&self, from: &Actor, to: &Actor, expected: IpAddr) -> Result<bool> {
        let body = Body::Echo {
            query: Query::Echo,
            reply: false,
            sequence: 0,
            length: 8,
        };
        // An identifier of its own, lest a translation chooses one that a conversation needs.
        let source = (from.address(Family::V4), 64_000 + from.wire as u16);
        let destination = (to.address(Family::V4), 0);
        let twist = Twist::default();
        for packet in craft::packets(&body, source, destination, &twist, 0, None) {
            self.taps[from.wire].send(&frame(from, &packet))?;
        }
        std::thread::sleep(Duration::from_millis(20));
        let mut passed = false;
        while let Some(frame) = self.taps[to.wire].receive()? {
            passed |= Header::read(frame.get(14..).unwrap_or_default()).is_some_and(|header| {
                header.source == expected && header.destination == destination.0
            });
        }
        Ok(passed)
    }
}

/// The hypervisor's own settings, the same on both sides.
fn hypervisor(hv: &Netns, ipv6: bool) -> Result<()> {
    // Errors about every packet, however many there are.
    hv.sysctl("net/ipv4/icmp_ratemask", "0")?;
    // A set of types that holds none of those in use.
    hv.sysctl("net/ipv6/icmp/ratemask", "255")?;
    // As where the module br_netfilter is not loaded.
    for key in ["ip", "ip6", "arp"] {
        let key = format!("net/bridge/bridge-nf-call-{key}tables");
        if hv.read_sysctl(&key).is_ok() {
            hv.sysctl(&key, "0")?;
        }
    }
    hv.run(["ip", "link", "set", "uplink", "address", &mac_text(UPLINK)])?;
    hv.run([
        "ip",
        "link",
        "set",
        "uplink",
        "mtu",
        &UPLINK_MTU.to_string(),
    ])?;
    // What comes for a pool's address and belongs to nothing is the host's, as with the uplink's.
    hv.address("uplink", &format!("{POOL}/32"))?;
    if ipv6 {
        hv.address("uplink", &format!("{HOST6}/64"))?;
        neighbour(hv, "uplink", OUTSIDE6.into(), ROUTER)?;
        hv.run([
            "ip",
            "-6",
            "route",
            "add",
            "default",
            "via",
            &OUTSIDE6.to_string(),
        ])?;
    } else {
        hv.sysctl("net/ipv6/conf/uplink/disable_ipv6", "1")?;
    }
    neighbour(hv, "uplink", OUTSIDE.into(), ROUTER)?;
    for actor in CAST {
        if actor.place == Place::Outside && actor.mac != ROUTER {
            for family in families(ipv6) {
                neighbour(hv, "uplink", actor.address(*family), actor.mac)?;
            }
        }
    }
    Ok(())
}

/// What bridge and hypervisor would learn about a guest from its first packets.
fn settle(hv: &Netns, actor: &Actor, bridge: &str, port: &str, ipv6: bool) -> Result<()> {
    for family in families(ipv6) {
        neighbour(hv, bridge, actor.address(*family), actor.mac)?;
    }
    let mac = mac_text(actor.mac);
    hv.run([
        "bridge", "fdb", "replace", &mac, "dev", port, "master", "static",
    ])?;
    Ok(())
}

fn families(ipv6: bool) -> &'static [Family] {
    if ipv6 {
        &[Family::V4, Family::V6]
    } else {
        &[Family::V4]
    }
}

fn neighbour(hv: &Netns, device: &str, address: IpAddr, mac: Mac) -> Result<()> {
    let (address, mac) = (address.to_string(), mac_text(mac));
    hv.run([
        "ip",
        "neigh",
        "replace",
        &address,
        "lladdr",
        &mac,
        "dev",
        device,
        "nud",
        "permanent",
    ])?;
    Ok(())
}

/// Keeps a namespace's own stack from saying anything.
fn mute(netns: &Netns) -> Result<()> {
    netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    netns.sysctl("net/ipv4/ip_forward", "0")?;
    Ok(())
}
