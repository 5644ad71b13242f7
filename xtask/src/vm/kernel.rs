//! Debian's cloud kernels, fetched by apt into a directory of their own: the machine's own sources and
//! packages stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{online, succeed};

/// Depends on the newest kernel of a suite.
const META: &str = "linux-image-cloud-amd64";
/// The packages a kernel consists of; before Debian 14 the first is all of it.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
/// What Debian signs with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing: install debian-archive-keyring"
        );
        download(suite, place, &kernel).with_context(|| format!("the kernel of Debian {suite}"))?;
    }
    Ok(Fetched {
        image: find(&kernel, &|name| name.starts_with("vmlinuz"))?,
        modules: find(&kernel, &|name| name == "kernel")?,
    })
}

/// Fetches the packages and unpacks them to `kernel`, which is whole as soon as it is there.
fn download(suite: &str, place: &Path, kernel: &Path) -> Result<()> {
    let apt = place.join("apt");
    let unpacked = place.join("unpacked");
    for directory in [&apt, &unpacked] {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
    }
    for directory in ["lists/partial", "cache/archives/partial", "packages"] {
        fs::create_dir_all(apt.join(directory))?;
    }
    fs::create_dir_all(&unpacked)?;
    let mirror = mirror()?;
    let sources = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
    fs::write(apt.join("sources.list"), sources)?;
    // Nothing is installed, so what is installed does not matter.
    fs::write(apt.join("status"), "")?;
    let at = text(&apt)?;
    let settings = format!(
        "Dir::State::Lists \"{at}/lists\";\nDir::Cache \"{at}/cache\";\n\
         Dir::Etc::SourceList \"{at}/sources.list\";\nDir::Etc::SourceParts \"/dev/null\";\n\
         Dir::State::status \"{at}/status\";\nAPT::Architecture \"amd64\";\n\
         APT::Sandbox::User \"\";\n"
    );
    let configuration = apt.join("apt.conf");
    fs::write(&configuration, settings)?;
    let command = |program: &str| -> Command {
        let mut command = online(program);
        command
            .env("APT_CONFIG", &configuration)
            .current_dir(apt.join("packages"));
        command
    };
    succeed(command("apt-get").args(["-qq", "update"]))?;
    let mut names = kernel_packages(&mut command("apt-cache"), META)?;
    let Some(image) = names.first().cloned() else {
        bail!("{META} depends on no kernel");
    };
    names.extend(kernel_packages(&mut command("apt-cache"), &image)?);
    println!("fetching {}", names.join(", "));
    succeed(command("apt-get").args(["-qq", "download"]).args(&names))?;
    for entry in fs::read_dir(apt.join("packages"))? {
        succeed(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(entry?.path())
                .arg(&unpacked),
        )?;
    }
    if kernel.exists() {
        fs::remove_dir_all(kernel)?;
    }
    fs::rename(&unpacked, kernel).context("putting the kernel in place")
}

/// Where this machine gets Debian's packages from: it has the other suites as well.
fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Created-By: Packages", "Label: Debian"])
        .output()
        .context("asking apt-get for its sources")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = listed.lines().next().map(str::to_owned);
    first.context("apt knows no archive of Debian; is this Debian? then apt-get update helps")
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

/// A path as text, for commands.
pub fn text(path: &Path) -> Result<&str> {
    let text = path.to_str();
    text.with_context(|| format!("{} is no text", path.display()))
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
