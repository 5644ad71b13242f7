//! The agent under test: its own directories, its process, and clients that talk to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::Netns;

/// Time an agent has to answer, or to end. Loading its programs costs 1.7 s of a processor, which the
/// agents of other tests want at the same time: on two processors a start takes 1.7 s alone, 4 s when
/// four start at once, 11 s beside two busy processes more and 19 s beside six. In an emulated machine
/// (`cargo xtask vm`) it is 30 s alone.
const PATIENCE: Duration = Duration::from_secs(300);

/// One agent with directories of its own in one namespace. Several agents may share directories
/// or a namespace when a test asks for trouble.
#[derive(Debug)]
pub struct Agent {
    netns_path: PathBuf,
    directory: PathBuf,
    source: PathBuf,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    child: Option<Child>,
}

/// Path of the release binary: `NETD_BIN`, which `cargo xtask test` sets.
///
/// # Errors
/// The variable is not set.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("NETD_BIN")
        .context("NETD_BIN is not set: run the tests with `cargo xtask test`")?;
    let path = PathBuf::from(path);
    ensure!(path.is_file(), "NETD_BIN={} is no file", path.display());
    Ok(path)
}

impl Agent {
    /// An agent for `netns` that keeps everything below `directory`, a copy of the binary `source`
    /// included; it does not run yet.
    ///
    /// # Errors
    /// The directories cannot be made, or the binary cannot be copied.
    pub fn new(netns: &Netns, directory: &Path, source: &Path) -> Result<Self> {
        let agent = Self {
            netns_path: netns.path(),
            directory: directory.to_owned(),
            source: source.to_owned(),
            binary: directory.join("bin/netd"),
            environment: vec![
                (
                    "NETD_NETWORKD_DIR".to_owned(),
                    directory.join("run/networkd").display().to_string(),
                ),
                // The machine's own managers of networks are none of a test's business.
                (
                    "DBUS_SYSTEM_BUS_ADDRESS".to_owned(),
                    format!("unix:path={}", directory.join("bus").display()),
                ),
            ],
            flags: Vec::new(),
            child: None,
        };
        for part in ["bin", "etc", "lib", "run"] {
            fs::create_dir_all(directory.join(part))?;
        }
        agent.install()?;
        if let Ok(mechanism) = std::env::var("NETD_ATTACH") {
            agent.attach_by(&mechanism)?;
        }
        Ok(agent)
    }

    /// Has agents started from now on attach their programs by "tcx" or "clsact"; with the variable
    /// `NETD_ATTACH` set to one of these, that is where all of them begin.
    ///
    /// # Errors
    /// The settings cannot be written.
    pub fn attach_by(&self, mechanism: &str) -> Result<()> {
        let settings = format!("[datapath]\nattach = \"{mechanism}\"\n");
        Ok(fs::write(self.config_dir().join("netd.toml"), settings)?)
    }

    /// Puts a copy of the binary in place, as a package manager does: a new file under the old name.
    ///
    /// # Errors
    /// The copy fails.
    pub fn install(&self) -> Result<()> {
        let copy = self.binary.with_extension("new");
        crate::run(Command::new("cp").arg(&self.source).arg(&copy))?;
        fs::rename(&copy, &self.binary)?;
        Ok(())
    }

    /// Directory of everything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Directory of the definitions.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.directory.join("etc")
    }

    /// Directory of pins.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("run/netd-sock")
    }

    /// The running agent's process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the agent said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Sets a variable for agents and commands started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Adds flags to `netd run` for agents started from now on.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// Does `netd run` know a flag?
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn knows_flag(&self, flag: &str) -> Result<bool> {
        let help = crate::run(self.command().arg(&self.binary).args(["run", "--help"]))?;
        Ok(help.contains(flag))
    }

    /// Packets dropped so far, by the name of the reason.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let status: serde_json::Value = serde_json::from_str(&self.ok(["status", "--json"])?)?;
        let list = status["drops"].as_array().context("a list of drops")?;
        list.iter()
            .map(|drop| {
                let name = drop["reason"].as_str().context("a reason")?;
                let packets = drop["packets"].as_u64().context("a count")?;
                Ok((name.to_owned(), packets))
            })
            .collect()
    }

    /// Packets dropped so far for that reason; 0 where the agent knows no such reason.
    ///
    /// # Errors
    /// As [`Agent::drops`].
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.drops()?.get(reason).copied().unwrap_or(0))
    }

    /// The directory flags.
    #[must_use]
    pub fn directories(&self) -> Vec<String> {
        [
            ("--config-dir", self.config_dir()),
            ("--state-dir", self.directory.join("lib")),
            ("--run-dir", self.directory.join("run")),
            ("--bpffs", self.bpffs()),
        ]
        .into_iter()
        .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
        .collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns_path.display()))
            .arg("--")
            .envs(self.environment.iter().cloned());
        command
    }

    /// Starts the agent without waiting for it.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the agent runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))?;
        let mut command = self.command();
        crate::limits::confine(&mut command)?;
        let child = command
            .arg(&self.binary)
            .arg("run")
            .args(self.directories())
            .arg("--socket")
            .arg(self.socket())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the agent")?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts the agent and waits until it answers.
    ///
    /// # Errors
    /// It ends or stays silent; the error holds its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let answer = crate::eventually(PATIENCE, || {
            if let Some(status) = self.ended()? {
                // Nothing will answer any more; waiting would only blur that.
                return Ok(Err(status));
            }
            // Asked first, since it costs nothing: a command would want the processor that the
            // agent loads its programs with.
            UnixStream::connect(self.socket()).context("nobody listens yet")?;
            self.ok(["net-list", "--all"]).map(Ok)
        });
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => {
                self.child = None;
                bail!("the agent ended at once, {status}:\n{}", self.log())
            }
            Err(error) => Err(error.context(format!("no answer from the agent:\n{}", self.log()))),
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("the agent does not run"),
        }
    }

    /// Waits for an agent that is expected to end by itself.
    ///
    /// # Errors
    /// It goes on.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = crate::eventually(PATIENCE, || self.ended()?.context("the agent still runs"))?;
        self.child = None;
        Ok(status)
    }

    /// Sends the running agent a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .and_then(|pid| Pid::from_raw(pid.try_into().ok()?))
            .context("the agent does not run")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Stops the agent as a service manager does.
    ///
    /// # Errors
    /// It does not run, does not end, or ends with an error.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait()?;
        ensure!(status.success(), "stopped agent: {status}\n{}", self.log());
        Ok(())
    }

    /// Ends the agent without a word.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait()?;
        Ok(())
    }

    /// Stops the agent where it runs, for a clean-up that must not fail.
    pub fn end(&mut self) {
        if self.child.is_some()
            && self.stop().is_err()
            && let Some(mut child) = self.child.take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `netd teardown` with this agent's directories.
    ///
    /// # Errors
    /// It fails, or tells of its work in lines for a log.
    pub fn teardown(&self) -> Result<String> {
        let output = self
            .command()
            .args(["timeout", "300"])
            .arg(&self.binary)
            .arg("teardown")
            .args(self.directories())
            .output()
            .context("cannot start netd teardown")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success() && !told.contains(" INFO "),
            "netd teardown: {}\n{said}{told}",
            output.status
        );
        Ok(said)
    }

    /// A verb of the command line, whatever its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn cli<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        crate::output(
            self.command()
                .args(["timeout", "300"])
                .arg(&self.binary)
                .arg("--socket")
                .arg(self.socket())
                .args(arguments),
        )
    }

    /// The same words for virsh, connected to this agent.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn virsh<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        let uri = format!("network+unix:///system?socket={}", self.socket().display());
        crate::output(
            self.command()
                .args(["timeout", "300", "virsh", "-c", &uri])
                .args(arguments),
        )
    }

    /// A verb that is to succeed; returns its stdout.
    ///
    /// # Errors
    /// It fails; the error holds all it said.
    pub fn ok<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let output = self.cli(arguments.iter().copied())?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "netd {}: {}\n{stdout}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(stdout)
    }

    /// A verb that is to fail with exit status 1; returns its stderr.
    ///
    /// # Errors
    /// It succeeds, or ends in any other way.
    pub fn fails<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let output = self.cli(arguments.iter().copied())?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "netd {} was to fail with status 1: {}\n{}{stderr}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        ensure!(
            stderr.starts_with("error: "),
            "an error starts with `error: `, not {stderr:?}"
        );
        Ok(stderr)
    }

    /// Writes text to a file of that name and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// Writes an executable script and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory.join(name);
        crate::write_executable(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Defines a network.
    ///
    /// # Errors
    /// The definition is refused.
    pub fn define(&self, xml: &str) -> Result<()> {
        let file = self.file("definition.xml", xml)?;
        self.ok(["net-define", &file])?;
        Ok(())
    }

    /// Defines a network and starts it.
    ///
    /// # Errors
    /// Either is refused.
    pub fn up(&self, name: &str, xml: &str) -> Result<()> {
        self.define(xml)?;
        self.ok(["net-start", name])?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}
