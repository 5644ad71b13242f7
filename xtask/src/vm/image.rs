//! The machine's file system: an initramfs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::kernel::Fetched;
use crate::packages;
use crate::tools::text;

/// What the programs and tests need of the kernel that Debian builds as modules. What a module itself
/// needs comes before it.
const MODULES: &[&str] = &[
    "llc",
    "stp",
    "bridge",
    "veth",
    "tun",
    "sch_ingress",
    "sch_htb",
    "sch_fq_codel",
    "cls_bpf",
    "act_bpf",
    "act_mirred",
    "cls_u32",
    "xfrm_algo",
    "xfrm_user",
    "crypto_null",
    "authenc",
    "esp4",
    "esp6",
];

/// Programs beside busybox's, and in place of some: its `timeout` leaves a process behind, which tests
/// that look for leftovers find.
const TOOLS: [&str; 8] = [
    "dnsmasq", "ip", "bridge", "tc", "ethtool", "ping", "install", "timeout",
];

/// Before the tests: file systems, the users that dnsmasq asks for, modules.
const BEGIN: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns
for module in $(cat /modules/order); do
    insmod /modules/$module.ko || echo "vm: module $module is missing"
done
ip link set lo up
export NETD_BIN=/t/netd
run() {
    echo "vm: run $*"
    "$@" 2>&1
}
echo "vm: kernel $(uname -r)"
"#;

/// After them.
const END: &str = "echo vm: end\npoweroff -f\n";

/// What the machines run.
pub struct Programs {
    /// netd itself.
    pub netd: PathBuf,
    /// The tests' programs.
    pub tests: Vec<PathBuf>,
}

/// Puts the file system together and packs it; returns the archive.
pub fn build(place: &Path, kernel: &Fetched, programs: &Programs, script: &str) -> Result<PathBuf> {
    let root = place.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for directory in [
        "bin", "sbin", "proc", "sys", "dev", "tmp", "run", "etc", "root", "modules", "t", "var/lib",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    symlink("/", root.join("usr"))?;
    symlink("/run", root.join("var/run"))?;
    users(&root)?;
    let mut libraries = BTreeSet::new();
    let mut install = |program: &Path, to: &str| -> Result<()> {
        let to = root.join(to);
        fs::copy(program, &to).with_context(|| format!("copying {}", program.display()))?;
        libraries.extend(libraries_of(program)?);
        Ok(())
    };
    install(&packages::path("busybox")?, "bin/busybox")?;
    for tool in TOOLS {
        install(&packages::path(tool)?, &format!("sbin/{tool}"))?;
    }
    install(&programs.netd, "t/netd")?;
    for test in &programs.tests {
        let name = test.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| Some(name.rsplit_once('-')?.0));
        let name = name.with_context(|| format!("the name of {}", test.display()))?;
        install(test, &format!("t/{name}"))?;
        strip(&root.join("t").join(name))?;
    }
    copy_libraries(&root, libraries)?;
    modules(&root, kernel, MODULES)?;
    let init = root.join("init");
    fs::write(&init, format!("{BEGIN}{script}{END}"))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&root, &place.join("initramfs"))
}

fn users(root: &Path) -> Result<()> {
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n\
                 dnsmasq:x:100:65534::/:/bin/false\n";
    fs::write(root.join("etc/passwd"), users)?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// Puts libraries where they lie here.
pub fn copy_libraries(root: &Path, libraries: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    for library in libraries {
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::copy(&library, &to).with_context(|| format!("copying {}", library.display()))?;
    }
    Ok(())
}

/// The libraries that the loader would load with a program, the loader itself included.
pub fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(!text.contains("not found"), "{}: {text}", program.display());
    let words = text.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// Without debug information the tests are a tenth as large, and the machine's memory is its disk.
fn strip(program: &Path) -> Result<()> {
    crate::tools::succeed(Command::new("strip").arg(program))
}

/// Copies modules to /modules, unpacked: busybox asks the kernel for no decompression. The file `order`
/// there says which come first.
pub fn modules(root: &Path, kernel: &Fetched, names: &[&str]) -> Result<()> {
    let mut order = String::new();
    let all = files(&kernel.modules)?;
    for module in names {
        let file = all.iter().find(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.split_once('.'))
                .is_some_and(|(name, _)| name == *module)
        });
        // Built in, or no module of this kernel's: then the tests say what is missing.
        let Some(file) = file else { continue };
        let to = root.join("modules").join(format!("{module}.ko"));
        if file.extension().is_some_and(|end| end == "xz") {
            let unpacked = Command::new("xz")
                .args(["--decompress", "--stdout"])
                .arg(file)
                .output()?;
            ensure!(
                unpacked.status.success(),
                "xz does not unpack {}",
                file.display()
            );
            fs::write(&to, unpacked.stdout)?;
        } else {
            fs::copy(file, &to)?;
        }
        order += module;
        order.push('\n');
    }
    fs::write(root.join("modules/order"), order)?;
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut directories = vec![directory.to_owned()];
    let mut files = Vec::new();
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("reading {}", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Packs a directory as the kernel unpacks it: a cpio archive of the "newc" kind.
pub fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut names = String::new();
    list(root, Path::new("."), &mut names)?;
    let listing = root.with_extension("list");
    fs::write(&listing, names)?;
    let status = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(File::open(&listing)?)
        .stdout(File::create(archive)?)
        .stderr(Stdio::null())
        .status()
        .context("busybox cpio")?;
    if !status.success() {
        bail!("busybox cpio: {status}");
    }
    Ok(archive.to_owned())
}

/// Names of what lies below, each directory before what is in it.
fn list(root: &Path, below: &Path, names: &mut String) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        *names += text(&path)?;
        names.push('\n');
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}
