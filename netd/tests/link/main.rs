//! The link module against a real kernel, each test in a network namespace of its own.
//!
//! Needs root, iproute2, nsenter and ping; without root every test says that it was skipped.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod devices;
mod stp;
mod sysctls;
mod watch;

use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netd::link::{Link, Links, Snapshot};
use netd::model::Mac;

/// What the kernel does in its own time it has done by then, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);
const MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

/// Runs a test body on a thread that has a network namespace to itself. Commands it starts are in
/// that namespace too.
fn in_namespace<F, Fut>(body: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: a network namespace is no memory, and file descriptors stay shared.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("unshare the network namespace");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) -> std::process::Output {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"))
}

fn sh(command: &str) {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
}

fn ip(arguments: &str) {
    sh(&format!("ip {arguments}"));
}

/// A second namespace, with a device moved into it as `eth0`.
struct Guest(Child);

impl Guest {
    fn new(device: &str, address: &str) -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo; exec sleep 300"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let guest = Self(child);
        ip(&format!("link set {device} netns {}", guest.0.id()));
        guest.run(&format!("ip link set {device} name eth0"));
        guest.run(&format!("ip addr add {address} dev eth0"));
        guest.run("ip link set eth0 up");
        guest
    }

    fn command(&self, command: &str) -> String {
        format!("nsenter -t {} -n {command}", self.0.id())
    }

    fn run(&self, command: &str) {
        sh(&self.command(command));
    }

    fn pings(&self, address: &str) -> bool {
        run(&self.command(&format!("ping -n -q -c 1 -W 1 {address}")))
            .status
            .success()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has the kernel noticed that a device is switched on and has a carrier? It does so in its own time.
fn is_up(device: &str) -> bool {
    let shown = run(&format!("ip -o link show dev {device}")).stdout;
    String::from_utf8(shown).unwrap().contains(" state UP ")
}

fn find<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Link {
    snapshot
        .by_name(name)
        .unwrap_or_else(|| panic!("no {name} in {snapshot:#?}"))
}

async fn state_of(links: &Links, name: &str) -> u8 {
    let snapshot = links.snapshot().await.unwrap();
    find(&snapshot, name).port_state.unwrap()
}

/// Waits for something the kernel does in its own time.
async fn until<F: AsyncFnMut() -> bool>(what: &str, limit: Duration, mut condition: F) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}
