//! What a verb prints: data, confirmations that `--quiet` drops, and failures.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::api::SCHEMA;
use crate::rpc::ClientError;

/// Text for standard output, printed when the verb is done.
#[derive(Debug, Default)]
pub struct Output {
    quiet: bool,
    text: String,
}

impl Output {
    /// Collects; drops what is said out of politeness when `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            text: String::new(),
        }
    }

    /// Only data?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Data that was asked for.
    pub fn data(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
    }

    /// Data as JSON, without a line's end.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_string(value)
            .map_err(|error| Failure::from(format!("cannot write JSON: {error}")))?;
        self.data(json);
        Ok(())
    }

    /// An answer as one JSON object, in a line: its fields, and the number of the schema.
    pub fn answer<T: Serialize>(&mut self, answer: &T) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Answer<'a, T> {
            schema: u32,
            #[serde(flatten)]
            answer: &'a T,
        }
        self.json(&Answer {
            schema: SCHEMA,
            answer,
        })?;
        self.data("\n");
        Ok(())
    }

    /// A heading, a confirmation, an empty line.
    pub fn extra(&mut self, text: impl AsRef<str>) {
        if !self.quiet {
            self.data(text);
        }
    }

    /// What was collected so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Prints it. A reader that has seen enough is no failure.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.flush_to_reader().map(|_| ())
    }

    /// Prints it; `false` when nobody reads any more.
    pub fn flush_to_reader(&mut self) -> Result<bool, Failure> {
        let text = std::mem::take(&mut self.text);
        let mut stdout = io::stdout().lock();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::from(format!(
                "cannot write to standard output: {error}"
            ))),
        }
    }
}

/// Why a verb failed: a sentence about the verb and one about the reason, as virsh prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    lines: Vec<String>,
}

impl Failure {
    /// A failure of the verb for this reason.
    pub fn new(sentence: impl Into<String>, reason: &ClientError) -> Self {
        Self {
            lines: vec![sentence.into(), reason.to_string()],
        }
    }

    /// A failure that what was printed tells of.
    #[must_use]
    pub fn silent() -> Self {
        Self { lines: Vec::new() }
    }

    /// The same failure with one more sentence.
    #[must_use]
    pub fn and(mut self, sentence: impl Into<String>) -> Self {
        self.lines.push(sentence.into());
        self
    }
}

impl<T: Into<String>> From<T> for Failure {
    fn from(sentence: T) -> Self {
        Self {
            lines: vec![sentence.into()],
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "error: {line}")?;
        }
        Ok(())
    }
}
