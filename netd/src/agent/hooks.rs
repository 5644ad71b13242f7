//! The administrator's programs that are run when networks start, stop and change, with the arguments and
//! the XML that libvirt gives its own (`/etc/libvirt/hooks/network`).
//!
//! They are run while nobody waits for the agent's lock, so that one may ask the agent, and one that hangs
//! keeps nobody waiting but who called. Those of networks that start with the agent are the exception.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::api::{ApiError, ErrorCode, Result};

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for the rest of what one that has ended said.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// Most of its words that are told, in bytes.
const MAX_WORDS: u64 = 4096;

/// What happens to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// It is to start; a failure keeps it from that.
    Start,
    /// It runs; a failure stops it.
    Started,
    /// It does not run any more.
    Stopped,
    /// A port was made; a failure deletes it.
    PortCreated,
    /// A port was deleted.
    PortDeleted,
    /// What runs was changed.
    Updated,
}

impl Occasion {
    /// libvirt's words for it: operation and part of it.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("start", "begin"),
            Self::Started => ("started", "begin"),
            Self::Stopped => ("stopped", "end"),
            Self::PortCreated => ("port-created", "begin"),
            Self::PortDeleted => ("port-deleted", "begin"),
            Self::Updated => ("updated", "begin"),
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Hooks {
    dir: PathBuf,
}

impl Hooks {
    /// Those of a folder: `network`, and what is in `network.d`.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Is there any?
    pub(super) fn are_there(&self) -> bool {
        self.dir.join("network").exists() || self.dir.join("network.d").exists()
    }

    /// The programs, in the order in which they are run.
    fn programs(&self) -> io::Result<Vec<PathBuf>> {
        let first = self.dir.join("network");
        let mut programs = Vec::new();
        if is_program(&first)? {
            programs.push(first);
        }
        let more = match fs::read_dir(self.dir.join("network.d")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(programs),
            more => more?,
        };
        let mut others = Vec::new();
        for entry in more {
            let path = entry?.path();
            if is_program(&path)? {
                others.push(path);
            }
        }
        others.sort();
        programs.extend(others);
        Ok(programs)
    }

    /// Run all of them, one after the other, until one fails. `port` is the XML of the port that it is
    /// about.
    pub(super) async fn run(
        &self,
        occasion: Occasion,
        name: &str,
        network: &str,
        port: Option<&str>,
    ) -> Result<()> {
        let failed = |path: &Path, why: &dyn std::fmt::Display| {
            let (operation, part) = occasion.words();
            let path = path.display();
            let call = format!("{path} {} {operation} {part} -", name.escape_debug());
            ApiError::new(ErrorCode::HookScriptFailed, format_args!("{call}: {why}"))
        };
        let programs = self.programs().map_err(|error| failed(&self.dir, &error))?;
        let input = input(network, port);
        for program in programs {
            let ran = run_one(&program, name, occasion, &input).await;
            ran.map_err(|why| failed(&program, &why))?;
        }
        Ok(())
    }

    /// The same where nothing can be refused any more: a failure is told.
    pub(super) async fn tell(
        &self,
        occasion: Occasion,
        name: &str,
        network: &str,
        port: Option<&str>,
    ) {
        if let Err(error) = self.run(occasion, name, network, port).await {
            tracing::error!(network = name, %error, "a hook failed");
        }
    }
}

/// Is it a file that can be run? Anything else in the folder is none of the agent's business.
fn is_program(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.is_file() && meta.mode() & 0o111 != 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a program reads, as libvirt writes it.
fn input(network: &str, port: Option<&str>) -> String {
    let mut text = "<hookData>\n".to_owned();
    for line in network.lines().chain(port.unwrap_or_default().lines()) {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("</hookData>\n");
    text
}

/// Who may change what root runs?
fn check_owner(path: &Path) -> std::result::Result<(), String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    match meta.uid() == 0 && meta.mode() & 0o022 == 0 {
        true => Ok(()),
        false => {
            Err("not run, since others than root may change it (chown root, chmod go-w)".to_owned())
        }
    }
}

async fn run_one(
    path: &Path,
    name: &str,
    occasion: Occasion,
    input: &str,
) -> std::result::Result<(), String> {
    check_owner(path)?;
    let (operation, part) = occasion.words();
    let child = Command::new(path)
        .args([name, operation, part, "-"])
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // What it starts ends with it, where it takes too long.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let ended = timeout(LIMIT, converse(&mut child, input)).await;
    let (status, words) = match ended {
        Ok(ended) => ended.map_err(|error| error.to_string())?,
        Err(_) => {
            if let Some(group) = group {
                // It may have ended at this moment.
                let _ = kill_process_group(group, Signal::KILL);
            }
            return Err(format!("killed after {} s", LIMIT.as_secs()));
        }
    };
    if status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&words);
    let words: String = words.trim().chars().flat_map(char::escape_debug).collect();
    Err(match words.is_empty() {
        true => status.to_string(),
        false => format!("{status}: {words}"),
    })
}

/// Give a program its input, and wait for its end.
async fn converse(child: &mut Child, input: &str) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // It need not read it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let mut words = Vec::new();
    let read = async {
        if let Some(stderr) = stderr {
            // Its words are only the explanation; the rest of them goes nowhere.
            let mut stderr = stderr;
            let _ = (&mut stderr).take(MAX_WORDS).read_to_end(&mut words).await;
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        }
    };
    let wait = async { tokio::join!(write, child.wait()).1 };
    let status = {
        tokio::pin!(read, wait);
        tokio::select! {
            biased;
            status = &mut wait => {
                // Something that it leaves in the background may hold its output.
                let _ = timeout(DRAIN_LIMIT, read).await;
                status?
            }
            () = &mut read => wait.await?,
        }
    };
    Ok((status, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_program_reads_what_libvirts_do() {
        assert_eq!(
            input(
                "<network>\n  <name>n</name>\n</network>\n",
                Some("<networkport/>\n")
            ),
            "<hookData>\n  <network>\n    <name>n</name>\n  </network>\n  <networkport/>\n</hookData>\n"
        );
    }

    #[test]
    fn programs_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = Hooks::new(dir.path().to_owned());
        assert!(!hooks.are_there());
        assert_eq!(hooks.programs().unwrap(), Vec::<PathBuf>::new());
        fs::create_dir(dir.path().join("network.d")).unwrap();
        for (name, mode) in [
            ("network.d/b", 0o755),
            ("network.d/a", 0o700),
            ("network.d/c.txt", 0o644),
            ("network", 0o755),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert!(hooks.are_there());
        let expected = ["network", "network.d/a", "network.d/b"];
        assert_eq!(
            hooks.programs().unwrap(),
            expected.map(|name| dir.path().join(name))
        );
    }
}
