//! `netd relay`: what a network's dnsmasq asks of the host's name servers, and the host of dnsmasq.
//!
//! dnsmasq is in a network namespace of its own, in which every foreign address is local. The relay
//! takes what is sent to those (`steer`) and sends it on from the host's namespace: so a question
//! takes the host's routes, rules and VPNs, and reaches servers at the host's loopback addresses, as
//! if dnsmasq were there. Nothing of a message is looked at but its number. What the host's own
//! programs ask a network's gateway comes the other way.
//!
//! It is a process of its own because names are to be resolved while no agent runs, as dnsmasq does.

mod datagrams;
mod sockets;
mod steer;
mod streams;

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::netns::Netns;
use crate::store::file;
use sockets::{Place, Side};

/// What the relay is told.
#[derive(Clone, Debug, clap::Args)]
pub struct RelayArgs {
    /// The network namespace of the network's services
    #[arg(long)]
    pub netns: PathBuf,
    /// Where to write the process number and the port for the host's own questions
    #[arg(long)]
    pub pid_file: PathBuf,
    /// Addresses that dnsmasq answers at
    #[arg(long = "gateway")]
    pub gateways: Vec<IpAddr>,
}

/// The port of name servers.
const DNS: u16 = 53;

/// Descriptors that it may need: one for each question under way, two for each connection.
const FILES: u64 = 4096;

/// Run until somebody ends the process.
///
/// # Errors
/// It cannot start: then nothing of it is left.
pub fn main(args: &RelayArgs) -> anyhow::Result<()> {
    detach()?;
    // Until it has a pid file, by which it is found, nobody else could end it.
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot bind its life to the agent's")?;
    anyhow::ensure!(is_waited_for(), "the agent that started it is gone");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(run(args))
}

/// The agent, its terminal and its signals are none of the relay's business.
fn detach() -> anyhow::Result<()> {
    rustix::process::setsid().context("cannot leave the agent's session")?;
    std::env::set_current_dir("/").context("cannot enter /")?;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(limit.maximum.map_or(FILES, |most| most.min(FILES))),
        maximum: limit.maximum,
    };
    // With fewer it serves fewer at a time.
    let _ = setrlimit(Resource::Nofile, wanted);
    Ok(())
}

async fn run(args: &RelayArgs) -> anyhow::Result<()> {
    let netns = Netns::open(&args.netns)
        .and_then(|netns| netns.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .with_context(|| format!("cannot open namespace {}", args.netns.display()))?;
    let services = Arc::new(Place::Netns(netns));
    let host = Arc::new(Place::Here);

    let taken = sockets::for_foreign(&services).context("cannot open sockets for dnsmasq")?;
    // Kept: with it the program goes.
    let _steering = steer::attach(&services, &taken)?;
    for (datagrams, streams) in taken {
        let side = Side::new(Arc::clone(&services), Arc::clone(&host));
        tokio::spawn(datagrams::relay(datagrams, side.clone()));
        tokio::spawn(streams::relay(streams, side));
    }

    let port = answer_host(args, &host, &services).context("cannot open sockets for the host")?;
    write_pid_file(&args.pid_file, port)
        .with_context(|| format!("cannot write {}", args.pid_file.display()))?;
    set_parent_process_death_signal(None).context("cannot outlive the agent")?;
    tell_ready();
    // The process ends by a signal, which it does not handle.
    std::future::pending::<()>().await;
    Ok(())
}

/// Answer the host's own questions at a port of its loopback addresses, whatever others have: the
/// programs at its sockets lead them there. Returns the port.
fn answer_host(args: &RelayArgs, host: &Arc<Place>, services: &Arc<Place>) -> io::Result<u16> {
    let first = |v4: bool| args.gateways.iter().find(|gateway| gateway.is_ipv4() == v4);
    let pairs: Vec<(IpAddr, IpAddr)> = [
        (IpAddr::V4(Ipv4Addr::LOCALHOST), first(true)),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), first(false)),
    ]
    .into_iter()
    .filter_map(|(own, gateway)| Some((own, *gateway?)))
    .collect();
    let own: Vec<IpAddr> = pairs.iter().map(|(own, _)| *own).collect();
    let (port, listening) = sockets::at_one_port(&own)?;
    for ((_, gateway), (datagrams, streams)) in pairs.into_iter().zip(listening) {
        let to = SocketAddr::new(gateway, DNS);
        let side = Side::to(Arc::clone(host), Arc::clone(services), to);
        tokio::spawn(datagrams::relay(datagrams, side.clone()));
        tokio::spawn(streams::relay(streams, side));
    }
    Ok(port)
}

fn write_pid_file(path: &Path, port: u16) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = file::unfinished().tempfile_in(dir)?;
    writeln!(file, "{}\n{port}", std::process::id())?;
    file.persist(path)?;
    Ok(())
}

/// Does somebody still read its output? Who started it may have died before its end was asked for.
fn is_waited_for() -> bool {
    let output = rustix::stdio::stdout();
    let mut ends = [PollFd::new(&output, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut ends, Some(&now)) {
        Ok(_) => !ends[0].revents().contains(PollFlags::ERR),
        Err(_) => true,
    }
}

/// Who started the relay waits for the end of its output.
fn tell_ready() {
    if let Err(error) = rustix::stdio::dup2_stdout(rustix::stdio::stdin()) {
        tracing::warn!(%error, "cannot let go of the output");
    }
}
