//! How a change is awaited: on flows of each guest that nobody compares, both sides have to show it,
//! in the packets of running flows and in those that are too big for the way.
//!
//! Some go to addresses that nobody converses with, the others to each neighbour outside, whose MAC
//! address may be another one.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cast::{CANARY_MAC, CANARY_PEERS, CAST, FAR, FILTERED, Family, Mac, Place, WIRES, at};
use super::craft::{self, Spot};
use super::header::{Header, Shown, UDP, word};
use super::probe::{large_port, port};
use super::step::{Body, Twist};
use super::tap::frame;
use super::topology::{SIDES, Topology};
use super::world::{Line, Path, Station, World};

/// Time within which a change has come about on both sides, on a busy machine too: less than the 30 s after
/// which flows are looked at again for their own sake.
const LIMIT: Duration = Duration::from_secs(20);
/// Silence after which an attempt is over.
const SILENCE: Duration = Duration::from_millis(3);
/// Bytes of data of a packet that fits any way.
const SMALL: usize = 37;

/// A flow of a guest that goes on for the whole session.
#[derive(Clone, Copy, Debug)]
struct Canary {
    guest: usize,
    to: Goal,
    family: Family,
}

/// Where a canary goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// An address next to the routers.
    Near,
    /// One beyond them.
    Beyond,
    /// Somebody of the cast, next to the routers.
    Neighbour(usize),
}

/// What each of them received.
type Heard = Vec<(usize, Vec<u8>)>;

/// How long it took on each side until a change had come about.
pub type Took = [Duration; 2];

/// Waits until both sides show the state of the world. `Err` tells what one of them still does.
///
/// # Errors
/// A wire is gone.
pub fn wait(topologies: &[Topology; 2], world: &World) -> Result<Result<Took, String>> {
    let started = Instant::now();
    let all = canaries(world);
    let mut took = Took::default();
    for side in SIDES {
        let topology = &topologies[side as usize];
        let mut pending = all.clone();
        loop {
            let wrong = attempt(topology, world, &mut pending)?;
            took[side as usize] = started.elapsed();
            if pending.is_empty() {
                break;
            }
            if started.elapsed() > LIMIT {
                return Ok(Err(format!("{side:?} after {LIMIT:?}:\n{wrong}")));
            }
        }
    }
    Ok(Ok(took))
}

/// Has all of them pass once, so that none of the flows looks again for another reason than the change
/// that comes next.
///
/// # Errors
/// A wire is gone.
pub fn refresh(topologies: &[Topology; 2], world: &World) -> Result<()> {
    for topology in topologies {
        // What is wrong is told by who waits.
        attempt(topology, world, &mut canaries(world))?;
    }
    Ok(())
}

fn canaries(world: &World) -> Vec<Canary> {
    let guests = [at(Place::Nat), at(Place::Routed)].concat();
    let mut all = Vec::new();
    let neighbours = at(Place::Outside).into_iter().filter(|peer| *peer != FAR);
    let goals: Vec<Goal> = [Goal::Near, Goal::Beyond]
        .into_iter()
        .chain(neighbours.map(Goal::Neighbour))
        .collect();
    for guest in guests {
        for to in &goals {
            for family in world.families() {
                let (to, family) = (*to, *family);
                all.push(Canary { guest, to, family });
            }
        }
    }
    all
}

/// Sends each pending one there and back, and keeps those that did not come as they should. Tells
/// what came instead.
fn attempt(topology: &Topology, world: &World, pending: &mut Vec<Canary>) -> Result<String> {
    for canary in &*pending {
        let from = world.station(canary.guest, canary.peer().0);
        let mut packets = vec![canary.packet(canary.own(), canary.peer(), SMALL)];
        if canary.tries_mtu() {
            packets.push(canary.too_big(world));
        }
        for packet in packets {
            topology.taps[from.wire].send(&frame(&from, &packet))?;
        }
    }
    let heard = listen(topology, world)?;
    let mut wrong = String::new();
    let mut asked = Vec::new();
    for canary in std::mem::take(pending) {
        match canary.arrival(world, &heard) {
            None if canary.is_forbidden(world) => {}
            Some(spot) if canary.is_forbidden(world) => {
                let _ = writeln!(wrong, "  a rule forbids it, and it came from {spot:?}:");
                canary.tell(world, &heard, &mut wrong);
                pending.push(canary);
            }
            Some(spot) if !canary.tries_mtu() || canary.is_refused(world, &heard) => {
                asked.push((canary, spot))
            }
            _ => {
                canary.tell(world, &heard, &mut wrong);
                pending.push(canary);
            }
        }
    }
    for (canary, spot) in &asked {
        let from = canary.peer_station(world, spot.0);
        let packet = canary.packet(canary.peer(), *spot, SMALL);
        topology.taps[from.wire].send(&frame(&from, &packet))?;
    }
    let heard = listen(topology, world)?;
    for (canary, _) in asked {
        if !canary.is_answered(world, &heard) {
            canary.tell(world, &heard, &mut wrong);
            pending.push(canary);
        }
    }
    Ok(wrong)
}

/// Reads all wires until they are silent.
fn listen(topology: &Topology, world: &World) -> Result<Heard> {
    let mut heard = Heard::new();
    let mut last = Instant::now();
    while last.elapsed() < SILENCE {
        for wire in 0..WIRES {
            while let Some(frame) = topology.hear(wire, world)? {
                last = Instant::now();
                heard.push((wire, frame));
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(heard)
}

impl Canary {
    fn port(self) -> u16 {
        port(self.guest, self.family)
    }

    fn large_port(self) -> u16 {
        large_port(self.guest, self.family)
    }

    fn own(self) -> Spot {
        (CAST[self.guest].address(self.family), self.port())
    }

    fn peer(self) -> Spot {
        let (v4, v6) = match self.to {
            Goal::Near => CANARY_PEERS[0],
            Goal::Beyond => CANARY_PEERS[1],
            Goal::Neighbour(peer) => return (CAST[peer].address(self.family), self.port()),
        };
        let address: IpAddr = match self.family {
            Family::V4 => v4.into(),
            Family::V6 => v6.into(),
        };
        (address, self.port())
    }

    fn is_beyond(self) -> bool {
        self.to == Goal::Beyond
    }

    /// Do the host's own rules let it not pass?
    fn is_forbidden(self, world: &World) -> bool {
        world.rules && self.guest == FILTERED
    }

    /// To the cast an error of a conversation's may have told another one.
    fn tries_mtu(self) -> bool {
        !matches!(self.to, Goal::Neighbour(_))
    }

    /// MAC address of the next hop, by that uplink.
    fn next_hop(self, world: &World, line: Line) -> Mac {
        match self.to {
            Goal::Near => CANARY_MAC,
            Goal::Beyond => world.router_mac(line),
            Goal::Neighbour(peer) => world.mac(peer),
        }
    }

    /// Bytes of the headers of IP and UDP.
    fn headers(self) -> usize {
        match self.family {
            Family::V4 => 28,
            Family::V6 => 48,
        }
    }

    fn packet(self, from: Spot, to: Spot, length: usize) -> Vec<u8> {
        let body = Body::Udp {
            length,
            checksum: true,
        };
        let twist = Twist::default();
        craft::packets(&body, from, to, &twist, 0, None).remove(0)
    }

    /// A packet of a flow of its own, one byte too big for the way.
    fn too_big(self, world: &World) -> Vec<u8> {
        let at_its_port = |(address, _)| (address, self.large_port());
        let (from, to) = (at_its_port(self.own()), at_its_port(self.peer()));
        self.packet(from, to, self.mtu(world) + 1 - self.headers())
    }

    fn path(self, world: &World) -> Option<Path> {
        world.way_out(self.guest, self.is_beyond(), self.family)
    }

    fn mtu(self, world: &World) -> usize {
        world.path_mtu(self.guest, self.is_beyond())
    }

    fn peer_station(self, world: &World, to: IpAddr) -> Station {
        let line = if self.is_beyond() {
            world.line_back(to)
        } else {
            Line::First
        };
        Station {
            mac: self.next_hop(world, line),
            ..world.from_router(line)
        }
    }

    /// As whom the other end sees the guest, if the packet came as it should.
    fn arrival(self, world: &World, heard: &Heard) -> Option<Spot> {
        let path = self.path(world)?;
        let next = self.next_hop(world, path.line);
        heard.iter().find_map(|(wire, frame)| {
            let packet = frame.get(14..)?;
            let header = Header::read(packet)?;
            let is_it = header.protocol == UDP
                && (header.destination, word(packet, header.l4 + 2)?) == self.peer()
                && header.claimed == self.headers() + SMALL;
            let is_right = *wire == path.line.wire()
                && header.source == path.source
                && frame[..6] == next
                && frame[6..12] == path.line.mac();
            (is_it && is_right).then_some((header.source, word(packet, header.l4)?))
        })
    }

    /// Was the packet too big for the way, and the guest told how big one may be?
    fn is_refused(self, world: &World, heard: &Heard) -> bool {
        let wire = world.wire(self.guest);
        heard.iter().any(|(at, frame)| {
            let packet = frame.get(14..).unwrap_or_default();
            let Some((header, mtu)) = too_big(packet) else {
                return false;
            };
            let quoted = header
                .quote(packet)
                .and_then(|at| Some((at, Header::read(&packet[at..])?)));
            *at == wire
                && mtu == self.mtu(world)
                && quoted.is_some_and(|(at, quoted)| {
                    let port = word(packet, at + quoted.l4);
                    (quoted.source, port) == (self.own().0, Some(self.large_port()))
                        && quoted.destination == self.peer().0
                })
        })
    }

    fn is_answered(self, world: &World, heard: &Heard) -> bool {
        let station = world.station(self.guest, self.peer().0);
        heard.iter().any(|(wire, frame)| {
            let packet = frame.get(14..).unwrap_or_default();
            *wire == station.wire
                && frame[..6] == station.mac
                && frame[6..12] == station.gateway
                && Header::read(packet).is_some_and(|header| {
                    header.protocol == UDP
                        && header.source == self.peer().0
                        && (header.destination, word(packet, header.l4 + 2))
                            == (self.own().0, Some(self.port()))
                })
        })
    }

    /// What came instead.
    fn tell(self, world: &World, heard: &Heard, text: &mut String) {
        let name = CAST[self.guest].name;
        let (path, mtu) = (self.path(world), self.mtu(world));
        let (peer, own) = (self.peer().0, [self.port(), self.large_port()]);
        let _ = writeln!(text, "  {name} to {peer}, by {path:?}, MTU {mtu}; heard:");
        for (wire, frame) in heard {
            let packet = frame.get(14..).unwrap_or_default();
            let Some(header) = Header::read(packet) else {
                continue;
            };
            let at = header.quote(packet).unwrap_or_default();
            let inner = Header::read(&packet[at..]).unwrap_or(header);
            let ports = [0, 2].map(|more| word(packet, at + inner.l4 + more));
            if ports.iter().flatten().any(|port| own.contains(port)) {
                let _ = writeln!(
                    text,
                    "    wire {wire} to {:02x?}: {}",
                    &frame[..6],
                    Shown(packet)
                );
            }
        }
    }
}

/// The MTU that an ICMP error tells, with the error's header.
fn too_big(packet: &[u8]) -> Option<(Header, usize)> {
    let header = Header::read(packet)?;
    let at = match (header.family, header.icmp(packet)?) {
        (Family::V4, (3, 4)) | (Family::V6, (2, 0)) => header.l4 + 6,
        _ => return None,
    };
    let mtu = word(packet, at)?;
    Some((header, usize::from(mtu)))
}

/// The side that is waited for, in an error of [`wait`], and what was done.
#[must_use]
pub fn kind(change: &str, wrong: &str) -> String {
    let side = wrong.split(' ').next().unwrap_or_default();
    format!("{change}: {side} does not follow")
}
