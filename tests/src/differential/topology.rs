//! One side: hypervisor, guests and outside in namespaces of their own. The guests and the outside
//! are wires only; nobody there has an address, and whatever is to be said the harness says.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cast::{
    self, CANARY_MAC, CANARY_PEERS, CAST, FAR, Family, HOST6, Mac, NETWORKS, OUTSIDE6, POOL, Place,
    SECOND_WIRE, SPARE_WIRE, UPLINK, UPLINK_MTU, WIRES, mac_text,
};
use super::change::{Deed, TABLE, announcements, routes};
use super::craft;
use super::header::Header;
use super::neighbour::Question;
use super::probe::is_canary;
use super::step::{Body, Query, Twist};
use super::tap::{Tap, frame};
use super::world::{Line, World};
use super::{peer, subject};
use crate::lab::HOST;
use crate::{Guest, Lab, Netns};

/// Bytes of packets that may wait for a neighbour's answer.
const WAITING: &str = "8000000";

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
    second: Netns,
    /// Is it an agent that translates?
    is_agent: bool,
    /// A socket on each wire.
    pub taps: [Tap; WIRES],
}

impl Topology {
    /// Builds a side and waits until it forwards. Where there are to be `changes`, the hypervisor
    /// learns who is where from what is said on the wires; else it is told for good.
    ///
    /// # Errors
    /// Not root, a tool is missing, or nothing is forwarded.
    pub fn build(translator: Translator, world: &World, changes: bool) -> Result<Self> {
        let binary = match translator {
            Translator::Netd(binary) => binary,
            Translator::Kernel | Translator::Careless => Path::new("/bin/true"), // nobody starts it
        };
        let mut lab = Lab::with_binary(binary)?;
        let ipv6 = world.ipv6;
        hypervisor(&lab.hv, ipv6)?;
        mute(&lab.wan)?;
        lab.wan.run(["ip", "addr", "flush", "dev", "wan0"])?;
        let second = second_uplink(&lab, world)?;
        match translator {
            Translator::Kernel => peer::build(&lab, ipv6, true)?,
            Translator::Careless => peer::build(&lab, ipv6, false)?,
            Translator::Netd(_) => subject::build(&mut lab, ipv6, changes)?,
        }
        let mut guests = Vec::new();
        for actor in CAST {
            let Some(network) = actor.network else {
                continue;
            };
            guests.push(plug(&lab, actor.wire, network.device)?);
        }
        let spare = plug(&lab, SPARE_WIRE, NETWORKS[1].device)?;
        let taps = [
            Tap::open(guests[0].netns(), "eth0")?,
            Tap::open(guests[1].netns(), "eth0")?,
            Tap::open(guests[2].netns(), "eth0")?,
            Tap::open(guests[3].netns(), "eth0")?,
            Tap::open(&lab.wan, "wan0")?,
            Tap::open(&second, "wan0")?,
            Tap::open(spare.netns(), "eth0")?,
        ];
        guests.push(spare);
        let mut topology = Self {
            lab,
            _guests: guests,
            second,
            is_agent: matches!(translator, Translator::Netd(_)),
            taps,
        };
        topology.introduce(world, changes)?;
        topology
            .wait_until_it_forwards(world)
            .with_context(|| format!("{translator:?}:\n{}", topology.lab.agent.log()))?;
        Ok(topology)
    }

    /// Bridge and hypervisor learn where everybody is.
    fn introduce(&mut self, world: &World, changes: bool) -> Result<()> {
        let hv = &self.lab.hv;
        let state = if changes { "reachable" } else { "permanent" };
        let mut deeds = Vec::new();
        let mut neighbour = |device: &str, address: IpAddr, mac: Mac| {
            deeds.push(Deed::Ip(format!(
                "neigh replace {address} lladdr {} dev {device} nud {state}",
                mac_text(mac)
            )));
        };
        for family in world.families() {
            for line in Line::BOTH {
                neighbour(line.device(), line.router(*family), world.router_mac(line));
            }
            let (v4, v6) = CANARY_PEERS[0];
            let near = match family {
                Family::V4 => v4.into(),
                Family::V6 => v6.into(),
            };
            neighbour("uplink", near, CANARY_MAC);
            for (number, actor) in CAST.iter().enumerate() {
                let device = match actor.place {
                    Place::Host => continue,
                    Place::Outside if number == FAR => continue,
                    Place::Outside => "uplink",
                    Place::Nat | Place::Routed => {
                        actor.network.map_or("", |network| network.device)
                    }
                };
                neighbour(device, actor.address(*family), world.mac(number));
            }
        }
        for (number, actor) in CAST.iter().enumerate() {
            if actor.network.is_none() {
                continue;
            }
            if changes {
                deeds.extend(announcements(world, number));
            } else {
                let (mac, port) = (mac_text(actor.mac), &self._guests[number].port);
                hv.run([
                    "bridge", "fdb", "replace", &mac, "dev", port, "master", "static",
                ])?;
            }
        }
        self.carry_out(&deeds, world)?;
        let hv = &self.lab.hv;
        let bridges = NETWORKS.iter().map(|network| network.device);
        for device in bridges.chain(Line::BOTH.map(Line::device)) {
            for family in world.families() {
                let family = match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                };
                let key = format!("net/{family}/neigh/{device}/unres_qlen_bytes");
                hv.sysctl(&key, WAITING)?;
            }
        }
        Ok(())
    }

    /// Does what belongs to a change.
    ///
    /// # Errors
    /// The kernel refuses it, or a wire is gone.
    pub fn carry_out(&mut self, deeds: &[Deed], world: &World) -> Result<()> {
        for deed in deeds {
            match deed {
                Deed::Ip(_) | Deed::Ip6(_) | Deed::Frame(..) => {}
                Deed::Sysctl(key, value) => self.lab.hv.sysctl(key, value)?,
                Deed::Disturb(key, value) if self.is_agent => self.disturb(key, value)?,
                Deed::Disturb(..) => {}
                Deed::Rules(rules) => {
                    let file = self.lab.directory().join("host.nft");
                    std::fs::write(&file, rules)?;
                    let file = file.display().to_string();
                    self.lab.hv.run(["nft", "-f", &file])?;
                }
                Deed::RemoveSecond => {
                    self.lab
                        .hv
                        .run(["ip", "link", "del", Line::Second.device()])?;
                }
                Deed::MakeSecond => {
                    make_second(&self.lab, &self.second, world)?;
                    self.taps[SECOND_WIRE] = Tap::open(&self.second, "wan0")?;
                }
            }
        }
        run_batches(&self.lab, deeds)?;
        let adds = |deed: &Deed| matches!(deed, Deed::Ip(line) if line.starts_with("addr add"));
        if deeds.iter().any(adds) {
            self.lab.hv.wait_for_addresses(Line::First.device())?;
        }
        for deed in deeds {
            if let Deed::Frame(wire, frame) = deed {
                self.taps[*wire].send(frame)?;
            }
        }
        Ok(())
    }

    /// Writes a value, and waits until the agent has undone it: what is under way meanwhile is lost.
    fn disturb(&self, key: &str, value: &str) -> Result<()> {
        let hv = &self.lab.hv;
        let before = hv.read_sysctl(key)?;
        hv.sysctl(key, value)?;
        crate::eventually(PATIENCE, || {
            let now = hv.read_sysctl(key)?;
            ensure!(now == before, "{key} is {now}");
            Ok(())
        })
    }

    /// The next packet that comes in on a wire, where there is one already. Questions for MAC
    /// addresses are answered.
    ///
    /// # Errors
    /// The wire is gone.
    pub fn hear(&self, wire: usize, world: &World) -> Result<Option<Vec<u8>>> {
        let tap = &self.taps[wire];
        while let Some(frame) = tap.receive()? {
            let Some(question) = Question::read(&frame) else {
                return Ok(Some(frame));
            };
            if let Some(mac) = world.owner(wire, question.target) {
                tap.send(&question.answer(mac))?;
            }
        }
        Ok(None)
    }

    /// The same without the canaries.
    ///
    /// # Errors
    /// The wire is gone.
    pub fn receive(&self, wire: usize, world: &World) -> Result<Option<Vec<u8>>> {
        while let Some(frame) = self.hear(wire, world)? {
            if !is_canary(frame.get(14..).unwrap_or_default()) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// What the agent says of the packets that it dropped last, for people, where there is one.
    #[must_use]
    pub fn drops(&self) -> Option<String> {
        let told = self.is_agent.then(|| self.lab.agent.ok(["drops"]))?;
        Some(told.unwrap_or_else(|error| format!("{error:#}")))
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
    fn wait_until_it_forwards(&self, world: &World) -> Result<()> {
        let peer = cast::at(Place::Outside)[0];
        for (number, actor) in CAST.iter().enumerate() {
            let expected: IpAddr = match actor.place {
                Place::Nat if actor.has_pool() => POOL.into(),
                Place::Nat => HOST.into(),
                Place::Routed => actor.address(Family::V4),
                Place::Outside | Place::Host => continue,
            };
            let started = Instant::now();
            while !self.passes(world, (number, peer), expected)? {
                if started.elapsed() > PATIENCE {
                    bail!("nothing of {} reaches {}", actor.name, CAST[peer].name);
                }
            }
        }
        // What else may still be on its way.
        std::thread::sleep(Duration::from_millis(100));
        for wire in 0..WIRES {
            while self.hear(wire, world)?.is_some() {}
        }
        Ok(())
    }

    fn passes(&self, world: &World, (from, to): (usize, usize), expected: IpAddr) -> Result<bool> {
        let body = Body::Echo {
            query: Query::Echo,
            reply: false,
            sequence: 0,
            length: 8,
        };
        // An identifier of its own, lest a translation chooses one that a conversation needs.
        let source = (CAST[from].address(Family::V4), 64_000 + from as u16);
        let destination = (CAST[to].address(Family::V4), 0);
        let twist = Twist::default();
        let station = world.station(from, destination.0);
        for packet in craft::packets(&body, source, destination, &twist, 0, None) {
            self.taps[station.wire].send(&frame(&station, &packet))?;
        }
        std::thread::sleep(Duration::from_millis(20));
        let mut passed = false;
        while let Some(frame) = self.hear(CAST[to].wire, world)? {
            passed |= Header::read(frame.get(14..).unwrap_or_default()).is_some_and(|header| {
                header.source == expected && header.destination == destination.0
            });
        }
        Ok(passed)
    }
}

/// A guest's wire with its port in the bridge.
fn plug(lab: &Lab, wire: usize, bridge: &str) -> Result<Guest> {
    let guest = lab.guest(wire as u8 + 1)?;
    mute(guest.netns())?;
    lab.plug(&guest, bridge)?;
    Ok(guest)
}

/// What of the deeds `ip` does.
fn run_batches(lab: &Lab, deeds: &[Deed]) -> Result<()> {
    let mut lines = [String::new(), String::new()];
    for deed in deeds {
        let (at, line) = match deed {
            Deed::Ip(line) => (0, line),
            Deed::Ip6(line) => (1, line),
            _ => continue,
        };
        lines[at] += &format!("{line}\n");
    }
    let file = lab.directory().join("change.batch");
    for (flags, lines) in [&["ip"][..], &["ip", "-6"]].into_iter().zip(lines) {
        if lines.is_empty() {
            continue;
        }
        std::fs::write(&file, &lines)?;
        let file = file.display().to_string();
        lab.hv
            .run(flags.iter().copied().chain(["-batch", &file]))
            .context(lines)?;
    }
    Ok(())
}

/// The second way out, to what is beyond the routers.
fn second_uplink(lab: &Lab, world: &World) -> Result<Netns> {
    let second = Netns::new("wan2")?;
    mute(&second)?;
    make_second(lab, &second, world)?;
    run_batches(lab, &routes(world, "replace", TABLE))?;
    Ok(second)
}

/// Its device, with addresses.
fn make_second(lab: &Lab, second: &Netns, world: &World) -> Result<()> {
    let (device, hv) = (Line::Second.device(), &lab.hv);
    hv.veth(device, second, "wan0")?;
    second.run(["ip", "link", "set", "wan0", "up"])?;
    let mac = mac_text(Line::Second.mac());
    let mtu = world.mtu[Line::Second as usize];
    let mut deeds = vec![Deed::Ip(format!(
        "link set {device} address {mac} mtu {mtu}"
    ))];
    let off = if world.ipv6 { "0" } else { "1" };
    let key = |name| format!("net/ipv6/conf/{device}/{name}");
    hv.sysctl(&key("disable_ipv6"), off)?;
    hv.sysctl(&key("keep_addr_on_down"), "1")?;
    for family in world.families() {
        let (prefix, flags) = match family {
            Family::V4 => (24, ""),
            Family::V6 => (64, " nodad"),
        };
        let own = world.own(Line::Second, *family);
        deeds.push(Deed::Ip(format!(
            "addr add {own}/{prefix} dev {device}{flags}"
        )));
    }
    deeds.push(Deed::Ip(format!("link set {device} up")));
    run_batches(lab, &deeds)
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
    // Two ways lead out, and packets may come back by the other one.
    for device in ["all", "default", "uplink"] {
        hv.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
        hv.sysctl(&format!("net/ipv4/conf/{device}/send_redirects"), "0")?;
    }
    // A second address of the network takes the place of the first when that goes.
    hv.sysctl("net/ipv4/conf/uplink/promote_secondaries", "1")?;
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
    Ok(())
}

/// Keeps a namespace's own stack from saying anything.
fn mute(netns: &Netns) -> Result<()> {
    netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    netns.sysctl("net/ipv4/ip_forward", "0")?;
    Ok(())
}
