//! A daemon of a host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{Inside, PATIENCE};

/// Starts a program under a number that can be found afterwards.
const EXEC: &str = r#"echo $$ > "/run/$0.rig"; exec "$@""#;

/// A daemon, which is started and ended as a test likes.
#[derive(Debug)]
pub struct Service {
    inside: Inside,
    name: &'static str,
    log: PathBuf,
    run: &'static [&'static str],
    asked: &'static [&'static str],
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Service {
    /// What `run` starts, which is up once `asked` succeeds. What it says goes to a file in
    /// `directory`, which is the machine's.
    pub(super) fn new(
        inside: Inside,
        name: &'static str,
        directory: &Path,
        run: &'static [&'static str],
        asked: &'static [&'static str],
    ) -> Self {
        Self {
            inside,
            name,
            log: directory.join(format!("{name}.log")),
            run,
            asked,
            arguments: Vec::new(),
            environment: Vec::new(),
            child: None,
        }
    }

    /// Sets a variable for starts from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Takes a variable away for starts from now on.
    pub fn unset_env(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    /// Further arguments for starts from now on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    }

    /// What it said so far, over all of its starts.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Does it run?
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it without waiting for it.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = self
            .inside
            .command("sh")
            .args(["-c", EXEC, self.name])
            .args(self.run)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn();
        self.child = Some(child.with_context(|| format!("starting {}", self.name))?);
        Ok(())
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It ends or stays silent; the error holds its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_it_answers()
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn wait_until_it_answers(&mut self) -> Result<()> {
        let answer = crate::eventually(PATIENCE, || {
            if let Some(status) = self.ended()? {
                return Ok(Err(status));
            }
            self.inside.run(self.asked.iter().copied()).map(Ok)
        });
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => {
                self.child = None;
                bail!("{} ended at once, {status}:\n{}", self.name, self.log())
            }
            Err(error) => {
                let log = self.log();
                Err(error.context(format!("no answer from {}:\n{log}", self.name)))
            }
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("{} does not run", self.name),
        }
    }

    /// Sends it a signal, by the name that `kill` has for it.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: &str) -> Result<()> {
        ensure!(self.is_running(), "{} does not run", self.name);
        let pid = self.pid()?.to_string();
        self.inside.run(["kill", "-s", signal, &pid])?;
        Ok(())
    }

    /// Its number, as the host counts.
    ///
    /// # Errors
    /// It was not started.
    pub fn pid(&self) -> Result<u32> {
        let file = self.inside.path(&format!("/run/{}.rig", self.name));
        let text = fs::read_to_string(&file)
            .with_context(|| format!("the number of {} in {}", self.name, file.display()))?;
        Ok(text.trim().parse()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It goes on.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = crate::eventually(PATIENCE, || {
            self.ended()?
                .with_context(|| format!("{} still runs", self.name))
        })?;
        self.child = None;
        Ok(status)
    }

    /// Stops it as a service manager does.
    ///
    /// # Errors
    /// It does not run, does not end, or ends with an error.
    pub fn stop(&mut self) -> Result<()> {
        self.signal("TERM")?;
        let status = self.wait()?;
        ensure!(
            status.success(),
            "{} was stopped: {status}\n{}",
            self.name,
            self.log()
        );
        Ok(())
    }

    /// Ends it without a word.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        self.wait()?;
        Ok(())
    }

    /// Stops it and starts it again.
    ///
    /// # Errors
    /// As [`Service::stop`] and [`Service::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Its host is gone, and so is it.
    pub(super) fn forget(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
