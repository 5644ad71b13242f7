//! What README says is typed as it stands there, by somebody whose host runs libvirt's network `default`.

use anyhow::{Context as _, Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Host, Root, check_booted};

use super::switch::{end, goes_on, is_served};
use crate::scenario::{guest_with_lease, ports, reaches_everything};

on_each!(the_readmes_lines_switch_a_host_there_and_back);

const README: &str = include_str!("../../../README.md");

/// Where the reader has the tree with what was built.
const TREE: &str = "/netd";

/// The lines of the first block of shell below a heading, without comments.
fn lines(heading: &str) -> Result<Vec<&'static str>> {
    let (_, section) = README
        .split_once(&format!("\n## {heading}\n"))
        .with_context(|| format!("README has no section {heading}"))?;
    let (_, block) = section
        .split_once("\n```sh\n")
        .context("no block of shell")?;
    let (block, _) = block.split_once("\n```").context("a block without end")?;
    let line = |line: &'static str| line.split(" #").next().unwrap_or(line).trim();
    Ok(block.lines().map(line).collect())
}

/// What is built is there already, and its reader is root, who needs no sudo.
fn type_lines(host: &Host, lines: &[&str]) -> Result<Vec<String>> {
    let typed = |line: &&str| {
        let said = host.run(["sh", "-c", &format!("cd {TREE} && {line}")]);
        said.with_context(|| (*line).to_owned())
    };
    let is_built = |line: &&&str| !line.starts_with("cargo ");
    lines.iter().filter(is_built).map(typed).collect()
}

/// The tree as far as lines name it.
fn tree(host: &Host) -> Result<()> {
    super::packages::provide(host, &format!("{TREE}/target/debian"))?;
    host.file("/usr/local/sbin/sudo", "#!/bin/sh\nexec \"$@\"\n")?;
    host.run(["chmod", "755", "/usr/local/sbin/sudo"]).map(drop)
}

fn the_readmes_lines_switch_a_host_there_and_back(root: Root) {
    check_booted(root, |host| {
        tree(host)?;
        host.define_default()?;
        host.systemctl(["start", "libvirtd"])?;
        host.virsh(["net-start", "default"])?;
        host.virsh(["net-autostart", "default"])?;
        let mut guest = guest_with_lease(host, 1)?;
        let (port, uuids) = (guest.port("default")?, ports(host)?);

        type_lines(host, &lines("Install, upgrade, uninstall")?)?;
        let switch = lines("Switch a libvirt host to netd")?;
        ensure!(switch.len() == 6, "not six lines: {switch:?}");
        let (back, there) = switch.split_last().context("no lines")?;

        guest.stream(&OUTSIDE.to_string())?;
        let said = type_lines(host, there)?;
        end(&mut guest, "to netd")?;
        let [_, status, planned, _, listed] = said.as_slice() else {
            anyhow::bail!("{said:?}");
        };
        ensure!(status.contains("libvirt's own network driver"), "{status}");
        ensure!(planned.contains("take over network default"), "{planned}");
        ensure!(
            listed.contains("default   active   yes         yes"),
            "{listed}"
        );
        ensure!(host.run(["netd", "net-list"])? == *listed, "{listed}");
        is_served(host, &mut guest, &port, &uuids).context("by netd")?;

        guest.stream(&OUTSIDE.to_string())?;
        type_lines(host, &[back])?;
        end(&mut guest, "back to libvirt")?;
        is_served(host, &mut guest, &port, &uuids).context("by libvirt")?;
        host.systemctl(["disable", "--now", "netd"])?;
        goes_on(host, &mut guest)?;
        reaches_everything(&mut guest)
    });
}
