//! Bans: who is banned reaches no guest, whatever runs, with an agent or without.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::lab6::{HOST6, OUTSIDE6, check6};
use netd_tests::published::{Service, both, forwards, reached};
use netd_tests::traffic::{self, Verdict};
use netd_tests::{Guest, Lab, Network, SOON, eventually};

/// Where the guest's service is published.
const PUBLIC: u16 = 8080;
/// Another address outside.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// A network that publishes the service of its guest, whose number is its own.
fn publishing(name: &str, number: u8, port: u16) -> Network {
    let network = Network::nat(name, number);
    let guest = network.address(10 + number).to_string();
    network.with(&forwards(&both("", &guest, port, 80)))
}

fn serve(lab: &Lab, number: u8, network: &Network) -> Result<(Guest, Service)> {
    lab.up(network)?;
    let guest = lab.member(number, network)?;
    let service = Service::start(
        guest.netns(),
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80),
    )?;
    Ok((guest, service))
}

/// A client outside with a connection that goes on. It numbers what it asks: on a busy machine an answer may
/// come when the next question is out.
struct Client {
    socket: UdpSocket,
    asked: Cell<u64>,
}

impl Client {
    fn new(lab: &Lab, address: Ipv4Addr, port: u16) -> Result<Self> {
        let socket = lab.wan.udp((address, 0))?;
        socket.connect(at(HOST, port))?;
        let client = Self {
            socket,
            asked: Cell::new(0),
        };
        client.answered(&format!("{address} is not answered"))?;
        Ok(client)
    }

    /// A question is answered, however busy the machine is; else it is as `what` says.
    fn answered(&self, what: &str) -> Result<()> {
        eventually(SOON, || {
            ensure!(self.is_answered()?, "{what}");
            Ok(())
        })
    }

    /// Is a question answered, as far as can be told in a moment?
    fn is_answered(&self) -> Result<bool> {
        let number = self.ask()?;
        let end = Instant::now() + Duration::from_millis(300);
        while let Some(answered) = self.answer(end)? {
            if answered == number {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Asks; the number of the question, from 1 on.
    fn ask(&self) -> Result<u64> {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        self.socket.send(&number.to_be_bytes())?;
        Ok(number)
    }

    /// The number of the next question that is answered until then.
    fn answer(&self, end: Instant) -> Result<Option<u64>> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(wait))?;
            let mut answer = [0; 8];
            match self.socket.recv(&mut answer) {
                Ok(_) => return Ok(Some(u64::from_be_bytes(answer))),
                // The time is over, or ICMP told of an earlier question.
                Err(_) if left.is_zero() => return Ok(None),
                Err(_) => {}
            }
        }
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_ban_holds_for_what_runs_and_what_is_new() {
    check(|lab| {
        lab.agent.start()?;
        let network = publishing("shop", 1, PUBLIC);
        let (guest, service) = serve(lab, 1, &network)?;
        lab.wan.address("wan0", &format!("{NEIGHBOUR}/24"))?;
        let banned = Client::new(lab, OUTSIDE, PUBLIC)?;
        let other = Client::new(lab, NEIGHBOUR, PUBLIC)?;
        let told = lab.agent.ok(["ban", "add", &OUTSIDE.to_string()])?;
        ensure!(told == "Banned 198.51.100.1\n\n", "{told}");
        let before = service.received("udp");
        ensure!(!banned.is_answered()?, "a running connection goes on");
        let ask = traffic::ask_udp(&lab.wan, at(HOST, PUBLIC))?;
        ensure!(ask == Verdict::Silent, "a new one: {ask:?}");
        ensure!(service.received("udp") == before, "the guest was reached");
        other.answered("somebody else is banned, too")?;
        traffic::refused(guest.netns(), at(OUTSIDE, 7)).context("the guest")?;
        ensure!(lab.agent.dropped("banned")? >= 3);
        // With no agent, and with the next one.
        lab.agent.kill()?;
        ensure!(!banned.is_answered()?, "no agent, no ban");
        other.answered("no agent, no service")?;
        lab.agent.start()?;
        ensure!(!banned.is_answered()?, "a new agent lifts the ban");
        let list = lab.agent.ok(["ban", "list"])?;
        ensure!(
            list.contains("198.51.100.1   -         -       -"),
            "{list}"
        );
        lab.agent.ok(["ban", "delete", "198.51.100.1/32"])?;
        banned.answered("the ban goes on")?;
        let error = lab.agent.fails(["ban", "delete", "198.51.100.1"])?;
        ensure!(error.contains("is not banned"), "{error}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_ban_may_be_of_one_network() {
    check(|lab| {
        lab.agent.start()?;
        let (shop, office) = (publishing("shop", 1, PUBLIC), publishing("office", 2, 8081));
        let (_shop, _served) = serve(lab, 1, &shop)?;
        let (_office, _served_too) = serve(lab, 2, &office)?;
        let running = Client::new(lab, OUTSIDE, PUBLIC)?;
        let other = Client::new(lab, OUTSIDE, 8081)?;
        lab.agent
            .ok(["ban", "add", "198.51.100.0/24", "--network", "shop"])?;
        ensure!(!running.is_answered()?, "it goes on");
        let ask = traffic::ask_udp(&lab.wan, at(HOST, PUBLIC))?;
        ensure!(ask == Verdict::Silent, "a new one: {ask:?}");
        other.answered("the other network is closed, too")?;
        // The bridge that it comes back with is another one.
        lab.agent.ok(["net-destroy", "shop"])?;
        lab.agent.ok(["net-start", "shop"])?;
        ensure!(!running.is_answered()?, "a restart lifts the ban");
        other.answered("the other network is closed, too")?;
        lab.agent
            .ok(["ban", "delete", "198.51.100.0/24", "--network", "shop"])?;
        running.answered("the ban goes on")
    });
}

/// Asks until a question is answered. A moment before the last one that was not answered was sent, if there is such
/// a one, and one when the answer was there: the ban ended between the two, however busy the machine is.
fn end_of_ban(client: &Client) -> Result<(Option<Instant>, Instant)> {
    let start = Instant::now();
    let mut sent = BTreeMap::new();
    loop {
        ensure!(start.elapsed() < SOON, "the ban goes on");
        let before = Instant::now();
        let number = client.ask()?;
        sent.insert(number, before);
        let next = Instant::now() + Duration::from_millis(50);
        while let Some(answered) = client.answer(next)? {
            if sent.contains_key(&answered) {
                return Ok((sent.get(&(answered - 1)).copied(), Instant::now()));
            }
        }
    }
}

/// By the kernel's clock alone: nobody is there to lift it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_ban_ends_by_itself_to_the_second() {
    check(|lab| {
        lab.agent.start()?;
        let network = publishing("shop", 1, PUBLIC);
        let (_guest, _service) = serve(lab, 1, &network)?;
        let client = Client::new(lab, OUTSIDE, PUBLIC)?;
        let before = Instant::now();
        lab.agent
            .ok(["ban", "add", "198.51.100.0/24", "--for", "3s"])?;
        let after = Instant::now();
        lab.agent.kill()?;
        let (last_banned, answered) = end_of_ban(&client)?;
        let time = Duration::from_secs(3);
        let early = (before + time).saturating_duration_since(answered);
        ensure!(early.is_zero(), "{early:?} too early");
        // To the next second of the kernel's clock.
        let latest = after + time + Duration::from_millis(1200);
        let late = last_banned.map(|asked| asked.saturating_duration_since(latest));
        ensure!(late.is_none_or(|late| late.is_zero()), "{late:?} late");
        lab.agent.start()?;
        // It is listed to the end of the second that it was given by the host's other clock.
        eventually(SOON, || {
            let list = lab.agent.ok(["--quiet", "ban", "list", "--json"])?;
            ensure!(list == "{\"schema\":1,\"bans\":[]}\n", "{list}");
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_ban_of_an_ipv6_prefix_leaves_neighbours_alone() {
    check6(|lab| {
        lab.agent.start()?;
        let network =
            Network::default()
                .ipv6()
                .with(&forwards(&both("", "fd00:10:1::b", PUBLIC, 80)));
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        let _service = Service::start(
            guest.netns(),
            SocketAddr::new(network.address6(11).into(), 80),
        )?;
        let public = SocketAddr::new(HOST6.into(), PUBLIC);
        let who = reached(&lab.wan, "tcp", public)?;
        ensure!(who == OUTSIDE6, "{who}");
        lab.agent.ok(["ban", "add", &format!("{OUTSIDE6}/64")])?;
        // The router is banned as well, and has to be found for everybody else's sake.
        let ask = traffic::ask_udp(&lab.wan, public)?;
        ensure!(ask == Verdict::Silent, "{ask:?}");
        lab.hv
            .run(["ip", "-6", "neigh", "flush", "dev", "uplink"])?;
        let probe = lab.hv.udp("[::]:0")?;
        probe.send_to(b"hello", (OUTSIDE6, 9))?;
        eventually(SOON, || {
            let neighbours = lab.hv.run(["ip", "-6", "neigh", "show", "dev", "uplink"])?;
            ensure!(
                neighbours
                    .lines()
                    .any(|line| line.starts_with(&OUTSIDE6.to_string()) && line.contains("lladdr")),
                "{neighbours}"
            );
            Ok(())
        })
    });
}

/// fail2ban, which follows a guest's log.
struct Fail2ban(Child);

impl Fail2ban {
    fn start(lab: &Lab, dir: &Path, log: &Path) -> Result<Self> {
        let write = |name: &str, text: &str| -> Result<()> {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().context("a directory")?)?;
            Ok(fs::write(path, text)?)
        };
        let netd = netd_tests::agent::binary()?;
        let action = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/fail2ban/netd.conf");
        write("action.d/netd.conf", &fs::read_to_string(action)?)?;
        write(
            "filter.d/shop.conf",
            "[Definition]\nfailregex = ^\\s*refused <HOST>$\ndatepattern = ^EPOCH\n",
        )?;
        write(
            "fail2ban.conf",
            &format!(
                "[Definition]\nloglevel = DEBUG\nlogtarget = {0}/log\nsyslogsocket = auto\n\
                 socket = {0}/sock\npidfile = {0}/pid\ndbfile = None\ndbpurgeage = 1d\n",
                dir.display()
            ),
        )?;
        write(
            "jail.conf",
            &format!(
                "[shop]\nenabled = true\nfilter = shop\nbackend = polling\nlogpath = {}\n\
                 maxretry = 2\nfindtime = 600\nbantime = 600\n\
                 action = netd[netd=\"{} --socket {}\", options=\"--network shop\"]\n",
                log.display(),
                netd.display(),
                lab.agent.socket().display()
            ),
        )?;
        let mut command = lab.hv.command("fail2ban-server");
        command.arg("-c").arg(dir).args(["-f", "-x", "start"]);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let fail2ban = Self(child);
        eventually(2 * SOON, || {
            let status = fail2ban.ask(lab, dir, &["status", "shop"]);
            ensure!(status.is_ok(), "{status:?}");
            Ok(())
        })?;
        Ok(fail2ban)
    }

    fn ask(&self, lab: &Lab, dir: &Path, arguments: &[&str]) -> Result<String> {
        let mut command: Command = lab.hv.command("fail2ban-client");
        netd_tests::run(command.arg("-c").arg(dir).args(arguments))
    }
}

impl Drop for Fail2ban {
    fn drop(&mut self) {
        // Its group: what it runs ends with it.
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// A guest that a port is published for sees its clients' own addresses, so what fail2ban finds in its
/// log it can ban.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn fail2ban_bans_who_troubles_a_published_service() {
    check(|lab| {
        lab.agent.start()?;
        let network = publishing("shop", 1, PUBLIC);
        let (_guest, _service) = serve(lab, 1, &network)?;
        let dir = lab.directory().join("fail2ban");
        fs::create_dir_all(&dir)?;
        let log = dir.join("shop.log");
        fs::write(&log, "")?;
        let fail2ban = Fail2ban::start(lab, &dir, &log)?;
        let client = Client::new(lab, OUTSIDE, PUBLIC)?;
        // As the service in the guest writes it, of the address that it sees.
        let peer = reached(&lab.wan, "tcp", at(HOST, PUBLIC))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let mut file = OpenOptions::new().append(true).open(&log)?;
        for _ in 0..2 {
            writeln!(file, "{} refused {peer}", now.as_secs())?;
        }
        eventually(SOON, || {
            let list = lab.agent.ok(["ban", "list"])?;
            ensure!(
                list.contains("fail2ban-shop") && list.contains("198.51.100.1"),
                "{list}"
            );
            Ok(())
        })?;
        ensure!(!client.is_answered()?, "the source is not cut off");
        fail2ban.ask(lab, &dir, &["set", "shop", "unbanip", &OUTSIDE.to_string()])?;
        client.answered("unban does not give it back")?;
        // What is banned when fail2ban stops is not banned for ever.
        fail2ban.ask(lab, &dir, &["set", "shop", "banip", "198.51.100.9"])?;
        eventually(SOON, || {
            let list = lab.agent.ok(["ban", "list"])?;
            ensure!(
                list.contains("198.51.100.9   shop      2"),
                "until when? {list}"
            );
            Ok(())
        })?;
        fail2ban.ask(lab, &dir, &["stop"])?;
        eventually(SOON, || {
            let list = lab.agent.ok(["ban", "list"])?;
            ensure!(!list.contains("198.51.100.9"), "{list}");
            Ok(())
        })
    });
}
