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
    "netd-libvirt/src/lib.rs",
    "tests/src/lib.rs",
    "xtask/src/main.rs",
];

/// The folders whose files and functions are measured.
const MEASURED: &[&str] = &["netd", "netd-common", "netd-ebpf", "netd-libvirt"];

/// Longest file, in lines.
const FILE: usize = 600;
/// Longest function, in lines, with its signature and without its documentation.
const FUNCTION: usize = 80;

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
    Ok(found)
}

/// Circles between files, and between what lies beside each other in a folder.
fn circles(krate: &Crate) -> Vec<String> {
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

fn named(graph: &Graph, what: &str) -> Vec<String> {
    let circles = graph.circles().into_iter();
    circles
        .map(|circle| {
            let mut text = format!("{what}: {}", circle.members.join(", "));
            for (from, to) in &circle.arrows {
                // Writing to a String cannot fail.
                let _ = write!(text, "\n    {from} -> {to}");
            }
            text
        })
        .collect()
}

/// Is the file too long, or a function in it?
fn lengths(file: &Path) -> Result<Vec<String>> {
    let name = relative(file);
    let text = fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > FILE {
        found.push(format!("{name} has {lines} lines; {FILE} are enough"));
    }
    for (function, lines) in read::functions(&text).with_context(|| format!("reading {name}"))? {
        if lines > FUNCTION {
            found.push(format!(
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
