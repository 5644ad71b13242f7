//! Floods and full tables: connections that are there do not break, and new ones come back.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Flood, Frame, Guest, Lab, Network, SOON, TcpPool, Wire, flood};

/// Where the connections go.
const PORT: u16 = 7000;
/// Where new ones go.
const NEW: u16 = 7001;
const CONNECTIONS: usize = 1000;
const SYN: u8 = 2;
/// Flows that a table holds where the agent can be told, so that a flood fills it at once.
const MAX_FLOWS: &str = "8192";
/// A flood shorter than this is none.
const FRAMES: u64 = 50_000;

/// Who floods, and with what.
struct Flooder {
    wire: Wire,
    from: [u8; 6],
    to: [u8; 6],
    source: Option<Ipv4Addr>,
}

impl Flooder {
    /// A guest that floods the outside.
    fn guest(lab: &Lab, guest: &Guest, address: Ipv4Addr) -> Result<Self> {
        Ok(Self {
            wire: Wire::new(guest.netns(), "eth0")?,
            from: guest.netns().mac("eth0")?,
            to: lab.hv.mac("virbr1")?,
            source: Some(address),
        })
    }

    /// The outside, which floods the host's address.
    fn outside(lab: &Lab) -> Result<Self> {
        Ok(Self {
            wire: Wire::new(&lab.wan, "wan0")?,
            from: lab.wan.mac("wan0")?,
            to: lab.hv.mac("uplink")?,
            source: None,
        })
    }

    fn start(self, make: fn((Ipv4Addr, u16), (Ipv4Addr, u16)) -> Frame) -> Flood {
        let Self {
            wire,
            from,
            to,
            source,
        } = self;
        Flood::start(wire, move |random| {
            let (own, peer) = (flood::port(random), flood::port(random.rotate_left(16)));
            let stranger = flood::stranger(random);
            let frame = match source {
                Some(guest) => make((guest, own), (stranger, peer)),
                None => make((stranger, own), (HOST, peer)),
            };
            frame.between(from, to)
        })
    }
}

fn syn(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Frame {
    Frame::tcp(source, destination, SYN, 5)
}

fn datagram(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Frame {
    Frame::udp(source, destination, b"flood").with_udp_checksum()
}

/// A thousand connections of a guest talk while `act` floods; it returns the number of frames.
fn while_connected(act: impl FnOnce(&mut Lab, &Guest) -> Result<u64>) {
    check(|lab| {
        if lab.agent.knows_flag("--max-flows")? {
            lab.agent.set_flags(&["--max-flows", MAX_FLOWS]);
        } else {
            println!("the agent cannot be told how many flows it may have: its own limit holds");
        }
        let guest = lab.nat_guest()?;
        let evil = lab.member(2, &Network::default())?;
        evil.ping(&OUTSIDE.to_string())?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, NEW))?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, NEW))?;
        let pool = TcpPool::start(guest.netns(), &lab.wan, at(OUTSIDE, PORT), CONNECTIONS)?;
        netd_tests::eventually(SOON, || {
            let all = 2 * CONNECTIONS as u64;
            ensure!(pool.exchanges() >= all, "the connections do not talk");
            Ok(())
        })?;
        let before = pool.exchanges();
        let frames = act(lab, &evil)?;
        let during = pool.exchanges() - before;
        let end = Instant::now();
        let outcome = pool.finish()?;
        println!(
            "{frames} frames, {during} answers meanwhile, longest wait {:?}, all proven after {:?}",
            outcome.longest_wait,
            end.elapsed()
        );
        ensure!(frames > FRAMES, "{frames} frames are no flood");
        outcome.ensure_whole()?;
        ensure!(
            during >= CONNECTIONS as u64,
            "only {during} answers meanwhile"
        );
        works_again(&guest)?;
        works_again(&evil).context("the one that flooded")?;
        println!("new ones {:?} after the flood", end.elapsed());
        Ok(())
    });
}

/// New connections of a guest work within some seconds.
fn works_again(guest: &Guest) -> Result<()> {
    netd_tests::eventually(SOON, || {
        let udp = traffic::ask_udp(guest.netns(), at(OUTSIDE, NEW))?;
        ensure!(matches!(udp, Verdict::Answered(_)), "UDP: {udp:?}");
        let start = Instant::now();
        traffic::transfer(guest.netns(), at(OUTSIDE, NEW), 10_000)?;
        ensure!(start.elapsed() < Duration::from_secs(1), "TCP is slow");
        Ok(())
    })
    .with_context(|| format!("new connections of {} after the flood", guest.hostname))
}

const LENGTH: Duration = Duration::from_secs(3);

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p01_connections_survive_a_syn_flood_of_a_guest() {
    while_connected(|lab, evil| {
        let address = Network::default().address(12);
        let flood = Flooder::guest(lab, evil, address)?.start(syn);
        std::thread::sleep(LENGTH);
        flood.reach(FRAMES + 1)?;
        flood.finish()
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p01_connections_survive_a_udp_flood_of_a_guest() {
    while_connected(|lab, evil| {
        let address = Network::default().address(12);
        let flood = Flooder::guest(lab, evil, address)?.start(datagram);
        std::thread::sleep(LENGTH);
        flood.reach(FRAMES + 1)?;
        flood.finish()
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p01_connections_survive_floods_from_outside() {
    while_connected(|lab, _| {
        let mut frames = 0;
        for make in [syn, datagram] {
            let flood = Flooder::outside(lab)?.start(make);
            std::thread::sleep(LENGTH / 2);
            flood.reach(FRAMES / 2 + 1)?;
            frames += flood.finish()?;
        }
        Ok(frames)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p49_connections_survive_a_flood_while_the_agent_is_killed() {
    while_connected(|lab, evil| {
        let address = Network::default().address(12);
        let flood = Flooder::guest(lab, evil, address)?.start(syn);
        std::thread::sleep(LENGTH / 3);
        lab.agent.kill()?;
        std::thread::sleep(LENGTH / 3);
        lab.agent.start().context("in the middle of a flood")?;
        std::thread::sleep(LENGTH / 3);
        flood.reach(FRAMES + 1)?;
        flood.finish()
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p49_the_table_empties_with_no_agent() {
    while_connected(|lab, evil| {
        let address = Network::default().address(12);
        lab.agent.kill()?;
        let flood = Flooder::guest(lab, evil, address)?.start(syn);
        std::thread::sleep(LENGTH);
        flood.reach(FRAMES + 1)?;
        let frames = flood.finish()?;
        works_again(evil).context("while no agent runs")?;
        lab.agent.start()?;
        Ok(frames)
    });
}
