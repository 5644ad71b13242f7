//! A dnsmasq that takes its time, or never becomes a daemon, keeps nobody waiting but who started it.

use std::thread;

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::check;
use netd_tests::{Lab, Network, SOON, eventually, write_executable};

const OPTIONS: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// Has dnsmasq begin its work later where the network is called `slow`, once a file is gone.
fn slow_down(lab: &mut Lab) -> Result<std::path::PathBuf> {
    let held = lab.directory().join("held");
    std::fs::write(&held, "")?;
    let script = lab.directory().join("slow-dnsmasq");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in */slow.conf*) while [ -e {} ]; do sleep 0.05; done ;; esac\n\
         exec dnsmasq \"$@\"\n",
        held.display()
    );
    write_executable(&script, &text)?;
    lab.agent
        .set_env("NETD_DNSMASQ", &script.display().to_string());
    Ok(held)
}

/// The definition with one raw line for dnsmasq.
fn raw(xml: &str, option: &str) -> String {
    let options = format!(
        "<d:options xmlns:d='{OPTIONS}'><d:option value='{option}'/></d:options></network>"
    );
    xml.replacen("</network>", &options, 1)
}

fn is_listed(lab: &Lab, name: &str) -> Result<bool> {
    let names = lab.agent.ok(["net-list", "--name"])?;
    Ok(names.lines().any(|line| line.trim() == name))
}

/// How often a machine may be too busy to do that before the one that waits is given up, after ten seconds.
const ATTEMPTS: usize = 5;

/// Does something while a verb of the command line waits for a dnsmasq that is held, lets it go, and has the
/// verb end well. Where the machine is so busy that the dnsmasq is given up first, it is tried again.
fn meanwhile(
    lab: &Lab,
    held: &std::path::Path,
    words: &[&str],
    mut act: impl FnMut() -> Result<()>,
) -> Result<()> {
    for attempt in 1..=ATTEMPTS {
        std::fs::write(held, "")?;
        let ended = thread::scope(|scope| -> Result<_> {
            let verb = scope.spawn(|| lab.agent.cli(words.iter().copied()));
            act()?;
            let early = verb.is_finished();
            std::fs::remove_file(held)?;
            let output = verb
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((early, output))
        });
        let (early, output) = ended?;
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("did not become a daemon") {
            println!("attempt {attempt}: the machine was too busy: {said}");
            continue;
        }
        ensure!(output.status.success(), "{words:?}: {said}");
        ensure!(!early, "{words:?} did not wait");
        return Ok(());
    }
    bail!("the machine was too busy {ATTEMPTS} times")
}

/// Others start, change and stop while one waits.
fn others_go_on(lab: &Lab) -> Result<()> {
    lab.up(&Network::nat("other", 2))?;
    let group = "<portgroup name='web'/>";
    lab.agent
        .ok(["net-update", "other", "add", "portgroup", group, "--live"])?;
    lab.agent.ok(["net-destroy", "other"])?;
    lab.agent.ok(["net-undefine", "other"])?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn others_go_on_while_one_starts() {
    check(|lab| {
        let held = slow_down(lab)?;
        lab.agent.start()?;
        let slow = Network::nat("slow", 1).dhcp("");
        lab.agent.define(&slow.xml())?;
        meanwhile(lab, &held, &["net-start", "slow"], || {
            eventually(SOON, || {
                ensure!(is_listed(lab, "slow")?, "it did not begin");
                Ok(())
            })?;
            others_go_on(lab)
        })?;
        let plan = lab.agent.ok(["plan", "slow"])?;
        ensure!(plan.contains("Nothing to do"), "{plan}");
        lab.plugged(10, "virbr1")?.dhcp()?;

        // The same where another takes the place of the one that runs.
        let before = std::fs::read_to_string(lab.directory().join("run/slow.pid"))?;
        let words = [
            "net-update",
            "slow",
            "add",
            "dns-txt",
            "<txt name='a.example' value='x'/>",
            "--live",
        ];
        let guest = lab.plugged(11, "virbr1")?;
        meanwhile(lab, &held, &words, || {
            others_go_on(lab)?;
            guest.dhcp().context("the old one serves")?;
            Ok(())
        })?;
        let after = std::fs::read_to_string(lab.directory().join("run/slow.pid"))?;
        ensure!(before != after, "dnsmasq was not replaced");
        lab.plugged(12, "virbr1")?.dhcp()?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn one_that_becomes_no_daemon_is_given_up() {
    check(|lab| {
        lab.agent.start()?;
        let before = lab.snapshot()?;
        let never = Network::default().dhcp("");
        lab.agent.define(&raw(&never.xml(), "keep-in-foreground"))?;
        thread::scope(|scope| -> Result<()> {
            let start = scope.spawn(|| lab.agent.fails(["net-start", "default"]));
            eventually(SOON, || {
                ensure!(is_listed(lab, "default")?, "it did not begin");
                Ok(())
            })?;
            others_go_on(lab)?;
            let said = start
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(said.contains("did not become a daemon"), "{said}");
            Ok(())
        })?;
        ensure!(!is_listed(lab, "default")?, "it runs");
        before.wait_for_same(&lab.hv, lab.directory())?;
        Ok(())
    });
}

/// Who stops a network does not wait for its dnsmasq.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_network_may_be_stopped_while_its_dnsmasq_starts() {
    check(|lab| {
        let held = slow_down(lab)?;
        lab.agent.start()?;
        let before = lab.snapshot()?;
        lab.agent.define(&Network::nat("slow", 1).dhcp("").xml())?;
        thread::scope(|scope| -> Result<()> {
            let start = scope.spawn(|| lab.agent.fails(["net-start", "slow"]));
            eventually(SOON, || {
                ensure!(is_listed(lab, "slow")?, "it did not begin");
                Ok(())
            })?;
            lab.agent.ok(["net-destroy", "slow"])?;
            let said = start
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(said.contains("was stopped while dnsmasq started"), "{said}");
            Ok(())
        })?;
        ensure!(lab.dnsmasqs()?.is_empty(), "a dnsmasq is left");
        std::fs::remove_file(&held)?;
        before.wait_for_same(&lab.hv, lab.directory())
    });
}
