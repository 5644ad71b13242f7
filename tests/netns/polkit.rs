//! polkit decides over libvirt's sockets: a real polkitd on a bus of the test's own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Network, SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::sockets::{open_directory, passes, refused, serve_in, sockets, virsh_as};

/// libvirt's actions, with its defaults: everybody may look, an administrator may change things.
const ACTIONS: &str = "\
<!DOCTYPE policyconfig PUBLIC '-//freedesktop//DTD PolicyKit Policy Configuration 1.0//EN'
 'http://www.freedesktop.org/standards/PolicyKit/1/policyconfig.dtd'>
<policyconfig>
 <action id='org.libvirt.unix.monitor'>
  <description>look</description><message>look</message>
  <defaults><allow_any>yes</allow_any><allow_inactive>yes</allow_inactive><allow_active>yes</allow_active></defaults>
 </action>
 <action id='org.libvirt.unix.manage'>
  <description>change</description><message>change</message>
  <defaults><allow_any>auth_admin</allow_any><allow_inactive>auth_admin</allow_inactive><allow_active>auth_admin</allow_active></defaults>
 </action>
</policyconfig>
";

/// Two users who need no password: one may, one may not.
const RULES: &str = "\
polkit.addRule(function(action, subject) {
  if (action.id != 'org.libvirt.unix.manage') return polkit.Result.NOT_HANDLED;
  if (subject.user == 'games') return polkit.Result.YES;
  if (subject.user == 'news') return polkit.Result.NO;
});
";

/// A process that ends with its owner.
pub(crate) struct Running(Child);

impl Running {
    /// Has it end by SIGTERM, and waits for that.
    pub(crate) fn terminate(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.0.id().try_into()?).context("a process number")?;
        kill_process(pid, Signal::TERM)?;
        eventually(SOON, || self.0.try_wait()?.context("it still runs"))?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Running> {
    let log = File::create(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    Ok(Running(child.with_context(|| format!("{command:?}"))?))
}

/// A message bus at `directory/bus` on which everybody may do everything.
pub(crate) fn bus(directory: &Path) -> Result<Running> {
    let allow = ["own", "send_type", "receive_type"].map(|what| match what {
        "own" => "<allow own='*'/>".to_owned(),
        what => ["method_call", "method_return", "signal", "error"]
            .map(|kind| format!("<allow {what}='{kind}'/>"))
            .concat(),
    });
    let config = directory.join("bus.conf");
    let text = format!(
        "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN'\n\
         'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>\n\
         <busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth>\n\
         <policy context='default'><allow user='*'/>{}</policy></busconfig>\n",
        directory.join("bus").display(),
        allow.concat()
    );
    fs::write(&config, text)?;
    spawn(
        Command::new("dbus-daemon")
            .arg("--nofork")
            .arg(format!("--config-file={}", config.display())),
        &directory.join("bus.log"),
    )
}

/// A polkitd on that bus with the actions and rules of this file.
fn polkitd(directory: &Path, address: &str) -> Result<Running> {
    for (name, file, text) in [
        ("actions", "org.libvirt.unix.policy", ACTIONS),
        ("rules", "60-test.rules", RULES),
    ] {
        fs::create_dir_all(directory.join(name))?;
        fs::write(directory.join(name).join(file), text)?;
    }
    let script = "mount --make-rprivate / &&\n\
         mount --bind actions /usr/share/polkit-1/actions &&\n\
         mount --bind rules /etc/polkit-1/rules.d &&\n\
         for d in /usr/lib/polkit-1 /usr/libexec /usr/lib/polkit-1.0; do\n\
         [ ! -x $d/polkitd ] || exec $d/polkitd --no-debug\n\
         done; echo no polkitd; exit 1";
    let child = spawn(
        Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .env("DBUS_SYSTEM_BUS_ADDRESS", address)
            .current_dir(directory),
        &directory.join("polkitd.log"),
    )?;
    eventually(SOON, || {
        let ask = Command::new("pkcheck")
            .args(["--action-id", "org.libvirt.unix.monitor", "--process"])
            .arg(std::process::id().to_string())
            .env("DBUS_SYSTEM_BUS_ADDRESS", address)
            .output()
            .context("pkcheck")?;
        let log = fs::read_to_string(directory.join("polkitd.log")).unwrap_or_default();
        ensure!(ask.status.success(), "{ask:?}\n{log}");
        Ok(())
    })?;
    Ok(child)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn polkit_decides_for_everybody_but_root_and_the_group() {
    check(|lab| {
        let directory = open_directory()?;
        let address = format!("unix:path={}", directory.path().join("bus").display());
        let _bus = bus(directory.path())?;
        let polkitd = polkitd(directory.path(), &address)?;
        let [rw, ro] = sockets(directory.path());
        serve_in(
            &lab.agent,
            directory.path(),
            "others = \"polkit\"\ngroup = \"users\"",
        )?;
        lab.agent.set_env("DBUS_SYSTEM_BUS_ADDRESS", &address);
        lab.agent.start()?;
        lab.agent.define(&Network::isolated("default", 1).xml())?;

        let change = ["net-autostart", "default"];
        passes(&virsh_as("games", "", &rw, &change)?)?;
        refused(
            &virsh_as("news", "", &rw, &change)?,
            "authentication failed: access denied by policy",
        )?;
        refused(
            &virsh_as("nobody", "", &rw, &change)?,
            "authentication unavailable: no polkit agent available to authenticate action \
             'org.libvirt.unix.manage'",
        )?;
        passes(&virsh_as("nobody", "", &ro, &["net-list"])?)?;
        refused(&virsh_as("games", "", &ro, &change)?, "read only access")?;
        let log = lab.agent.log();
        let denied = log
            .lines()
            .find(|line| line.contains("access denied by policy"));
        let denied = denied.with_context(|| format!("no refusal in the log:\n{log}"))?;
        ensure!(denied.contains("procedure=70"), "{denied}");

        // Root and the group are not asked: they need no polkit.
        drop(polkitd);
        passes(&virsh_as("root", "", &rw, &change)?)?;
        passes(&virsh_as("nobody", "users", &rw, &change)?)?;
        refused(
            &virsh_as("games", "", &rw, &change)?,
            "authentication failed: cannot ask polkit",
        )?;
        lab.agent.stop()
    });
}
