//! libvirt's answers, kept: so that netd's can be held against them where there is no libvirt.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::answer::Answers;
use super::document::Document;

/// Documents with libvirt's answers, on their way to a file.
#[derive(Debug, Default)]
pub struct Record(Vec<u8>);

impl Record {
    /// Adds a document.
    pub fn add(&mut self, document: &Document, libvirt: &Answers) {
        let line = json!([document.value(), libvirt.value()]);
        self.0.extend(line.to_string().into_bytes());
        self.0.push(b'\n');
    }

    /// Writes all of them.
    ///
    /// # Errors
    /// gzip is missing, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut gzip = Command::new("gzip")
            .args(["--best", "--no-name"])
            .stdin(Stdio::piped())
            .stdout(file)
            .spawn()
            .context("starting gzip")?;
        let mut input = gzip.stdin.take().context("its input")?;
        input.write_all(&self.0)?;
        drop(input);
        ensure!(gzip.wait()?.success(), "gzip failed");
        Ok(())
    }
}

/// Reads what was kept.
///
/// # Errors
/// The file is not what [`Record::write`] wrote.
pub fn read(path: &Path) -> Result<Vec<(Document, Answers)>> {
    let text = crate::run(
        Command::new("gzip")
            .args(["--decompress", "--stdout"])
            .arg(path),
    )?;
    let lines = text.lines().map(|line| {
        let (document, answers): (Value, Value) = serde_json::from_str(line)?;
        Ok((Document::read(&document)?, Answers::of(answers)?))
    });
    lines.collect()
}
