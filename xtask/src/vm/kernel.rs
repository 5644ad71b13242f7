//! Debian's cloud kernels, fetched by apt and unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::Archive;

/// Depends on the newest kernel of a suite.
const META: &str = "linux-image-cloud-amd64";
/// The packages a kernel consists of; before Debian 14 the first is all of it.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// A kernel on this disk.
pub struct Fetched {
    /// What a loader loads.
    pub image: PathBuf,
    /// The directory of its modules.
    pub modules: PathBuf,
}

/// The newest kernel of a suite, fetched where that was not done before.
pub fn fetch(suite: &str, place: &Path, refresh: bool) -> Result<Fetched> {
    let kernel = place.join("kernel");
    if refresh || !kernel.exists() {
        println!("fetching the kernel of Debian {suite}");
        Archive::open(suite, &place.join("apt"))
            .and_then(|archive| download(&archive, place, &kernel))
            .with_context(|| format!("the kernel of Debian {suite}"))?;
    }
    Ok(Fetched {
        image: find(&kernel, &|name| name.starts_with("vmlinuz"))?,
        modules: find(&kernel, &|name| name == "kernel")?,
    })
}

/// Fetches the packages and unpacks them to `kernel`, which is whole as soon as it is there.
fn download(archive: &Archive, place: &Path, kernel: &Path) -> Result<()> {
    let unpacked = place.join("unpacked");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::create_dir_all(&unpacked)?;
    let mut names = kernel_packages(&mut archive.command("apt-cache"), META)?;
    let Some(image) = names.first().cloned() else {
        bail!("{META} depends on no kernel");
    };
    names.extend(kernel_packages(&mut archive.command("apt-cache"), &image)?);
    println!("fetching {}", names.join(", "));
    archive.unpack(&names, &unpacked)?;
    if kernel.exists() {
        fs::remove_dir_all(kernel)?;
    }
    fs::rename(&unpacked, kernel).context("putting the kernel in place")
}

/// Which parts of a kernel the package depends on.
fn kernel_packages(apt_cache: &mut Command, package: &str) -> Result<Vec<String>> {
    let output = apt_cache.args(["depends", package]).output()?;
    ensure!(
        output.status.success(),
        "{apt_cache:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(dependencies(&String::from_utf8_lossy(&output.stdout)))
}

fn dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("Depends: "))
        .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
        .map(str::to_owned)
        .collect()
}

/// The file or directory of that name below `directory`.
fn find(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("reading {}", next.display()))?;
        for entry in entries {
            let entry = entry?;
            let is_wanted = entry.file_name().to_str().is_some_and(wanted);
            // Links of the package lead into a root that it is not in.
            let kind = entry.file_type()?;
            if is_wanted && !kind.is_symlink() {
                return Ok(entry.path());
            }
            if kind.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    bail!("no kernel lies in {}; try --refresh", directory.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_kernel_are_told_from_other_dependencies() {
        let text = "linux-image-7.2.13\n  PreDepends: linux-base\n |Depends: dracut\n  \
            Depends: <linux-initramfs-tool>\n  Depends: linux-base-7.2.13\n  \
            Depends: linux-binary-7.2.13\n  Depends: linux-modules-7.2.13\n  \
            Suggests: linux-image-other\n";
        assert_eq!(
            dependencies(text),
            ["linux-binary-7.2.13", "linux-modules-7.2.13"]
        );
    }
}
