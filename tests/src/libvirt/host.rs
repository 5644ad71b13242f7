//! The host itself: its namespaces and its file system.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{Inside, Root, Service};
use crate::{Netns, lab};

/// What the first process of a host does: a layer in memory above the file system, the kernel's own
/// file systems, libvirt's settings. Then it collects what its children leave behind, as PID 1 has to.
const SETUP: &str = r#"
set -eu
read -r self _ < /proc/self/stat
mount --make-rprivate /
mount -t tmpfs -o mode=755 host "$NETD_PLACE"
cd "$NETD_PLACE"
mkdir upper work root
mount -t overlay -o "lowerdir=$NETD_LOWER,upperdir=$NETD_PLACE/upper,workdir=$NETD_PLACE/work" overlay root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm dev/net run/lock run/old run/netns
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/net/tun c 10 200
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir guest
cp "$NETD_GUEST"/vmlinuz "$NETD_GUEST"/initramfs guest/
for directory in etc/libvirt/qemu var/lib/libvirt var/cache/libvirt var/log/libvirt; do
    if [ "$NETD_LOWER" = / ]; then rm -rf "$directory"; fi
    mkdir -p "$directory"
done
mkdir -p var/lib/libvirt/dnsmasq etc/libvirt/qemu/networks/autostart
cat > etc/libvirt/qemu.conf << 'END'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
END
cat > etc/libvirt/libvirtd.conf << 'END'
unix_sock_group = "root"
auth_unix_rw = "none"
auth_unix_ro = "none"
END
for group in kvm libvirt libvirt-qemu; do
    grep -q "^$group:" etc/group || echo "$group:x:$((64000 + $(wc -l < etc/group))):" >> etc/group
done
grep -q ^libvirt-qemu: etc/passwd \
    || echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >> etc/passwd
hostname "$NETD_NAME"
printf '%s\n' "$NETD_NAME" > etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$NETD_NAME" > etc/hosts
rm -f etc/resolv.conf
: > etc/resolv.conf
pivot_root . run/old
umount -l /run/old
cd /
echo "ready $self"
while :; do
    sleep 3600 &
    wait $!
done
"#;

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
    /// Where its file system is mounted, and what its daemons say.
    _place: TempDir,
}

/// What a host is made of.
#[derive(Debug)]
struct Files {
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
        let Some(lower) = root.path()? else {
            return Ok(None);
        };
        let guest = std::env::var_os("NETD_GUEST")
            .context("NETD_GUEST is not set: run these tests with `cargo xtask test`")?;
        let guest = PathBuf::from(guest);
        if !guest.join("vmlinuz").is_file() {
            return Ok(None);
        }
        let files = Files { root, lower, guest };
        let (hv, wan) = lab::hypervisor()?;
        Self::in_network(&files, name, hv, wan).map(Some)
    }

    fn in_network(files: &Files, name: &str, hv: Netns, wan: Netns) -> Result<Self> {
        let root = files.root;
        let place = tempfile::Builder::new().prefix("netd-host-").tempdir()?;
        let (mount, log) = (place.path().join("host"), place.path().join("setup.log"));
        fs::create_dir(&mount)?;
        let mut holder = hv
            .command("unshare")
            .args(["--mount", "--pid", "--uts", "--fork", "--kill-child"])
            .args(["bash", "-c", SETUP])
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
    }
}
