//! The benchmark: peers side by side in namespaces, measured in turn, round by round.

mod agent;
mod arguments;
mod cpu;
mod dialogue;
mod kind;
mod others;
mod packets;
mod peer;
mod plot;
mod programs;
mod report;
mod rules;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netd_tests::Netns;

pub use arguments::perform;

use kind::{Cable, Kind};
use peer::Peer;
use programs::Traffic;
use report::Report;

/// How much is measured.
#[derive(Clone, Debug)]
struct Effort {
    /// How often each peer has its turn.
    pub rounds: u32,
    /// Packets of one measurement, or fewer where they take long.
    pub packets: u32,
    /// Numbers of flows, powers of two.
    pub flows: Vec<u32>,
    /// Numbers of networks beside the measured one.
    pub networks: Vec<u32>,
    /// Numbers of forwards.
    pub forwards: Vec<u32>,
    /// Seconds of one TCP stream.
    pub seconds: u32,
    /// Connections of one measurement. Those of all rounds wait for a minute to be forgotten, and must
    /// find ports of their own: of 28 000, the kernel takes every second one first.
    pub connections: u32,
    /// Questions of one measurement of latency.
    pub questions: u32,
    /// Networks of an agent that is started again.
    pub restarted: u32,
}

impl Effort {
    /// About five minutes.
    pub fn short() -> Self {
        Self {
            rounds: 3,
            packets: 200_000,
            flows: vec![1, 1 << 12, 1 << 16, 1 << 20],
            networks: vec![1, 100],
            forwards: vec![1, 10_000],
            seconds: 1,
            connections: 3000,
            questions: 3000,
            restarted: 40,
        }
    }

    /// About 25 minutes.
    pub fn full() -> Self {
        Self {
            rounds: 7,
            packets: 500_000,
            networks: vec![1, 100, 1000],
            connections: 1500,
            questions: 20_000,
            restarted: 1000,
            ..Self::short()
        }
    }

    /// As little as shows that everything works.
    pub fn smallest() -> Self {
        Self {
            rounds: 1,
            packets: 2000,
            flows: vec![1],
            connections: 100,
            questions: 100,
            ..Self::short()
        }
    }
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    /// TCP streams.
    Streams,
    /// Short TCP connections.
    Connections,
    /// Time from question to answer.
    Latency,
    /// Small packets over the number of flows.
    Flows,
    /// Packets to published ports over the number of forwards.
    Forwards,
    /// Small packets over the number of networks.
    Networks,
    /// The agent's own times and memory.
    Agent,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Streams,
        Self::Connections,
        Self::Latency,
        Self::Flows,
        Self::Forwards,
        Self::Networks,
        Self::Agent,
    ];
}

/// What to measure.
#[derive(Clone, Debug)]
struct Choice {
    /// How much of it.
    pub effort: Effort,
    /// Which parts.
    pub phases: Vec<Phase>,
    /// Set from outside: stop, and clean up.
    pub interrupted: Arc<AtomicBool>,
}

impl Choice {
    fn wants(&self, phase: Phase) -> bool {
        self.phases.contains(&phase)
    }

    /// Calls `measure` with each peer, round by round.
    fn rounds(
        &self,
        peers: &mut [Peer],
        mut measure: impl FnMut(&mut Peer) -> Result<()>,
    ) -> Result<()> {
        for round in 1..=self.effort.rounds {
            for peer in &mut *peers {
                self.go_on()?;
                measure(peer).with_context(|| format!("{}, round {round}", peer.name()))?;
            }
        }
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// Builds the peers, measures, and removes them, also when something fails.
///
/// # Errors
/// Not root, a tool is missing, or a peer does not forward. A peer that this kernel cannot have is
/// no error but a line of the report.
fn run(choice: &Choice) -> Result<Report> {
    Netns::sweep()?;
    let mut report = Report::new(choice)?;
    let of_peers = |phase: &Phase| *phase != Phase::Agent;
    if choice.phases.iter().any(of_peers) {
        compare(choice, &mut report)?;
    }
    if choice.wants(Phase::Agent) {
        progress("the agent itself");
        agent::measure(choice, &mut report)?;
    }
    Ok(report)
}

fn compare(choice: &Choice, report: &mut Report) -> Result<()> {
    // Those at taps first: after the others' largest cases the kernel still gives memory back.
    let dialogues = [Phase::Streams, Phase::Connections, Phase::Latency];
    if dialogues.into_iter().any(|phase| choice.wants(phase)) {
        let mut peers = build(choice, Cable::Tap, report)?;
        converse(choice, Cable::Tap, &mut peers, report)?;
    }
    let mut peers = build(choice, Cable::Veth, report)?;
    converse(choice, Cable::Veth, &mut peers, report)?;
    let by_packets = [Phase::Flows, Phase::Forwards, Phase::Networks];
    if by_packets.into_iter().any(|phase| choice.wants(phase)) {
        let mut traffic = Traffic::load()?;
        for peer in &mut peers {
            peer.prepare_for_frames(&mut traffic)?;
        }
        // Every device has changed: let the agent look at them before it is measured.
        std::thread::sleep(Duration::from_secs(1));
        if choice.wants(Phase::Flows) {
            packets::over_flows(choice, &mut peers, &mut traffic, report)?;
        }
        if choice.wants(Phase::Forwards) {
            packets::over_forwards(choice, &mut peers, &mut traffic, report)?;
        }
        if choice.wants(Phase::Networks) {
            packets::over_networks(choice, &mut peers, &mut traffic, report)?;
        }
    }
    Ok(())
}
/// Builds the peers that a cable is for: where it takes no frames of the generator's, those that
/// carry TCP.
fn build(choice: &Choice, cable: Cable, report: &mut Report) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for kind in Kind::ALL {
        if cable == Cable::Tap && !kind.carries_tcp() {
            continue;
        }
        choice.go_on()?;
        progress(&format!("building {}", kind.name()));
        match Peer::build(kind, cable, peer::ROOM) {
            Ok(peer) => peers.push(peer),
            Err(error) if kind == Kind::Flowtable => {
                let said = format!("{error:#}");
                let line = said.lines().find_map(|line| line.split_once("Error: "));
                let why = format!(
                    "nft: {} (the kernel needs NF_FLOW_TABLE and NFT_FLOW_OFFLOAD)",
                    line.map_or(said.as_str(), |(_, line)| line.trim())
                );
                report.not_measured(kind.name(), "anything", &why);
            }
            Err(error) => return Err(error.context(format!("building the peer {}", kind.name()))),
        }
    }
    Ok(peers)
}

/// What two ends say to each other, by whichever cable.
fn converse(choice: &Choice, cable: Cable, peers: &mut [Peer], report: &mut Report) -> Result<()> {
    if choice.wants(Phase::Streams) {
        streams::measure(choice, cable, peers, report)?;
    }
    if choice.wants(Phase::Connections) {
        dialogue::connections(choice, cable, peers, report)?;
    }
    if choice.wants(Phase::Latency) {
        dialogue::latency(choice, cable, peers, report)?;
    }
    Ok(())
}

/// Tells on stderr where the benchmark is.
fn progress(text: &str) {
    eprintln!("bench: {text}");
}
