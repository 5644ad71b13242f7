//! What the agent tells its clients by itself: every change, in order, to hundreds of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netd::api::{EventKind, Metadata};
use netd::rpc::Client;
use netd::rpc::procedures::{
    EVENT_ID_LIFECYCLE, EVENT_ID_METADATA_CHANGE, METADATA_DESCRIPTION, METADATA_ELEMENT,
    METADATA_TITLE, NetworkRef,
};
use netd_tests::agent::binary;
use netd_tests::lab::check;
use netd_tests::{Lab, Network, SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// The system's Python, for which Debian packages libvirt's binding.
const PYTHON: &str = "/usr/bin/python3";
const BINDING: &str = "/usr/lib/python3/dist-packages/libvirt.py";

/// Time for hundreds of clients to start and to hear of hundreds of events, on a machine that is busy with
/// something else, too.
const ALL_HEAR: Duration = Duration::from_secs(180);

/// A program that prints a line for each event.
struct Listener {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                heard.lock().map(|mut lines| lines.push(line)).ok();
            }
        });
        Ok(Self { child, lines })
    }

    fn virsh(lab: &Lab) -> Result<Self> {
        let mut command = Command::new("virsh");
        command.args(["-c", &uri(lab), "net-event", "--event", "lifecycle"]);
        Self::start(command.arg("--loop").env("LC_ALL", "C.UTF-8"))
    }

    fn netd(lab: &Lab, event: &str) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg("--socket").arg(lab.agent.socket());
        Self::start(command.args(["net-event", "--loop", "--event", event]))
    }

    fn lines(&self) -> Result<Vec<String>> {
        match self.lines.lock() {
            Ok(lines) => Ok(lines.clone()),
            Err(_) => bail!("the reader of a listener failed"),
        }
    }

    /// Waits until it has printed something that holds this.
    fn hears(&self, what: &str) -> Result<()> {
        eventually(ALL_HEAR, || {
            let lines = self.lines()?;
            ensure!(
                lines.iter().any(|line| line.contains(what)),
                "not heard of {what}: {lines:?}"
            );
            Ok(())
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into()?).context("no process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end; its exit status.
    fn status(&mut self) -> Result<Option<i32>> {
        let status = eventually(SOON, || {
            self.child.try_wait()?.context("a listener still runs")
        })?;
        Ok(status.code())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn uri(lab: &Lab) -> String {
    let socket = lab.agent.socket();
    format!("network+unix:///system?socket={}", socket.display())
}

/// An isolated network that may be defined again, since its UUID is known.
fn network(name: &str, number: u8) -> Network {
    let uuid = format!("<uuid>0b4b8f1c-51f3-4a55-8b4f-0c3c7e3d9a{number:02}</uuid>");
    Network::isolated(name, number).with(&uuid)
}

/// Makes events until all of these hear them, so that from then on they miss nothing.
fn all_listen(lab: &Lab, listeners: &[&Listener]) -> Result<()> {
    let probe = network("probe", 99).xml();
    eventually(ALL_HEAR, || {
        lab.agent.define(&probe)?;
        for listener in listeners {
            ensure!(
                listener.lines()?.iter().any(|line| line.contains("probe")),
                "not everybody listens"
            );
        }
        Ok(())
    })
}

/// What a listener of virsh's words heard of other networks than the probe.
fn told(listener: &Listener, kind: &str) -> Result<Vec<String>> {
    let begin = format!("event '{kind}' for network ");
    let lines = listener.lines()?;
    let told = lines.iter().filter_map(|line| line.strip_prefix(&begin));
    let told = told.filter(|line| !line.starts_with("probe"));
    Ok(told.map(str::to_owned).collect())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn every_change_is_told_once_and_in_order() {
    check(|lab| {
        lab.agent.start()?;
        let mut virsh = Listener::virsh(lab)?;
        let mut netd = Listener::netd(lab, "lifecycle")?;
        all_listen(lab, &[&virsh, &netd])?;
        let agent = &lab.agent;
        let (by_hand, network) = (network("hand", 2), network("one", 1).dhcp(""));
        let file = agent.file("one.xml", &network.xml())?;
        let entry = "<host mac='52:54:00:00:00:07' ip='10.10.1.7'/>";

        agent.ok(["net-define", &file])?;
        // As before: it is a definition all the same.
        agent.ok(["net-define", &file])?;
        agent.ok(["net-start", "one"])?;
        agent.fails(["net-start", "one"])?;
        agent.ok(["net-autostart", "one"])?;
        let update = ["net-update", "one", "add", "ip-dhcp-host", entry];
        agent.ok(update)?;
        agent.fails(update)?;
        agent.ok(["net-undefine", "one"])?;
        agent.fails(["net-undefine", "one"])?;
        // It was transient, and is gone.
        agent.ok(["net-destroy", "one"])?;
        let by_virsh = agent.virsh(["net-create", &file])?;
        ensure!(by_virsh.status.success(), "{by_virsh:?}");
        agent.fails(["net-create", &file])?;
        agent.virsh(["net-destroy", "one"])?;
        // A start that fails.
        let clash = network.xml().replace("virbr1", "uplink");
        agent.define(&clash)?;
        agent.fails(["net-start", "one"])?;
        agent.ok(["net-undefine", "one"])?;
        // By hand, and read again.
        let by_hand = by_hand.xml();
        let path = agent.config_dir().join("networks/hand.xml");
        fs::write(&path, &by_hand)?;
        agent.ok(["reload"])?;
        agent.ok(["reload"])?;
        fs::write(&path, by_hand.replace("10.10.2.1", "10.10.3.1"))?;
        agent.signal(Signal::HUP)?;
        virsh.hears("hand: Defined")?;
        eventually(SOON, || {
            let xml = agent.ok(["net-dumpxml", "hand"])?;
            ensure!(xml.contains("10.10.3.1"), "{xml}");
            Ok(())
        })?;
        agent.ok(["net-start", "hand"])?;
        let expected = [
            "one: Defined",
            "one: Defined",
            "one: Started",
            "one: Undefined",
            "one: Stopped",
            "one: Started",
            "one: Stopped",
            "one: Defined",
            "one: Undefined",
            "hand: Defined",
            "hand: Defined",
            "hand: Started",
        ];
        for listener in [&virsh, &netd] {
            listener.hears("hand: Started")?;
            ensure!(
                told(listener, "lifecycle")? == expected,
                "{:#?}",
                told(listener, "lifecycle")?
            );
        }
        // An agent that ends tells its clients by closing the connection; networks stay up.
        lab.agent.stop()?;
        for listener in [&mut virsh, &mut netd] {
            ensure!(listener.status()? == Some(1));
            listener.hears("events received: ")?;
            let lines = listener.lines()?;
            ensure!(
                !lines.iter().any(|line| line.contains("hand: Stopped")),
                "{lines:#?}"
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn metadata_changes_are_told_with_what_changed() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default()
            .dhcp("")
            .with("<uuid>0b4b8f1c-51f3-4a55-8b4f-0c3c7e3d9a10</uuid>");
        lab.agent.up("default", &network.xml())?;
        let runtime = runtime()?;
        let listener = runtime.block_on(async {
            let mut client = Client::connect(&lab.agent.socket()).await?;
            let network = client.by_name("default").await?;
            client
                .listen(EVENT_ID_METADATA_CHANGE, Some(network.clone()))
                .await?;
            anyhow::Ok((client, network))
        });
        let (mut listener, network) = listener?;

        metadata(lab, &network, METADATA_TITLE, Some("words"), None)?;
        metadata(
            lab,
            &network,
            METADATA_DESCRIPTION,
            Some("more words"),
            None,
        )?;
        metadata(lab, &network, METADATA_DESCRIPTION, None, None)?;
        metadata(
            lab,
            &network,
            METADATA_ELEMENT,
            Some("<x/>"),
            Some("http://e/x"),
        )?;
        metadata(lab, &network, METADATA_ELEMENT, None, Some("http://e/x"))?;
        // Refused: nothing to tell.
        metadata(lab, &network, METADATA_TITLE, Some("two\nlines"), None)
            .expect_err("a title is one line");
        lab.agent
            .ok(["forward", "add", "default", "tcp", "8080", "10.10.1.7:80"])?;
        lab.agent
            .ok(["forward", "delete", "default", "tcp", "8080"])?;
        // What runs takes over what its new definition says to netd.
        lab.agent.ok([
            "forward",
            "add",
            "default",
            "tcp",
            "9090",
            "10.10.1.7:80",
            "--config",
        ])?;
        lab.agent.ok(["reload"])?;
        metadata(lab, &network, METADATA_TITLE, Some("the last"), None)?;

        let netd = || Metadata::Element(netd::model::NETD_NAMESPACE.to_owned());
        let element = || Metadata::Element("http://e/x".to_owned());
        let expected = [
            Metadata::Title,
            Metadata::Description,
            Metadata::Description,
            element(),
            element(),
            netd(),
            netd(),
            netd(),
            netd(),
            Metadata::Title,
        ];
        runtime.block_on(async {
            for what in expected {
                let event = tokio::time::timeout(SOON, listener.next_event()).await??;
                ensure!(
                    event.kind == EventKind::Metadata(what.clone()),
                    "{event:?}, not {what:?}"
                );
                ensure!(
                    event.name == "default" && event.uuid == network.uuid,
                    "{event:?}"
                );
            }
            anyhow::Ok(())
        })
    });
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

/// Sets a piece of metadata by libvirt's call.
fn metadata(
    lab: &Lab,
    network: &NetworkRef,
    kind: i32,
    text: Option<&str>,
    uri: Option<&str>,
) -> Result<()> {
    use netd::rpc::message::{Header, Message, PROGRAM_REMOTE, STATUS_OK, TYPE_CALL, VERSION};
    use netd::rpc::procedures::{OpenArgs, Procedure, SetMetadataArgs};
    use netd::rpc::xdr::Encode;
    use std::io::{Read, Write};

    let mut stream = std::os::unix::net::UnixStream::connect(lab.agent.socket())?;
    let mut call = |procedure: Procedure, args: &dyn Encode| -> Result<()> {
        let header = Header {
            program: PROGRAM_REMOTE,
            version: VERSION,
            procedure: procedure as i32,
            kind: TYPE_CALL,
            serial: 1,
            status: STATUS_OK,
        };
        stream.write_all(&Message::new(header, args)?.to_bytes())?;
        let mut bytes = vec![0; 4];
        stream.read_exact(&mut bytes)?;
        let len = u32::from_be_bytes(bytes[..].try_into()?);
        bytes.resize(len as usize, 0);
        stream.read_exact(&mut bytes[4..])?;
        let reply = Message::from_bytes(bytes.into())?;
        ensure!(reply.header.status == STATUS_OK, "{procedure:?} is refused");
        Ok(())
    };
    let open = OpenArgs {
        name: Some("network:///system".to_owned()),
        flags: 0,
    };
    call(Procedure::Open, &open)?;
    let args = SetMetadataArgs {
        network: network.clone(),
        kind,
        metadata: text.map(str::to_owned),
        key: uri.map(|_| "key".to_owned()),
        uri: uri.map(str::to_owned),
        flags: 0,
    };
    call(Procedure::NetworkSetMetadata, &args)
}

/// Memory of the agent in KiB.
fn memory(lab: &Lab) -> Result<u64> {
    let pid = lab.agent.pid().context("no agent")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn hundreds_of_clients_hear_and_none_costs_the_agent() {
    const VIRSHS: usize = 30;
    const PYTHONS: usize = 200;
    const CLIENTS: usize = 300;
    // More than the socket of one that does not read takes.
    const EVENTS: usize = 800;
    check(|lab| {
        lab.agent.start()?;
        let mut virshs = Vec::new();
        for _ in 0..VIRSHS {
            virshs.push(Listener::virsh(lab)?);
        }
        let mut stopped = Listener::virsh(lab)?;
        let mut python = python(lab, PYTHONS)?;
        all_listen(
            lab,
            &[&virshs.iter().collect::<Vec<_>>()[..], &[&stopped]].concat(),
        )?;
        let runtime = runtime()?;
        let socket = lab.agent.socket();
        let clients = runtime.block_on(connected(&socket, CLIENTS))?;
        let readers = clients
            .into_iter()
            .map(|client| runtime.spawn(hears(client, EVENTS)));
        let readers: Vec<_> = readers.collect();
        stopped.signal(Signal::STOP)?;

        let xml = network("many", 1).xml();
        let define = |count: usize| {
            runtime.block_on(async {
                let mut client = Client::connect(&socket).await?;
                for _ in 0..count {
                    client.define(&xml, false).await?;
                }
                anyhow::Ok(())
            })
        };
        define(EVENTS / 10)?;
        let before = memory(lab)?;
        let began = std::time::Instant::now();
        define(EVENTS - EVENTS / 10)?;
        let took = began.elapsed();
        eprintln!(
            "{EVENTS} events to {} clients, {:.2} ms each; the agent's memory {before} KiB before, \
             {} KiB after",
            VIRSHS + PYTHONS + CLIENTS,
            took.as_secs_f64() * 1000.0 / (EVENTS - EVENTS / 10) as f64,
            memory(lab)?
        );
        runtime.block_on(async {
            for reader in readers {
                tokio::time::timeout(ALL_HEAR, reader).await???;
            }
            anyhow::Ok(())
        })?;
        for virsh in &virshs {
            eventually(ALL_HEAR, || {
                let told = told(virsh, "lifecycle")?;
                ensure!(told.len() == EVENTS, "{} of {EVENTS}", told.len());
                ensure!(told.iter().all(|line| line == "many: Defined"), "{told:?}");
                Ok(())
            })?;
        }
        if let Some(python) = &mut python {
            python_heard(python, PYTHONS, EVENTS)?;
        }
        let after = memory(lab)?;
        ensure!(
            after < before + 4096,
            "the agent took {before} KiB before and {after} KiB after"
        );
        // Nobody waited for the one that does not read; it is let go.
        eventually(ALL_HEAR, || {
            let log = lab.agent.log();
            let gone = log.contains("did not read a reply") || log.contains("pings unanswered");
            ensure!(gone, "it is not let go");
            Ok(())
        })?;
        stopped.signal(Signal::CONT)?;
        ensure!(stopped.status()? == Some(1), "its connection was closed");
        for virsh in &mut virshs {
            virsh.signal(Signal::INT)?;
            ensure!(virsh.status()? == Some(0));
        }
        if let Some(mut python) = python {
            drop(python.child.stdin.take());
            python.hears("left")?;
            ensure!(python.status()? == Some(0));
        }
        Ok(())
    });
}

/// Clients of libvirt's Python binding, ready to hear.
fn python(lab: &Lab, count: usize) -> Result<Option<Listener>> {
    if !Path::new(BINDING).exists() {
        eprintln!("SKIPPED: no libvirt for Python on this machine (Debian: python3-libvirt)");
        return Ok(None);
    }
    let script = lab.agent.file("events.py", include_str!("events.py"))?;
    let mut command = Command::new(PYTHON);
    command.args([&script, &uri(lab), &count.to_string()]);
    let listener = Listener::start(&mut command)?;
    listener.hears("ready")?;
    Ok(Some(listener))
}

/// Every client of Python heard every event once.
fn python_heard(python: &Listener, clients: usize, events: usize) -> Result<()> {
    eventually(ALL_HEAR, || {
        let lines = python.lines()?;
        let mut heard = vec![0; clients];
        for line in lines.iter().filter(|line| line.contains("\"many\"")) {
            let event: (usize, String, i32, i32) = serde_json::from_str(line)?;
            ensure!((event.2, event.3) == (0, 0), "{line}");
            heard[event.0] += 1;
        }
        let late = heard.iter().filter(|count| **count != events).count();
        ensure!(
            late == 0,
            "{late} of {clients} did not hear {events} events"
        );
        Ok(())
    })
}

/// Clients that listen.
async fn connected(socket: &Path, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(socket).await?;
        client.listen(EVENT_ID_LIFECYCLE, None).await?;
        clients.push(client);
    }
    Ok(clients)
}

/// Waits until the client has heard of so many events, and that there are no more.
async fn hears(mut client: Client, events: usize) -> Result<()> {
    for _ in 0..events {
        let event = client.next_event().await?;
        ensure!(event.name == "many", "{event:?}");
    }
    let more = tokio::time::timeout(Duration::from_millis(1), client.next_event()).await;
    ensure!(more.is_err(), "{more:?}");
    Ok(())
}
