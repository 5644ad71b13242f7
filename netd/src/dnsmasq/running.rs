//! A dnsmasq that runs.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::error::{Error, Result};
use super::files::{read_bounded, remove};

/// How long a process may take to end after SIGTERM, and then after SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// A running dnsmasq, held by a pidfd. Clones mean the same process.
#[derive(Clone, Debug)]
pub struct Running {
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

    /// End the process: SIGTERM, after a second SIGKILL. Removes the pid file.
    ///
    /// # Errors
    /// The process does not end.
    pub async fn stop(&self, pid_file: &Path) -> Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            match self.signal(signal) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => break,
                Err(e) => return Err(self.signal_error("stopped", e)),
            }
            match timeout(STOP_LIMIT, self.exited()).await {
                Ok(ended) => {
                    ended?;
                    break;
                }
                Err(_) if signal == Signal::TERM => {
                    tracing::warn!(pid = self.pid, "dnsmasq ignored SIGTERM; killing it");
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
            pid: self.pid,
            action,
            source,
        }
    }
}

/// The process of a pid file, if it is a dnsmasq that was given this configuration file.
#[must_use]
pub fn adopt(pid_file: &Path, conf: &Path) -> Option<Running> {
    let text = String::from_utf8(read_bounded(pid_file, 64).ok()??).ok()?;
    let number: i32 = text.trim().parse().ok().filter(|pid| *pid > 0)?;
    // The pidfd first: from here on the number cannot pass to another process unnoticed.
    let fd = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
    let proc = PathBuf::from(format!("/proc/{number}"));
    let exe = fs::read_link(proc.join("exe")).ok()?;
    // The name survives a replaced binary, whose link ends in " (deleted)".
    if !exe.file_name()?.to_str()?.starts_with("dnsmasq") {
        return None;
    }
    let command_line = read_bounded(&proc.join("cmdline"), 1 << 20).ok()??;
    let wanted = conf_argument(&std::path::absolute(conf).ok()?);
    let ours = command_line
        .split(|byte| *byte == 0)
        .any(|arg| arg == wanted.as_encoded_bytes());
    let running = Running {
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
