//! The dnsmasq process of a network: start, adopt, reload, stop.
//!
//! dnsmasq daemonises itself, so it is no child of the agent and outlives it. A new agent finds
//! it by its pid file and command line and holds it by a pidfd, which cannot come to mean another
//! process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::config::{self, ConfigError, NetworkFiles};
use super::files::{create_public_dir, read_bounded, remove_if_there, write_atomic};
use super::{HELPER_BRIDGE_VARIABLE, HELPER_DIR_VARIABLE, HELPER_NAME};
use crate::api::{ApiError, ErrorCode};
use crate::model::Network;
use crate::paths::Paths;

/// Oldest dnsmasq whose options are all there.
const MIN_VERSION: Version = Version {
    major: 2,
    minor: 67,
};

/// A dnsmasq that has not become a daemon by then never will (`keep-in-foreground` among the raw
/// options, for one).
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for the rest of what a parent that has ended said.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// How long a process may take to end after SIGTERM, and then after SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// dnsmasq builds "SCRIPT init" in a buffer of 256 bytes.
const MAX_HELPER_PATH: usize = 240;

/// Whether dnsmasq sends router advertisements for IPv6 `<ip>` elements. Not before the rest of what
/// guests need to configure themselves is there, too; until then their IPv6 addresses are static.
const ADVERTISE: bool = false;

/// Mode of the host files, which dnsmasq reads as a user of its own.
const HOST_FILE: u32 = 0o644;

/// Where to look besides PATH, which often lacks the administrator's directories.
const MORE_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Why a dnsmasq could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No binary.
    #[error(
        "dnsmasq was not found in {searched}; install it (Debian: dnsmasq-base) or set NETD_DNSMASQ to its path"
    )]
    Missing {
        /// The directories searched, or the value of NETD_DNSMASQ.
        searched: String,
    },
    /// The binary does not say which version it is.
    #[error("cannot find out the version of {}: {problem}", path.display())]
    UnknownVersion {
        /// The binary.
        path: PathBuf,
        /// What it did instead.
        problem: String,
    },
    /// Too old.
    #[error("{} is dnsmasq {found}, but netd needs {MIN_VERSION} or newer; install a newer one or set NETD_DNSMASQ to its path", path.display())]
    TooOld {
        /// The binary.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// The definition cannot be given to dnsmasq.
    #[error("network '{network}': {source}")]
    Config {
        /// Name of the network.
        network: String,
        /// Element and problem.
        source: ConfigError,
    },
    /// The state directory cannot hold dnsmasq's script.
    #[error("{} cannot be dnsmasq's script: {problem}; choose another --state-dir", path.display())]
    HelperPath {
        /// The script.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file or process operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// dnsmasq refused to start.
    #[error("dnsmasq for network '{network}' did not start: {problem}")]
    NotStarted {
        /// Name of the network.
        network: String,
        /// Its own words, or its exit status.
        problem: String,
    },
    /// A signal could not be sent, or did not end the process.
    #[error("dnsmasq with process number {pid} could not be {action}: {source}")]
    Signal {
        /// Process number.
        pid: u32,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, Error>;

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Config { .. } => Self::new(ErrorCode::ConfigUnsupported, error),
            Error::Missing { .. } | Error::TooOld { .. } | Error::HelperPath { .. } => {
                Self::new(ErrorCode::OperationFailed, error)
            }
            _ => Self::internal(error),
        }
    }
}

/// Version of a dnsmasq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 for many years.
    pub major: u32,
    /// What changes.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.major, self.minor)
    }
}

/// Starts dnsmasq processes and remembers which binary was found good.
#[derive(Debug, Default)]
pub struct Dnsmasq {
    /// The binary last looked at, when it was changed, and its version.
    known: Mutex<Option<(PathBuf, SystemTime, Version)>>,
}

impl Dnsmasq {
    /// A starter that knows no binary yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The binary that would be run, found and new enough. `--version` is asked only when the
    /// file has changed since the last time.
    ///
    /// # Errors
    /// No dnsmasq, or one that is too old.
    pub async fn binary(&self) -> Result<PathBuf> {
        let path = locate()?;
        let modified = fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .map_err(|e| io_error("read the date of", &path, e))?;
        let mut known = self.known.lock().await;
        let version = match &*known {
            Some((p, m, version)) if *p == path && *m == modified => *version,
            _ => ask_version(&path).await?,
        };
        if version < MIN_VERSION {
            return Err(Error::TooOld {
                path,
                found: version,
            });
        }
        *known = Some((path.clone(), modified, version));
        Ok(path)
    }

    /// Write the files of `network` and run its dnsmasq; it is set up when this returns.
    ///
    /// The process runs in the network namespace of the calling thread. One that still runs for
    /// this network is stopped first. `helper` is the netd binary, as it can be found later (not
    /// a deleted file). After a failure the files written here are gone again.
    ///
    /// # Errors
    /// No usable dnsmasq, a definition it cannot serve, or its own refusal, in its words.
    pub async fn start(
        &self,
        network: &Network,
        bridge: &str,
        paths: &Paths,
        helper: &Path,
    ) -> Result<Running> {
        let binary = self.binary().await?;
        let files = files_of(paths, network)?;
        let texts = Texts::new(network, &files)?;
        let script = link_helper(paths, helper)?;

        if let Some(old) = adopt(&pid_file(&files), &files.conf(&network.name)) {
            old.stop(&pid_file(&files)).await?;
        }
        let started = async {
            texts.write(network, &files)?;
            daemonise(&binary, network, bridge, &files, &script).await
        };
        match started.await {
            Ok(running) => Ok(running),
            Err(e) => {
                if let Err(also) = remove_own_files(network, &files) {
                    tracing::warn!("after a failed start: {also}");
                }
                Err(e)
            }
        }
    }

    /// Let `running` serve what `network` says now. DHCP hosts and DNS hosts stand in files that it
    /// reads again when it is told to. What stands in its configuration needs another process, which
    /// goes on with the leases: only root may read that file, and dnsmasq has given up root.
    /// Nothing happens where nothing differs.
    ///
    /// # Errors
    /// As [`Dnsmasq::start`]; or the process is gone. What cannot be written as files, or what
    /// dnsmasq does not understand, leaves `running` as it is.
    pub async fn reload(
        &self,
        network: &Network,
        bridge: &str,
        paths: &Paths,
        helper: &Path,
        running: Running,
    ) -> Result<Running> {
        let files = files_of(paths, network)?;
        let texts = Texts::new(network, &files)?;
        if !holds(&files.conf(&network.name), &texts.conf)? {
            // Before the one that runs is stopped.
            try_out(&self.binary().await?, network, &files, &texts.conf).await?;
            return self.start(network, bridge, paths, helper).await;
        }
        if texts.write_changed_hosts(network, &files)? {
            let told = running.signal(Signal::HUP);
            told.map_err(|e| running.signal_error("told to reload", e))?;
        }
        Ok(running)
    }
}

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
                    tracing::warn!(pid = self.pid, "dnsmasq ignored SIGTERM, killing it");
                }
                Err(late) => return Err(self.signal_error("stopped", late.into())),
            }
        }
        remove(pid_file)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(self.fd.as_fd(), signal)?)
    }

    fn signal_error(&self, action: &'static str, source: io::Error) -> Error {
        Error::Signal {
            pid: self.pid,
            action,
            source,
        }
    }
}

/// A network's files below `paths`, absolute because dnsmasq changes its directory.
///
/// # Errors
/// The name cannot be part of a file name.
pub fn files_of(paths: &Paths, network: &Network) -> Result<NetworkFiles> {
    let name = config::file_name(&network.name).map_err(|e| config_error(network, e))?;
    Ok(NetworkFiles {
        dir: absolute(&paths.dnsmasq_dir())?,
        pid_file: Some(absolute(&paths.run_dir.join(format!("{name}.pid")))?),
    })
}

/// Find the dnsmasq that an earlier agent started for `network`.
#[must_use]
pub fn adopt_network(network: &Network, paths: &Paths) -> Option<Running> {
    let files = files_of(paths, network).ok()?;
    adopt(&pid_file(&files), &files.conf(&network.name))
}

/// End the dnsmasq of `network`: the one known, else the one that its pid file leads to. The pid
/// file goes in any case, since one that was killed leaves it behind.
///
/// # Errors
/// The process does not end, or the file cannot be removed.
pub async fn stop_network(network: &Network, paths: &Paths, known: Option<Running>) -> Result<()> {
    let pid_file = match files_of(paths, network) {
        Ok(files) => pid_file(&files),
        // None was started under a name that can be no file's.
        Err(Error::Config { .. }) if known.is_none() => return Ok(()),
        Err(error) => return Err(error),
    };
    match known.or_else(|| adopt_network(network, paths)) {
        Some(running) => running.stop(&pid_file).await,
        None => remove(&pid_file),
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

/// Point the script's link in the state directory at the netd binary `helper`, and return the
/// link. To be called at agent start too, so that running dnsmasqs find a binary that has moved.
///
/// # Errors
/// A path dnsmasq cannot use, or the file system's answer.
pub fn link_helper(paths: &Paths, helper: &Path) -> Result<PathBuf> {
    let dir = absolute(&paths.dnsmasq_dir())?;
    let link = dir.join(HELPER_NAME);
    check_script_path(&link)?;
    let helper = absolute(helper)?;
    create_public_dir(&dir).map_err(|e| io_error("create", &dir, e))?;
    if fs::read_link(&link).is_ok_and(|target| target == helper) {
        return Ok(link);
    }
    let failed = |e| io_error("link the lease helper as", &link, e);
    // A link cannot be replaced in place; a directory of our own gives it a name to come from.
    let temp = tempfile::Builder::new()
        .prefix(".netd-")
        .tempdir_in(&dir)
        .map_err(failed)?;
    let new = temp.path().join(HELPER_NAME);
    std::os::unix::fs::symlink(&helper, &new).map_err(failed)?;
    fs::rename(&new, &link).map_err(failed)?;
    Ok(link)
}

/// Remove everything kept for a network, its leases included (undefine, end of a transient one).
///
/// # Errors
/// The first file that could not be removed; the others are gone.
pub fn remove_files(network: &Network, bridge: &str, paths: &Paths) -> Result<()> {
    let files = files_of(paths, network)?;
    let own = remove_own_files(network, &files);
    let status = match super::leases::interface_name(bridge) {
        Some(bridge) => remove(&files.status(bridge)),
        None => Ok(()),
    };
    own.and(status)
}

/// Remove what all networks share: the helper's link, and the directory once it is empty.
///
/// # Errors
/// The link or directory could not be removed. A directory that is not empty is left alone.
pub fn remove_shared(paths: &Paths) -> Result<()> {
    let dir = paths.dnsmasq_dir();
    remove(&dir.join(HELPER_NAME))?;
    match fs::remove_dir(&dir) {
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(io_error("remove", &dir, e))
        }
        _ => Ok(()),
    }
}

/// The three files, checked before the first is written.
struct Texts {
    conf: String,
    hosts: String,
    names: String,
}

impl Texts {
    fn new(network: &Network, files: &NetworkFiles) -> Result<Self> {
        let all = || {
            Ok(Self {
                conf: config::conf(network, files, ADVERTISE)?,
                hosts: config::hostsfile(network)?,
                names: config::addnhosts(network)?,
            })
        };
        all().map_err(|e| config_error(network, e))
    }

    fn write(&self, network: &Network, files: &NetworkFiles) -> Result<()> {
        let run_dir = pid_file(files);
        let run_dir = run_dir.parent().unwrap_or(Path::new("/"));
        create_public_dir(run_dir).map_err(|e| io_error("create", run_dir, e))?;
        write(&files.conf(&network.name), &self.conf, 0o600)?;
        self.write_hosts(network, files)
    }

    /// dnsmasq reads these again after it has given up root.
    fn write_hosts(&self, network: &Network, files: &NetworkFiles) -> Result<()> {
        warn_when_private(&files.dir);
        for (path, text) in self.host_files(network, files) {
            write(&path, text, HOST_FILE)?;
        }
        Ok(())
    }

    /// Write those that differ; was there any?
    fn write_changed_hosts(&self, network: &Network, files: &NetworkFiles) -> Result<bool> {
        let mut changed = false;
        for (path, text) in self.host_files(network, files) {
            if !holds(&path, text)? {
                write(&path, text, HOST_FILE)?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn host_files(&self, network: &Network, files: &NetworkFiles) -> [(PathBuf, &str); 2] {
        [
            (files.hostsfile(&network.name), &self.hosts),
            (files.addnhosts(&network.name), &self.names),
        ]
    }
}

/// Let dnsmasq read a configuration without acting upon it.
async fn try_out(binary: &Path, network: &Network, files: &NetworkFiles, conf: &str) -> Result<()> {
    let failed = |problem: String| Error::NotStarted {
        network: network.name.clone(),
        problem,
    };
    let dir = &files.dir;
    let written = || {
        use std::io::Write;
        let mut file = tempfile::Builder::new().prefix(".netd-").tempfile_in(dir)?;
        file.write_all(conf.as_bytes())?;
        Ok(file)
    };
    let file = written().map_err(|e| io_error("write a file in", dir, e))?;
    let output = Command::new(binary)
        .arg("--test")
        .arg(conf_argument(file.path()))
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(START_LIMIT, output)
        .await
        .map_err(|_| failed("--test does not end".to_owned()))?
        .map_err(|e| io_error("run", binary, e))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(words.trim().replace('\n', "; ")))
}

/// Run dnsmasq until it has become a daemon, or said why not.
async fn daemonise(
    binary: &Path,
    network: &Network,
    bridge: &str,
    files: &NetworkFiles,
    script: &Path,
) -> Result<Running> {
    let failed = |problem: String| Error::NotStarted {
        network: network.name.clone(),
        problem,
    };
    let conf = files.conf(&network.name);
    let mut script_argument = std::ffi::OsString::from("--dhcp-script=");
    script_argument.push(script);
    let mut child = Command::new(binary)
        .arg(conf_argument(&conf))
        .arg("--leasefile-ro")
        .arg(script_argument)
        // It passes its environment on to the helper, and nothing of the agent's is theirs.
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env(HELPER_BRIDGE_VARIABLE, bridge)
        .env(HELPER_DIR_VARIABLE, &files.dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| io_error("run", binary, e))?;

    let mut words = Vec::new();
    let stderr = child.stderr.take();
    let status = timeout(START_LIMIT, async {
        let read = async {
            match stderr {
                Some(pipe) => pipe.take(64 << 10).read_to_end(&mut words).await.map(drop),
                None => Ok(()),
            }
        };
        tokio::pin!(read);
        tokio::select! {
            status = child.wait() => {
                // The daemon lets go of stderr too, unless it was told to log there. Its status
                // counts; what is read late or not at all is only the explanation.
                let _ = timeout(DRAIN_LIMIT, &mut read).await;
                status
            }
            end = &mut read => match end {
                Ok(()) => child.wait().await,
                Err(e) => Err(e),
            },
        }
    })
    .await;
    let words = String::from_utf8_lossy(&words).trim().replace('\n', "; ");
    match status {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) if words.is_empty() => return Err(failed(status.to_string())),
        Ok(Ok(_)) => return Err(failed(words)),
        Ok(Err(e)) => return Err(failed(e.to_string())),
        Err(_) => {
            let limit = START_LIMIT.as_secs();
            return Err(failed(format!(
                "it did not become a daemon within {limit} s and was killed {words}"
            )));
        }
    }
    if !words.is_empty() {
        tracing::warn!(network = network.name, "{words}");
    }
    let pid_file = pid_file(files);
    adopt(&pid_file, &conf).ok_or_else(|| {
        failed(format!(
            "it ended at once or left no process number in {}; its log (syslog) says why",
            pid_file.display()
        ))
    })
}

/// `$NETD_DNSMASQ`, else the first executable `dnsmasq` in PATH and the usual directories.
fn locate() -> Result<PathBuf> {
    use rustix::fs::{Access, access};
    let usable = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if let Some(given) = std::env::var_os("NETD_DNSMASQ").filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        return Some(path.clone()).filter(usable).ok_or(Error::Missing {
            searched: format!("NETD_DNSMASQ={}", path.display()),
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .collect();
    for dir in MORE_DIRS.map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    let found = dirs.iter().map(|dir| dir.join("dnsmasq")).find(usable);
    found.ok_or_else(|| Error::Missing {
        searched: std::env::join_paths(&dirs)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    })
}

async fn ask_version(path: &Path) -> Result<Version> {
    let unknown = |problem: String| Error::UnknownVersion {
        path: path.to_owned(),
        problem,
    };
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(START_LIMIT, output)
        .await
        .map_err(|_| unknown("--version does not end".to_owned()))?
        .map_err(|e| unknown(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| {
        let line: String = text
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(80)
            .collect();
        unknown(format!("--version answered {line:?}"))
    })
}

/// From "Dnsmasq version 2.90  Copyright …"; a suffix such as "rc1" or "-ubuntu" is ignored.
fn parse_version(text: &str) -> Option<Version> {
    let rest = text.trim_start().strip_prefix("Dnsmasq version ")?;
    let (major, rest) = rest.split_once('.')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(Version {
        major: major.parse().ok()?,
        minor: rest[..digits].parse().ok()?,
    })
}

/// dnsmasq runs the script once through a shell (`init`) and otherwise directly, so no way of
/// quoting suits both: the path must need none.
fn check_script_path(path: &Path) -> Result<()> {
    let wrong = |problem| Error::HelperPath {
        path: path.to_owned(),
        problem,
    };
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() > MAX_HELPER_PATH {
        return Err(wrong("it is longer than 240 bytes"));
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._+-:@%=,".contains(b);
    if !bytes.iter().all(plain) {
        return Err(wrong(
            "it holds a character that means something to a shell",
        ));
    }
    Ok(())
}

/// Reservations would silently be missing after a reload.
fn warn_when_private(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let closed = dir
        .ancestors()
        .find(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0));
    if let Some(closed) = closed {
        tracing::warn!(
            "{} is closed to other users: dnsmasq, which gives up root, may not read its host files below it",
            closed.display()
        );
    }
}

fn conf_argument(conf: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("--conf-file=");
    argument.push(conf);
    argument
}

fn pid_file(files: &NetworkFiles) -> PathBuf {
    files.pid_file.clone().unwrap_or_default()
}

fn remove_own_files(network: &Network, files: &NetworkFiles) -> Result<()> {
    let name = &network.name;
    let all = [
        files.conf(name),
        files.hostsfile(name),
        files.addnhosts(name),
        pid_file(files),
    ];
    all.iter()
        .map(|path| remove(path))
        .fold(Ok(()), Result::and)
}

/// Does a file hold this text?
fn holds(path: &Path, text: &str) -> Result<bool> {
    match read_bounded(path, text.len() as u64) {
        Ok(content) => Ok(content.is_some_and(|content| content == text.as_bytes())),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Ok(false),
        Err(e) => Err(io_error("read", path, e)),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    write_atomic(path, text.as_bytes(), mode).map_err(|e| io_error("write", path, e))
}

fn remove(path: &Path) -> Result<()> {
    remove_if_there(path).map_err(|e| io_error("remove", path, e))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| io_error("make absolute", path, e))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn config_error(network: &Network, source: ConfigError) -> Error {
    Error::Config {
        network: network.name.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_understood() {
        let parse = |line| parse_version(line).map(|v| (v.major, v.minor));
        assert_eq!(parse("Dnsmasq version 2.90  Copyright (c)"), Some((2, 90)));
        assert_eq!(parse("Dnsmasq version 2.86rc3  C"), Some((2, 86)));
        assert_eq!(parse("Dnsmasq version 2.80-ubuntu"), Some((2, 80)));
        assert_eq!(parse("Dnsmasq version 2.9"), Some((2, 9)));
        assert_eq!(parse("dnsmasq: bad option"), None);
        let old = Version { major: 2, minor: 9 };
        assert!(old < MIN_VERSION);
    }

    #[test]
    fn script_paths_that_a_shell_would_read_otherwise_are_refused() {
        assert!(check_script_path(Path::new("/var/lib/netd/dnsmasq/netd-lease-helper")).is_ok());
        for bad in ["/a b/x", "/a;reboot/x", "/$(x)/x", "/a'x", "/a\nb"] {
            assert!(check_script_path(Path::new(bad)).is_err(), "{bad:?}");
        }
        assert!(check_script_path(&Path::new("/").join("x".repeat(250))).is_err());
    }

    #[test]
    fn the_helpers_link_follows_the_binary() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            config_dir: dir.path().join("c"),
            state_dir: dir.path().join("s"),
            run_dir: dir.path().join("r"),
            bpffs: dir.path().join("b"),
        };
        for binary in ["/usr/sbin/netd", "/usr/sbin/netd", "/opt/netd"] {
            let link = link_helper(&paths, Path::new(binary)).unwrap();
            assert_eq!(fs::read_link(link).unwrap(), Path::new(binary));
        }
        assert_eq!(fs::read_dir(paths.dnsmasq_dir()).unwrap().count(), 1);
        remove_shared(&paths).unwrap();
        assert!(!paths.dnsmasq_dir().exists());
    }

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
