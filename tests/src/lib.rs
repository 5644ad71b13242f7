//! A hypervisor in network namespaces, for the tests and the demo.
//!
//! ```text
//!   vm1, vm2 … --(veth: vnet1, vnet2 …)-- bridge [hv] uplink --(veth)-- wan0 [wan] (-- far0 [far])
//! ```
//!
//! [`Lab`] builds it and removes it, the agent under test runs in `hv`, and [`lab::check`] is the
//! frame of every topology test: it compares the hypervisor's namespace before the agent started
//! with what is left after its teardown.
//!
//! Everything here needs root. Nothing here changes the machine's own network.

pub mod agent;
pub mod capture;
pub mod control;
pub mod differential;
pub mod documents;
pub mod flood;
pub mod frame;
pub mod frame6;
pub mod guest;
pub mod lab;
pub mod lab6;
pub mod libvirt;
pub mod limits;
pub mod losses;
pub mod netns;
pub mod network;
pub mod packet;
pub mod packet6;
pub mod published;
pub mod questions;
pub mod rate;
pub mod relay;
pub mod snapshot;
pub mod sniffer;
pub mod socket;
pub mod tap;
pub mod tcp_pool;
pub mod traffic;
pub mod tunnel;
pub mod two_uplinks;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use agent::Agent;
pub use capture::Capture;
pub use flood::Flood;
pub use frame::{Frame, Wire};
pub use frame6::Frame6;
pub use guest::{Guest, Lease};
pub use lab::Lab;
pub use losses::Losses;
pub use netns::{Counters, Netns};
pub use network::Network;
pub use relay::Relay;
pub use snapshot::Snapshot;
pub use sniffer::Sniffer;
pub use tap::Tap;
pub use tcp_pool::TcpPool;
pub use tunnel::{Tun, Tunnel};
pub use two_uplinks::TwoUplinks;

/// Time that something may take which is sure to come: on a machine that is busy with something
/// else, much longer than alone. What comes in time costs nothing of it.
pub const SOON: Duration = Duration::from_secs(30);

/// Runs a command to its end and returns what it printed to stdout; any other end than success is
/// an error that shows the command and all it said.
///
/// # Errors
/// The command cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{stdout}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(stdout)
}

/// Runs a command to its end, whatever that is.
///
/// # Errors
/// The command cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("cannot start {command:?}"))
}

/// Asks again and again until the answer is there, for `limit` at most.
///
/// # Errors
/// The last answer was still an error when the time was over.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() >= limit => {
                return Err(error.context(format!("still so after {limit:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Sends what belongs together before everybody else's turn: netd does not wait for the first fragment of a packet
/// for as long as a busy machine may let a thread wait.
///
/// # Errors
/// As `send`, or the user is not root.
pub fn at_once(send: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            // This thread's alone.
            rustix::process::setpriority_process(None, -20)?;
            send()
        });
        sending
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Writes a script that can be executed at once. Another program writes it: a descriptor of ours,
/// inherited for a moment by a child that a sibling thread starts, would make it "text file busy".
///
/// # Errors
/// It cannot be written.
pub fn write_executable(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).with_context(|| format!("writing {}", draft.display()))?;
    run(Command::new("install")
        .args(["-m", "755"])
        .arg(&draft)
        .arg(path))?;
    std::fs::remove_file(&draft)?;
    Ok(())
}
