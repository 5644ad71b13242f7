//! The part of `lint` that looks at structure: no circle between files or folders of a crate, no file
//! and no function that is too long.

mod graph;
mod read;
mod resolve;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::tools::workspace;
use graph::Graph;
use resolve::Crate;

/// The roots of the crates that are looked at.
const ROOTS: &[&str] = &[
    "netd/src/lib.rs",
    "netd-common/src/lib.rs",
    "netd-ebpf/src/main.rs",
    "netd-ebpf/src/bench/main.rs",
    "tests/src/lib.rs",
    "xtask/src/main.rs",
];

/// The folders whose files and functions are measured.
const MEASURED: &[&str] = &["netd", "netd-common", "netd-ebpf"];

/// Longest file, in lines.
const FILE: usize = 600;
/// Longest function, in lines, with its signature and without its documentation.
const FUNCTION: usize = 80;

/// What is still to be put right. A circle is named by the folder or file that all of it is in, what
/// is too long by its file. An entry that nothing needs any more is told.
const KNOWN: &[&str] = &[];

/// Everything that is not as it should be, a line each.
pub fn findings() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for root in ROOTS {
        let krate = Crate::read(&workspace(), root)?;
        found.extend(circles(&krate));
    }
    for folder in MEASURED {
        for file in rust_files(&workspace().join(folder))? {
            found.extend(lengths(&file)?);
        }
    }
    let (known, unknown): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|finding| KNOWN.iter().any(|known| finding.is_within(known)));
    for entry in KNOWN {
        if !known.iter().any(|finding| finding.is_within(entry)) {
            println!("{entry} is in order now: take it off KNOWN");
        }
    }
    Ok(unknown.into_iter().map(|finding| finding.text).collect())
}

/// Something that is not as it should be.
struct Finding {
    /// Files and folders it is about.
    places: Vec<String>,
    text: String,
}

impl Finding {
    fn is_within(&self, known: &str) -> bool {
        self.places.iter().all(|place| place.starts_with(known))
    }
}

/// Circles between files, and between what lies beside each other in a folder.
fn circles(krate: &Crate) -> Vec<Finding> {
    let uses = krate.uses();
    let mut files = Graph::default();
    for (from, to) in &uses {
        files.add(krate.file(*from), krate.file(*to));
    }
    let mut found = named(&files, "circle of files");
    for folder in krate.folders() {
        let mut beside = Graph::default();
        for (from, to) in &uses {
            if let (Some(from), Some(to)) =
                (krate.child_of(&folder, *from), krate.child_of(&folder, *to))
            {
                beside.add(&from, &to);
            }
        }
        found.extend(named(&beside, "circle of modules"));
    }
    found
}

fn named(graph: &Graph, what: &str) -> Vec<Finding> {
    let circles = graph.circles().into_iter();
    circles
        .map(|circle| {
            let mut text = format!("{what}: {}", circle.members.join(", "));
            for (from, to) in &circle.arrows {
                // Writing to a String cannot fail.
                let _ = write!(text, "\n    {from} -> {to}");
            }
            Finding {
                places: circle.members,
                text,
            }
        })
        .collect()
}

/// Is the file too long, or a function in it?
fn lengths(file: &Path) -> Result<Vec<Finding>> {
    let name = relative(file);
    let text = fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let mut found = Vec::new();
    let mut tell = |text: String| {
        found.push(Finding {
            places: vec![name.clone()],
            text,
        });
    };
    let lines = text.lines().count();
    if lines > FILE {
        tell(format!("{name} has {lines} lines; {FILE} are enough"));
    }
    for (function, lines) in read::functions(&text).with_context(|| format!("reading {name}"))? {
        if lines > FUNCTION {
            tell(format!(
                "{name}: {function} has {lines} lines; {FUNCTION} are enough"
            ));
        }
    }
    Ok(found)
}

fn relative(file: &Path) -> String {
    let file = file.strip_prefix(workspace()).unwrap_or(file);
    file.display().to_string()
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
