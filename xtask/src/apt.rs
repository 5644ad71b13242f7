//! Debian's archive, asked for one release in a directory of its own: the machine's own sources and
//! packages stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::tools::{online, succeed, text};

/// What Debian signs with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The lists of a release, which apt-get and apt-cache work with.
pub struct Archive {
    configuration: PathBuf,
    packages: PathBuf,
}

impl Archive {
    /// Fetches the lists of a release to a directory, which is emptied first.
    pub fn open(suite: &str, directory: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing: install debian-archive-keyring"
        );
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let mirror = mirror()?;
        let sources = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(directory.join("sources.list"), sources)?;
        // Nothing is installed, so what is installed does not matter.
        fs::write(directory.join("status"), "")?;
        let at = text(directory)?;
        let settings = format!(
            "Dir::State::Lists \"{at}/lists\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Etc::SourceList \"{at}/sources.list\";\nDir::Etc::SourceParts \"/dev/null\";\n\
             Dir::State::status \"{at}/status\";\nAPT::Architecture \"amd64\";\n\
             APT::Sandbox::User \"\";\nAPT::Update::Error-Mode \"any\";\n"
        );
        let archive = Self {
            configuration: directory.join("apt.conf"),
            packages: directory.join("packages"),
        };
        fs::write(&archive.configuration, settings)?;
        succeed(archive.command("apt-get").args(["-qq", "update"]))?;
        Ok(archive)
    }

    /// A program of apt that asks this archive, and downloads to its directory of packages.
    pub fn command(&self, program: &str) -> Command {
        let mut command = online(program);
        command
            .env("APT_CONFIG", &self.configuration)
            .current_dir(&self.packages);
        command
    }

    /// Fetches packages and unpacks them to a directory.
    pub fn unpack(&self, names: &[String], to: &Path) -> Result<()> {
        succeed(
            self.command("apt-get")
                .args(["-qq", "download"])
                .args(names),
        )?;
        for entry in fs::read_dir(&self.packages)? {
            let package = entry?.path();
            succeed(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([&package, to]),
            )?;
        }
        Ok(())
    }
}

/// What this machine's apt is told about fetching, for an apt that does not read its settings.
pub fn settings() -> Result<Vec<String>> {
    let output = Command::new("apt-config")
        .args(["dump", "--format", "%F \"%v\";%n"])
        .args(["Acquire::Check-Valid-Until", "Acquire::Check-Date"])
        .args(["Acquire::http::Proxy", "Acquire::https::Proxy"])
        .output()
        .context("asking apt-config for the machine's settings")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Where this machine gets Debian's packages from: it has the other suites as well.
pub fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Created-By: Packages", "Label: Debian"])
        .output()
        .context("asking apt-get for its sources")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = listed.lines().next().map(str::to_owned);
    first.context("apt knows no archive of Debian; is this Debian? then apt-get update helps")
}
