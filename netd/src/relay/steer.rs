//! The program that gives the relay what dnsmasq sends to foreign addresses.

use std::os::fd::AsRawFd;

use anyhow::{Context as _, bail};
use aya::maps::SockMap;
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader};
use netd_common::relay::{TCP4, TCP6, UDP4, UDP6};

use super::sockets::{Pair, Place};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd-relay"));

/// Attach it to the namespace, for these sockets: IPv4's, then IPv6's. It is there for as long as what
/// is returned.
///
/// # Errors
/// The kernel refuses.
pub fn attach(place: &Place, sockets: &[Pair]) -> anyhow::Result<Ebpf> {
    let Place::Netns(netns) = place else {
        bail!("the host's own namespace needs no relay");
    };
    let mut object = EbpfLoader::new()
        // The kernel's types take longer to read than all the rest, and the program has none of them.
        .btf(None)
        .load(OBJECT)
        .context("cannot load the relay's program")?;
    let map = object.map_mut("relay_sockets").context("no map")?;
    let mut map = SockMap::try_from(map)?;
    for ((datagrams, streams), (udp, tcp)) in sockets.iter().zip([(UDP4, TCP4), (UDP6, TCP6)]) {
        hold(&mut map, udp, datagrams)?;
        hold(&mut map, tcp, streams)?;
    }
    let program = object.program_mut("relay").context("no program")?;
    let program: &mut SkLookup = program.try_into()?;
    program.load().context("cannot load the relay's program")?;
    program
        .attach(netns)
        .context("cannot attach the relay's program to the namespace")?;
    Ok(object)
}

fn hold(
    map: &mut SockMap<&mut aya::maps::MapData>,
    number: u32,
    socket: &impl AsRawFd,
) -> anyhow::Result<()> {
    map.set(number, socket, 0)
        .context("cannot hand a socket to the relay's program")
}
