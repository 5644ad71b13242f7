//! The kernel as oracle: the same random traffic through netd and through libvirt's rules.
//!
//! Two [`topology`]s are alike but for who translates: in one the kernel's connection tracking
//! with the nftables rules that libvirt's driver makes ([`peer`]), in the other netd
//! ([`subject`]). The harness plays every guest and every peer ([`cast`]) with packet sockets
//! ([`tap`]), so what goes in is the same to the bit. An [`scenario::Inventor`] thinks of
//! conversations, step by step and without addresses; a [`conversation::Conversation`] knows by
//! which address and port the other end saw its opener on each side, and addresses answers
//! accordingly. A [`session::Session`] sends a step of each conversation, assigns what comes in to
//! the step that caused it, brings it into a form in which the choice of a port does not show
//! ([`arrival`]), and compares. There is no model of what a NAT should do.
//!
//! Between packets both sides change ([`change`]): routes and rules, MTUs, neighbours, guests that
//! move or are replaced. A [`world::World`] holds where everybody is by then and which way packets
//! go; [`canary`] waits until both sides show it.
//!
//! What differs on purpose is listed in [`known`].

pub mod arrival;
pub mod canary;
pub mod cast;
pub mod change;
pub mod class;
pub mod compare;
pub mod conversation;
pub mod craft;
mod draw;
mod event;
mod fragment;
pub mod header;
pub mod known;
pub mod neighbour;
mod outcome;
pub mod peer;
mod ports;
pub mod probe;
pub mod random;
pub mod report;
pub mod scenario;
pub mod session;
mod sorting;
pub mod step;
pub mod stream;
pub mod subject;
pub mod tap;
pub mod topology;
pub mod world;

use std::time::Instant;

use anyhow::Result;

pub use class::{Class, Classes};
pub use report::Report;

use session::Session;
use topology::Topology;
use world::World;

pub use topology::Translator;

/// Packets after which both sides are built anew: connection tracking remembers for minutes, and
/// neither side's table shall fill up.
const SESSION: u64 = 200_000;

/// Sends at least `packets` packets into `subject` and into the kernel's NAT, and compares. Sessions after the first use the
/// following seeds, so that each can be repeated alone. `progress` is told what goes on, and what differed.
///
/// # Errors
/// Not root, a tool is missing, or a side cannot be built.
pub fn run(
    subject: Translator<'_>,
    seed: u64,
    packets: u64,
    classes: &Classes,
    mut progress: impl FnMut(&str),
) -> Result<Report> {
    let mut report = Report::default();
    let mut session_seed = seed;
    while report.sent < packets {
        let world = World::new(classes.contains(&Class::Ipv6));
        let changes = classes.contains(&Class::Changes);
        let mut topologies = [
            Topology::build(Translator::Kernel, &world, changes)?,
            Topology::build(subject, &world, changes)?,
        ];
        let told = report.details.len();
        let started = Instant::now();
        let wanted = SESSION.min(packets - report.sent);
        Session::new(&mut topologies, session_seed, classes, world).run(wanted, &mut report)?;
        report.took += started.elapsed();
        if !report.is_clean() {
            report.details.extend(topologies[1].drops());
        }
        for topology in topologies {
            topology.remove()?;
        }
        for detail in &report.details[told..] {
            progress(&format!("\n{detail}"));
        }
        let found: u64 = report.unexplained.values().sum();
        progress(&format!(
            "seed {session_seed}: {} of {packets} packets sent, {found} unexplained differences",
            report.sent
        ));
        session_seed = session_seed.wrapping_add(1);
    }
    Ok(report)
}
