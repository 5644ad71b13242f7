//! The files of one network: where they are, and what is in them.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use super::config::{self, NetworkFiles};
use super::error::{Result, config_error, io_error};
use super::files::{absolute, create_public_dir, read_bounded, remove, write_atomic};
use super::values::file_name;
use super::{journal, leases, nss, place, resolv};
use crate::model::Network;
use crate::paths::Paths;

/// Mode of the host files, which dnsmasq reads as a user of its own.
const HOST_FILE: u32 = 0o644;

/// A network's files below `paths`, absolute because dnsmasq changes its directory.
///
/// # Errors
/// The name cannot be part of a file name.
pub fn files_of(paths: &Paths, network: &Network) -> Result<NetworkFiles> {
    let name = file_name(&network.name).map_err(|e| config_error(network, e))?;
    Ok(NetworkFiles {
        dir: absolute(&paths.dnsmasq_dir())?,
        pid_file: Some(absolute(&paths.run_dir.join(format!("{name}.pid")))?),
    })
}

pub(super) fn pid_file(files: &NetworkFiles) -> PathBuf {
    files.pid_file.clone().unwrap_or_default()
}

/// Remove everything kept for a network, its leases included (undefine, end of a transient one).
///
/// # Errors
/// The first file that could not be removed; the others are gone.
pub fn remove_files(network: &Network, bridge: &str, paths: &Paths) -> Result<()> {
    let files = files_of(paths, network)?;
    let own = remove_own_files(network, &files);
    let status = match leases::interface_name(bridge) {
        Some(bridge) => {
            let told = nss::forget(&files.dir, bridge);
            let told = told.map_err(|error| io_error("remove", &files.status(bridge), error));
            let status = files.status(bridge);
            told.and(remove(&status))
                .and(remove(&journal::path(&status)))
        }
        None => Ok(()),
    };
    own.and(status)
}

pub(super) fn remove_own_files(network: &Network, files: &NetworkFiles) -> Result<()> {
    let name = &network.name;
    let all = [
        files.conf(name),
        files.hostsfile(name),
        files.addnhosts(name),
        place::file(&pid_file(files)),
        pid_file(files),
    ];
    all.iter()
        .map(|path| remove(path))
        .fold(Ok(()), Result::and)
}

/// What a dnsmasq serves, told apart by numbers: those of the text that it reads once, and of those
/// that it reads again when it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Its configuration.
    pub conf: u64,
    /// Its host files.
    pub hosts: u64,
}

/// What the dnsmasq of `network` is to serve.
///
/// # Errors
/// The definition cannot be given to dnsmasq.
pub fn digest(network: &Network, paths: &Paths) -> Result<Digest> {
    let files = files_of(paths, network)?;
    Ok(FileTexts::new(network, &files)?.digest())
}

/// What the files of `network` have its dnsmasq serve, by the numbers of what it is to serve: a
/// number that is not the same means another text.
///
/// # Errors
/// As [`digest`], or a file cannot be read.
pub fn served(network: &Network, paths: &Paths) -> Result<Digest> {
    let files = files_of(paths, network)?;
    let texts = FileTexts::new(network, &files)?;
    let mut digest = texts.digest();
    if !texts.is_served(&files.conf(&network.name))? {
        digest.conf = !digest.conf;
    }
    for (path, text) in texts.host_files(network, &files) {
        if !holds(&path, text)? {
            digest.hosts = !digest.hosts;
            break;
        }
    }
    Ok(digest)
}

/// Does the dnsmasq of `network` do without the host's name servers, since nothing leads to them?
#[must_use]
pub fn is_without_servers(network: &Network, paths: &Paths) -> bool {
    conf_without_servers(network, paths).is_some()
}

/// What leads to no name servers of the host's, and is why it does without.
#[must_use]
pub fn missing_servers(network: &Network, paths: &Paths) -> Option<PathBuf> {
    resolv::dangling(&conf_without_servers(network, paths)?)
}

/// Does it do without them although something leads to them now?
#[must_use]
pub fn could_have_servers(network: &Network, paths: &Paths) -> bool {
    conf_without_servers(network, paths).is_some_and(|conf| resolv::dangling(&conf).is_none())
}

/// The configuration of a dnsmasq that does without, as it would be with them.
fn conf_without_servers(network: &Network, paths: &Paths) -> Option<String> {
    let files = files_of(paths, network).ok()?;
    let text = fs::read_to_string(files.conf(&network.name)).ok()?;
    text.strip_suffix(resolv::WITHOUT).map(str::to_owned)
}

/// The three files, checked before the first is written.
pub(super) struct FileTexts {
    /// The configuration, on a host whose `resolv.conf` does not dangle.
    conf: String,
    /// DHCP reservations.
    hosts: String,
    /// Names of `<dns><host>`.
    names: String,
}

impl FileTexts {
    pub(super) fn new(network: &Network, files: &NetworkFiles) -> Result<Self> {
        let mut texts = Self::as_libvirt(network, files)?;
        texts.conf.push_str(config::own_options(network));
        Ok(texts)
    }

    /// Those that libvirt's own driver writes.
    pub(super) fn as_libvirt(network: &Network, files: &NetworkFiles) -> Result<Self> {
        let all = || {
            Ok(Self {
                conf: config::conf(network, files)?,
                hosts: config::hostsfile(network)?,
                names: config::addnhosts(network)?,
            })
        };
        all().map_err(|e| config_error(network, e))
    }

    /// The configuration that dnsmasq starts with now.
    fn conf_now(&self, network: &Network) -> String {
        let Some(path) = resolv::dangling(&self.conf) else {
            return self.conf.clone();
        };
        tracing::warn!(
            network = network.name,
            "{} leads to a folder that does not exist: guests are told no names of the host's name \
             servers until it does",
            path.display()
        );
        self.without_servers()
    }

    fn without_servers(&self) -> String {
        format!("{}{}", self.conf, resolv::WITHOUT)
    }

    /// Is this file's dnsmasq one that need not be replaced?
    pub(super) fn is_served(&self, conf: &Path) -> Result<bool> {
        if holds(conf, &self.conf)? {
            return Ok(true);
        }
        // As long as there is nothing that leads to them.
        Ok(resolv::dangling(&self.conf).is_some() && holds(conf, &self.without_servers())?)
    }

    fn digest(&self) -> Digest {
        let number = |texts: &[&str]| {
            let mut hasher = DefaultHasher::new();
            texts.hash(&mut hasher);
            hasher.finish()
        };
        Digest {
            conf: number(&[&self.conf]),
            hosts: number(&[&self.hosts, &self.names]),
        }
    }

    pub(super) fn write(&self, network: &Network, files: &NetworkFiles) -> Result<()> {
        let run_dir = pid_file(files);
        let run_dir = run_dir.parent().unwrap_or(Path::new("/"));
        create_public_dir(run_dir).map_err(|e| io_error("create", run_dir, e))?;
        write(&files.conf(&network.name), &self.conf_now(network), 0o600)?;
        self.write_hosts(network, files)
    }

    /// dnsmasq reads these again after it has given up root.
    fn write_hosts(&self, network: &Network, files: &NetworkFiles) -> Result<()> {
        warn_when_private(&files.dir);
        for (path, text) in self.host_files(network, files) {
            write(&path, text, HOST_FILE)?;
        }
        Ok(())
    }

    /// Write those that differ; was there any?
    pub(super) fn write_changed_hosts(
        &self,
        network: &Network,
        files: &NetworkFiles,
    ) -> Result<bool> {
        let mut changed = false;
        for (path, text) in self.host_files(network, files) {
            if !holds(&path, text)? {
                write(&path, text, HOST_FILE)?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn host_files(&self, network: &Network, files: &NetworkFiles) -> [(PathBuf, &str); 2] {
        [
            (files.hostsfile(&network.name), &self.hosts),
            (files.addnhosts(&network.name), &self.names),
        ]
    }
}

/// Reservations would silently be missing after a reload.
fn warn_when_private(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let closed = dir
        .ancestors()
        .find(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0));
    if let Some(closed) = closed {
        tracing::warn!(
            "{} is closed to other users: dnsmasq, which gives up root, may not read its host files below it",
            closed.display()
        );
    }
}

/// Does a file hold this text?
pub(super) fn holds(path: &Path, text: &str) -> Result<bool> {
    match read_bounded(path, text.len() as u64) {
        Ok(content) => Ok(content.is_some_and(|content| content == text.as_bytes())),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Ok(false),
        Err(e) => Err(io_error("read", path, e)),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    write_atomic(path, text.as_bytes(), mode).map_err(|e| io_error("write", path, e))
}
