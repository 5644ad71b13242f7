//! `dist`: Debian's packages of netd and of its driver for libvirtd.
//!
//! ```text
//! target/dist/      man pages, completions, licences: what the program and cargo say
//! target/debian/    netd_VERSION_ARCH.deb, netd-libvirt_VERSION_ARCH.deb
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::tools::{binary, build, cargo, module, said, succeed, target, text, workspace};

/// The packages, each a crate with `[package.metadata.deb]`.
const PACKAGES: [&str; 2] = ["netd", "netd-libvirt"];

/// The newest version of glibc that Debian 12 has: what is built against a later one does not start there.
const GLIBC: (u32, u32) = (2, 36);

/// Where the packages are.
pub fn folder() -> PathBuf {
    target().join("debian")
}

/// Makes the packages, which are told with their hashes.
pub fn dist() -> Result<()> {
    build()?;
    for built in [binary()?, module()?] {
        fits_debian_12(&built)?;
    }
    let generated = target().join("dist");
    write_pages(&generated)?;
    write_completions(&generated)?;
    write_licences(&generated)?;
    let changes = fs::read(workspace().join("dist/debian/changelog"))?;
    compress(&changes, &generated.join("changelog.gz"))?;
    let time = commit_time()?;
    let debs = folder();
    // What lies there from before is not made by this tree.
    if debs.exists() {
        fs::remove_dir_all(&debs)?;
    }
    fs::create_dir_all(&debs)?;
    let mut made = Vec::new();
    for package in PACKAGES {
        let output = cargo()
            .args(["deb", "--no-build", "--quiet", "--package", package])
            .args(["--output", text(&debs)?])
            // Times of files: the same tree makes the same package.
            .env("SOURCE_DATE_EPOCH", &time)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo deb")?;
        ensure!(output.status.success(), "cargo deb: {}", output.status);
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        made.push(PathBuf::from(path));
    }
    lint(&made)?;
    for path in &made {
        succeed(Command::new("sha256sum").arg(path))?;
    }
    Ok(())
}

/// When the tree was committed, in seconds.
fn commit_time() -> Result<String> {
    let mut command = Command::new("git");
    command
        .args(["log", "-1", "--format=%ct"])
        .current_dir(workspace());
    said(&mut command)
}

/// Is everything that a program wants of glibc in that of Debian 12?
fn fits_debian_12(program: &Path) -> Result<()> {
    let symbols = said(Command::new("objdump").arg("-T").arg(program))?;
    let newest = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?;
        let mut parts = version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    });
    let newest: (u32, u32) = newest.max().context("a program without glibc")?;
    ensure!(
        newest <= GLIBC,
        "{} wants glibc {}.{}, and Debian 12 has {}.{}: make packages on Debian 12",
        program.display(),
        newest.0,
        newest.1,
        GLIBC.0,
        GLIBC.1
    );
    Ok(())
}

fn write_pages(generated: &Path) -> Result<()> {
    let man = generated.join("man");
    if man.exists() {
        fs::remove_dir_all(&man)?;
    }
    fs::create_dir_all(&man)?;
    succeed(Command::new(binary()?).arg("manpages").arg(&man))
}

fn write_completions(generated: &Path) -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = said(Command::new(binary()?).args(["completions", shell]))?;
        fs::write(generated.join(format!("netd.{shell}")), script + "\n")?;
    }
    Ok(())
}

/// Every crate that is linked in, with its licence and the texts that it comes with.
fn write_licences(generated: &Path) -> Result<()> {
    let mut text = String::from("What netd is linked with.\n");
    for (name, version, licence, folder) in linked_crates()? {
        text.push_str(&format!("\n=== {name} {version}: {licence}\n"));
        let mut files: Vec<_> = fs::read_dir(&folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .to_uppercase();
                path.is_file()
                    && ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"]
                        .iter()
                        .any(|start| name.starts_with(start))
            })
            .collect();
        files.sort();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let content = fs::read(&file)?;
            text.push_str(&format!(
                "--- {name}\n{}\n",
                String::from_utf8_lossy(&content).trim_end()
            ));
        }
    }
    compress(text.as_bytes(), &generated.join("crates.txt.gz"))
}

/// A compressed file, the same each time: `-n` leaves out the time at which it is made.
fn compress(content: &[u8], to: &Path) -> Result<()> {
    let mut gzip = Command::new("gzip")
        .args(["-9nc"])
        .stdin(Stdio::piped())
        .stdout(fs::File::create(to)?)
        .spawn()
        .context("cannot start gzip")?;
    gzip.stdin
        .take()
        .context("gzip's input")?
        .write_all(content)?;
    ensure!(gzip.wait()?.success(), "gzip failed");
    Ok(())
}

/// Name, version, licence and folder of each crate that the packages link.
fn linked_crates() -> Result<BTreeSet<(String, String, String, PathBuf)>> {
    let mut tree = cargo();
    tree.args([
        "tree", "--edges", "normal", "--prefix", "none", "--format", "{p}",
    ]);
    for package in PACKAGES {
        tree.args(["--package", package]);
    }
    let tree = said(&mut tree)?;
    let linked: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let metadata = said(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut found = BTreeSet::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let of = |key: &str| package[key].as_str().unwrap_or_default();
        // The workspace's own have no source, and the licence of netd.
        if package["source"].is_null() || !linked.contains(&(of("name"), of("version"))) {
            continue;
        }
        let manifest = PathBuf::from(of("manifest_path"));
        let folder = manifest.parent().context("a manifest without folder")?;
        ensure!(!of("license").is_empty(), "{} names no licence", of("name"));
        found.insert((
            of("name").to_owned(),
            of("version").to_owned(),
            of("license").to_owned(),
            folder.to_owned(),
        ));
    }
    ensure!(!found.is_empty(), "no crate is linked in");
    Ok(found)
}

/// Whatever lintian has to say is a failure, but for what is overridden with a reason.
fn lint(packages: &[PathBuf]) -> Result<()> {
    let mut command = Command::new("lintian");
    command
        .args(["--fail-on", "error,warning", "--allow-root"])
        .args(packages);
    succeed(&mut command)
}
