//! The emulated machine, and what it said.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::verifier::{self, Record};

/// Seconds until a machine is given up.
const PATIENCE: &str = "1800";

/// Boots a kernel and returns what came by the serial line, which goes to the file `log` as well.
pub fn boot(place: &Path, kernel: &Path, initramfs: &Path) -> Result<String> {
    println!("booting {}", kernel.display());
    let mut child = mortal("qemu-system-x86_64")
        .args([
            "-machine",
            "q35,accel=tcg",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
        ])
        .args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64")?;
    let output = child.stdout.take().context("the serial line")?;
    let mut log = File::create(place.join("log"))?;
    let mut said = String::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        writeln!(log, "{line}")?;
        if line.starts_with("test ") || line.starts_with("vm: ") {
            println!("  {line}");
        }
        said += line;
        said.push('\n');
    }
    let status = child.wait()?;
    ensure!(
        status.success(),
        "the machine: {status} (124: it took longer than {PATIENCE} s); see {}",
        place.join("log").display()
    );
    Ok(said)
}

/// A command that ends with this program, however that ends, and after [`PATIENCE`] seconds.
fn mortal(program: &str) -> Command {
    // Both are killed with who started them: a signal to `timeout` alone would be passed on, but not
    // by one that has just begun.
    const WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
    let mut command = Command::new(WITH_PARENT[0]);
    command
        .args(&WITH_PARENT[1..])
        .args(["timeout", PATIENCE])
        .args(WITH_PARENT)
        .arg(program);
    command
}

/// What a machine's run showed.
#[derive(Debug)]
pub struct Report {
    kernel: String,
    /// Milliseconds from the object to programs in the kernel.
    loaded: Option<u32>,
    /// The verifier's instructions.
    pub verified: Record,
    passed: usize,
    features: Vec<String>,
}

impl Report {
    /// Reads what the machine said; an error where a run of tests failed, or fewer passed than were
    /// `wanted` of it.
    pub fn new(said: &str, wanted: &[usize]) -> Result<Self> {
        let mut passed = Vec::new();
        for line in said.lines() {
            let Some(result) = line.strip_prefix("test result: ") else {
                continue;
            };
            let number = result.strip_prefix("ok. ").and_then(|rest| {
                let (number, _) = rest.split_once(" passed")?;
                number.parse::<usize>().ok()
            });
            passed.push(number.unwrap_or(0));
        }
        let enough = passed.len() == wanted.len()
            && passed
                .iter()
                .zip(wanted)
                .all(|(passed, wanted)| passed >= wanted);
        if !enough || !said.lines().any(|line| line == "vm: end") {
            let of_tests = |line: &&str| line.ends_with("FAILED") || line.starts_with("vm: ");
            let lines: Vec<_> = said.lines().filter(of_tests).collect();
            bail!(
                "runs of tests passed {passed:?}, {wanted:?} were to pass\n{}",
                lines.join("\n")
            );
        }
        let word = |prefix: &str| said.lines().find_map(|line| line.strip_prefix(prefix));
        let loaded = said
            .split_once("loaded in ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        Ok(Self {
            kernel: word("vm: kernel ")
                .context("the machine named no kernel")?
                .to_owned(),
            loaded,
            verified: verifier::counts(said),
            passed: passed.iter().sum(),
            features: said
                .lines()
                .filter_map(|line| line.strip_prefix("feature: "))
                .map(str::to_owned)
                .collect(),
        })
    }

    /// A paragraph.
    pub fn text(&self) -> String {
        let mut text = format!("Linux {}: {} tests passed\n", self.kernel, self.passed);
        if let Some(loaded) = self.loaded {
            let _ = writeln!(text, "  programs loaded in {loaded} ms, emulated");
        }
        for programs in self.verified.values() {
            let sum: u32 = programs.values().sum();
            let most = programs.iter().max_by_key(|(_, count)| **count);
            let _ = write!(text, "  {sum} instructions verified");
            if let Some((program, count)) = most {
                let _ = write!(text, ", most of them {count} of {program}");
            }
            text.push('\n');
        }
        for feature in &self.features {
            let _ = writeln!(text, "  {feature}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// For the kernel it is the thread that started it.
    #[test]
    fn a_machine_ends_with_who_started_it() {
        let (started, machines) = channel();
        let (end, ended) = channel::<()>();
        let owner = std::thread::spawn(move || {
            let mut machine = mortal("sh");
            machine.args(["-c", "echo up; exec sleep 1000"]);
            started
                .send(machine.stdout(Stdio::piped()).spawn())
                .unwrap();
            ended.recv().unwrap_err();
        });
        let mut machine = machines.recv().unwrap().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(machine.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        drop(end);
        owner.join().unwrap();
        let status = machine.wait().unwrap();
        assert!(!status.success(), "{status}");
        // What it had started is gone, too: nobody holds the other end any more.
        assert_eq!(output.read_line(&mut line).unwrap(), 0);
    }

    #[test]
    fn every_run_of_tests_must_have_passed() {
        let said = "vm: kernel 6.1.0-50-cloud-amd64\ntest a ... loaded in 812 ms\n\
            verified 6.1 sweep 42\nok\ntest result: ok. 1 passed; 0 failed\n\
            test result: ok. 9 passed; 0 failed\nvm: end\n";
        let report = Report::new(said, &[1, 9]).unwrap();
        let text = report.text();
        assert!(
            text.contains("10 tests") && text.contains("812 ms") && text.contains("42 instr"),
            "{text}"
        );
        for (said, wanted) in [
            (said.replace("ok. 9", "FAILED. 9"), [1, 1].as_slice()),
            (said.to_owned(), &[1, 10]),
            (said.to_owned(), &[1, 9, 1]),
            (said.replace("vm: end", "Kernel panic"), &[1, 9]),
        ] {
            assert!(Report::new(&said, wanted).is_err(), "{wanted:?} of {said}");
        }
    }
}
