//! `run`: the agent in the foreground, with libvirt's stock network where none is defined.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// libvirt's stock default network.
const DEFAULT_NETWORK: &str = include_str!("../../dist/default.xml");
/// Its bridge.
const DEFAULT_BRIDGE: &str = "virbr0";
/// Where libvirt records that its own network of that name is active.
const LIBVIRT_STATUS: &str = "/run/libvirt/network/default.xml";

/// Starts the agent in place of this process.
pub fn run(flags: &[String]) -> Result<()> {
    let config = directory(flags, "--config-dir", "/etc/netd");
    let run = directory(flags, "--run-dir", "/run/netd");
    refuse_foreign_bridge(&config, &run)?;
    provide_default(&config)?;
    let binary = crate::tools::binary()?;
    next_steps(&binary, flags);
    let error = Command::new(&binary).arg("run").args(flags).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// Value of a flag that is passed on to the agent.
fn value<'a>(flags: &'a [String], name: &str) -> Option<&'a str> {
    flags.iter().enumerate().find_map(|(at, flag)| {
        let rest = flag.strip_prefix(name)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => flags.get(at + 1).map(String::as_str),
            None => None,
        }
    })
}

fn directory(flags: &[String], name: &str, default: &str) -> PathBuf {
    PathBuf::from(value(flags, name).unwrap_or(default))
}

/// Where another program holds the network that we are about to start, nothing is started.
fn refuse_foreign_bridge(config: &Path, run: &Path) -> Result<()> {
    let definition = config.join("networks/default.xml");
    let text = match fs::read_to_string(&definition) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => DEFAULT_NETWORK.to_owned(),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", definition.display()));
        }
    };
    if !text.contains(DEFAULT_BRIDGE) || !device_exists(DEFAULT_BRIDGE)? || is_ours(run) {
        return Ok(());
    }
    if Path::new(LIBVIRT_STATUS).exists() {
        bail!(
            "libvirt's own network `default` is active here and holds {DEFAULT_BRIDGE}; nothing \
             was started. Stop it (virsh net-destroy default; virsh net-autostart --disable \
             default), or run netd in a network namespace of its own, \
             or with --config-dir and a definition of another bridge and subnet"
        );
    }
    bail!(
        "a device {DEFAULT_BRIDGE} exists that netd did not make; nothing was started. Remove it \
         (ip link del {DEFAULT_BRIDGE}), or define the network `default` in {} with another bridge",
        definition.display()
    )
}

/// Is there a device of that name in this network namespace? (/sys may show another one's.)
fn device_exists(name: &str) -> Result<bool> {
    let devices = fs::read_to_string("/proc/self/net/dev").context("reading /proc/self/net/dev")?;
    Ok(devices
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(device, _)| device.trim() == name))
}

/// Does a record of an earlier agent say that it made the network?
fn is_ours(run: &Path) -> bool {
    fs::read_dir(run.join("networks"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("default."))
}

/// Puts the stock network and its autostart link in place where no such definition exists.
fn provide_default(config: &Path) -> Result<()> {
    let networks = config.join("networks");
    let definition = networks.join("default.xml");
    if definition.try_exists()? {
        return Ok(());
    }
    let autostart = config.join("autostart");
    for directory in [&networks, &autostart] {
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    println!("defining the network `default` in {}", definition.display());
    let mut file = NamedTempFile::new_in(&networks)
        .with_context(|| format!("writing to {}", networks.display()))?;
    file.write_all(DEFAULT_NETWORK.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&definition)
        .with_context(|| format!("writing {}", definition.display()))?;
    File::open(&networks)?.sync_all()?;
    let link = autostart.join("default.xml");
    match symlink("../networks/default.xml", &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("creating {}", link.display()));
        }
        _ => {}
    }
    File::open(&autostart)?.sync_all()?;
    Ok(())
}

fn next_steps(binary: &Path, flags: &[String]) {
    let netd = binary.display();
    let socket = value(flags, "--socket");
    let client = socket.map_or(String::new(), |socket| format!(" --socket {socket}"));
    let at = socket.unwrap_or("/run/netd/netd-sock");
    println!(
        "starting the agent; end it with Ctrl-C, its networks stay up. In another terminal, as root:
  {netd}{client} net-list --all          the networks
  {netd}{client} status                  what is attached where
  {netd}{client} net-dhcp-leases default the guests' addresses
  ip link set TAP master {DEFAULT_BRIDGE}           plugs a guest in
  virsh -c 'network+unix:///system?socket={at}' net-list --all
  {netd} teardown                        removes everything again (same directory flags)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    #[test]
    fn flags_are_found_in_both_spellings() {
        let flags = flags("--config-dir /a --run-dir=/b --socket");
        assert_eq!(value(&flags, "--config-dir"), Some("/a"));
        assert_eq!(value(&flags, "--run-dir"), Some("/b"));
        assert_eq!(value(&flags, "--socket"), None);
        assert_eq!(value(&flags, "--run"), None);
    }

    #[test]
    fn an_existing_definition_is_left_alone() {
        let config = tempfile::tempdir().unwrap();
        provide_default(config.path()).unwrap();
        let definition = config.path().join("networks/default.xml");
        assert_eq!(fs::read_to_string(&definition).unwrap(), DEFAULT_NETWORK);
        let link = config.path().join("autostart/default.xml");
        assert_eq!(fs::read_to_string(&link).unwrap(), DEFAULT_NETWORK);

        fs::write(&definition, "mine").unwrap();
        fs::remove_file(&link).unwrap();
        provide_default(config.path()).unwrap();
        assert_eq!(fs::read_to_string(&definition).unwrap(), "mine");
        assert!(!link.exists(), "autostart is the owner's decision too");
    }
}
