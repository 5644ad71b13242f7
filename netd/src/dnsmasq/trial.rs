//! A configuration is tried out before it takes the place of one that works.
//!
//! `dnsmasq --test` reads the options and no more. What it does not see ends the real start: a TFTP root
//! that is missing or closed to the user dnsmasq becomes, a user or a log file that does not exist, options
//! that exclude each other. So dnsmasq starts for real, in a network namespace without anybody, with files
//! of its own, and is ended; its predecessor goes on meanwhile.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;

use super::config::NetworkFiles;
use super::daemon::daemonise;
use super::error::{Error, Result, io_error};
use super::network_files::FileTexts;
use crate::link::here;
use crate::model::Network;
use crate::netns::Netns;
use crate::store::file;

/// Start dnsmasq for `network` where it serves nobody, and end it. Nothing of it is left.
///
/// `files` is where the network's own are; `script` the lease helper, which finds no leases.
///
/// # Errors
/// Why it did not start, in dnsmasq's words.
pub(super) async fn start(
    binary: &Path,
    network: &Network,
    bridge: &str,
    files: &NetworkFiles,
    script: &Path,
) -> Result<()> {
    let parent = &files.dir;
    let failed = |e| io_error("make a folder in", parent, e);
    // It reads host files as another user.
    let dir = file::unfinished()
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .map_err(failed)?;
    let trial = NetworkFiles {
        dir: dir.path().to_owned(),
        pid_file: Some(dir.path().join("pid")),
    };
    FileTexts::new(network, &trial)?.write(network, &trial)?;
    let netns = nowhere(bridge).map_err(|source| Error::Io {
        action: "make a network namespace for",
        path: binary.to_owned(),
        source,
    })?;
    let started = daemonise(binary, network, bridge, (&trial, Some(&netns)), script).await?;
    // It has nothing to finish.
    let killed = started.signal(Signal::KILL);
    killed.map_err(|e| started.signal_error("stopped", e))?;
    started.exited().await
}

/// Where it serves nobody. There is a device of the bridge's name, since a server of DHCPv6 makes its
/// identifier of a MAC address (RFC 8415, section 11), and does not start without any.
fn nowhere(bridge: &str) -> io::Result<Netns> {
    let netns = Netns::new()?;
    netns.run(|| here::add_bridge(bridge))?;
    Ok(netns)
}
