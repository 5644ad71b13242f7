//! `bench --against`: what a packet costs in each program, beside another revision.
//!
//! The measure is the packet tests' own (`tests/prog/speed.rs`): runs of each program by
//! `BPF_PROG_TEST_RUN`. Both revisions' tests run in turn, round by round, so that whatever else the
//! machine does meets both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::root;
use crate::tools::{built_tests, built_tests_in, succeed, workspace};

/// The test that measures. Its lines are `PROGRAM, CASE: N ns (…)`.
const TEST: &str = "speed::the_established_path";
/// How often each revision has its turn.
const ROUNDS: u32 = 10;
/// A case that costs more than this much is a failure, in percent.
const MARGIN: f64 = 3.0;
/// What the kernel tells time by, in nanoseconds: a difference of less is none.
const GRAIN: f64 = 1.0;

/// Nanoseconds of each round, by case.
type Costs = BTreeMap<String, Vec<f64>>;

/// Measures this tree beside `other`, a revision or the directory of another tree.
pub fn against(other: &str) -> Result<()> {
    let (name, other) = tree(other)?;
    let new = the_one(built_tests(&["prog"])?)?;
    println!("building {name}");
    let old = the_one(built_tests_in(&other, &["prog"])?)?;
    let (mut before, mut now) = (Costs::new(), Costs::new());
    for round in 0..ROUNDS {
        eprintln!("bench: round {} of {ROUNDS}", round + 1);
        // Neither is always the one that finds the caches warm.
        if round % 2 == 0 {
            measure(&old, &mut before)?;
            measure(&new, &mut now)?;
        } else {
            measure(&new, &mut now)?;
            measure(&old, &mut before)?;
        }
    }
    let comparison = Comparison::new(&before, &now);
    print!("{}", comparison.text(&name));
    ensure!(
        !comparison.cases.is_empty(),
        "no case was measured in both trees"
    );
    let slower = comparison.slower();
    if slower.is_empty() {
        return Ok(());
    }
    bail!("more than {MARGIN} % slower: {}", slower.join("; "))
}

fn the_one(mut programs: Vec<PathBuf>) -> Result<PathBuf> {
    programs.pop().context("cargo built no test program")
}

/// The tree to compare with: a directory as it is, or a revision, checked out below `target`.
fn tree(other: &str) -> Result<(String, PathBuf)> {
    let path = Path::new(other);
    if path.join("Cargo.toml").is_file() {
        return Ok((other.to_owned(), path.canonicalize()?));
    }
    let git = |words: &[&str]| -> Command {
        let mut command = Command::new("git");
        command.current_dir(workspace()).args(words);
        command
    };
    let commit = format!("{other}^{{commit}}");
    let output = git(&["rev-parse", "--verify", "--quiet", &commit])
        .stderr(Stdio::inherit())
        .output()
        .context("git")?;
    ensure!(
        output.status.success(),
        "{other} is no revision, and no directory of a tree"
    );
    let commit = String::from_utf8(output.stdout)?.trim().to_owned();
    let short = commit.get(..12).unwrap_or(&commit).to_owned();
    let place = workspace().join("target/against").join(&short);
    if !place.join("Cargo.toml").is_file() {
        if let Some(above) = place.parent() {
            fs::create_dir_all(above)?;
        }
        // Somebody may have removed the directory by hand.
        succeed(&mut git(&["worktree", "prune"]))?;
        let directory = place.to_str().context("the target directory's name")?;
        succeed(&mut git(&[
            "worktree", "add", "--quiet", "--detach", directory, &commit,
        ]))?;
    }
    Ok((short, place))
}

/// One turn of a tree's test.
fn measure(test: &Path, costs: &mut Costs) -> Result<()> {
    let program = test.to_str().context("the test program's name")?;
    let mut command = root::command(program);
    command.args(["--exact", TEST, "--include-ignored", "--nocapture"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command:?}: {text}");
    let before = costs.values().map(Vec::len).sum::<usize>();
    for line in text.lines() {
        if let Some((case, nanoseconds)) = cost(line) {
            costs.entry(case).or_default().push(nanoseconds);
        }
    }
    ensure!(
        costs.values().map(Vec::len).sum::<usize>() > before,
        "{command:?} measured nothing: {text}"
    );
    Ok(())
}

/// Case and nanoseconds of a line of the test.
fn cost(line: &str) -> Option<(String, f64)> {
    // The first line follows the name of the test.
    let line = line.split_once(" ... ").map_or(line, |(_, rest)| rest);
    let (case, rest) = line.split_once(": ")?;
    let (nanoseconds, _) = rest.split_once(" ns (")?;
    Some((case.to_owned(), nanoseconds.parse().ok()?))
}

/// A case in both trees.
struct Case {
    name: String,
    before: f64,
    now: f64,
    /// The least and the largest ratio of a round.
    spread: (f64, f64),
}

struct Comparison {
    cases: Vec<Case>,
    /// Cases that one tree has alone.
    alone: Vec<String>,
}

impl Comparison {
    fn new(before: &Costs, now: &Costs) -> Self {
        let mut cases = Vec::new();
        let mut alone = Vec::new();
        for (name, old) in before {
            let Some(new) = now.get(name) else {
                alone.push(format!("{name}: no longer measured"));
                continue;
            };
            let ratios = || old.iter().zip(new).map(|(old, new)| new / old);
            cases.push(Case {
                name: name.clone(),
                before: mean(old),
                now: mean(new),
                spread: (
                    ratios().fold(f64::INFINITY, f64::min),
                    ratios().fold(0.0, f64::max),
                ),
            });
        }
        let fresh = now.keys().filter(|name| !before.contains_key(*name));
        alone.extend(fresh.map(|name| format!("{name}: not measured before")));
        Self { cases, alone }
    }

    /// A table in Markdown.
    fn text(&self, other: &str) -> String {
        let mut text = format!(
            "| program, packet | {other}, ns | this tree, ns | ratio | rounds |\n\
             |---|---|---|---|---|\n"
        );
        for case in &self.cases {
            text += &format!(
                "| {} | {:.1} | {:.1} | {:.3}{} | {:.2}–{:.2} |\n",
                case.name,
                case.before,
                case.now,
                case.now / case.before,
                if case.is_slower() { " **!**" } else { "" },
                case.spread.0,
                case.spread.1,
            );
        }
        for line in &self.alone {
            text += &format!("- {line}\n");
        }
        text
    }

    fn slower(&self) -> Vec<String> {
        let slower = self.cases.iter().filter(|case| case.is_slower());
        slower
            .map(|case| {
                format!(
                    "{} ({:.1} ns, {:.1} before)",
                    case.name, case.now, case.before
                )
            })
            .collect()
    }
}

impl Case {
    fn is_slower(&self) -> bool {
        self.now > self.before * (1.0 + MARGIN / 100.0) && self.now - self.before > GRAIN
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_from_the_test() {
        let line = "port_xdp, UDP out: 109 ns (fastest 108, 9 of 10 below 110)";
        assert_eq!(cost(line), Some(("port_xdp, UDP out".to_owned(), 109.0)));
        let first = format!("test speed::the_established_path ... {line}");
        assert_eq!(cost(&first), cost(line));
        assert_eq!(cost("sweep: 12 ns for a flow; 5 flows take 3 us"), None);
    }

    #[test]
    fn only_what_got_slower_fails() {
        let costs = |values: &[(&str, f64)]| -> Costs {
            let costs = values.iter();
            costs
                .map(|(name, cost)| ((*name).to_owned(), vec![*cost, *cost]))
                .collect()
        };
        let before = costs(&[("a", 100.0), ("b", 100.0), ("c", 26.0), ("gone", 1.0)]);
        let now = costs(&[("a", 103.0), ("b", 104.0), ("c", 26.9), ("new", 1.0)]);
        let comparison = Comparison::new(&before, &now);
        assert_eq!(comparison.slower(), ["b (104.0 ns, 100.0 before)"]);
        assert_eq!(comparison.alone.len(), 2);
        assert!(
            comparison
                .text("old")
                .contains("| b | 100.0 | 104.0 | 1.040 **!** | 1.04–1.04 |")
        );
    }
}
