//! The dnsmasq process of a network: start, adopt, reload, stop.
//!
//! dnsmasq daemonises itself, so it is no child of the agent and outlives it. A new agent finds
//! it by its pid file and command line and holds it by a pidfd, which cannot come to mean another
//! process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::binary::Binary;
use super::config::NetworkFiles;
use super::error::{Error, Result, io_error};
use super::files::remove;
use super::network_files::{ADVERTISE, FileTexts, holds, pid_file, remove_own_files};
use super::running::conf_argument;
use super::{HELPER_BRIDGE_VARIABLE, HELPER_DIR_VARIABLE};
use crate::model::Network;
use crate::paths::Paths;

pub use super::helper_link::{link_helper, remove_shared};
pub use super::network_files::{digest, files_of, remove_files, served};
pub use super::running::{Running, adopt};

/// A dnsmasq that has not become a daemon by then never will (`keep-in-foreground` among the raw
/// options, for one).
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for the rest of what a parent that has ended said.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// Starts dnsmasq processes.
#[derive(Debug, Default)]
pub struct Dnsmasq {
    binary: Binary,
}

impl Dnsmasq {
    /// A starter that knows no binary yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The binary that would be run, found and new enough.
    ///
    /// # Errors
    /// No dnsmasq, or one that is too old.
    pub async fn binary(&self) -> Result<PathBuf> {
        self.binary.find().await
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
        let files = files_of(paths, network)?;
        let texts = FileTexts::new(network, &files, ADVERTISE)?;
        let script = link_helper(paths, helper)?;
        self.start_with(network, bridge, &files, &texts, &script)
            .await
    }

    /// Run dnsmasq for `network` as libvirt's own driver does: with files in its places, its lease
    /// helper, and router advertisements.
    ///
    /// # Errors
    /// As [`Dnsmasq::start`].
    pub async fn start_as_libvirt(
        &self,
        network: &Network,
        bridge: &str,
        files: &NetworkFiles,
        helper: &Path,
    ) -> Result<Running> {
        let texts = FileTexts::new(network, files, true)?;
        self.start_with(network, bridge, files, &texts, helper)
            .await
    }

    async fn start_with(
        &self,
        network: &Network,
        bridge: &str,
        files: &NetworkFiles,
        texts: &FileTexts,
        script: &Path,
    ) -> Result<Running> {
        let binary = self.binary().await?;
        if let Some(old) = adopt(&pid_file(files), &files.conf(&network.name)) {
            old.stop(&pid_file(files)).await?;
        }
        let started = async {
            texts.write(network, files)?;
            daemonise(&binary, network, bridge, files, script).await
        };
        match started.await {
            Ok(running) => Ok(running),
            Err(e) => {
                if let Err(also) = remove_own_files(network, files) {
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
        let texts = FileTexts::new(network, &files, ADVERTISE)?;
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

/// dnsmasq's words, and what to do where they do not say it.
fn with_remedy(words: String) -> String {
    // It takes one to watch resolv.conf, with `no-poll`, too; the kernel's limit is 128 for a user.
    if words.contains("inotify: Too many open files") {
        let remedy = "; every dnsmasq takes one: raise fs.inotify.max_user_instances (sysctl)";
        return words + remedy;
    }
    words
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
        Ok(Ok(_)) => return Err(failed(with_remedy(words))),
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
            "it ended immediately or wrote no pid file {}; see its log (syslog)",
            pid_file.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::with_remedy;

    #[test]
    fn a_limit_of_the_hosts_is_named_with_what_raises_it() {
        let words = "dnsmasq: failed to create inotify: Too many open files";
        let told = with_remedy(words.to_owned());
        assert!(
            told.starts_with(words) && told.contains("fs.inotify.max_user_instances"),
            "{told}"
        );
        let words = "dnsmasq: failed to create listening socket: Address already in use";
        assert_eq!(with_remedy(words.to_owned()), words);
    }
}
