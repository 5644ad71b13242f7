//! The protocol end to end: a fake agent behind the real server, driven by the `netd` binary, by
//! the system's virsh and by hand-made messages.
#![expect(
    clippy::unwrap_used,
    reason = "a test's job is to panic when something is not as it should be"
)]

mod access;
mod captures;
mod clients;
mod crowd;
mod disconnects;
mod edit;
mod event_captures;
mod events;
mod fake;
mod flows;
mod json;
mod listen;
mod live;
mod log;
mod patience;
mod ports;
mod protocol;
mod raw;
mod seen;
mod slow;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use netd::rpc::Limits;
use netd::rpc::access::Access;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use fake::Fake;

/// A server with a fake agent on a socket of its own, gone when dropped.
struct Server {
    driver: Arc<Fake>,
    socket: PathBuf,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
    runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self::on(runtime, limits)
    }

    fn on(runtime: Runtime, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("netd-sock");
        let driver = Arc::new(Fake::default());
        driver.reset();
        let doors = {
            let _inside = runtime.enter();
            let read_only = Access {
                read_only: true,
                ..Access::ROOT
            };
            let at = |path, access| netd::rpc::bind(path, access).unwrap();
            vec![
                at(&socket, Access::ROOT),
                at(&read_only_socket(&socket), read_only),
            ]
        };
        let (stop, stopped) = watch::channel(false);
        let task = runtime.spawn(netd::rpc::serve(
            doors,
            watch::channel(Arc::default()).1,
            Arc::clone(&driver),
            limits,
            stopped,
        ));
        Self {
            driver,
            socket,
            stop,
            task: Some(task),
            runtime,
            dir,
        }
    }

    /// A file in the server's directory.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Tells the server to stop and waits until it has.
    fn stop(&mut self) {
        self.stop.send(true).unwrap();
        self.runtime.block_on(self.task.take().unwrap()).unwrap();
    }
}

/// Waits until nobody can connect any more. A command that another test starts at this moment has copies of
/// this program's sockets until it is executed.
fn nobody_listens(socket: &Path) {
    let begin = std::time::Instant::now();
    loop {
        match std::os::unix::net::UnixStream::connect(socket) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
            answer => assert!(begin.elapsed() < raw::PATIENCE, "{answer:?}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The server's other socket, over which nobody changes anything.
fn read_only_socket(socket: &Path) -> PathBuf {
    socket.with_extension("ro")
}

/// What a program printed, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

fn ran(command: &mut std::process::Command) -> Ran {
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "Europe/Berlin")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code(),
    }
}

fn netd(socket: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_netd"));
    command.arg("--socket").arg(socket);
    command
}

/// The system's virsh for this socket, or `None` (loudly) where there is none.
fn virsh(socket: &Path) -> Option<std::process::Command> {
    let mut command = std::process::Command::new("virsh");
    if command.arg("--version").output().is_err() {
        eprintln!("SKIPPED: no virsh on this machine (Debian: libvirt-clients)");
        return None;
    }
    let mut command = std::process::Command::new("virsh");
    command.arg("-c").arg(format!(
        "network+unix:///system?socket={}",
        socket.display()
    ));
    Some(command)
}
