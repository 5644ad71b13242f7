//! The host itself: its namespaces and its file system.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::setup::Init;
use super::{Cgroup, Inside, Root, Service};
use crate::{Netns, lab};

/// The agent as its unit starts it, and what it answers once it is up.
const NETD: &[&str] = &["/usr/sbin/netd", "run"];
const NETD_ASKED: &[&str] = &["/usr/sbin/netd", "net-list", "--all"];

/// A host that is thrown away with its guests, its daemons and all that they wrote.
#[derive(Debug)]
pub struct Host {
    /// netd, with the paths that it has where nothing else is said; it does not run yet.
    pub netd: Service,
    /// libvirtd; it does not run yet.
    pub libvirtd: Service,
    /// Its network: `uplink` leads outside.
    pub hv: Netns,
    /// The world outside.
    pub wan: Netns,
    root: Root,
    inside: Inside,
    holder: Child,
    /// What systemd has of the machine's control groups.
    cgroup: Option<Cgroup>,
    /// Where its file system is mounted, and what its daemons say.
    _place: TempDir,
}

/// What a host is made of.
#[derive(Debug)]
struct Files {
    init: Init,
    root: Root,
    lower: PathBuf,
    guest: PathBuf,
}

impl Host {
    /// A host of that name; `None` where its file system or the guests' kernel could not be made, which
    /// `cargo xtask` has said then.
    ///
    /// # Errors
    /// Not root, or what `cargo xtask test` makes for it is missing.
    pub fn new(root: Root, name: &str) -> Result<Option<Self>> {
        Self::with(Init::Rig, root, name)
    }

    /// The same with systemd as its first process, which has reached its target. `netd` and `libvirtd` are
    /// then for units to start, see [`Host::systemctl`].
    ///
    /// # Errors
    /// As [`Host::new`], or systemd does not come up.
    pub fn booted(root: Root, name: &str) -> Result<Option<Self>> {
        let host = Self::with(Init::Systemd, root, name)?;
        if let Some(host) = &host {
            host.wait_until_booted()?;
        }
        Ok(host)
    }

    fn with(init: Init, root: Root, name: &str) -> Result<Option<Self>> {
        let Some(lower) = root.path()? else {
            return Ok(None);
        };
        let guest = std::env::var_os("NETD_GUEST")
            .context("NETD_GUEST is not set: run these tests with `cargo xtask test`")?;
        let guest = PathBuf::from(guest);
        if !guest.join("vmlinuz").is_file() {
            return Ok(None);
        }
        let files = Files {
            init,
            root,
            lower,
            guest,
        };
        let (hv, wan) = lab::hypervisor()?;
        Self::in_network(&files, name, hv, wan).map(Some)
    }

    fn in_network(files: &Files, name: &str, hv: Netns, wan: Netns) -> Result<Self> {
        let root = files.root;
        let place = tempfile::Builder::new().prefix("netd-host-").tempdir()?;
        let (mount, log) = (place.path().join("host"), place.path().join("setup.log"));
        fs::create_dir(&mount)?;
        let script = files.init.script();
        let cgroup = (files.init == Init::Systemd).then(|| Cgroup::named(hv.name()));
        let mut holder = hv
            .command("unshare")
            .args(["--mount", "--pid", "--uts", "--fork", "--kill-child"])
            .args(["bash", "-c", &script])
            .env("NETD_SCRIPT", &script)
            .env("NETD_CGROUP", hv.name())
            .env("NETD_LOWER", &files.lower)
            .env("NETD_PLACE", &mount)
            .env("NETD_NAME", name)
            .env("NETD_GUEST", &files.guest)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("starting a host's first process")?;
        let mut line = String::new();
        let output = holder.stdout.take().context("the first process's output")?;
        BufReader::new(output).read_line(&mut line)?;
        let Some(init) = line.strip_prefix("ready ") else {
            let _ = holder.kill();
            holder.wait()?;
            let said = fs::read_to_string(&log)?;
            bail!("a host of {root} does not come up:\n{line}{said}");
        };
        let inside = Inside::of(init.trim().parse()?);
        let service = |name, run, asked| Service::new(inside, name, place.path(), run, asked);
        let netd = service("netd", NETD, NETD_ASKED);
        let libvirtd = service("libvirtd", &["libvirtd"], &["virsh", "list"]);
        Ok(Self {
            netd,
            libvirtd,
            hv,
            wan,
            root,
            inside,
            holder,
            cgroup,
            _place: place,
        })
    }

    /// What it is made of.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// The way in, for what has to outlive a borrow of the host.
    #[must_use]
    pub fn inside(&self) -> Inside {
        self.inside
    }

    /// As [`Inside::run`].
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn run<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String> {
        self.inside.run(words)
    }

    /// As [`Inside::output`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn output<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        self.inside.output(words)
    }

    /// The host's own virsh, at its libvirtd, which must be content; returns its stdout.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn virsh<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String> {
        self.run(std::iter::once("virsh").chain(words))
    }

    /// virsh, which is to fail with exit status 1; returns its stderr.
    ///
    /// # Errors
    /// It succeeds, or ends in any other way.
    pub fn virsh_fails<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let words: Vec<_> = std::iter::once("virsh").chain(words).collect();
        let output = self.output(words.iter().copied())?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{} was to fail: {}\n{}{stderr}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(stderr)
    }

    /// Where the machine finds a file of the host.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.inside.path(path)
    }

    /// Writes a file of the host; returns the path, for commands.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file<'a>(&self, path: &'a str, text: &str) -> Result<&'a str> {
        fs::write(self.path(path), text).with_context(|| format!("writing {path} in the host"))?;
        Ok(path)
    }

    /// Reads a file of the host.
    ///
    /// # Errors
    /// There is none, or it is no text.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.path(path)).with_context(|| format!("reading {path} of the host"))
    }

    /// Puts a program of the machine in place, as a package manager does: a new file under the old
    /// name.
    ///
    /// # Errors
    /// The copy fails.
    pub fn install(&self, program: &Path, to: &str) -> Result<()> {
        let (to, new) = (self.path(to), self.path(&format!("{to}.new")));
        crate::run(Command::new("install").arg(program).arg(&new))?;
        Ok(fs::rename(&new, &to)?)
    }

    /// Has libvirt's stock network `default` defined, as Debian's packages define it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn define_default(&self) -> Result<()> {
        let xml = include_str!("../../../dist/default.xml");
        self.file("/etc/libvirt/qemu/networks/default.xml", xml)?;
        Ok(())
    }

    /// Installs the netd under test and starts it.
    ///
    /// # Errors
    /// `NETD_BIN` is not set, or it does not come up.
    pub fn start_netd(&mut self) -> Result<()> {
        self.install(&crate::agent::binary()?, "/usr/sbin/netd")?;
        self.netd.start()
    }

    /// What the daemons said.
    #[must_use]
    pub fn logs(&self) -> String {
        if self.cgroup.is_some() {
            return self.journal();
        }
        format!(
            "--- libvirtd ---\n{}--- netd ---\n{}--- end ---",
            self.libvirtd.log(),
            self.netd.log()
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The first process goes with its parent, and all others with the first.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        self.netd.forget();
        self.libvirtd.forget();
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            eprintln!("a host's control group is left: {error:#}");
        }
    }
}
