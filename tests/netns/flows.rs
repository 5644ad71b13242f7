//! Connections as the administrator is told, and ends them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use netd_common::abi::{FLOW_NAT, FLOW_REPLY, Flow4, FlowKey4, VERSION};
use netd_common::clock::tick;
use netd_common::proto;
use netd_common::state::State;
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::{Service, both, forwards};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON, eventually};
use serde_json::Value;

const PORT: u16 = 7000;
/// Where a guest's service is published.
const PUBLIC: u16 = 8080;

/// The connections that these words choose.
fn flows(lab: &Lab, words: &[&str]) -> Result<Vec<Value>> {
    let words = ["flows", "--json"].iter().chain(words).copied();
    let mut json: Value = serde_json::from_str(&lab.agent.ok(words)?)?;
    ensure!(json["schema"] == 1, "{json}");
    match json["flows"].take() {
        Value::Array(flows) => Ok(flows),
        other => anyhow::bail!("no list: {other}"),
    }
}

/// The only one that they choose.
fn only(lab: &Lab, words: &[&str]) -> Result<Value> {
    let mut found = flows(lab, words)?;
    ensure!(found.len() == 1, "{words:?}: {found:?}");
    found.pop().context("one connection")
}

/// A connection to a server that sends everything back.
fn connect(netns: &Netns, port: u16) -> Result<TcpStream> {
    let stream =
        netns.enter(|| TcpStream::connect(std::net::SocketAddr::from(at(OUTSIDE, port))))??;
    stream.set_read_timeout(Some(SOON))?;
    answered(&stream)?;
    Ok(stream)
}

fn answered(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    let mut answer = [0; 1];
    Ok(stream.read_exact(&mut answer)?)
}

/// Flows of IPv4 that the network is counted to have.
fn counted(lab: &Lab, network: &str) -> Result<u64> {
    let status: Value = serde_json::from_str(&lab.agent.ok(["status", "--json"])?)?;
    let mut networks = status["networks"].as_array().into_iter().flatten();
    let found = networks
        .find(|it| it["name"] == network)
        .context("the network")?;
    found["flows_ipv4"].as_u64().context("a number")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn connections_are_told_with_who_has_them_and_how_they_go() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::nat("shop", 1)
            .dhcp("<host mac='52:54:00:00:00:01' name='web' ip='10.10.1.11'/>");
        let guest_address = network.address(11).to_string();
        let network = network.with(&forwards(&both("", &guest_address, PUBLIC, 80)));
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let service = Service::start(guest.netns(), at(Ipv4Addr::UNSPECIFIED, 80))?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        lab.settled()?;

        let stream = connect(guest.netns(), PORT)?;
        let port = stream.local_addr()?.port();
        let flow = only(lab, &["shop", "--proto", "tcp"])?;
        let seen = flow["translated_source"]
            .as_str()
            .context("it is masqueraded")?;
        ensure!(seen.starts_with(&format!("{HOST}:")), "{flow}");
        for (field, value) in [
            ("state", "established"),
            ("source", &format!("{guest_address}:{port}")),
            ("destination", &format!("{OUTSIDE}:{PORT}")),
            ("source_network", "shop"),
            ("source_guest", "web"),
            ("way_out", "uplink"),
            ("way_back", &guest.port),
            ("path_out", "fast"),
            ("path_back", "fast"),
        ] {
            ensure!(flow[field] == value, "{field} is not {value}: {flow}");
        }
        ensure!(flow["destination_network"].is_null(), "{flow}");
        ensure!(flow["translated_destination"].is_null(), "{flow}");
        ensure!(flow["packets_sent"].as_u64() > Some(2), "{flow}");
        ensure!(flow["bytes_received"].as_u64() > Some(100), "{flow}");
        ensure!(flow["expires"].as_u64() > Some(400_000), "{flow}");

        // The same by other words, and by none that are not its own.
        for words in [
            &["--guest", "web"][..],
            &["--guest", &guest_address],
            &["--guest", &guest.port],
            &["--port", "7000", "--address", "198.51.100.0/24"],
            &["--sort", "bytes", "--limit", "1"],
        ] {
            let same = only(lab, &[words, &["--proto", "6"]].concat())?;
            ensure!(same["source"] == flow["source"], "{words:?}: {same}");
        }
        for words in [
            &["--proto", "sctp"][..],
            &["--port", "1"],
            &["--address", "203.0.113.1"],
        ] {
            ensure!(flows(lab, words)?.is_empty(), "{words:?}");
        }
        let told = lab.agent.ok(["flows", "--guest", "web"])?;
        ensure!(told.contains(&format!("as {seen}")), "{told}");

        // What came in by a published port.
        traffic::ask_udp(&lab.wan, at(HOST, PUBLIC))?;
        ensure!(service.received("udp") == 1, "it arrives");
        let published = only(lab, &["--proto", "udp", "--port", "8080"])?;
        let to = format!("{guest_address}:80");
        ensure!(published["translated_destination"] == *to, "{published}");
        ensure!(published["destination_guest"] == "web", "{published}");
        ensure!(published["source_guest"].is_null(), "{published}");
        let failure = lab.agent.fails(["flows", "--guest", "mail"])?;
        ensure!(
            failure.contains("no address of a guest 'mail'"),
            "{failure}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ended_connections_are_over_and_others_go_on() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let servers = [PORT, PORT + 1].map(|port| Server::tcp_echo(&lab.wan, at(OUTSIDE, port)));
        let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let ends = connect(guest.netns(), PORT)?;
        let stays = connect(guest.netns(), PORT + 1)?;
        let before = counted(lab, "default")?;
        let told = lab
            .agent
            .ok(["flows", "kill", "default", "--port", "7000"])?;
        ensure!(told == "Ended 1 connection.\n\n", "{told}");
        ensure!(counted(lab, "default")? == before - 1, "it is counted off");
        ensure!(flows(lab, &["--port", "7000"])?.is_empty(), "it is gone");
        answered(&stays)?;
        // What the guest sends next opens it anew.
        answered(&ends)?;
        let anew = only(lab, &["--port", "7000"])?;
        ensure!(anew["packets_sent"].as_u64() <= Some(3), "{anew}");
        ensure!(counted(lab, "default")? == before, "it is counted again");
        let told = lab.agent.ok(["flows", "kill", "--proto", "sctp"])?;
        ensure!(told == "There is no such connection.\n\n", "{told}");
        lab.agent.ok(["flows", "kill", "--all"])?;
        ensure!(counted(lab, "default")? == 0, "all are counted off");
        ensure!(flows(lab, &[])?.is_empty(), "all are gone");
        Ok(())
    });
}

/// A line of `flows --follow`.
struct Lines(std::sync::mpsc::Receiver<String>);

impl Lines {
    /// Waits for a line that has all of these words.
    fn with(&self, words: &[&str]) -> Result<String> {
        loop {
            let line = self
                .0
                .recv_timeout(SOON)
                .with_context(|| format!("no line with {words:?}"))?;
            if words.iter().all(|word| line.contains(word)) {
                return Ok(line);
            }
        }
    }
}

fn open_one(guest: &Guest) -> Result<()> {
    traffic::ask_udp(guest.netns(), at(OUTSIDE, PORT)).map(drop)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn connections_are_followed_as_they_come_and_go() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let mut follower = Command::new(netd_tests::agent::binary()?)
            .args(["--socket", &lab.agent.socket().display().to_string()])
            .args(["flows", "default", "--follow"])
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(follower.stdout.take().context("its output")?);
        let (send, receive) = channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(std::io::Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let lines = Lines(receive);
        let followed = (|| {
            // Whatever begins is told, once it looks.
            eventually(SOON, || {
                open_one(&guest)?;
                lines
                    .0
                    .recv_timeout(Duration::from_millis(1500))
                    .map(drop)
                    .context("no line yet")
            })?;
            let stream = connect(guest.netns(), PORT)?;
            let from = stream.local_addr()?.to_string();
            let line = lines.with(&[" new ", &from])?;
            ensure!(line.contains(" established "), "{line}");
            lab.agent.ok(["flows", "kill", "--proto", "tcp"])?;
            lines.with(&[" ended ", &from]).map(drop)
        })();
        follower.kill()?;
        follower.wait()?;
        followed
    });
}

/// Both entries of a flow of UDP that nobody has opened.
fn made_up(number: u32, now: u32) -> [(FlowKey4, Flow4); 2] {
    let key = FlowKey4 {
        src: [10, 10, 1, 11],
        dst: (0xcb00_7100 + number).to_be_bytes(),
        sport: 4000u16.to_be_bytes(),
        dport: 53u16.to_be_bytes(),
        proto: proto::UDP,
        ..FlowKey4::default()
    };
    let there = Flow4 {
        new_src: HOST.octets(),
        new_dst: key.dst,
        new_sport: key.sport,
        new_dport: key.dport,
        flags: FLOW_NAT,
        state: State::Established as u8,
        last_seen: now,
        packets: 1,
        ..Flow4::default()
    };
    let back = Flow4 {
        new_src: key.dst,
        new_dst: key.src,
        new_sport: key.dport,
        new_dport: key.sport,
        flags: FLOW_NAT | FLOW_REPLY,
        ..there
    };
    [(key, there), (there.partner(key.proto), back)]
}

/// Each connection is listed once, however many pieces that takes; while others come and go.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn very_many_connections_are_listed_whole() {
    const MANY: u32 = 100_000;
    check(|lab| {
        let guest = lab.nat_guest()?;
        let pin = lab.agent.bpffs().join(format!("v{VERSION}/maps/flows4"));
        let mut map: HashMap<MapData, FlowKey4, Flow4> =
            HashMap::try_from(Map::HashMap(MapData::from_pin(pin)?))?;
        // They are seen a while from now, so that none ends meanwhile.
        let uptime = std::fs::read_to_string("/proc/uptime")?;
        let uptime: f64 = uptime.split(' ').next().context("a number")?.parse()?;
        let now = tick((uptime * 1e9) as u64) + 600;
        for number in 0..MANY {
            for (key, value) in made_up(number, now) {
                map.insert(key, value, 0)?;
            }
        }
        let load = traffic::Load::new_udp_flows(guest.netns(), at(OUTSIDE, PORT))?;
        let found = flows(lab, &["--port", "53"])?;
        load.finish()?;
        let mut peers: Vec<&str> = found
            .iter()
            .map(|flow| flow["destination"].as_str().unwrap_or_default())
            .collect();
        peers.sort_unstable();
        ensure!(peers.len() == MANY as usize, "{} are listed", peers.len());
        peers.dedup();
        ensure!(peers.len() == MANY as usize, "{} of them once", peers.len());
        ensure!(
            only(lab, &["--address", "203.0.113.7"])?["destination"] == "203.0.113.7:53",
            "the seventh"
        );
        Ok(())
    });
}
