//! What a namespace looks like, so that "nothing is left behind" can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Netns;

/// Time for removals in the background: the kernel takes deleted namespaces and what is in them apart
/// by and by, one after the other (`cleanup_net`), those of other tests, too.
const TAKEN_APART: Duration = Duration::from_secs(180);

/// Sysctls that a router of packets could want to change.
const SYSCTLS: &[&str] = &[
    "net/ipv4/ip_forward",
    "net/ipv4/conf",
    "net/ipv6/conf",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/bridge",
];

/// Named facts about a namespace and about the directories of the agent in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// Takes a picture: links, addresses, routes, rules, queueing disciplines, filters, firewall,
    /// sysctls, processes, and mounts and pins below `directory`.
    ///
    /// # Errors
    /// One of the tools fails.
    pub fn take(netns: &Netns, directory: &Path) -> Result<Self> {
        let mut facts = BTreeMap::new();
        for (name, command) in [
            ("link", "ip -j -d link show"),
            ("address", "ip -j addr show"),
            ("route 4", "ip -j -4 route show table all"),
            ("route 6", "ip -j -6 route show table all"),
            ("rule 4", "ip -j -4 rule show"),
            ("rule 6", "ip -j -6 rule show"),
            ("qdisc", "tc -j qdisc show"),
        ] {
            add_json(&mut facts, name, &netns.run(command.split(' '))?)?;
        }
        for device in devices(netns)? {
            for hook in ["ingress", "egress"] {
                // Fails where the device has no qdisc with that hook: then there is no filter.
                let output = netns.output(["tc", "filter", "show", "dev", &device, hook])?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                facts.insert(format!("filter {device} {hook}"), text);
            }
        }
        if crate::output(std::process::Command::new("nft").arg("--version")).is_ok() {
            facts.insert("nft".into(), netns.run(["nft", "list", "ruleset"])?);
        }
        let sysctls = netns.enter(|| {
            let mut values = BTreeMap::new();
            for key in SYSCTLS {
                read_tree(&Path::new("/proc/sys").join(key), &mut values);
            }
            values
        })?;
        facts.extend(sysctls);
        for pid in netns.processes()? {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            facts.insert(format!("process {pid}"), command);
        }
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading mounts")?;
        let here = directory.display().to_string();
        for mount in mounts.lines().filter(|line| line.contains(&here)) {
            facts.insert(format!("mount {mount}"), String::new());
        }
        list_tree(&directory.join("bpf"), "pin", &mut facts);
        list_tree(&directory.join("run"), "run", &mut facts);
        Ok(Self(facts))
    }

    /// Every difference, one per line; empty when there is none.
    #[must_use]
    pub fn difference(&self, later: &Self) -> String {
        let mut text = String::new();
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(later.0.keys()).collect();
        for key in keys {
            let (before, after) = (self.0.get(key), later.0.get(key));
            if before != after {
                let show = |fact: Option<&String>| fact.map_or("(absent)".into(), String::clone);
                text += &format!(
                    "{key}\n  before: {}\n  after:  {}\n",
                    show(before),
                    show(after)
                );
            }
        }
        text
    }

    /// Waits until the namespace is as it was: some removals end in the background.
    ///
    /// # Errors
    /// Something stays different.
    pub fn wait_for_same(&self, netns: &Netns, directory: &Path) -> Result<()> {
        crate::eventually(TAKEN_APART, || {
            let difference = self.difference(&Self::take(netns, directory)?);
            ensure!(
                difference.is_empty(),
                "left behind or changed:\n{difference}"
            );
            Ok(())
        })
    }
}

/// Adds each object of a JSON list, without what changes by itself.
fn add_json(facts: &mut BTreeMap<String, String>, name: &str, text: &str) -> Result<()> {
    let text = if text.trim().is_empty() { "[]" } else { text };
    let mut list: Value = serde_json::from_str(text).with_context(|| format!("{name}: {text}"))?;
    for (number, object) in list.as_array_mut().into_iter().flatten().enumerate() {
        forget_volatile(object);
        let device = object.get("ifname").or_else(|| object.get("dev"));
        let device = device.and_then(Value::as_str).unwrap_or("-").to_owned();
        facts.insert(format!("{name} {device} #{number}"), object.to_string());
    }
    Ok(())
}

fn forget_volatile(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| {
                !key.ends_with("_timer")
                    && !matches!(key.as_str(), "stats" | "stats64" | "preferred_life_time")
            });
            fields.values_mut().for_each(forget_volatile);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_volatile),
        _ => {}
    }
}

/// Names of the devices of a namespace.
fn devices(netns: &Netns) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&netns.run(["ip", "-j", "link", "show"])?)?;
    let names = list.as_array().into_iter().flatten();
    Ok(names
        .filter_map(|link| Some(link.get("ifname")?.as_str()?.to_owned()))
        .collect())
}

/// Reads a file, or every file below a directory; what cannot be read has no value to compare.
fn read_tree(path: &Path, values: &mut BTreeMap<String, String>) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            read_tree(&entry.path(), values);
        }
    } else if let Ok(value) = fs::read_to_string(path) {
        values.insert(path.display().to_string(), value.trim().to_owned());
    }
}

/// Names every file below a directory.
fn list_tree(path: &Path, name: &str, facts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_tree(&path, name, facts);
        } else {
            facts.insert(format!("{name} {}", path.display()), String::new());
        }
    }
}
