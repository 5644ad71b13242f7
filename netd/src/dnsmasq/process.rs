//! The dnsmasq process of a network: start, adopt, reload, stop.
//!
//! dnsmasq daemonises itself, so it is no child of the agent and outlives it. A new agent finds
//! it by its pid file and command line and holds it by a pidfd, which cannot come to mean another
//! process.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::binary::Binary;
use super::config::NetworkFiles;
use super::daemon::daemonise;
use super::error::{Error, Result};
use super::files::remove;
use super::network_files::{FileTexts, pid_file, remove_own_files};
use super::{leases, place, trial};
use crate::model::Network;
use crate::netns::{Netns, NetnsId};
use crate::paths::Paths;

pub use super::helper_link::{link_helper, remove_shared};
pub use super::network_files::{
    could_have_servers, digest, files_of, is_without_servers, missing_servers, remove_files, served,
};
pub use super::running::{Running, adopt};

/// Starts dnsmasq processes.
#[derive(Debug, Default)]
pub struct Dnsmasq {
    binary: Binary,
}

impl Dnsmasq {
    /// A starter that knows no binary yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The binary that would be run, found and new enough.
    ///
    /// # Errors
    /// No dnsmasq, or one that is too old.
    pub async fn binary(&self) -> Result<PathBuf> {
        self.binary.find().await
    }

    /// Write the files of `network` and run its dnsmasq; it is set up when this returns.
    ///
    /// The process runs in `netns`. One that still runs for this network is stopped first. `helper` is the netd binary, as it can be found later (not
    /// a deleted file). After a failure the files written here are gone again.
    ///
    /// # Errors
    /// No usable dnsmasq, a definition it cannot serve, or its own refusal, in its words.
    pub async fn start(
        &self,
        network: &Network,
        bridge: &str,
        paths: &Paths,
        helper: &Path,
        netns: &Netns,
    ) -> Result<Running> {
        let files = files_of(paths, network)?;
        let texts = FileTexts::new(network, &files)?;
        let script = link_helper(paths, helper)?;
        let place = (&files, Some(netns));
        self.start_with(network, bridge, place, &texts, &script)
            .await
    }

    /// Run dnsmasq for `network` as libvirt's own driver does: with files in its places and its lease
    /// helper, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// As [`Dnsmasq::start`].
    pub async fn start_as_libvirt(
        &self,
        network: &Network,
        bridge: &str,
        files: &NetworkFiles,
        helper: &Path,
    ) -> Result<Running> {
        let texts = FileTexts::as_libvirt(network, files)?;
        self.start_with(network, bridge, (files, None), &texts, helper)
            .await
    }

    async fn start_with(
        &self,
        network: &Network,
        bridge: &str,
        (files, netns): (&NetworkFiles, Option<&Netns>),
        texts: &FileTexts,
        script: &Path,
    ) -> Result<Running> {
        let binary = self.binary().await?;
        if let Some(old) = adopt(&pid_file(files), &files.conf(&network.name)) {
            stop(&old, files, bridge).await?;
        }
        let started = async {
            texts.write(network, files)?;
            daemonise(&binary, network, bridge, (files, netns), script).await
        };
        match started.await {
            Ok(running) => Ok(running),
            Err(e) => {
                if let Err(also) = remove_own_files(network, files) {
                    tracing::warn!("after a failed start: {also}");
                }
                Err(e)
            }
        }
    }

    /// Start dnsmasq for `network` where it serves nobody, and end it: would it start in the place of the
    /// one that runs?
    ///
    /// # Errors
    /// Why not, in dnsmasq's words.
    pub async fn try_out(
        &self,
        network: &Network,
        bridge: &str,
        paths: &Paths,
        helper: &Path,
    ) -> Result<()> {
        let files = files_of(paths, network)?;
        let script = link_helper(paths, helper)?;
        trial::start(&self.binary().await?, network, bridge, &files, &script).await
    }

    /// Let `running` serve what `network` says now. DHCP hosts and DNS hosts stand in files that it
    /// reads again when it is told to. What stands in its configuration needs another process, which
    /// goes on with the leases: only root may read that file, and dnsmasq has given up root.
    /// Nothing happens where nothing differs. A configuration that is not `proven` is tried out first.
    ///
    /// # Errors
    /// As [`Dnsmasq::start`]; or the process is gone. What cannot be written as files, or what
    /// dnsmasq does not understand, leaves `running` as it is.
    pub async fn reload(
        &self,
        network: &Network,
        bridge: &str,
        paths: &Paths,
        helper: &Path,
        netns: &Netns,
        (running, proven): (Running, bool),
    ) -> Result<Running> {
        let files = files_of(paths, network)?;
        let texts = FileTexts::new(network, &files)?;
        if !texts.is_served(&files.conf(&network.name))? {
            // Before the one that runs is stopped.
            if !proven {
                self.try_out(network, bridge, paths, helper).await?;
            }
            return self.start(network, bridge, paths, helper, netns).await;
        }
        if texts.write_changed_hosts(network, &files)? {
            let told = running.signal(Signal::HUP);
            told.map_err(|e| running.signal_error("told to reload", e))?;
        }
        Ok(running)
    }
}

/// Find the dnsmasq that an earlier agent started for `network`.
#[must_use]
pub fn adopt_network(network: &Network, paths: &Paths) -> Option<Running> {
    let files = files_of(paths, network).ok()?;
    adopt(&pid_file(&files), &files.conf(&network.name))
}

/// The namespace that a dnsmasq of `network` was started in; `None` where no agent noted that.
#[must_use]
pub fn netns_of(network: &Network, paths: &Paths, running: &Running) -> Option<NetnsId> {
    let files = files_of(paths, network).ok()?;
    place::noted(&pid_file(&files), running)
}

/// End the dnsmasq of `network`: the one known, else the one that its pid file leads to. The pid
/// file goes in any case, since one that was killed leaves it behind.
///
/// # Errors
/// The process does not end, or the file cannot be removed.
pub async fn stop_network(network: &Network, paths: &Paths, known: Option<Running>) -> Result<()> {
    let pid_file = match files_of(paths, network) {
        Ok(files) => pid_file(&files),
        // None was started under a name that can be no file's.
        Err(Error::Config { .. }) if known.is_none() => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(running) = known.or_else(|| adopt_network(network, paths)) else {
        remove(&place::file(&pid_file))?;
        return remove(&pid_file);
    };
    let bridge = network.bridge.name.as_deref().unwrap_or_default();
    stop(&running, &files_of(paths, network)?, bridge).await
}

/// End a dnsmasq. It first has its lease helper called for each change of a lease that it has not told yet:
/// who knows less has given addresses that it will give to others.
///
/// # Errors
/// The process does not end, or the pid file cannot be removed.
pub async fn stop(running: &Running, files: &NetworkFiles, bridge: &str) -> Result<()> {
    let progress = || leases::progress(&files.dir, bridge);
    let pid_file = pid_file(files);
    running.stop_patiently(&pid_file, progress).await?;
    remove(&place::file(&pid_file))
}
