//! `demo`: a guest's way from DHCP to a page from outside, without touching the host.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Lab, Netns};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{packages, tools};

/// libvirt's stock network, the same that `run` starts.
const DEFAULT_NETWORK: &str = include_str!("../../dist/default.xml");
/// What the outside host serves.
const PAGE: &str = "Hello from outside.\n";
/// Maps worth showing after a guest has been outside.
const MAPS: &[&str] = &["networks", "subnets4", "ports", "flows4"];

/// Shows everything and removes it again, also when it is interrupted or a step fails.
pub fn demo() -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Netns::sweep()?;
    let mut story = Story {
        number: 0,
        interrupted,
    };
    let mut lab = story.step("A hypervisor and an outside host, in namespaces", || {
        let lab = Lab::with_binary(&tools::binary()?)?;
        let seen = format!("hypervisor {HOST} --- outside host {OUTSIDE}");
        Ok((lab, seen))
    })?;
    let told = tell(&mut story, &mut lab);
    let removed = story.always("Everything is removed again", || {
        lab.agent.end();
        lab.agent.teardown()?;
        let left = lab.agent.bpffs();
        ensure!(
            pins(&left).is_empty(),
            "pins are left in {}",
            left.display()
        );
        let processes = lab.hv.processes()?;
        ensure!(processes.is_empty(), "processes are left: {processes:?}");
        drop(lab);
        Ok("bridge, dnsmasq, programs, maps, namespaces: gone".into())
    });
    told.and(removed)
}

/// The steps between building the topology and removing it.
fn tell(story: &mut Story, lab: &mut Lab) -> Result<()> {
    story.step("The agent starts in the hypervisor", || {
        lab.agent.start()?;
        Ok(((), "it answers on its socket".into()))
    })?;
    story.step(
        "libvirt's stock network `default` is defined and started",
        || {
            lab.agent.up("default", DEFAULT_NETWORK)?;
            let list = lab.agent.ok(["net-list"])?;
            Ok(((), list.trim_end().to_owned()))
        },
    )?;
    let (guest, neighbour) = story.step("Two guests are plugged into its bridge", || {
        let guests = (lab.plugged(1, "virbr0")?, lab.plugged(2, "virbr0")?);
        Ok((guests, "vnet1 and vnet2 are ports of virbr0".into()))
    })?;
    let lease = story.step(
        "Guest 1 asks for an address with a DHCP client (udhcpc)",
        || {
            let lease = guest.dhcp()?;
            let seen = format!("{}/{} from dnsmasq", lease.address, lease.prefix);
            Ok((lease, seen))
        },
    )?;
    let server = lease.dns.context("the lease names no name server")?;
    let other = story.step("Guest 2 does the same", || {
        let lease = neighbour.dhcp()?;
        let seen = format!("{}/{}", lease.address, lease.prefix);
        Ok((lease, seen))
    })?;
    story.step("Guest 1 resolves the name of guest 2", || {
        let address = guest.resolve(&neighbour.hostname, server)?;
        ensure!(address == other.address, "vm2 is {address}?");
        Ok((
            (),
            format!("{server} says: {} is {address}", neighbour.hostname),
        ))
    })?;
    story.step("Guest 1 pings guest 2", || {
        Ok(((), answer_line(&guest.ping(&other.address.to_string())?)))
    })?;
    story.step("Guest 1 pings the outside host", || {
        Ok(((), answer_line(&guest.ping(&OUTSIDE.to_string())?)))
    })?;
    story.step(
        "The outside host sees the hypervisor's address, not the guest's",
        || {
            let _server = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
            match traffic::ask_udp(guest.netns(), at(OUTSIDE, 7))? {
                Verdict::Answered(seen) if seen.ip() == HOST => {
                    Ok(((), format!("a datagram from {seen}")))
                }
                other => bail!("{other:?}"),
            }
        },
    )?;
    story.step("Guest 1 fetches a page from outside (wget)", || {
        let _server = Server::http(&lab.wan, at(OUTSIDE, 80), PAGE)?;
        let url = format!("http://{OUTSIDE}/");
        let page = guest
            .netns()
            .run(["timeout", "10", "busybox", "wget", "-q", "-O", "-", &url])?;
        ensure!(page == PAGE, "this is another page: {page:?}");
        Ok(((), format!("{:?}", page.trim_end())))
    })?;
    story.step("The pinned maps, as bpftool prints them", || {
        let text = maps(&lab.agent.bpffs())?;
        Ok(((), text))
    })
}

/// The line of ping's output that tells.
fn answer_line(text: &str) -> String {
    let line = text.lines().find(|line| line.contains("bytes from"));
    line.unwrap_or(text).to_owned()
}

/// Dumps the maps of interest.
fn maps(bpffs: &Path) -> Result<String> {
    let pins = pins(bpffs);
    let mut text = String::new();
    for name in MAPS {
        let pin = pins
            .iter()
            .find(|pin| {
                pin.file_name()
                    .is_some_and(|file| file.eq_ignore_ascii_case(name))
            })
            .with_context(|| format!("no pinned map {name} below {}", bpffs.display()))?;
        let dump = netd_tests::run(packages::bpftool().args(["map", "dump", "pinned"]).arg(pin))?;
        write!(text, "bpftool map dump pinned {}\n{dump}", pin.display())?;
    }
    Ok(text)
}

/// Every pin below a directory.
fn pins(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(pins(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Tells each step in plain words, with its result.
struct Story {
    number: u32,
    interrupted: Arc<AtomicBool>,
}

impl Story {
    /// A step on which the rest depends.
    fn step<T>(&mut self, words: &str, act: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        self.number += 1;
        println!("{:2}. {words}", self.number);
        match act() {
            Ok((value, seen)) => {
                show("ok", &seen);
                Ok(value)
            }
            Err(error) => {
                show("FAILED", &format!("{error:#}"));
                bail!("step {} failed: {words}", self.number)
            }
        }
    }

    /// A step that is done also after an interruption.
    fn always(&mut self, words: &str, act: impl FnOnce() -> Result<String>) -> Result<()> {
        let interrupted = self.interrupted.swap(false, Ordering::Relaxed);
        self.step(words, || Ok(((), act()?)))?;
        ensure!(!interrupted, "interrupted");
        Ok(())
    }
}

/// Prints a result; further lines are indented below it.
fn show(result: &str, seen: &str) {
    let mut lines = seen.lines();
    println!("      {result}: {}", lines.next().unwrap_or_default());
    for line in lines {
        println!("        {line}");
    }
}
