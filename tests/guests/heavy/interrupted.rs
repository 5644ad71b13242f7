//! Switches that are killed, and whose agent is killed, at each of their steps.

use std::io::{BufRead as _, BufReader};
use std::panic::resume_unwind;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use netd_tests::eventually;
use netd_tests::libvirt::{Host, PATIENCE, Root, check};

use crate::reboot::lose_power;
use crate::scenario::{DEFAULTS, restart_libvirtd, start_libvirtd};
use crate::switch::{devices, install, libvirt, renews, serves};

on_each!(
    a_switch_is_killed_at_each_step,
    an_agent_is_killed_at_each_step,
    what_is_interrupted_by_a_reboot_is_taken_back,
);

/// More lines than a switch of one network has, what is taken back included.
const LINES: usize = 40;

/// Who ends at a line that a switch prints.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Switch,
    Agent,
}

/// Begins a switch, which tells each step before it is done, and kills at the line of that number. `false`
/// when the switch came to its end before.
fn kill_at(host: &mut Host, words: &str, number: usize, victim: Victim) -> Result<bool> {
    let switch = format!("echo $$ > /run/switch.pid; exec netd libvirt {words}");
    let mut child = host
        .inside()
        .command("sh")
        .args(["-c", &switch])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("its output")?;
    let mut lines = BufReader::new(output).lines();
    let reached = lines.nth(number).transpose()?;
    if let Some(line) = &reached {
        println!("{words}: {victim:?} killed at: {line}");
        match victim {
            Victim::Switch => {
                let pid = host.read("/run/switch.pid")?;
                // It may be at its end.
                host.output(["kill", "-9", pid.trim()])?;
            }
            Victim::Agent => host.netd.kill()?,
        }
    }
    let ended = child.wait_with_output()?;
    if !host.netd.is_running() {
        host.netd.start()?;
    }
    let Some(line) = reached else {
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        // Nobody restarts libvirtd when it is to be restarted.
        let done = ended.status.success() || said.contains("nothing was changed");
        ensure!(done, "{words}, undisturbed: {said}");
        return Ok(false);
    };
    // A switch whose agent goes either fails or had been done.
    let text = String::from_utf8_lossy(&ended.stderr);
    ensure!(!text.contains("panicked"), "at {line}: {text}");
    Ok(true)
}

fn each_step(root: Root, victim: Victim) {
    check(root, |host| {
        let place = tempfile::tempdir()?;
        let guest = libvirt(host, place.path())?;
        install(host)?;
        let leases = host.virsh(["net-dhcp-leases", "default"])?;
        let before = devices(host, &guest)?;
        let mut number = 0;
        while kill_at(host, "adopt", number, victim)? {
            ensure!(devices(host, &guest)? == before, "other devices");
            number += 1;
            ensure!(number < LINES, "it comes to no end");
        }
        // What came to its end before its line was killed had been done.
        host.run(["netd", "libvirt", "adopt"])?;
        let own = host.run(["netd", "net-dhcp-leases", "default"])?;
        serves(&guest, &own, &leases)?;
        renews(&guest, &leases)?;
        ensure!(devices(host, &guest)? == before, "other devices");
        restart_libvirtd(host)?;
        let leases = host.virsh(["net-dhcp-leases", "default"])?;
        let ports = host.virsh(["net-port-list", "default"])?;
        ensure!(ports.contains(crate::switch::PORT_UUID), "{ports}");

        // libvirtd is not restarted: it waits there, and is killed too.
        let release = "release --wait 1";
        let mut number = 0;
        while kill_at(host, release, number, victim)? {
            ensure!(devices(host, &guest)? == before, "other devices");
            number += 1;
            ensure!(number < LINES, "it comes to no end");
        }
        let own = host.run(["netd", "net-dhcp-leases", "default"])?;
        serves(&guest, &own, &leases)?;
        renews(&guest, &leases)?;
        ensure!(devices(host, &guest)? == before, "other devices");
        ensure!(!host.path("/var/lib/netd/libvirt/journal.json").exists());
        Ok(())
    });
}

fn a_switch_is_killed_at_each_step(root: Root) {
    each_step(root, Victim::Switch);
}

fn an_agent_is_killed_at_each_step(root: Root) {
    each_step(root, Victim::Agent);
}

/// The networks that were about to change hands run nowhere, and are not to start by themselves.
fn what_is_interrupted_by_a_reboot_is_taken_back(root: Root) {
    check(root, |host| {
        let place = tempfile::tempdir()?;
        let _guest = libvirt(host, place.path())?;
        host.virsh(["net-autostart", "default", "--disable"])?;
        install(host)?;
        kill_before(host, "adopt", "take over network")?;
        lose_power(host)?;
        host.netd.start()?;
        start_libvirtd(host)?;
        host.run(["netd", "libvirt", "adopt"])?;
        restart_libvirtd(host)?;
        host.virsh(["net-start", "default"])?;
        let own = host.run(["netd", "net-list"])?;
        ensure!(own.contains("default   active   no"), "{own}");

        let inside = host.inside();
        let released = std::thread::spawn(move || inside.run(["netd", "libvirt", "release"]));
        eventually(PATIENCE, || {
            let defaults = host.read(DEFAULTS).unwrap_or_default();
            ensure!(!defaults.contains("LIBVIRT_DRIVER_DIR"), "{defaults}");
            Ok(())
        })?;
        host.netd.kill()?;
        restart_libvirtd(host)?;
        let killed = released.join().unwrap_or_else(|panic| resume_unwind(panic));
        ensure!(killed.is_err(), "there was no agent: {killed:?}");
        lose_power(host)?;
        host.netd.start()?;
        start_libvirtd(host)?;
        let output = host.output(["netd", "libvirt", "release", "--wait", "1"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!said.contains("cannot take back"), "{said}");
        ensure!(!host.path("/var/lib/netd/libvirt/journal.json").exists());
        Ok(())
    });
}

/// Kills a switch when it says that it begins with that step, which is to take its time.
fn kill_before(host: &mut Host, words: &str, step: &str) -> Result<()> {
    let planned = host.run(["netd", "libvirt", words, "--dry-run"])?;
    let number = planned.lines().position(|line| line.contains(step));
    let number = number.with_context(|| format!("no step {step} in:\n{planned}"))?;
    let killed = kill_at(host, words, number, Victim::Switch)?;
    ensure!(killed, "it was done already");
    let again = host.run(["netd", "libvirt", words, "--dry-run"])?;
    ensure!(again.contains("interrupted"), "{again}");
    Ok(())
}
