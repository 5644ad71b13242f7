//! Small packets, as many as one processor gets through.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::kind::Kind;
use super::peer::{GUEST, Peer};
use super::programs::{End, PORTS, Packets, Run, Traffic};
use super::report::{Case, Metric, Report};
use super::rules::Published;
use super::{Choice, progress};

/// The first outside host of flows that stay.
const OUTSIDE_HOSTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The port that outside hosts have.
const OUTSIDE_PORT: u16 = 9;
/// Flows of cases that are not about their number.
const USUAL: u32 = 1 << 12;
/// Flows that are opened to see how long that takes, all with the same host.
const OPENED: u32 = PORTS / 2;
/// Packets before those that count.
const WARM_UP: u32 = 20_000;

/// Over the number of flows.
///
/// # Errors
/// The generator fails.
pub fn over_flows(
    choice: &Choice,
    peers: &mut [Peer],
    traffic: &mut Traffic,
    report: &mut Report,
) -> Result<()> {
    for flows in choice.effort.flows.clone() {
        progress(&format!("small packets of {flows} flows"));
        if let Some(most) = tracked_at_most().filter(|&most| most < flows) {
            let why = format!(
                "the kernel tracks {most} connections at most (net.netfilter.nf_conntrack_max, \
                 which is the whole machine's)"
            );
            let what = format!("{flows} flows");
            for peer in peers.iter().filter(|peer| is_tracked(peer)) {
                report.not_measured(peer.name(), &what, &why);
            }
        }
        for peer in &mut *peers {
            peer.make_room(flows, traffic)?;
        }
        choice.rounds(peers, |peer| {
            if is_tracked(peer) && tracked_at_most().is_some_and(|most| most < flows) {
                return Ok(());
            }
            established(choice, peer, traffic, flows, |up, run| {
                let case = if up { Case::FlowsUp } else { Case::FlowsDown };
                report.packets(case, flows.into(), peer.name(), run);
            })
        })?;
    }
    for peer in peers {
        peer.make_room(1, traffic)?;
    }
    Ok(())
}

/// Over the number of published ports.
///
/// # Errors
/// The generator fails, or the ports cannot be published.
pub fn over_forwards(
    choice: &Choice,
    peers: &mut [Peer],
    traffic: &mut Traffic,
    report: &mut Report,
) -> Result<()> {
    let mut fresh = Fresh(Ipv4Addr::new(198, 19, 0, 0));
    for number in choice.effort.forwards.clone() {
        progress(&format!("packets to {number} published ports"));
        let ports = u16::try_from(number)?;
        for peer in peers.iter_mut().filter(|peer| peer.translates()) {
            peer.publish(ports)?;
        }
        choice.rounds(peers, |peer| {
            if peer.kind != Kind::Empty && !peer.translates() {
                return Ok(());
            }
            let (name, at) = (peer.name(), u64::from(number));
            let opened = to_published(peer, fresh.next())?;
            let run = traffic.send(outside(peer), &opened, OPENED, OPENED, true)?;
            report.packets(Case::ForwardsOpened, at, name, run);

            let there = to_published(peer, OUTSIDE_HOSTS)?;
            let back = Packets {
                macs: [peer.guest.netns().mac("eth0")?, peer.gateway()?],
                source: End {
                    address: GUEST,
                    port: Some(Published::new(0).guest_port),
                },
                destination: there.source,
                from_outside: false,
            };
            traffic.send(outside(peer), &there, USUAL, USUAL, true)?;
            traffic.send(inside(peer), &back, USUAL, USUAL, true)?;
            let run = scattered(choice, traffic, outside(peer), &there, USUAL)?;
            report.packets(Case::Forwards, at, name, run);
            Ok(())
        })?;
    }
    Ok(())
}

/// Over the number of networks.
///
/// # Errors
/// The generator fails, or the networks cannot be made.
pub fn over_networks(
    choice: &Choice,
    peers: &mut [Peer],
    traffic: &mut Traffic,
    report: &mut Report,
) -> Result<()> {
    // What was published is another case's.
    for peer in peers.iter_mut().filter(|peer| peer.translates()) {
        peer.publish(0)?;
    }
    let mut fresh = Fresh(Ipv4Addr::new(198, 18, 128, 0));
    for number in choice.effort.networks.clone() {
        progress(&format!("small packets beside {number} networks"));
        for peer in &mut *peers {
            choice.go_on()?;
            peer.add_networks(number - 1)?;
        }
        choice.rounds(peers, |peer| {
            let (name, at) = (peer.name(), u64::from(number));
            let opened = up(peer, fresh.next())?;
            let run = traffic.send(inside(peer), &opened, OPENED, OPENED, true)?;
            report.packets(Case::NetworksOpened, at, name, run);
            established(choice, peer, traffic, USUAL, |up, run| {
                let case = if up {
                    Case::NetworksUp
                } else {
                    Case::NetworksDown
                };
                report.packets(case, at, name, run);
            })
        })?;
        memory(peers, traffic, number, report)?;
    }
    Ok(())
}

/// What the agent takes beside so many networks, with about a hundred thousand flows.
fn memory(
    peers: &mut [Peer],
    traffic: &mut Traffic,
    networks: u32,
    report: &mut Report,
) -> Result<()> {
    const FLOWS: u32 = 1 << 17;
    for peer in peers.iter().filter(|peer| peer.kind == Kind::Netd) {
        let opened = up(peer, OUTSIDE_HOSTS)?;
        traffic.send(inside(peer), &opened, FLOWS, FLOWS, true)?;
        let resident = super::agent::resident(&peer.lab)?;
        report.add(
            Case::Memory,
            networks.into(),
            peer.name(),
            Metric::Mebibytes,
            resident,
        );
    }
    Ok(())
}

/// Packets of so many flows that both sides have used, guest to outside (`true`) and back.
fn established(
    choice: &Choice,
    peer: &Peer,
    traffic: &mut Traffic,
    flows: u32,
    mut tell: impl FnMut(bool, Run),
) -> Result<()> {
    let there = up(peer, OUTSIDE_HOSTS)?;
    let back = down(peer)?;
    if peer.translates() {
        // Each flow has a packet there, one back, and one that answers that: no timeout and no
        // rule takes it for a new one then.
        for (from, packets) in [
            (inside(peer), &there),
            (outside(peer), &back),
            (inside(peer), &there),
        ] {
            traffic.send(from, packets, flows, flows, true)?;
        }
    }
    for (is_up, from, packets) in [(true, inside(peer), &there), (false, outside(peer), &back)] {
        tell(is_up, scattered(choice, traffic, from, packets, flows)?);
    }
    Ok(())
}

/// Sends as many packets as are wished for, or as take a second, after some that do not count.
fn scattered(
    choice: &Choice,
    traffic: &mut Traffic,
    from: (&netd_tests::Netns, &str),
    packets: &Packets,
    flows: u32,
) -> Result<Run> {
    let warm_up = traffic.send(from, packets, flows, WARM_UP, false)?;
    let in_a_second = (f64::from(WARM_UP) / warm_up.busy.as_secs_f64()) as u32;
    let number = choice.effort.packets.min(in_a_second);
    traffic.send(from, packets, flows, number, false)
}

fn inside(peer: &Peer) -> (&netd_tests::Netns, &'static str) {
    (peer.guest.netns(), "eth0")
}

fn outside(peer: &Peer) -> (&netd_tests::Netns, &'static str) {
    (&peer.lab.wan, "wan0")
}

fn up(peer: &Peer, first: Ipv4Addr) -> Result<Packets> {
    Ok(Packets {
        macs: [peer.guest.netns().mac("eth0")?, peer.gateway()?],
        source: End {
            address: GUEST,
            port: None,
        },
        destination: End {
            address: first,
            port: Some(OUTSIDE_PORT),
        },
        from_outside: false,
    })
}

/// A guest keeps its port where nobody else has it, so the answers are known.
fn down(peer: &Peer) -> Result<Packets> {
    Ok(Packets {
        macs: [peer.lab.wan.mac("wan0")?, peer.lab.hv.mac("uplink")?],
        source: End {
            address: OUTSIDE_HOSTS,
            port: Some(OUTSIDE_PORT),
        },
        destination: End {
            address: peer.address(),
            port: None,
        },
        from_outside: true,
    })
}

fn to_published(peer: &Peer, first: Ipv4Addr) -> Result<Packets> {
    Ok(Packets {
        source: End {
            address: first,
            port: None,
        },
        destination: End {
            address: peer.address(),
            port: Some(Published::FIRST),
        },
        ..down(peer)?
    })
}

/// Outside hosts that nobody has spoken with.
struct Fresh(Ipv4Addr);

impl Fresh {
    fn next(&mut self) -> Ipv4Addr {
        self.0 = Ipv4Addr::from_bits(self.0.to_bits() + 1);
        self.0
    }
}

/// Does netfilter track its connections?
fn is_tracked(peer: &Peer) -> bool {
    matches!(peer.kind, Kind::Nft | Kind::Flowtable)
}

/// Connections that netfilter tracks at most, where it says so.
fn tracked_at_most() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").ok()?;
    text.trim().parse().ok()
}
