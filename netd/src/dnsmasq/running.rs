//! A process that outlives the agent: a dnsmasq, or what runs beside it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::error::{Error, Result};
use super::files::{read_bounded, remove};

/// How long a process may take to end after SIGTERM, or to show progress. It takes some milliseconds, and is not waited
/// for any longer. But on a host that is short of processors or waits for its disk, a second passes before a dnsmasq has run
/// its lease helper once; killed, it would forget leases. Callers bear more than this (libvirt's clients hang up after 30 s).
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long a process that was killed may take to be gone: nobody can refuse, but the kernel may have work to do
/// for it on a busy machine.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How long a process may work on after SIGTERM.
const WORK_LIMIT: Duration = Duration::from_secs(180);

/// A running process, held by a pidfd. Clones mean the same one.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it is, for people.
    name: &'static str,
    pid: u32,
    fd: Arc<OwnedFd>,
}

impl Running {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Does the process still run?
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // A pidfd is readable once its process has ended (pidfd_poll).
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Wait until the process has ended, whoever ended it.
    ///
    /// # Errors
    /// The process cannot be watched.
    pub async fn exited(&self) -> Result<()> {
        let failed = |e| self.signal_error("watched", e);
        // One file cannot be registered twice, and several callers may wait.
        let fd = self.fd.try_clone().map_err(failed)?;
        // SAFETY: the descriptor is open, and the AsyncFd owns it alone until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map_err(|e| failed(e.into_parts().1))?;
        let _ready = fd.readable().await.map_err(failed)?;
        Ok(())
    }

    /// End the process: SIGTERM, after ten seconds SIGKILL. Removes the pid file.
    ///
    /// # Errors
    /// The process does not end.
    pub async fn stop(&self, pid_file: &Path) -> Result<()> {
        self.stop_patiently(pid_file, || ()).await
    }

    /// The same with a process that does its work to the end: as long as `progress` has another value
    /// than ten seconds before, it is waited for, three minutes at most.
    ///
    /// # Errors
    /// As [`Running::stop`].
    pub async fn stop_patiently<P: PartialEq>(
        &self,
        pid_file: &Path,
        progress: impl Fn() -> P,
    ) -> Result<()> {
        let until = Instant::now() + WORK_LIMIT;
        let mut done = progress();
        for signal in [Signal::TERM, Signal::KILL] {
            match self.signal(signal) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => break,
                Err(e) => return Err(self.signal_error("stopped", e)),
            }
            let limit = match signal {
                Signal::KILL => KILL_LIMIT,
                _ => STOP_LIMIT,
            };
            let ended = loop {
                match timeout(limit, self.exited()).await {
                    Ok(ended) => break Ok(ended),
                    Err(late) => {
                        let now = progress();
                        if now == done || Instant::now() >= until {
                            break Err(late);
                        }
                        done = now;
                    }
                }
            };
            match ended {
                Ok(ended) => {
                    ended?;
                    break;
                }
                Err(_) if signal == Signal::TERM => {
                    let name = self.name;
                    tracing::warn!(pid = self.pid, "{name} ignored SIGTERM; killing it");
                }
                Err(late) => return Err(self.signal_error("stopped", late.into())),
            }
        }
        remove(pid_file)
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(self.fd.as_fd(), signal)?)
    }

    pub(super) fn signal_error(&self, action: &'static str, source: io::Error) -> Error {
        Error::Signal {
            name: self.name,
            pid: self.pid,
            action,
            source,
        }
    }
}

/// The process of a pid file, if it is a dnsmasq that was given this configuration file.
#[must_use]
pub fn adopt(pid_file: &Path, conf: &Path) -> Option<Running> {
    let argument = conf_argument(&std::path::absolute(conf).ok()?);
    find_process("dnsmasq", pid_file, Some("dnsmasq"), &argument)
}

/// The process whose number is the first line of a pid file, if it was given this argument, and the name
/// that the kernel has for it begins so. `name` is what people call it.
#[must_use]
pub fn find_process(
    name: &'static str,
    pid_file: &Path,
    binary: Option<&str>,
    argument: &OsStr,
) -> Option<Running> {
    let text = String::from_utf8(read_bounded(pid_file, 64).ok()??).ok()?;
    let number = text.lines().next()?.trim();
    let number: i32 = number.parse().ok().filter(|pid| *pid > 0)?;
    // The pidfd first: from here on the number cannot pass to another process unnoticed.
    let fd = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
    let proc = PathBuf::from(format!("/proc/{number}"));
    if let Some(binary) = binary {
        // The link to its binary may be read by who may trace it alone (proc_pid_exe(5)).
        let comm = read_bounded(&proc.join("comm"), 64).ok()??;
        if !comm.starts_with(binary.as_bytes()) {
            return None;
        }
    }
    let command_line = read_bounded(&proc.join("cmdline"), 1 << 20).ok()??;
    let ours = command_line
        .split(|byte| *byte == 0)
        .any(|arg| arg == argument.as_encoded_bytes());
    let running = Running {
        name,
        pid: number.unsigned_abs(),
        fd: Arc::new(fd),
    };
    // A process that ended meanwhile may have left its number to the one just looked at.
    let alive = running.is_alive();
    (ours && alive).then_some(running)
}

/// How dnsmasq is given its configuration, and known by.
pub(super) fn conf_argument(conf: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("--conf-file=");
    argument.push(conf);
    argument
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_foreign_process_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("x.pid");
        let conf = Path::new("/etc/x.conf");
        assert!(adopt(&pid_file, conf).is_none());
        for text in [
            std::process::id().to_string(),
            "0".into(),
            "-1".into(),
            "x".into(),
        ] {
            fs::write(&pid_file, text).unwrap();
            assert!(adopt(&pid_file, conf).is_none());
        }
    }
}
