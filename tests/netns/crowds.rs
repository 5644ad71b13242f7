//! Clients that mean no good: what an agent's memory does under them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd::rpc::message::{
    HEADER_LEN, Header, MESSAGE_MAX, Message, PROGRAM_REMOTE, STATUS_OK, TYPE_CALL, VERSION,
};
use netd::rpc::procedures::OpenArgs;
use netd_tests::lab::check;
use netd_tests::{Agent, Lab, Network, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Clients of each kind in a round.
const MANY: usize = 300;
/// Clients that send a large part of what they announce.
const LARGE: usize = 12;
/// How much that is.
const PART: usize = 8 << 20;

/// Resident memory of the agent in KiB.
fn resident(agent: &Agent) -> Result<u64> {
    let pid = agent.pid().context("the agent runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(value.context("no VmRSS")?.parse()?)
}

fn header(procedure: i32) -> Header {
    Header {
        program: PROGRAM_REMOTE,
        version: VERSION,
        procedure,
        kind: TYPE_CALL,
        serial: 1,
        status: STATUS_OK,
    }
}

fn opened(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    let args = OpenArgs {
        name: Some("network:///system".to_owned()),
        flags: 0,
    };
    stream.write_all(&Message::new(header(1), &args)?.to_bytes())?;
    let mut reply = [0; HEADER_LEN];
    stream.read_exact(&mut reply)?;
    ensure!(reply[27] == 0, "OPEN was refused: {reply:?}");
    Ok(stream)
}

/// The first bytes of a definition as large as a message may be.
fn beginning(len: usize) -> Vec<u8> {
    let call = Message::new(header(41), &()).map(|call| call.to_bytes().to_vec());
    let mut bytes = call.unwrap_or_default();
    bytes[..4].copy_from_slice(&(MESSAGE_MAX as u32).to_be_bytes());
    bytes.resize(len, b'x');
    bytes
}

/// A crowd of all kinds, and the agent's memory while it is there.
fn round(lab: &Lab) -> Result<u64> {
    let socket = lab.agent.socket();
    let mut crowd = Vec::new();
    for _ in 0..MANY {
        // One that announces much, one that does not even open, one that asks and does not read.
        let mut stream = opened(&socket)?;
        stream.write_all(&beginning(3000))?;
        crowd.push(stream);
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(&beginning(3000))?;
        crowd.push(stream);
        let mut stream = opened(&socket)?;
        let ask = Message::new(header(46), "default")?.to_bytes();
        for _ in 0..5 {
            stream.write_all(&ask)?;
        }
        crowd.push(stream);
    }
    // These are read only as far as there is memory for them: where nothing is read for so long there is none.
    let large = (0..LARGE)
        .map(|_| {
            let mut stream = opened(&socket)?;
            stream.set_write_timeout(Some(Duration::from_secs(2)))?;
            Ok(std::thread::spawn(move || {
                let _ = stream.write_all(&beginning(PART));
                stream
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    for writing in large {
        let stream = writing.join();
        crowd.push(stream.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    }
    let list = lab.agent.ok(["net-list", "--all", "--name"])?;
    ensure!(list.trim() == "default", "{list}");
    let peak = resident(&lab.agent)?;
    let pid = lab.agent.pid().context("the agent runs")?;
    drop(crowd);
    eventually(netd_tests::SOON, || {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        ensure!(open < MANY, "{open} files are still open");
        Ok(())
    })?;
    Ok(peak)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_agent_stays_as_large_as_it_is_under_a_hostile_crowd() {
    check(|lab| {
        let files = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: files.maximum,
            ..files
        };
        setrlimit(Resource::Nofile, raised)?;
        lab.agent.start()?;
        lab.agent.define(&Network::isolated("default", 1).xml())?;
        let before = resident(&lab.agent)?;
        let peaks = (0..6).map(|_| round(lab)).collect::<Result<Vec<_>>>()?;
        let after = resident(&lab.agent)?;
        println!("KiB before {before}, with a crowd {peaks:?}, after it {after}");
        // What was announced in a round is 20 GB; what the agent may hold of it is what two messages
        // take, and twice that while it grows.
        let announced = (2 * MANY + LARGE) as u64 * (MESSAGE_MAX as u64 >> 10);
        let largest = peaks.iter().max().context("rounds")?;
        ensure!(
            (largest - before) * 100 < announced,
            "{before} KiB became {largest}"
        );
        // It does not grow from round to round.
        let later = peaks[2..].iter().max().context("rounds")?;
        let earlier = peaks[..2].iter().max().context("rounds")?;
        ensure!(*later < earlier + earlier / 4, "it grows: {peaks:?}");
        Ok(())
    });
}
