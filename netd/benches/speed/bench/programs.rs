//! The benchmark's eBPF programs: the generator, the counters, the limits.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::XdpMode;
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp,
};
use aya::{Ebpf, Pod};
use netd_tests::Netns;

use super::cpu;

#[path = "../../../../netd-ebpf/src/bench/layout.rs"]
mod layout;

pub use layout::PORTS;
use layout::{Generator, HEADER_WORDS, Way};

// SAFETY: words without padding, for any value of which there is a meaning.
unsafe impl Pod for Generator {}
// SAFETY: as above.
unsafe impl Pod for Way {}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd-bench"));

/// Bytes of a frame: with the checksum of the wire the least that Ethernet has.
const FRAME: usize = 60;
/// Frames that the kernel makes at once.
const BATCH: u32 = 64;
/// Far from one another, so that a flow and the next one share nothing: 2^32 divided by the golden
/// ratio, and odd.
const SCATTER: u32 = 0x9e37_79b1;
/// IPv4's number of UDP.
const UDP: u8 = 17;

/// A MAC address.
pub type Mac = [u8; 6];

/// An address and a port, and which of both the flows go through.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Address, or the first one.
    pub address: Ipv4Addr,
    /// Port, or nothing where that is a flow's own.
    pub port: Option<u16>,
}

/// Packets of one direction: one of the ends has the address that changes, one has the port.
#[derive(Clone, Copy, Debug)]
pub struct Packets {
    /// Source and destination MAC address.
    pub macs: [Mac; 2],
    /// Where they come from.
    pub source: End,
    /// Where they go.
    pub destination: End,
    /// Does the source's address change with the flow? Else the destination's does.
    pub from_outside: bool,
}

/// What became of packets.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many were sent.
    pub sent: u64,
    /// How many were counted at the other end.
    pub delivered: u64,
    /// Time that the processor worked on them.
    pub busy: Duration,
}

/// The generator, and the counters where its packets end.
pub struct Traffic {
    ebpf: Ebpf,
    generator: Array<MapData, Generator>,
    counted: PerCpuArray<MapData, u64>,
}

impl Traffic {
    /// Loads both.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("loading the benchmark's programs")?;
        for name in ["generate", "count"] {
            xdp(&mut ebpf, name)?
                .load()
                .with_context(|| format!("loading `{name}`"))?;
        }
        Ok(Self {
            generator: ebpf
                .take_map("generator")
                .context("generator")?
                .try_into()?,
            counted: ebpf.take_map("counted").context("counted")?.try_into()?,
            ebpf,
        })
    }

    /// Counts and drops the generator's packets at a device, for as long as this lives.
    ///
    /// # Errors
    /// The device has no native XDP, or another program.
    pub fn count_at(&mut self, netns: &Netns, device: &str) -> Result<()> {
        let ifindex = netns.ifindex(device)?.try_into()?;
        let program = xdp(&mut self.ebpf, "count")?;
        netns
            .enter(|| program.attach_to_if_index(ifindex, XdpMode::Driver))?
            .with_context(|| format!("counting at {device}"))?;
        Ok(())
    }

    /// Sends `number` packets of `flows` flows (a power of two) out of a device, and counts what
    /// arrives. In order each flow has its turn; otherwise they come scattered.
    ///
    /// # Errors
    /// The kernel has no live frames (Linux 5.18).
    pub fn send(
        &mut self,
        (netns, device): (&Netns, &str),
        packets: &Packets,
        flows: u32,
        number: u32,
        in_order: bool,
    ) -> Result<Run> {
        let mut generator = packets.generator();
        generator.mask = flows - 1;
        generator.step = if in_order { 1 } else { SCATTER };
        self.generator.set(0, generator, 0)?;
        let device = netns.ifindex(device)?.try_into()?;
        let before = self.counted()?;
        let program = xdp(&mut self.ebpf, "generate")?;
        let busy = netns
            .enter(|| cpu::spent(|| inject(program, device, number)))?
            .context("sending packets")?;
        // The last ones may be in a queue.
        std::thread::sleep(Duration::from_millis(5));
        Ok(Run {
            sent: number.into(),
            delivered: self.counted()? - before,
            busy,
        })
    }

    fn counted(&self) -> Result<u64> {
        Ok(self.counted.get(&0, 0)?.iter().sum())
    }
}

/// Sends frames by a device of the calling thread's namespace. Returns the kernel's own measure of
/// the time, without that of preparations and of others whose turn it was between two batches.
fn inject(program: &Xdp, device: u32, number: u32) -> Result<Duration> {
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, FRAME as u32, 0, device, 0, 0].map(u32::to_ne_bytes);
    let result = program.test_run(TestRunOptions {
        data_in: Some(&[0; FRAME]),
        ctx_in: Some(context.as_flattened()),
        repeat: number,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    })?;
    Ok(result.duration * number)
}

impl Packets {
    /// The frame without what changes, and where that is.
    ///
    /// UDP goes without a checksum: cards verify and complete those, so no peer is to do it here.
    fn generator(&self) -> Generator {
        let mut frame = [0; 4 * HEADER_WORDS];
        frame[..6].copy_from_slice(&self.macs[1]);
        frame[6..12].copy_from_slice(&self.macs[0]);
        frame[12..14].copy_from_slice(&[8, 0]); // IPv4
        let length = |offset: usize| ((FRAME - offset) as u16).to_be_bytes();
        let ip = &mut frame[14..34];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length(14));
        ip[6] = 0x40; // do not fragment
        ip[8] = 64;
        ip[9] = UDP;
        ip[12..16].copy_from_slice(&self.source.address.octets());
        ip[16..20].copy_from_slice(&self.destination.address.octets());
        let changing = if self.from_outside { 14 } else { 18 };
        let address = u16::from_be_bytes([ip[changing], ip[changing + 1]]);
        ip[changing..changing + 2].fill(0);
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        let sum = ip.chunks_exact(2).map(word).sum();
        let port = |end: End| end.port.unwrap_or_default().to_be_bytes();
        frame[34..36].copy_from_slice(&port(self.source));
        frame[36..38].copy_from_slice(&port(self.destination));
        frame[38..40].copy_from_slice(&length(34));
        let mut words = [0; HEADER_WORDS];
        for (word, bytes) in words.iter_mut().zip(frame.as_chunks().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Generator {
            frame: words,
            sum,
            address: address.into(),
            source_address: self.from_outside.into(),
            source_port: self.source.port.is_none().into(),
            mask: 0,
            step: 1,
            next: 0,
        }
    }
}

/// Where frames that come by a device are redirected to.
pub struct Redirect<'a> {
    /// The device they come by.
    pub from: &'a str,
    /// The device they go by.
    pub to: &'a str,
    /// Their new source and destination MAC address.
    pub macs: [Mac; 2],
}

/// Redirects by XDP or at TC, for as long as what it returns lives.
///
/// # Errors
/// Not root, or the kernel refuses.
pub fn redirect(netns: &Netns, by_tc: bool, redirects: &[Redirect]) -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(OBJECT).context("loading the benchmark's programs")?;
    let mut ways: Array<MapData, Way> = ebpf.take_map("ways").context("ways")?.try_into()?;
    for redirect in redirects {
        let [source, destination] = redirect.macs;
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&destination);
        macs[6..].copy_from_slice(&source);
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(macs.as_chunks().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        let way = Way {
            macs: words,
            device: netns.ifindex(redirect.to)?.try_into()?,
        };
        let from = netns.ifindex(redirect.from)?.try_into()?;
        ways.set(from, way, 0)
            .with_context(|| format!("a way for {}", redirect.from))?;
    }
    if by_tc {
        let program: &mut SchedClassifier = ebpf
            .program_mut("redirect_tc")
            .context("no program redirect_tc")?
            .try_into()?;
        program.load().context("loading `redirect_tc`")?;
        for Redirect { from, .. } in redirects {
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            netns
                .enter(|| program.attach_with_options(from, TcAttachType::Ingress, first))?
                .with_context(|| format!("redirecting from {from}"))?;
        }
    } else {
        let program = xdp(&mut ebpf, "redirect")?;
        program.load().context("loading `redirect`")?;
        for Redirect { from, .. } in redirects {
            netns
                .enter(|| program.attach(from, XdpMode::Driver))?
                .with_context(|| format!("redirecting from {from}"))?;
        }
    }
    Ok(ebpf)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
