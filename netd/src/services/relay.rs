//! The process of a network's relay (`crate::relay`): start, adopt, stop.
//!
//! It outlives the agent, as dnsmasq does, and is found again by its pid file and command line.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::namespace;
use crate::dnsmasq::{self, Running, find_process};
use crate::paths::Paths;

/// How long it may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Longest words of one that does not start.
const MAX_WORDS: u64 = 4096;

/// A relay that runs.
#[derive(Clone, Debug)]
pub struct Relay {
    /// The process.
    pub running: Running,
    /// The port at the host's loopback addresses for the host's own questions.
    pub port: u16,
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// It could not be started.
    #[error("the relay of {bridge}'s services did not start: {problem}")]
    NotStarted {
        /// The bridge.
        bridge: String,
        /// Its own words, or the system's.
        problem: String,
    },
    /// It could not be ended, or its file not be removed.
    #[error(transparent)]
    Process(#[from] dnsmasq::Error),
}

/// Its pid file, with the process number and the port.
fn pid_file(paths: &Paths, bridge: &str) -> io::Result<PathBuf> {
    std::path::absolute(paths.relay_dir().join(format!("{bridge}.pid")))
}

fn pid_file_argument(pid_file: &Path) -> OsString {
    let mut argument = OsString::from("--pid-file=");
    argument.push(pid_file);
    argument
}

/// Run the relay of a bridge's services, whose namespace is there; it works when this returns. One that
/// runs already ends. `binary` is netd's own, `gateways` are the bridge's addresses.
///
/// # Errors
/// It does not start, in its own words.
pub async fn start(
    binary: &Path,
    paths: &Paths,
    bridge: &str,
    gateways: &[IpAddr],
) -> Result<Relay, RelayError> {
    let failed = |problem: String| RelayError::NotStarted {
        bridge: bridge.to_owned(),
        problem,
    };
    let of_io = |error: io::Error| failed(error.to_string());
    stop(paths, bridge, None).await?;
    fs::create_dir_all(paths.relay_dir()).map_err(of_io)?;
    let pid_file = pid_file(paths, bridge).map_err(of_io)?;
    let netns = std::path::absolute(namespace::path(paths, bridge)).map_err(of_io)?;
    let mut command = Command::new(binary);
    command
        .arg("relay")
        .arg("--netns")
        .arg(netns)
        .arg(pid_file_argument(&pid_file));
    for gateway in gateways {
        command.arg("--gateway").arg(gateway.to_string());
    }
    let mut child = command
        .stdin(Stdio::null())
        // Ready, or not, when it lets go of this.
        .stdout(Stdio::piped())
        .spawn()
        .map_err(of_io)?;
    let mut words = String::new();
    let said = child.stdout.take();
    let told = timeout(START_LIMIT, async {
        match said {
            Some(said) => said.take(MAX_WORDS).read_to_string(&mut words).await,
            None => Ok(0),
        }
    });
    let told = told.await;
    let relay = match told {
        Ok(Ok(_)) => adopt(paths, bridge),
        _ => None,
    };
    let Some(relay) = relay else {
        // Whatever it does, nobody waits for it any more.
        let _ = child.start_kill();
        let problem = match (told, words.trim()) {
            (Err(_), _) => format!("it was not ready within {} s", START_LIMIT.as_secs()),
            (Ok(Err(error)), _) => error.to_string(),
            (Ok(Ok(_)), "") => "it ended at once; see the agent's log".to_owned(),
            (Ok(Ok(_)), words) => words.to_owned(),
        };
        return Err(failed(problem));
    };
    // It is nobody's child from here on: the runtime takes note of its end.
    drop(child);
    Ok(relay)
}

/// Find the relay that an earlier agent started.
#[must_use]
pub fn adopt(paths: &Paths, bridge: &str) -> Option<Relay> {
    let pid_file = pid_file(paths, bridge).ok()?;
    let running = find_process("the relay", &pid_file, None, &pid_file_argument(&pid_file))?;
    let text = fs::read_to_string(&pid_file).ok()?;
    let port = text.lines().nth(1)?.parse().ok()?;
    Some(Relay { running, port })
}

/// End the relay of a bridge's services: the one known, else the one that its pid file leads to.
///
/// # Errors
/// The process does not end, or the file cannot be removed.
pub async fn stop(paths: &Paths, bridge: &str, known: Option<Running>) -> Result<(), RelayError> {
    let pid_file = pid_file(paths, bridge).map_err(|error| RelayError::NotStarted {
        bridge: bridge.to_owned(),
        problem: error.to_string(),
    })?;
    let running = known.or_else(|| adopt(paths, bridge).map(|relay| relay.running));
    match running {
        Some(running) => Ok(running.stop(&pid_file).await?),
        None => match fs::remove_file(&pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RelayError::NotStarted {
                bridge: bridge.to_owned(),
                problem: format!("cannot remove {}: {error}", pid_file.display()),
            }),
            _ => Ok(()),
        },
    }
}
