//! The shell on a guest's serial line.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::PATIENCE;

/// What the guest says each second until somebody speaks to it, and after each command, see the
/// guest's `init`.
const READY: &str = "guest: ready\n";
const END: &str = "\nguest: end ";

/// A connection to a guest's shell.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    /// What was received and not yet looked at.
    pending: String,
}

impl Console {
    /// Connects to a guest that has just been started, and waits until it has booted.
    ///
    /// # Errors
    /// There is no such line, or the guest does not boot.
    pub fn connect(socket: &Path) -> Result<Self> {
        let mut console = Self::reconnect(socket)?;
        console.until(READY).context("the guest does not boot")?;
        console.run("true")?;
        Ok(console)
    }

    /// Connects to a guest that runs and whose line nobody else holds.
    ///
    /// # Errors
    /// There is no such line.
    pub fn reconnect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("the guest's serial line {}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self {
            stream,
            pending: String::new(),
        })
    }

    /// Runs a line of shell in the guest; returns what it printed and its exit status.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn output(&mut self, line: &str) -> Result<(String, i32)> {
        ensure!(!line.contains('\n'), "more than one line: {line}");
        self.pending.clear();
        writeln!(self.stream, "{line}").with_context(|| format!("telling the guest: {line}"))?;
        let context = || format!("the guest does not end: {line}");
        let said = self.until(END).with_context(context)?;
        let status = self.until("\n").with_context(context)?;
        // The beacon may have had a last word.
        let said = said.replace(READY, "");
        Ok((said, status.trim().parse()?))
    }

    /// The same, and it must succeed.
    ///
    /// # Errors
    /// It does not, or the guest does not answer.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let (said, status) = self.output(line)?;
        ensure!(status == 0, "in the guest, {line}: status {status}\n{said}");
        Ok(said)
    }

    /// Everything up to a mark, without it.
    fn until(&mut self, mark: &str) -> Result<String> {
        let start = Instant::now();
        loop {
            if let Some((before, after)) = self.pending.split_once(mark) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.pending = after;
                return Ok(before);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "nothing but this after {PATIENCE:?}: {:?}",
                self.pending
            );
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => anyhow::bail!("its line was closed after: {:?}", self.pending),
                Ok(count) => self.pending += &String::from_utf8_lossy(&bytes[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
