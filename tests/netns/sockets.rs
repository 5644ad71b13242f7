//! libvirt's sockets, with the real virsh: who may do what over them, and whose they are.

use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Agent, Lab, Network, eventually};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use tempfile::TempDir;

/// A user without a group of any use, on every Linux.
const NOBODY: u32 = 65534;
/// A group that every Debian has and nobody is in.
const GROUP: &str = "games";

/// Where users come by, unlike the agent's own directories.
pub(crate) fn open_directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("netd-sockets-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()?)
}

/// Has agents started from now on serve libvirt's sockets in `directory`.
pub(crate) fn serve_in(agent: &Agent, directory: &Path, more: &str) -> Result<()> {
    let path = agent.config_dir().join("netd.toml");
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    text.push_str("[sockets]\nlibvirt = true\n");
    text.push_str(&format!(
        "directory = {:?}\n{more}\n",
        directory.display().to_string()
    ));
    Ok(fs::write(path, text)?)
}

/// libvirt's names for them.
pub(crate) fn sockets(directory: &Path) -> [PathBuf; 2] {
    ["virtnetworkd-sock", "virtnetworkd-sock-ro"].map(|name| directory.join(name))
}

/// virsh, run by that user in these groups. It says that it only looks where it does; its own library
/// would refuse the rest, and not ask the server.
pub(crate) fn virsh_as(user: &str, groups: &str, socket: &Path, words: &[&str]) -> Result<Output> {
    let uri = format!("network+unix:///system?socket={}", socket.display());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", "nogroup"]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.args(["timeout", "60", "virsh", "-q"]);
    if socket.ends_with("virtnetworkd-sock-ro") && words[0] == "net-list" {
        command.arg("-r");
    }
    command.args(["-c", &uri]).args(words).env("HOME", "/");
    netd_tests::output(&mut command)
}

/// It succeeded.
pub(crate) fn passes(output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{output:?}");
    Ok(stdout)
}

/// It failed for that reason.
pub(crate) fn refused(output: &Output, words: &str) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it was not refused: {output:?}");
    ensure!(stderr.contains(words), "no {words:?} in {stderr}");
    Ok(())
}

fn defined(lab: &Lab) -> Result<()> {
    lab.agent.define(&Network::isolated("default", 1).xml())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_group_changes_networks_and_others_look() {
    check(|lab| {
        let directory = open_directory()?;
        let [rw, ro] = sockets(directory.path());
        serve_in(&lab.agent, directory.path(), &format!("group = {GROUP:?}"))?;
        lab.agent.start()?;
        defined(lab)?;
        let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.mode() & 0o777);
        ensure!((mode(&rw)?, mode(&ro)?) == (0o770, 0o777));
        ensure!(!directory.path().join("virtnetworkd-admin-sock").exists());

        let names = ["net-list", "--all", "--name"];
        refused(&virsh_as("nobody", "", &rw, &names)?, "Permission denied")?;
        let list = passes(&virsh_as("nobody", "", &ro, &names)?)?;
        ensure!(list.trim() == "default", "{list}");
        let autostart = ["net-autostart", "default"];
        let forbidden = "operation forbidden: read only access prevents virNetworkSetAutostart";
        refused(&virsh_as("nobody", "", &ro, &autostart)?, forbidden)?;
        refused(&virsh_as("root", "", &ro, &autostart)?, forbidden)?;
        passes(&virsh_as("nobody", GROUP, &rw, &autostart)?)?;
        let log = lab.agent.log();
        let line = log.lines().find(|line| {
            line.contains("refused: ") && line.contains(&format!("uid {NOBODY}, pid "))
        });
        let line = line.with_context(|| format!("no refusal in the log:\n{log}"))?;
        ensure!(line.contains("procedure=48"), "{line}");

        lab.agent.stop()?;
        ensure!(!rw.exists() && !ro.exists(), "sockets are left");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn sockets_that_somebody_answers_on_are_not_taken() {
    check(|lab| {
        let directory = open_directory()?;
        let [rw, ro] = sockets(directory.path());
        serve_in(&lab.agent, directory.path(), "")?;
        let other = UnixListener::bind(&rw)?;
        lab.agent.start()?;
        UnixStream::connect(&rw)?;
        other.accept().context("the other daemon has its socket")?;
        ensure!(!ro.exists(), "half of the pair is served");
        let log = lab.agent.log();
        ensure!(log.contains("another daemon answers there"), "{log}");
        lab.agent.stop()?;
        ensure!(rw.exists(), "the other daemon's socket was removed");
        // It is gone, and its file was left.
        drop(other);
        // A command that another test starts at this moment holds it until it is executed.
        eventually(netd_tests::SOON, || {
            ensure!(UnixStream::connect(&rw).is_err(), "somebody listens");
            Ok(())
        })?;
        lab.agent.start()?;
        passes(&virsh_as("root", "", &rw, &["net-list"])?)?;
        lab.agent.stop()
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_service_managers_sockets_are_served_by_name() {
    check(|lab| {
        let directory = open_directory()?;
        let [rw, ro] = sockets(directory.path());
        let own = lab.agent.socket();
        let unknown = directory.path().join("else");
        let mut redirections = String::new();
        let mut listeners = Vec::new();
        for (path, fd) in [(&own, 3), (&rw, 4), (&unknown, 5), (&ro, 6)] {
            let listener = UnixListener::bind(path)?;
            // Beyond those that the agent is to find it at, and for children to have.
            let copy = fcntl_dupfd_cloexec(&listener, 100)?;
            fcntl_setfd(&copy, FdFlags::empty())?;
            redirections.push_str(&format!(" {fd}<&{}", copy.as_raw_fd()));
            listeners.push(copy);
        }
        fs::set_permissions(&ro, Permissions::from_mode(0o777))?;
        let real = lab.agent.directory().join("bin/netd-itself");
        fs::rename(lab.agent.directory().join("bin/netd"), &real)?;
        // What systemd does, for the agent; the command line needs none of it.
        let names = "netd-sock:virtnetworkd-sock:else:virtnetworkd-sock-ro";
        lab.agent.script(
            "bin/netd",
            &format!(
                "#!/bin/bash\n\
                 if [ \"$1\" = run ]; then\n\
                 exec{redirections}\n\
                 export LISTEN_FDS=4 LISTEN_FDNAMES={names} LISTEN_PID=$$\n\
                 fi\n\
                 exec {} \"$@\"\n",
                real.display()
            ),
        )?;
        lab.agent.start()?;
        defined(lab)?;
        let names = ["net-list", "--all", "--name"];
        for socket in [&rw, &ro] {
            let list = passes(&virsh_as("root", "", socket, &names)?)?;
            ensure!(list.trim() == "default", "{list}");
        }
        let undefine = ["net-undefine", "default"];
        refused(&virsh_as("nobody", "", &ro, &undefine)?, "read only access")?;
        let log = lab.agent.log();
        ensure!(log.contains("a socket that netd does not know"), "{log}");

        // Clients that come while no agent runs wait for the next one.
        lab.agent.stop()?;
        ensure!(
            own.exists() && rw.exists() && ro.exists(),
            "they are the service manager's"
        );
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| virsh_as("root", "", &rw, &names));
            eventually(netd_tests::SOON, || {
                let queue = fs::read_to_string("/proc/net/unix")?;
                let name = rw.display().to_string();
                let connected = queue.lines().filter(|line| line.ends_with(&name)).count();
                ensure!(connected > 1, "virsh has not connected yet");
                Ok(())
            })?;
            lab.agent.start()?;
            let waited = waiting
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            passes(&waited)
        })?;
        lab.agent.stop()?;
        Ok(fs::remove_file(&own)?)
    });
}
