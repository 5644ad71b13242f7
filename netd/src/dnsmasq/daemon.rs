//! One run of the dnsmasq binary: how it is called, and what it says before it is a daemon.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::config::NetworkFiles;
use super::error::{Error, Result, io_error};
use super::network_files::pid_file;
use super::place;
use super::running::{Running, adopt, conf_argument};
use super::{HELPER_BRIDGE_VARIABLE, HELPER_DIR_VARIABLE};
use crate::model::Network;
use crate::netns::Netns;

/// A dnsmasq that has not become a daemon by then never will (`keep-in-foreground` among the raw
/// options, for one).
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for the rest of what a parent that has ended said.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// dnsmasq's words, and what to do where they do not say it.
fn with_remedy(words: String) -> String {
    if words.contains("TFTP directory") {
        let remedy = "; create it, or let everybody look into it and the folders above (dnsmasq gives up \
                      root), or remove <tftp> from the network";
        return words + remedy;
    }
    // It takes one to watch resolv.conf, with `no-poll`, too; the kernel's limit is 128 for a user.
    if words.contains("inotify: Too many open files") {
        let remedy = "; every dnsmasq takes one: raise fs.inotify.max_user_instances (sysctl)";
        return words + remedy;
    }
    words
}

/// Run dnsmasq until it has become a daemon, or said why not.
pub(super) async fn daemonise(
    binary: &Path,
    network: &Network,
    bridge: &str,
    (files, netns): (&NetworkFiles, Option<&Netns>),
    script: &Path,
) -> Result<Running> {
    let failed = |problem: String| Error::NotStarted {
        network: network.name.clone(),
        problem,
    };
    let conf = files.conf(&network.name);
    let mut command = command_line(binary, bridge, files, &conf, script);
    let runtime = tokio::runtime::Handle::current();
    let child = match netns {
        Some(netns) => netns.run(|| {
            let _runtime = runtime.enter();
            command.spawn()
        }),
        None => command.spawn(),
    };
    let mut child = child.map_err(|e| io_error("run", binary, e))?;
    let mut words = Vec::new();
    let status = timeout(START_LIMIT, has_left(&mut child, &mut words)).await;
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
    let running = adopt(&pid_file, &conf).ok_or_else(|| {
        failed(format!(
            "it ended immediately or wrote no pid file {}; see its log (syslog)",
            pid_file.display()
        ))
    })?;
    if let Some(netns) = netns {
        let id = netns.id().map_err(|error| failed(error.to_string()))?;
        if let Err(error) = place::note(&pid_file, &running, id) {
            // One that serves and that nobody accounts for is worse than none.
            running.stop(&pid_file).await?;
            return Err(error);
        }
    }
    Ok(running)
}

/// How dnsmasq is called.
fn command_line(
    binary: &Path,
    bridge: &str,
    files: &NetworkFiles,
    conf: &Path,
    script: &Path,
) -> Command {
    let mut script_argument = std::ffi::OsString::from("--dhcp-script=");
    script_argument.push(script);
    let mut command = Command::new(binary);
    command
        .arg(conf_argument(conf))
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
        .kill_on_drop(true);
    command
}

/// Wait until the process that was started is gone, and what goes on is the daemon; `words` receives
/// what it had to say.
async fn has_left(child: &mut Child, words: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
    let stderr = child.stderr.take();
    let read = async {
        match stderr {
            Some(pipe) => pipe.take(64 << 10).read_to_end(words).await.map(drop),
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
