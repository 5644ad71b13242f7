//! The administrator's programs that netd runs when networks start, stop and change.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Lab, Network, write_executable};

/// Writes down how it was called and what it read, and fails where a file says so.
fn install(lab: &Lab, name: &str) -> Result<PathBuf> {
    let log = lab.directory().join("hooks.log");
    let veto = lab.directory().join("veto");
    let program = lab.agent.config_dir().join("hooks").join(name);
    fs::create_dir_all(program.parent().unwrap_or(&program))?;
    let text = format!(
        "#!/bin/sh\nread -r first; rest=$(cat)\n\
         name=$(printf '%s' \"$rest\" | sed -n 's/.*<name>\\(.*\\)<.name>.*/\\1/p' | head -n 1)\n\
         port=$(printf '%s' \"$rest\" | grep -c '<networkport>')\n\
         echo \"{name} $* $first $name $port\" >> {log}\n\
         grep -qx \"$2\" {veto} 2>/dev/null && {{ echo 'not today' >&2; exit 3; }}\nexit 0\n",
        log = log.display(),
        veto = veto.display()
    );
    write_executable(&program, &text)?;
    Ok(log)
}

/// What was written down since the last look.
fn said(log: &PathBuf) -> Result<Vec<String>> {
    let text = fs::read_to_string(log).unwrap_or_default();
    fs::write(log, "")?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn veto(lab: &Lab, operation: &str) -> Result<()> {
    Ok(fs::write(
        lab.directory().join("veto"),
        format!("{operation}\n"),
    )?)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn they_hear_what_libvirts_hear() {
    check(|lab| {
        let log = install(lab, "network")?;
        install(lab, "network.d/second")?;
        lab.agent.start()?;
        let both = |words: &str| -> Vec<String> {
            ["network", "network.d/second"]
                .map(|name| format!("{name} {words}"))
                .into()
        };
        lab.up(&Network::default())?;
        let mut expected = both("default start begin - <hookData> default 0");
        expected.extend(both("default started begin - <hookData> default 0"));
        let heard = said(&log)?;
        ensure!(heard == expected, "{heard:?}");

        let port = "<networkport><uuid>aaaaaaaa-0000-0000-0000-000000000001</uuid><owner><name>vm</name>\
                    <uuid>bbbbbbbb-0000-0000-0000-000000000001</uuid></owner>\
                    <mac address='52:54:00:00:00:01'/></networkport>";
        let file = lab.agent.file("port.xml", port)?;
        lab.agent.ok(["net-port-create", "default", &file])?;
        let heard = said(&log)?;
        ensure!(
            heard == both("default port-created begin - <hookData> default 1"),
            "{heard:?}"
        );
        let uuid = "aaaaaaaa-0000-0000-0000-000000000001";
        lab.agent.ok(["net-port-delete", "default", uuid])?;
        let heard = said(&log)?;
        ensure!(
            heard == both("default port-deleted begin - <hookData> default 1"),
            "{heard:?}"
        );
        let group = "<portgroup name='web'/>";
        lab.agent
            .ok(["net-update", "default", "add", "portgroup", group, "--live"])?;
        let heard = said(&log)?;
        ensure!(
            heard == both("default updated begin - <hookData> default 0"),
            "{heard:?}"
        );
        lab.agent.ok(["net-destroy", "default"])?;
        let heard = said(&log)?;
        ensure!(
            heard == both("default stopped end - <hookData> default 0"),
            "{heard:?}"
        );

        // Each may refuse.
        let before = lab.snapshot()?;
        for operation in ["start", "started"] {
            veto(lab, operation)?;
            let error = lab.agent.fails(["net-start", "default"])?;
            for word in ["Hook script execution failed", operation, "not today", "3"] {
                ensure!(error.contains(word), "{operation}: no {word:?} in {error}");
            }
            let names = lab.agent.ok(["net-list", "--name"])?;
            ensure!(names.trim().is_empty(), "{operation}: {names}");
            before.wait_for_same(&lab.hv, lab.directory())?;
            let heard = said(&log)?;
            ensure!(
                !heard
                    .iter()
                    .any(|line| line.contains("second") && line.contains(" started ")),
                "{heard:?}"
            );
        }
        veto(lab, "port-created")?;
        lab.agent.ok(["net-start", "default"])?;
        let error = lab.agent.fails(["net-port-create", "default", &file])?;
        ensure!(error.contains("not today"), "{error}");
        let ports = lab.agent.ok(["net-port-list", "default", "--uuid"])?;
        ensure!(ports.trim().is_empty(), "{ports}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn one_that_hangs_is_killed_and_keeps_nobody_else_waiting() {
    check(|lab| {
        let program = lab.agent.config_dir().join("hooks/network");
        fs::create_dir_all(lab.agent.config_dir().join("hooks"))?;
        // What it started goes with it.
        let child = lab.directory().join("child");
        let text = format!(
            "#!/bin/sh\n[ $1 = default ] || exit 0\nsleep 1000 & echo $! > {}\nwait\n",
            child.display()
        );
        write_executable(&program, &text)?;
        lab.agent.start()?;
        lab.agent.define(&Network::default().xml())?;
        std::thread::scope(|scope| -> Result<()> {
            let start = scope.spawn(|| lab.agent.fails(["net-start", "default"]));
            netd_tests::eventually(netd_tests::SOON, || {
                ensure!(!fs::read_to_string(&child)?.trim().is_empty());
                Ok(())
            })?;
            lab.up(&Network::nat("other", 2))?;
            let error = start
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(error.contains("killed after 10 s"), "{error}");
            Ok(())
        })?;
        let pid = fs::read_to_string(&child)?;
        netd_tests::eventually(netd_tests::SOON, || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            ensure!(stat.is_empty() || stat.contains(") Z "), "it lives: {stat}");
            Ok(())
        })?;
        // Nobody else may have root run what they like.
        write_executable(&program, "#!/bin/sh\n")?;
        fs::set_permissions(&program, Permissions::from_mode(0o777))?;
        let error = lab.agent.fails(["net-start", "default"])?;
        ensure!(error.contains("others than root may change it"), "{error}");
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        lab.agent.ok(["net-start", "default"])?;
        Ok(())
    });
}
