//! Limits and timeouts of flows as an administrator sets them, and that memory comes back.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use netd_common::abi::{Control, Flow4, FlowKey4, Usage, VERSION};
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::packet::{TCP, UDP};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Guest, Lab, Network, SOON, eventually};

const PORT: u16 = 7000;
/// The sweep goes round the table once in 64 s; much more for a busy machine.
const SWEPT: Duration = Duration::from_secs(180);

/// Writes netd.toml for agents started from now on.
fn configure(lab: &Lab, text: &str) -> Result<()> {
    fs::write(lab.agent.config_dir().join("netd.toml"), text)?;
    Ok(())
}

/// A pinned map.
fn pinned(lab: &Lab, name: &str) -> Result<Map> {
    let path = lab.agent.bpffs().join(format!("v{VERSION}/maps/{name}"));
    let data = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
    Ok(Map::from_map_data(data)?)
}

/// Lets flows look at policy and path again when the agent says so, and not for their own sake every half a
/// minute: until the next agent starts.
pub(crate) fn look_only_when_told(lab: &Lab) -> Result<()> {
    let mut control: Array<_, Control> = Array::try_from(pinned(lab, "control")?)?;
    let mut settings = control.get(&0, 0)?;
    // The time of a look has eight bits.
    settings.validity = 200;
    Ok(control.set(0, settings, 0)?)
}

/// How many entries of that protocol there are.
fn entries(lab: &Lab, protocol: u8) -> Result<usize> {
    let map: HashMap<_, FlowKey4, Flow4> = HashMap::try_from(pinned(lab, "flows4")?)?;
    let mut count = 0;
    for key in map.keys() {
        count += usize::from(key?.proto == protocol);
    }
    Ok(count)
}

/// Flows of IPv4 that are counted for a network.
fn usage(lab: &Lab, network: &Network) -> Result<u32> {
    let map: HashMap<_, u32, Usage> = HashMap::try_from(pinned(lab, "usage")?)?;
    let bridge = lab.hv.ifindex(&network.bridge())?;
    Ok(map.get(&bridge.try_into()?, 0)?.flows[0])
}

/// Asks and gets an answer over a connection.
fn talk(stream: &mut TcpStream) -> Result<()> {
    let mut answer = [0; 5];
    stream.write_all(b"still")?;
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"still", "another answer");
    Ok(())
}

/// Opens connections until one is refused, or there are `most`; the refusal's error.
fn fill(guest: &Guest, streams: &mut Vec<TcpStream>, most: usize) -> Result<std::io::Error> {
    let to: SocketAddr = at(OUTSIDE, PORT).into();
    while streams.len() < most {
        match guest
            .netns()
            .enter(|| TcpStream::connect_timeout(&to, SOON))?
        {
            Ok(stream) => {
                streams.push(stream);
            }
            Err(error) => return Ok(error),
        }
    }
    bail!("{most} connections, and none was refused")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p12_p49_idle_flows_leave_the_table_with_no_agent() {
    check(|lab| {
        configure(lab, "[timeouts]\nudp = 2\nudp_stream = 2\nicmp = 2\n")?;
        lab.agent.set_flags(&["--max-flows", "1024"]);
        let guest = lab.nat_guest()?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let mut stream = traffic::connect(guest.netns(), at(OUTSIDE, PORT))?;
        talk(&mut stream)?;
        lab.agent.kill()?;
        let sockets = (5000..5050).map(|port| guest.netns().udp(("0.0.0.0", port)));
        let sockets = sockets.collect::<Result<Vec<_>>>()?;
        // They time out soon: on a machine that is busy just now they are opened again.
        eventually(SOON, || {
            for (socket, port) in sockets.iter().zip(5000..) {
                // Half of them are answered, the other half with an error, which the next call tells.
                let _ = socket.send_to(b"once", at(OUTSIDE, PORT + port % 2));
            }
            let (opened, counted) = (entries(lab, UDP)?, usage(lab, &Network::default())?);
            ensure!(opened == 100, "{opened} entries of 50 flows");
            ensure!(counted >= 51, "{counted} flows are counted");
            Ok(())
        })?;
        eventually(SWEPT, || {
            let left = entries(lab, UDP)?;
            ensure!(left == 0, "{left} entries are left");
            Ok(())
        })?;
        // Established TCP stays, and is all that is counted.
        ensure!(entries(lab, TCP)? == 2, "TCP's entries");
        talk(&mut stream).context("the connection")?;
        eventually(SOON, || {
            let counted = usage(lab, &Network::default())?;
            ensure!(counted == 1, "{counted} flows are counted");
            Ok(())
        })?;
        lab.agent.start()?;
        talk(&mut stream).context("with an agent again")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_flow_that_has_timed_out_lets_nothing_in() {
    check(|lab| {
        configure(lab, "[timeouts]\nudp = 5\nudp_stream = 20\n")?;
        let guest = lab.nat_guest()?;
        let outside = lab.wan.udp(at(OUTSIDE, PORT))?;
        let inside = guest.netns().udp("0.0.0.0:5000")?;
        let mut buffer = [0; 16];
        let mut exchange = |pause: u64, answered: bool| -> Result<()> {
            inside.send_to(b"out", at(OUTSIDE, PORT))?;
            let (_, peer) = outside.recv_from(&mut buffer).context("the way out")?;
            std::thread::sleep(Duration::from_secs(pause));
            outside.send_to(b"back", peer)?;
            let limit = if answered {
                SOON
            } else {
                Duration::from_secs(1)
            };
            inside.set_read_timeout(Some(limit))?;
            let arrived = inside.recv_from(&mut buffer).is_ok();
            ensure!(arrived == answered, "answer after {pause} s: {arrived}");
            Ok(())
        };
        // No answer yet: five seconds, which the clock's grain may make seven. A busy machine is to be no
        // later than that with an answer that is in time.
        exchange(9, false)?;
        exchange(0, true)?;
        // Both directions and one more: a stream.
        exchange(0, true)?;
        exchange(9, true)?;
        exchange(24, false)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_network_that_has_all_its_flows_is_refused_by_name() {
    check(|lab| {
        configure(lab, "[flows]\nmax = 1024\nmax_per_network = 50\n")?;
        let guest = lab.nat_guest()?;
        let other_network = Network::nat("other", 2);
        lab.up(&other_network)?;
        let other = lab.member(2, &other_network)?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let mut streams = Vec::new();
        let error = fill(&guest, &mut streams, 60)?;
        ensure!(error.kind() == ErrorKind::HostUnreachable, "{error}");
        // What pings and the like had was taken from them.
        ensure!(streams.len() == 50, "{} connections", streams.len());
        eventually(SOON, || {
            let verdict = traffic::ask_udp(guest.netns(), at(OUTSIDE, PORT))?;
            ensure!(verdict == Verdict::Unreachable, "UDP: {verdict:?}");
            Ok(())
        })?;
        let dropped = lab.agent.drops()?;
        ensure!(
            dropped.get("network_full").copied() >= Some(2),
            "{dropped:?}"
        );
        ensure!(
            usage(lab, &Network::default())? == 50,
            "the network's flows"
        );

        let mut others = Vec::new();
        for _ in 0..20 {
            others.push(traffic::connect(other.netns(), at(OUTSIDE, PORT))?);
        }
        traffic::answered(other.netns(), at(OUTSIDE, PORT))?;
        for stream in streams.iter_mut().chain(&mut others) {
            talk(stream)?;
        }
        // What ends makes room.
        streams.truncate(45);
        let mut later = eventually(SOON, || traffic::connect(guest.netns(), at(OUTSIDE, PORT)))?;
        for stream in streams.iter_mut().chain([&mut later]) {
            talk(stream)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p01_a_table_full_of_connections_refuses_by_name_and_keeps_them() {
    check(|lab| {
        lab.agent.set_flags(&["--max-flows", "1024"]);
        let guest = lab.nat_guest()?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let mut streams = Vec::new();
        let error = fill(&guest, &mut streams, 1025)?;
        ensure!(error.kind() == ErrorKind::HostUnreachable, "{error}");
        // It may give up before it has found the very last one.
        ensure!(streams.len() > 980, "{} connections", streams.len());
        ensure!(lab.agent.dropped("table_full")? > 0, "no reason");
        for (number, stream) in streams.iter_mut().enumerate() {
            talk(stream).with_context(|| format!("connection {number}"))?;
        }
        streams.truncate(900);
        let new = || traffic::connect(guest.netns(), at(OUTSIDE, PORT));
        talk(&mut eventually(SOON, new)?).context("a new one")
    });
}
